"""What networks and meta-nodes would take on an Arm Ethos-U, as Arm's compiler for it estimates: nothing is measured.

Vela compiles an INT8 .tflite for an NPU, counts cycles operator by operator (the longest of computing, SRAM and DRAM),
and leaves what the NPU does not take to the CPU beside it. **That part's time is not in its figure.** The same file
gives the same figure on every machine.

Source: Arm's Vela, https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela (Apache-2.0), and the system
configurations and memory modes of the ``Arm/vela.ini`` that it carries.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abpn_lib.files import DeviceError, InputError, ModelError
from abpn_lib.results import Column, Context, Record
from abpn_lib.tflite import graph
from abpn_lib.tflite.interpreter import first_line
from abpn_lib.timing import latency, nodes


@dataclass(frozen=True)
class Npu:
    """An accelerator and what stands around it: `system` and `memory` are sections of Vela's ``Arm/vela.ini``.

    `sram` is in KiB. A U55 has no DRAM beside it: there None takes it to be as large as the graph needs.
    """

    accelerator: str
    system: str
    memory: str
    sram: int | None

    @property
    def columns(self) -> dict[str, Column]:
        """The columns of its records; the SRAM in KiB."""
        return {
            "compiler": "Vela", "version": importlib.metadata.version("ethos-u-vela"), "accelerator": self.accelerator,
            "system": self.system, "memory": self.memory, "sram": "as needed" if self.sram is None else self.sram,
        }


_U55, _U65 = ("Ethos_U55_High_End_Embedded", "Shared_Sram", None), ("Ethos_U65_Client_Server", "Dedicated_Sram", 512)
_SETUPS: Mapping[str, tuple[str, str, int | None]] = {
    "ethos-u55-128": _U55, "ethos-u55-256": _U55, "ethos-u65-256": _U65, "ethos-u65-512": _U65,
    # DRAM as Arm's ML Embedded Evaluation Kit pairs it with the size of the NPU.
    "ethos-u85-256": ("Ethos_U85_SYS_DRAM_Low", "Dedicated_Sram", 512),
    "ethos-u85-512": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram", 1024),
    "ethos-u85-1024": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram", 2048),
    "ethos-u85-2048": ("Ethos_U85_SYS_DRAM_High", "Dedicated_Sram", 2048),
}
NPUS: Mapping[str, Npu] = {name: Npu(name, *setup) for name, setup in _SETUPS.items()}
"""The accelerators by name, the number behind being multiply-accumulates a cycle, each in a usual setup."""


def named(text: str) -> Npu:
    """An NPU by its name, with its SRAM in KiB after a colon if not the usual one: "ethos-u65-512:384"."""
    name, colon, sram = text.partition(":")
    if name not in NPUS or (colon and not re.fullmatch(r"[1-9]\d{0,6}", sram, re.ASCII)):
        raise InputError(f"no NPU is called {text[:40]!r}: name one of {', '.join(NPUS)}, and :KIB for another SRAM")
    return replace(NPUS[name], sram=int(sram)) if colon else NPUS[name]


@dataclass(frozen=True)
class Operator:
    """One operator on the NPU: cycles in all, and those that computing (`npu`) and each memory alone would take.

    `dram` is flash for a U55, `products` are multiply-accumulates, `output` names the tensor written.
    """

    name: str
    output: str
    cycles: int
    npu: int
    sram: int
    dram: int
    products: int


@dataclass(frozen=True)
class Estimate:
    """What Vela says of one graph; `compiled` is the .tflite for the NPU's own runtime.

    `refused` are TFLite's names of operators left to the CPU, whose time is not in `milliseconds`.
    """

    milliseconds: float
    operators: tuple[Operator, ...]
    refused: tuple[str, ...]
    sram_kib: float
    dram_kib: float
    compiled: bytes


def estimate(content: bytes, npu: Npu, *, quick: bool = False) -> Estimate:
    """Compile a .tflite of one size for an NPU.

    With `quick` tensors are not packed: the same figure, much sooner where a node is cut into a thousand, but in more
    memory, into which a network may not fit.

    Raises `DeviceError` if Vela is not installed, and `ModelError` if it cannot compile the graph, or this does not fit
    the SRAM.
    """
    vela = _vela()
    graph.read(content)
    with tempfile.TemporaryDirectory() as scratch:
        model, limit = Path(scratch) / "model.tflite", sys.getrecursionlimit()
        model.write_bytes(content)
        words = [str(model), "--output-dir", scratch, "--config", "Arm/vela.ini", "--verbose-performance"]
        words += ["--accelerator-config", npu.accelerator, "--system-config", npu.system, "--memory-mode", npu.memory]
        words += [] if npu.sram is None else ["--arena-cache-size", str(npu.sram * 1024)]
        words += ["--tensor-allocator", "LinearAlloc"] if quick else []
        try:
            with _silence():
                vela.main(words)
            (total,) = _rows(Path(scratch) / f"model_summary_{npu.system}.csv")
            compiled, parts = (Path(scratch) / "model_vela.tflite").read_bytes(), Path(scratch) / "model_per-layer.csv"
            operators = tuple(_operator(row) for row in _rows(parts) if row["Target"] == "NPU")
            found = Estimate(
                float(total["inference_time"]) * 1000, operators,
                tuple(name for name in graph.operator_names(compiled) if name != "CUSTOM"),
                float(total["sram_memory_used"]), float(total["dram_memory_used"]), compiled,
            )
        except (Exception, SystemExit) as error:
            raise ModelError(f"Vela cannot compile this for {npu.accelerator}: {first_line(error)}") from error
        finally:
            sys.setrecursionlimit(limit)  # Vela lowers it
    if npu.sram is not None and found.sram_kib > npu.sram:
        raise ModelError(f"this needs {found.sram_kib:,.0f} KiB of SRAM on {npu.accelerator}, which has {npu.sram:,}")
    return found


def compiled(content: bytes, npu: Npu) -> bytes:
    """The .tflite for an NPU's runtime. Raises as `estimate`, and `ModelError` if the NPU takes no operator of it."""
    found = estimate(content, npu)
    if not found.operators:
        raise ModelError(f"{npu.accelerator} takes no operator of this model: name one in INT8")
    return found.compiled


