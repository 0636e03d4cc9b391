"""How long networks, their operators, and Table 1's meta-nodes take on this machine.

`time_models`, `time_nodes` and `time_operators` time their candidates in interleaved rounds (`rounds.measure`) and
give records. An x86 or Arm core is not the paper's NPU (a Synaptics Dolphin): orders and ratios can be compared with
the paper's, milliseconds cannot.

Source: section 3.1 and Table 1 (meta-nodes); Table 2 (networks).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abpn_lib.files import DeviceError, InputError, ModelError, sha256, write_atomically
from abpn_lib.results import Column, Context, Record, columns_of
from abpn_lib.tflite import graphs
from abpn_lib.timing import nodes
from abpn_lib.timing.rounds import Clock, Timing, measure, paired_ratio, subtract

__all__ = [
    "Kernels", "Runner", "Timed", "columns", "fixed_copy", "names", "sides", "split_up", "time_models", "time_nodes",
    "time_operators",
]

Kernels = Literal["xnnpack", "builtin"]


def columns(size: str, *, threads: int = 1, kernels: str = "xnnpack") -> dict[str, Column]:
    """The columns of every latency record: size (the input's width x height, "640x360"), threads, kernels."""
    return {"size": size, "threads": threads, "kernels": kernels}


def names(given: Sequence[str]) -> list[str]:
    """A name for each of several models or paths: its stem, with the folder before it where two stems are one.

    Raises
    ------
    InputError
        If two would still have one name.
    """
    stems = [Path(text).stem for text in given]
    found: dict[str, str] = {}
    for text, stem in zip(given, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{Path(text).resolve().parent.name}-{stem}"
        if name in found:
            raise InputError(f"{found[name]} and {text} would both be called {name}: name each once, or rename one")
        found[name] = text
    return list(found)


class Runner:
    """A .tflite ready to be timed: allocated, its inputs filled with random values, run once.

    `size` "640x360" is the LR width x height; a model of one size may go without. `kernels` "builtin" keeps TFLite's
    own kernels, "xnnpack" lets XNNPACK take the operators it can (`operators` tells which).

    Raises
    ------
    InputError
        If an option is out of range.
    DeviceError
        If the model cannot be read or run, or does not take that size.
    """

    def __init__(
        self, model: Path, size: str | None = None, *, threads: int = 1, kernels: Kernels = "xnnpack", batch: int = 1
    ) -> None:
        self._interpreter = _interpreter(model, size, threads, kernels, batch)
        self._inputs = [tensor["index"] for tensor in self._interpreter.get_input_details()]
        self._outputs = [tensor["index"] for tensor in self._interpreter.get_output_details()]
        self._images = [self._interpreter.get_tensor(index) for index in self._inputs]

    def run(self) -> None:
        """Run the network once."""
        self._interpreter.invoke()

    def copy(self) -> None:
        """Copy the images in and the results out, and run nothing."""
        self._copy_in()
        self._copy_out()

    def copy_and_run(self) -> None:
        """Copy the images in, run the network, copy the results out."""
        self._copy_in()
        self._interpreter.invoke()
        self._copy_out()

    def _copy_in(self) -> None:
        for index, image in zip(self._inputs, self._images, strict=True):
            self._interpreter.set_tensor(index, image)

    def _copy_out(self) -> None:
        for index in self._outputs:
            self._interpreter.get_tensor(index)

    @property
    def operators(self) -> list[tuple[str, Kernels]]:
        """Every operator with the kernels that run it, in the file's order."""
        return _placed(self._interpreter._get_ops_details())

    @property
    def takes_any_size(self) -> bool:
        """Whether the file leaves the size of its images open."""
        return any(-1 in tensor["shape_signature"] for tensor in self._interpreter.get_input_details())


@dataclass(frozen=True)
class Timed:
    """What was timed in the same rounds: by name the timings (ms), the records, and each operator's kernels."""

    context: Context
    timings: Mapping[str, Timing]
    records: Mapping[str, Record]
    placed: Mapping[str, list[tuple[str, Kernels]]]

    def ratio(self, of: str, over: str, clock: Clock = "wall") -> Record:
        """How many times as long one took as the other, by rounds taken side by side, with the 95 % interval."""
        value, low, high = paired_ratio(self.timings[of], self.timings[over], clock=clock)
        record = self.records[of]
        naming = columns_of(record.subject)
        where: dict[str, Any] = {key: text for key, text in record.columns.items() if key not in naming}
        return self.context.record(
            "latency-ratio" if clock == "wall" else "cpu-time-ratio", f"{of}/{over}", value, "", count=record.count,
            spread=(low, high), spread_is="95 % interval of the paired ratio", **where,
        )

    def ratios(self, clock: Clock = "wall") -> dict[str, Record]:
        """Each candidate's ratio to the first one."""
        first, *others = self.timings
        return {name: self.ratio(name, first, clock) for name in others}

    @property
    def lines(self) -> list[str]:
        """The times, and the ratios to the first candidate, for a terminal."""
        rows = [
            f"{name:24} {t.median_ms:9.2f} ms  [{t.low_ms:.2f}, {t.high_ms:.2f}]  CPU {t.cpu_ms:.2f} ms"
            for name, t in self.timings.items()
        ]
        first, *_ = self.timings
        cpu = self.ratios("cpu")
        for name, record in self.ratios().items():
            low, high = record.spread or (record.value, record.value)
            noise = ": inside the noise" if low <= 1 <= high else ""
            rows.append(f"{name} takes {record.value:.2f} [{low:.2f}, {high:.2f}] times as long as {first} "
                        f"(CPU {cpu[name].value:.2f}){noise}")
        return rows


def time_models(
    files: Mapping[str, Path], context: Context, *, size: str = "640x360", threads: int = 1,
    kernels: Kernels = "xnnpack", batch: int = 1, rounds: int = 15, warmup: int = 2,
) -> Timed:
    """Time models in interleaved rounds; their names become the subjects of the records, which carry their hashes.

    Parameters
    ----------
    files
        Each subject's .tflite ("abpn-int8-ptq"), which takes images of that size, or of any.
    size
        The input's width x height.
    rounds, warmup
        How often each is timed, and run before that.

    Raises
    ------
    InputError, DeviceError
        As `Runner`.
    """
    runners = {
        name: Runner(path, size, threads=threads, kernels=kernels, batch=batch) for name, path in files.items()
    }
    timings = measure({name: runner.run for name, runner in runners.items()}, rounds=rounds, warmup=warmup)
    where = columns(size, threads=threads, kernels=kernels) | ({"batch": batch} if batch > 1 else {})
    return _timed(context, timings, dict.fromkeys(timings, where), files, runners)


def time_nodes(
    context: Context, *, size: str = "1920x1080", channels: int = 3, precision: nodes.Precision = "int8",
    without: Sequence[str] = (), concat9: bool = False, beside: Mapping[str, Path] | None = None,
    threads: int = 1, kernels: Kernels = "xnnpack", rounds: int = 15, warmup: int = 2,
) -> Timed:
    """Time Table 1's meta-nodes, less the copying of their images; the subjects are "node-conv3" and so on.

    As in the paper, the overhead is measured and subtracted: one call copies the images in, runs the node and copies
    the result out; another copies the same and runs nothing. A node's time is their difference, round by round, and
    the overhead is timed as "handover-conv3". Nodes in float32 are called "float-conv3".

    Parameters
    ----------
    size, channels
        Width x height and channels of the nodes' tensors; the resize nodes take a third of that size.
    without
        Nodes that are left out, such as `nodes.RESIZES`.
    concat9
        Also time "node-concat9-lr", which joins nine images of a third of the size (S7).
    beside
        Models that are run in the same rounds, on images of a third of the size.

    Raises
    ------
    InputError
        If a size is out of range.
    DeviceError
        If a node is too small for its time to be told from the copying.
    """
    width, height = sides(size)
    small = f"{width // 3}x{height // 3}"
    models = dict(beside or {})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        built = nodes.build(folder, height=height, width=width, channels=channels, precision=precision)
        files = {("node" if precision == "int8" else "float") + f"-{node}": path for node, path in built.items()
                 if node not in without}
        sizes = dict.fromkeys(files, size) | dict.fromkeys(models, small)
        if concat9:
            files["node-concat9-lr"] = nodes.build_concat9(folder, height=height // 3, width=width // 3)
            sizes["node-concat9-lr"] = small
        runners = {name: Runner(path, threads=threads, kernels=kernels) for name, path in files.items()}
        runners |= {name: Runner(path, small, threads=threads, kernels=kernels) for name, path in models.items()}
        calls: dict[str, Callable[[], object]] = {name: runners[name].copy_and_run for name in files}
        copies = {f"handover-{name.partition('-')[2]}": runners[name].copy for name in files}
        calls |= copies | {name: runners[name].run for name in models}
        found = measure(calls, rounds=rounds, warmup=warmup)
        overhead = {copy: found[copy] for copy in copies}
        net = {name: subtract(found[name], overhead[copy]) for name, copy in zip(files, copies, strict=True)}
        for name, taken in net.items():
            if taken.median_ms <= 0:
                raise DeviceError(f"{name} takes no longer than copying its images at {sizes[name]}: name a larger size")
        where = {name: columns(sizes[name], threads=threads, kernels=kernels) for name in (*files, *models)}
        for name, copy in zip(files, copies, strict=True):
            where[name]["channels"] = channels
            where[copy] = where[name]
        timings = net | {name: found[name] for name in models} | overhead
        return _timed(context, timings, where, files | models, runners)


def time_operators(
    model: Path, subject: str, context: Context, *, size: str = "640x360", threads: int = 1,
    kernels: Kernels = "xnnpack", rounds: int = 15, warmup: int = 2,
) -> Timed:
    """Time each operator of a network alone, and in the same rounds the whole one and the peak convolutions.

    The subjects are `subject` (the network), "abpn-int8-ptq#0 CONV_2D" and so on, "peak-int8" and "peak-fp32" (see
    `nodes.build_peak`). The sum of the operators is the network's time, but for what an operator gains from finding
    its input in the cache.

    Raises
    ------
    DeviceError
        If the model cannot be read, or does not take that size.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = {f"{subject}#{part}": path for part, path in split_up(model, Path(scratch), size).items()}
        peaks: tuple[nodes.Precision, ...] = ("int8", "fp32")
        files |= {f"peak-{kind}": nodes.build_peak(Path(scratch), precision=kind)[0] for kind in peaks}
        runners = {name: Runner(path, threads=threads, kernels=kernels) for name, path in files.items()}
        runners = {subject: Runner(model, size, threads=threads, kernels=kernels), **runners}
        timings = measure({name: runner.run for name, runner in runners.items()}, rounds=rounds, warmup=warmup)
        where = columns(size, threads=threads, kernels=kernels)
        return _timed(context, timings, dict.fromkeys(timings, where), {subject: model, **files}, runners)


def _timed(
    context: Context, timings: Mapping[str, Timing], where: Mapping[str, Mapping[str, Column]],
    files: Mapping[str, Path], runners: Mapping[str, Runner],
) -> Timed:
    records = {
        name: context.record(
            "latency", name, taken.median_ms, "ms", count=len(taken.samples), spread=(taken.low_ms, taken.high_ms),
            spread_is=taken.spread_is, model_sha256=sha256(files[name]) if name in files else "", **where[name],
        )
        for name, taken in timings.items()
    }
    return Timed(context, timings, records, {name: runner.operators for name, runner in runners.items()})


def fixed_copy(model: Path, size: str | None = None) -> bytes:
    """A .tflite that takes images of any size, made for one LR size; one of that size comes back as it is.

    Delegates of a GPU or an NPU take no graph whose sizes are open.

    Raises
    ------
    DeviceError
        As `Runner`.
    """
    if size is None or not Runner(model, size).takes_any_size:
        return model.read_bytes()
    width, height = sides(size)
    return graphs.fix_size(model.read_bytes(), height, width)


def split_up(model: Path, folder: Path, size: str) -> dict[str, Path]:
    """Write each operator of a network as a .tflite of its own, for one LR size; return the paths, in order.

    Their names are "0 CONV_2D", and so on.

    Raises
    ------
    DeviceError
        If the model cannot be read, or does not take that size.
    """
    width, height = sides(size)
    try:
        content = graphs.fix_size(model.read_bytes(), height, width)
        operators = graphs.operator_names(content)
        parts = [graphs.operator_alone(content, position) for position in range(len(operators))]
    except (ModelError, OSError) as error:
        raise DeviceError(f"{model} cannot be taken apart: {error}") from error
    paths = {}
    for position, (name, part) in enumerate(zip(operators, parts, strict=True)):
        paths[f"{position} {name}"] = folder / f"{position}-{name.lower()}.tflite"
        write_atomically(paths[f"{position} {name}"], part)
    return paths


def sides(size: str) -> tuple[int, int]:
    """Width and height of "640x360".

    Raises
    ------
    InputError
        If it is not such a size.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size.lower(), re.ASCII)
    if not found or max(int(found[1]), int(found[2])) > _GREATEST_SIDE:
        raise InputError(f"the size {size[:40]!r} is not WIDTHxHEIGHT, such as 640x360")
    return int(found[1]), int(found[2])


_GREATEST_SIDE = 16384


def _interpreter(model: Path, size: str | None, threads: int, kernels: str, batch: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    if kernels not in resolvers or min(threads, batch) < 1:
        raise InputError(f"{kernels} kernels, {threads} threads, batch {batch}: xnnpack or builtin, and at least 1")
    try:
        interpreter = Interpreter(
            model_path=str(model), num_threads=threads, experimental_op_resolver_type=resolvers[kernels]
        )
        _fit(interpreter, model, size, batch)
        interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for tensor in interpreter.get_input_details():
            interpreter.set_tensor(tensor["index"], _noise(rng, tuple(tensor["shape"]), tensor["dtype"]))
        # Whatever cannot run shall show here, not in the midst of a measurement.
        interpreter.invoke()
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines() or ["no reason given"]
        raise DeviceError(f"{model} is not a model that can be run ({reason[0]})") from error
    return interpreter


def _fit(interpreter: Any, model: Path, size: str | None, batch: int) -> None:
    """Give every input of any size the size asked for; refuse another size where it is fixed."""
    for tensor in interpreter.get_input_details():
        signature = tuple(int(n) for n in tensor["shape_signature"])
        if size is None:
            if -1 in signature:
                raise DeviceError(f"{model} takes any size: name the size to time it at")
            continue
        width, height = sides(size)
        if len(signature) != 4 or any(n not in (-1, m) for n, m in zip(signature[1:3], (height, width), strict=True)):
            raise DeviceError(f"{model} takes inputs of shape {signature}, not {size} images")
        if -1 in signature or batch > 1:
            interpreter.resize_tensor_input(tensor["index"], (batch, height, width, signature[3]))


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray:
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    return rng.uniform(0, 255, shape).astype(dtype)


def _placed(details: list[dict[str, Any]]) -> list[tuple[str, Kernels]]:
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
