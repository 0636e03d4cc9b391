"""How long networks, their operators, and Table 1's meta-nodes take on this machine.

`time_models` and `time_nodes` time their candidates in interleaved rounds (`rounds.measure`) and give records. An x86
or Arm core is not the paper's NPU (a Synaptics Dolphin): orders and ratios can be compared with the paper's,
milliseconds cannot.

Source: section 3.1 and Table 1 (meta-nodes); Table 2 (networks).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abpn_lib import paper
from abpn_lib.files import DeviceError, InputError, ModelError, sha256
from abpn_lib.results import Column, Context, Record, columns_of
from abpn_lib.tflite import graph
from abpn_lib.tflite.interpreter import Kernels, first_line, interpreter, read_model
from abpn_lib.timing import nodes
from abpn_lib.timing.rounds import Clock, Timing, measure, paired_ratio, subtract


def sides(size: str) -> tuple[int, int]:
    """Width and height of a size such as "640x360"; InputError if it is none."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size.lower(), re.ASCII)
    if not found or max(map(int, found.groups())) > 16384:
        raise InputError(f"the size {size[:40]!r} is not WIDTHxHEIGHT, such as 640x360")
    return int(found[1]), int(found[2])


def columns(size: str, threads: int = 1, kernels: str = "xnnpack") -> dict[str, Column]:
    """The columns of every latency record: size (the input's width x height, "640x360"), threads, kernels."""
    return {"size": size, "threads": threads, "kernels": kernels}


def names(given: Sequence[str]) -> dict[str, str]:
    """Several models or paths by a name for each: its stem, with the folder before it where two stems are one.

    Raises InputError if two would still have one name.
    """
    stems = [Path(text).stem for text in given]
    found = [
        stem if stems.count(stem) == 1 else f"{Path(text).resolve().parent.name}-{stem}"
        for text, stem in zip(given, stems, strict=True)
    ]
    for text, name in zip(given, found, strict=True):
        if found.count(name) > 1:
            raise InputError(f"{text} and another model would both be called {name}: name each once, or rename one")
    return dict(zip(found, given, strict=True))


class Runner:
    """A .tflite ready to be timed: allocated, its inputs filled with random values, run once.

    `size` "640x360" is the LR width x height that it is given; with `fit` False the model has one size of its own, and
    `size` only stands in the `columns` of its records.

    Raises `InputError` if an option is out of range, and `ModelError` if the model cannot be read or run, or does not
    take that size.
    """

    def __init__(
        self, model: Path, size: str, *, fit: bool = True, threads: int = 1, kernels: Kernels = "xnnpack",
        batch: int = 1,
    ) -> None:
        if batch < 1:
            raise InputError(f"a batch of {batch} images: at least 1 is needed")
        self.columns, rng = columns(size, threads, kernels), np.random.default_rng(0)
        with _naming(model):
            self._network = network = interpreter(model, threads, kernels)
            self.sha256 = sha256(model)
            if fit:
                _fit(network, size, batch)
            network.allocate_tensors()
            inputs, outputs = network.get_input_details(), network.get_output_details()
            self._images = {each["index"]: _noise(rng, tuple(each["shape"]), each["dtype"]) for each in inputs}
            self._outputs = [each["index"] for each in outputs]
            # Whatever cannot run shall show here, not in the midst of a measurement.
            self.run(copy=True)

    def run(self, *, copy: bool = False, invoke: bool = True) -> None:
        """Run the network once; with `copy` copy the images in before and the results out afterwards."""
        if copy:
            for index, image in self._images.items():
                self._network.set_tensor(index, image)
        if invoke:
            self._network.invoke()
        if copy:
            for index in self._outputs:
                self._network.get_tensor(index)

    @property
    def placed(self) -> list[tuple[str, Kernels]]:
        """Every operator with the kernels that run it, in the file's order: XNNPACK takes only those that it can."""
        details = self._network._get_ops_details()
        delegates = [op for op in details if op["op_name"] == "DELEGATE"]
        entering = {int(i) for op in delegates for i in op["inputs"]}
        leaving = {int(i) for op in delegates for i in op["outputs"]}
        inside: set[int] = set()  # tensors that only delegated operators see
        placed: list[tuple[str, Kernels]] = []
        # Backwards, since an operator is delegated if its output leaves a delegate or feeds one from within.
        for op in reversed([op for op in details if op["op_name"] != "DELEGATE"]):
            delegated = any(int(i) in leaving or int(i) in inside for i in op["outputs"])
            if delegated:
                inside |= {int(i) for i in op["inputs"] if i >= 0} - entering
            placed.append((op["op_name"], "xnnpack" if delegated else "builtin"))
        return placed[::-1]


@dataclass(frozen=True)
class Timed:
    """What was timed in the same rounds: timings and records by name, and each operator's kernels."""

    context: Context
    timings: Mapping[str, Timing]
    records: Mapping[str, Record]
    placed: Mapping[str, list[tuple[str, Kernels]]]

    def ratio(self, of: str, over: str, clock: Clock = "wall") -> Record:
        """How many times as long one took as the other, by rounds taken side by side, with the 95 % interval."""
        value, low, high = paired_ratio(self.timings[of], self.timings[over], clock=clock)
        record = self.records[of]
        return self.context.record(
            "latency-ratio" if clock == "wall" else "cpu-time-ratio", f"{of}/{over}", value, "",
            {key: record.columns[key] for key in record.columns.keys() - columns_of(of).keys()}, count=record.count,
            spread=(low, high), spread_is="95 % interval of the paired ratio",
        )

    @property
    def lines(self) -> list[str]:
        """The times, and each candidate's ratio to the first, for a terminal."""
        first, *others = self.timings
        rows = [
            f"{name:24} {t.median_ms:9.2f} ms  [{t.low_ms:.2f}, {t.high_ms:.2f}]  CPU {t.cpu_ms:.2f} ms"
            for name, t in self.timings.items()
        ]
        for name in others:
            ratio, low, high = paired_ratio(self.timings[name], self.timings[first])
            cpu, *_ = paired_ratio(self.timings[name], self.timings[first], clock="cpu")
            noise = ": inside the noise" if low <= 1 <= high else ""
            interval = f"[{low:.2f}, {high:.2f}]"
            rows.append(f"{name} takes {ratio:.2f} {interval} times as long as {first} (CPU {cpu:.2f}){noise}")
        return rows