def graph_for(model: Path, size: str, *, whole: bool = False) -> bytes:
    """The graph that suits an NPU: for LR images of one size (width x height), int8 in and out where it can be.

    With `whole` the pixel shuffle, which no NPU takes, becomes part of the convolutions where it can; the bits stay. A
    file that has one size already stays as it is. Raises as `latency.Runner`.
    """
    content = latency.fixed_copy(model, size)
    if content == model.read_bytes():
        return content
    for form in (graph.with_int8_interface, *([graph.without_shuffle] if whole else [])):
        with contextlib.suppress(ModelError):
            content = form(content)
    return content


def estimate_models(
    files: Mapping[str, Path], npus: Iterable[Npu], context: Context, *, size: str = "640x360"
) -> list[Record]:
    """The records of models by subject ("abpn-int8-ptq") on some NPUs, for LR images of one size (width x height)."""
    graphs = {name: (graph_for(path, size), size) for name, path in files.items()}
    return _records(graphs, npus, context, quick=False)


def estimate_nodes(
    npus: Iterable[Npu], context: Context, *, size: str = "1920x1080", channels: int = 3
) -> list[Record]:
    """The records of Table 1's meta-nodes ("node-conv3", ...) on some NPUs, and of "node-concat9-lr" (S7).

    `size` and `channels` are those of `latency.time_nodes`.
    """
    width, height = latency.sides(size)
    with tempfile.TemporaryDirectory() as scratch:
        built = nodes.build(Path(scratch), height=height, width=width, channels=channels)
        graphs = {f"node-{node}": (path.read_bytes(), size) for node, path in built.items()}
        joined = nodes.build_concat9(Path(scratch), height=height // 3, width=width // 3, channels=channels)
        graphs["node-concat9-lr"] = joined.read_bytes(), f"{width // 3}x{height // 3}"
    return _records(graphs, npus, context, quick=True, channels=channels)


def _records(
    graphs: Mapping[str, tuple[bytes, str]], npus: Iterable[Npu], context: Context, quick: bool, **where: Column
) -> list[Record]:
    each = list(npus)
    return [record for name, (content, size) in graphs.items() for npu in each
            for record in records(name, estimate(content, npu, quick=quick), npu, context, size=size, **where)]


def records(subject: str, found: Estimate, npu: Npu, context: Context, **where: Column) -> list[Record]:
    """The estimate as records: "npu-latency" in ms, and "npu-refused", how many operators the NPU leaves to the CPU.

    The former is not there where the NPU takes nothing; both have the NPU's columns, and `refused` names the operators.
    """
    on = replace(context, device=f"{npu.accelerator}, as {npu.columns['compiler']} {npu.columns['version']} estimates")
    every: dict[str, Any] = {**where, **npu.columns}
    made = [on.record("npu-latency", subject, found.milliseconds, "ms", every)] if found.milliseconds else []
    if found.refused:
        every["refused"] = ", ".join(dict.fromkeys(found.refused))
        made.append(on.record("npu-refused", subject, len(found.refused), "", every))
    return made


def lines(found: Iterable[Record]) -> list[str]:
    """The times, and what is left to the CPU, for a terminal."""
    known = {(record.quantity, record.subject): record for record in found}
    rows = []
    for name in dict.fromkeys(subject for _, subject in known):
        time, refused = (known.get((quantity, name)) for quantity in ("npu-latency", "npu-refused"))
        left = f"on the CPU, its time unknown: {refused.columns['refused']}" if refused else "nothing on the CPU"
        rows.append(f"{name:24} {f'{time.value:9.2f} ms' if time else '        -   '}  {left}")
    return rows


def _operator(row: Mapping[str, str]) -> Operator:
    columns = ("Op Cycles", "NPU", "SRAM AC", "DRAM AC", "OffFlash AC", "MAC Count")
    cycles, npu, sram, dram, flash, products = (int(float(row[key])) for key in columns)
    return Operator(row["NNG Operator"], row["Name"], cycles, npu, sram, dram + flash, products)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _vela() -> Any:
    try:
        from ethosu.vela import vela
    except ImportError as error:
        raise DeviceError("an NPU's time is estimated by Arm's Vela: install the extra npu (ethos-u-vela)") from error
    return vela


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what Vela prints off the screen: its Python part goes through `sys`, its C++ part past it."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as no, contextlib.redirect_stdout(no), contextlib.redirect_stderr(no):
        os.dup2(no.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