def time_models(
    files: Mapping[str, Path], context: Context, *, size: str = "640x360", threads: int = 1,
    kernels: Kernels = "xnnpack", rounds: int = 15, warmup: int = 2,
) -> Timed:
    """Time models that take images of that size (width x height), or of any; the records carry their hashes.

    `files` has each subject's .tflite ("abpn-int8-ptq"). Each model is run `warmup` times before the `rounds` that
    count. Raises as `Runner`.
    """
    runners = {name: Runner(path, size, threads=threads, kernels=kernels) for name, path in files.items()}
    timings = measure({name: runner.run for name, runner in runners.items()}, rounds=rounds, warmup=warmup)
    return _timed(timings, runners, context)


def time_nodes(
    context: Context, *, size: str = "1920x1080", channels: int = 3, precision: nodes.Precision = "int8",
    without: Sequence[str] = (), concat9: bool = False, beside: Mapping[str, Path] | None = None,
    threads: int = 1, kernels: Kernels = "xnnpack", rounds: int = 15, warmup: int = 2,
) -> Timed:
    """Time Table 1's meta-nodes, less the copying of their images; the subjects are "node-conv3" and so on.

    As in the paper, the overhead is measured and subtracted: one call copies the images in, runs the node and copies
    the result out; another copies the same and runs nothing. A node's time is their difference, round by round, and
    the overhead is timed as "handover-conv3". Nodes in float32 are called "float-conv3".

    `size` (width x height) and `channels` are those of the nodes' tensors; the resize nodes take a third of that
    size. Nodes in `without` are left out. `concat9` also times "node-concat9-lr", which joins nine images of a third
    of the size (S7), and `beside` are models that are run in the same rounds, on images of a third of the size.

    Raises `DeviceError` if a node is too small for its time to be told from the copying.
    """
    width, height = sides(size)
    small, prefix = f"{width // 3}x{height // 3}", "node" if precision == "int8" else "float"
    options: dict[str, Any] = {"threads": threads, "kernels": kernels}
    with tempfile.TemporaryDirectory() as scratch:
        wanted = [node for node in paper.META_NODES if node not in without]
        built = nodes.build(Path(scratch), wanted, height=height, width=width, channels=channels, precision=precision)
        runners = {f"{prefix}-{node}": Runner(path, size, fit=False, **options) for node, path in built.items()}
        if concat9:
            joined = nodes.build_concat9(Path(scratch), height=height // 3, width=width // 3, channels=channels)
            runners["node-concat9-lr"] = Runner(joined, small, **options)
    models = {name: Runner(path, small, **options) for name, path in (beside or {}).items()}
    copies = {name: f"handover-{name.partition('-')[2]}" for name in runners}
    calls: dict[str, Callable[[], object]] = {name: partial(runners[name].run, copy=True) for name in copies}
    calls |= {copy: partial(runners[name].run, copy=True, invoke=False) for name, copy in copies.items()}
    timings = measure(calls | {name: model.run for name, model in models.items()}, rounds=rounds, warmup=warmup)
    for name, copy in copies.items():
        timings[name], runners[copy] = subtract(timings[name], timings[copy]), runners[name]
        runners[name].columns["channels"] = channels
        if timings[name].median_ms <= 0:
            raise DeviceError(f"{name} takes no longer than copying its images: name a size above {size}")
    return _timed(timings, runners | models, context)


def _timed(timings: Mapping[str, Timing], runners: Mapping[str, Runner], context: Context) -> Timed:
    made = {name: taken.record(context, name, runners[name].columns, runners[name].sha256)
            for name, taken in timings.items()}
    return Timed(context, timings, made, {name: runner.placed for name, runner in runners.items()})


def fixed_copy(model: Path, size: str) -> bytes:
    """A .tflite that takes images of any size, made for one LR size; one of that size comes back as it is.

    Delegates of a GPU or an NPU take no graph whose sizes are open. Raises as `Runner`.
    """
    content = read_model(model)
    with _naming(model):
        width, height = sides(size)
        return graph.fix_size(content, height, width) if _fit(interpreter(content), size) else content


@contextmanager
def _naming(model: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, ModelError, ValueError, RuntimeError) as error:
        kind = InputError if isinstance(error, InputError) else ModelError
        raise kind(f"{model} cannot be run: {first_line(error)}") from error


def _fit(network: Any, size: str, batch: int = 1) -> bool:
    """Give every input of any size the size asked for; return whether there was one. A fixed size must be it."""
    width, height = sides(size)
    signatures = {tensor["index"]: tensor["shape_signature"].tolist() for tensor in network.get_input_details()}
    any_size = any(-1 in signature for signature in signatures.values())
    for index, signature in signatures.items():
        if len(signature) != 4 or signature[1] not in (-1, height) or signature[2] not in (-1, width):
            raise ModelError(f"it takes inputs of shape {signature}, not {size} images")
        if any_size or batch > 1:
            network.resize_tensor_input(index, (batch, height, width, signature[3]))
    return any_size


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray:
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return rng.uniform(0, 255, shape).astype(dtype)
