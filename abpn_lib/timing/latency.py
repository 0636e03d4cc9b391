"""How long a network or a meta-node takes on this machine: Tables 1 and 2, measured honestly.

Candidates are timed in turn, A B C A B C, so that a machine that slows down slows all of them; each
pair of candidates is compared within its rounds. No sample is thrown away: the median and its
order-statistic interval do not need it. Wall time answers "how long", CPU time is the steadier
comparison where other programs run beside; both are kept.

An x86 or Arm core is not the paper's NPU (a Synaptics Dolphin): orders and ratios can be compared with the
paper's, milliseconds cannot.

Source: section 3.1 and Table 1 (meta-nodes); Table 2 (networks).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abpn_lib.files import DeviceError, ModelError, sha256, write_atomically
from abpn_lib.models import weights
from abpn_lib.results import Context, Record
from abpn_lib.tflite import graphs
from abpn_lib.timing.statistics import median_interval

__all__ = [
    "META_NODES",  "Timing", "build_concat9", "build_depths", "build_meta_nodes", "build_peak",
    "conditions", "fixed_copy", "handover", "invoker", "measure", "networks_for_latency", "operators", "paired_ratio",
    "split_up", "subtract", "timing_records", "within_noise",
]

Kernels = Literal["xnnpack", "builtin"]
Kind = Literal["int8", "fp32"]
Clock = Literal["wall", "cpu"]

_OPERATORS = {
    "split": "SPLIT",
    "concat": "CONCATENATION",
    "add": "ADD",
    "multiply": "MUL",
    "max-pool": "REDUCE_MAX",
    "average-pool": "MEAN",
    "conv3": "CONV_2D",
    "conv1": "CONV_2D",
    "relu": "RELU",
    "leaky-relu": "LEAKY_RELU",
    "nearest": "RESIZE_NEAREST_NEIGHBOR",
    "bilinear": "RESIZE_BILINEAR",
}

META_NODES = tuple(_OPERATORS)
"""Table 1's twelve nodes, in its order; each is one operator of TFLite."""

_SCALE = 3



@dataclass(frozen=True)
class Timing:
    """One candidate's times in milliseconds, over all rounds.

    `low_ms` to `high_ms` covers the median wall time with at least 95 % (with fewer than six rounds it is
    least to greatest, which covers less). `samples` are the wall times, `cpu_samples` the CPU times of the
    whole process (all threads), both in the order of the rounds.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    cpu_ms: float
    samples: tuple[float, ...]
    cpu_samples: tuple[float, ...]


def measure(candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, warmup: int = 2) -> dict[str, Timing]:
    """Time every candidate once a round, in the mapping's order, after `warmup` rounds that do not count.

    Raises
    ------
    DeviceError
        If there are no candidates, no rounds, or a negative warm-up.
    """
    if not candidates:
        raise DeviceError("there is nothing to time")
    if rounds < 1 or warmup < 0:
        raise DeviceError(f"rounds {rounds}, warmup {warmup}: at least 1 and 0 are needed")
    for _ in range(warmup):
        for call in candidates.values():
            call()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            samples[name].append(((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    return {name: _timing(*zip(*pairs, strict=True)) for name, pairs in samples.items()}


def paired_ratio(a: Timing, b: Timing, *, clock: Clock = "wall") -> tuple[float, float, float]:
    """How many times as long `a` took as `b`: the median over rounds of a/b, and its 95 % interval (low, high).

    Both must come from one `measure`: only then were the two samples of a round taken side by side. On a
    busy machine the `clock` "cpu" tells more.

    Raises
    ------
    DeviceError
        If the numbers of rounds differ, or a sample of `b` is too short for the clock.
    """
    over, under = (timing.samples if clock == "wall" else timing.cpu_samples for timing in (a, b))
    if len(over) != len(under):
        raise DeviceError(f"{len(over)} and {len(under)} rounds do not pair: time both in one call of measure")
    if min(under) <= 0:
        raise DeviceError("a call was too short for the clock: let it do more work")
    return median_interval(np.divide(over, under))


def within_noise(a: Timing, b: Timing, *, clock: Clock = "wall") -> bool:
    """Whether this measurement cannot tell the two apart: their paired ratio's interval holds 1."""
    _, low, high = paired_ratio(a, b, clock=clock)
    return low <= 1 <= high


def subtract(whole: Timing, part: Timing) -> Timing:
    """What is left of `whole` without `part`, round by round; both must come from one `measure`.

    Raises
    ------
    DeviceError
        If the numbers of rounds differ.
    """
    if len(whole.samples) != len(part.samples):
        raise DeviceError(f"{len(whole.samples)} and {len(part.samples)} rounds do not pair: time both in one call")
    return _timing(
        tuple(float(n) for n in np.subtract(whole.samples, part.samples)),
        tuple(float(n) for n in np.subtract(whole.cpu_samples, part.cpu_samples)),
    )


def invoker(
    model: Path,
    height: int | None = None,
    width: int | None = None,
    *,
    threads: int = 1,
    kernels: Kernels = "xnnpack",
    batch: int = 1,
    handover: bool = False,
) -> Callable[[], None]:
    """A call that runs a .tflite once, ready to be timed: allocated, its inputs filled with random values.

    `height` and `width` are the LR size in pixels; a model of one size may go without. `kernels` "builtin" keeps
    TFLite's own kernels, "xnnpack" lets XNNPACK take the operators it can (`operators` tells which). Copying the
    images in and the result out is part of the call only with `handover`.

    Raises
    ------
    DeviceError
        If the model cannot be read or run, does not take that size, or an option is out of range.
    """
    interpreter = _interpreter(model, height, width, threads, kernels, batch)
    if not handover:
        return lambda: interpreter.invoke()
    give, take = _hands(interpreter)

    def call() -> None:
        give()
        interpreter.invoke()
        take()

    return call


def handover(
    model: Path, height: int | None = None, width: int | None = None, *, kernels: Kernels = "xnnpack"
) -> Callable[[], None]:
    """The overhead of `invoker`'s call with `handover`: the same images copied in, the same result out, nothing run.

    Raises
    ------
    DeviceError
        As `invoker`.
    """
    give, take = _hands(_interpreter(model, height, width, 1, kernels))

    def call() -> None:
        give()
        take()

    return call


def _hands(interpreter: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """How the inputs are handed to an interpreter, and its outputs taken."""
    indices = [tensor["index"] for tensor in interpreter.get_input_details()]
    outputs = [tensor["index"] for tensor in interpreter.get_output_details()]
    images = [interpreter.get_tensor(index) for index in indices]

    def give() -> None:
        for index, image in zip(indices, images, strict=True):
            interpreter.set_tensor(index, image)

    def take() -> None:
        for index in outputs:
            interpreter.get_tensor(index)

    return give, take


def operators(
    model: Path, height: int | None = None, width: int | None = None, *, kernels: Kernels = "xnnpack"
) -> list[tuple[str, Kernels]]:
    """Every operator of a .tflite with the kernels that run it, in the file's order.

    Raises
    ------
    DeviceError
        As `invoker`.
    """
    return _placed(_interpreter(model, height, width, 1, kernels)._get_ops_details())


def fixed_copy(model: Path, height: int | None = None, width: int | None = None) -> bytes:
    """A .tflite that takes images of any size, made for one LR size; one of that size comes back as it is.

    Delegates of a GPU or an NPU take no graph whose sizes are open.

    Raises
    ------
    DeviceError
        As `invoker`.
    """
    (image, *_) = _interpreter(model, height, width, 1, "xnnpack").get_input_details()
    content = model.read_bytes()
    if height is None or width is None or -1 not in image["shape_signature"]:
        return content
    return graphs.fix_size(content, height, width)


def split_up(model: Path, folder: Path, height: int, width: int) -> dict[str, Path]:
    """Write each operator of a network as a .tflite of its own, for one LR size; return the paths, in order.

    Their names are "0 CONV_2D", and so on. The sum of their times is the network's, but for what an operator gains
    from finding its input in the cache.

    Raises
    ------
    DeviceError
        If the model cannot be read, or does not take that size.
    """
    try:
        content = graphs.fix_size(model.read_bytes(), height, width)
        names = graphs.operator_names(content)
        parts = [graphs.operator_alone(content, position) for position in range(len(names))]
    except (graphs.ModelError, OSError) as error:
        raise DeviceError(f"{model} cannot be taken apart: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for position, (name, part) in enumerate(zip(names, parts, strict=True)):
        paths[f"{position} {name}"] = folder / f"{position}-{name.lower()}.tflite"
        write_atomically(paths[f"{position} {name}"], part)
    return paths


def build_peak(folder: Path, *, kind: Kind = "int8") -> tuple[Path, int]:
    """Write a 3x3 convolution that keeps a core as busy as it gets; return its path and its multiply-accumulates.

    256 channels at 48x48 pixels: large enough for the fastest kernels, small enough to stay in the cache. What it
    reaches is this machine's peak in practice, against which a network's operators are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, side, channels = folder / f"peak-{kind}.tflite", 48, 256
    if not path.is_file():
        write_atomically(path, _node("conv3", side, side, channels, kind))
    return path, side * side * 9 * channels * channels


def build_meta_nodes(
    folder: Path, *, height: int = 1080, width: int = 1920, channels: int = 3, kind: Kind = "int8"
) -> dict[str, Path]:
    """Write each of `META_NODES` as a .tflite of one operator, int8 or float32 in and out; return the paths.

    The nodes take (1, height, width, channels); the two resize nodes enlarge x3 from a third of that (rounded
    down), the network's input, as in Table 1. The table does not say how many channels its "1080P network
    output" has: 3 is the literal reading, and 28 channels at 360x640 is what an inner layer of the network
    sees. The split is into the least number of equal parts, the convolutions keep the number of channels,
    values and weights are random: time does not depend on them. Files that are there already are kept.

    Raises
    ------
    DeviceError
        If a size is out of range, or an export is not the one integer operator that it should be.
    """
    if min(height, width) < _SCALE or channels < 2:
        raise DeviceError(f"{width}x{height}, {channels} channels: at least {_SCALE}x{_SCALE} and 2 are needed")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for node, operator in _OPERATORS.items():
        paths[node] = folder / f"{node}-{kind}-{height}x{width}x{channels}.tflite"
        if not paths[node].is_file():
            content = _node(node, height, width, channels, kind)
            _assert_one_operator(content, operator, kind)
            write_atomically(paths[node], content)
    return paths


def build_concat9(folder: Path, *, height: int = 360, width: int = 640, channels: int = 3) -> Path:
    """Write ABRL's concatenation of nine copies of an LR image along its channels as an INT8 .tflite; return its path.

    Section 3.2 sets its time against one concatenation in HR (S7), which is the "concat" of `build_meta_nodes`. A
    file that is there already is kept.

    Raises
    ------
    DeviceError
        If the export is not the one integer operator that it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"concat9-{height}x{width}x{channels}.tflite"
    if not path.is_file():
        content = _node("concat9", height, width, channels, "int8")
        _assert_one_operator(content, "CONCATENATION", "int8")
        write_atomically(path, content)
    return path


def networks_for_latency(
    folder: Path, names: Sequence[str], *, height: int = 360, width: int = 640, kind: Kind = "int8"
) -> dict[str, Path]:
    """Export networks for one LR size, uint8 in and out (or float32), for timing only; return the paths.

    Weights are the shipped ones where there are any, else the initial ones, and ranges come from noise: time does
    not depend on the values. A fixed size is what a phone or an NPU is given, and it drops the shape
    arithmetic (SHAPE, SLICE, MUL) that an any-size resize needs. Files that are there already are kept.

    Raises
    ------
    DeviceError
        If a name is unknown, or INT8 export is not installed.
    """
    from abpn_lib import networks

    there = (*networks.NETWORKS, *networks.READINGS)
    unknown = [name for name in names if name not in there]
    if unknown:
        raise DeviceError(f"no network is called {unknown[0]!r}; there are {', '.join(there)}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}-{kind}-{height}x{width}.tflite" for name in names}
    for name, path in paths.items():
        if not path.is_file():
            _export_network(networks.build(name), path, height, width, kind, weights_of=name)
    return paths


def build_depths(folder: Path, pairs: Sequence[int], *, height: int = 360, width: int = 640) -> dict[int, Path]:
    """Export ABPN with other numbers of conv-ReLU pairs in INT8, for timing only; return the paths (S11)."""
    from abpn_lib import networks

    folder.mkdir(parents=True, exist_ok=True)
    paths = {count: folder / f"abpn-pairs{count}-{height}x{width}.tflite" for count in pairs}
    for count, path in paths.items():
        if not path.is_file():
            _export_network(networks.build("abpn", pairs=count), path, height, width, "int8")
    return paths


def conditions(height: int, width: int, *, threads: int = 1, kernels: Kernels = "xnnpack") -> dict[str, str | int]:
    """The conditions of a latency record: size (width x height), threads and kernel path."""
    return {"size": f"{width}x{height}", "threads": threads, "kernels": kernels}


def timing_records(
    timings: Mapping[str, Timing],
    context: Context,
    quantity: Literal["latency", "cpu-time"] = "latency",
    conditions: Mapping[str, str | int] | None = None,
    *,
    subject: str = "{}",
    models: Mapping[str, Path] | None = None,
) -> list[Record]:
    """One record (ms) of each timing: the median wall time ("latency"), or the median CPU time ("cpu-time").

    `subject` makes the record's subject from the timing's name: "node-{}" for meta-nodes, "{}-int8-ptq" for
    networks. `models` gives the files whose hashes are recorded.
    """
    records = []
    for name, timing in timings.items():
        median, low, high = median_interval(timing.samples if quantity == "latency" else timing.cpu_samples)
        rounds = len(timing.samples)
        records.append(context.record(
            quantity, subject.format(name), median, "ms", **dict(conditions or {}), count=rounds,
            spread=(low, high), spread_is=_INTERVAL if rounds >= _LEAST_ROUNDS else "least and greatest round",
            model_sha256=sha256(models[name]) if models and name in models else "",
        ))
    return records


_INTERVAL = "95 % interval of the median, by order statistics"
_LEAST_ROUNDS = 6  # below, not even least to greatest covers the median with 95 %


def _timing(wall: tuple[float, ...], cpu: tuple[float, ...]) -> Timing:
    return Timing(*median_interval(wall), float(np.median(cpu)), wall, cpu)


def _interpreter(
    model: Path, height: int | None, width: int | None, threads: int, kernels: str, batch: int = 1
) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    if kernels not in resolvers:
        raise DeviceError(f"no kernels are called {kernels!r}; there are {', '.join(resolvers)}")
    if min(threads, batch) < 1 or (height is None) != (width is None) or min(height or 1, width or 1) < 1:
        raise DeviceError(f"{threads} threads, batch {batch}, size {width}x{height}: at least 1 of each is needed")
    try:
        interpreter = Interpreter(
            model_path=str(model), num_threads=threads, experimental_op_resolver_type=resolvers[kernels]
        )
        _fit(interpreter, model, height, width, batch)
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


def _fit(interpreter: Any, model: Path, height: int | None, width: int | None, batch: int) -> None:
    """Give every input of any size the size asked for; refuse another size where it is fixed."""
    for tensor in interpreter.get_input_details():
        signature = tuple(int(n) for n in tensor["shape_signature"])
        if height is None or width is None:
            if -1 in signature:
                raise DeviceError(f"{model} takes any size: name the height and width to time it at")
        elif len(signature) != 4 or any(n not in (-1, m) for n, m in zip(signature[1:3], (height, width), strict=True)):
            raise DeviceError(f"{model} takes inputs of shape {signature}, not {width}x{height} images")
        elif -1 in signature or batch > 1:
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


def _node(node: str, height: int, width: int, channels: int, kind: Kind) -> bytes:
    """A meta-node as .tflite, in INT8 through post-training quantisation on noise."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shrink = _SCALE if node in ("nearest", "bilinear") else 1
    shape = (1, height // shrink, width // shrink, channels)
    inputs = 2 if node in ("concat", "add", "multiply") else 1
    module = tf.Module()
    module.node = tf.function(_node_function(node, height, width, channels, rng), autograph=False)
    specs = [tf.TensorSpec(shape, tf.float32, name=f"x{i}") for i in range(inputs)]
    concrete = module.node.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if kind == "fp32":
        return converter.convert()
    # An off-centre range, so that a ReLU cuts and a mean is not zero.
    values = rng.uniform(-1, 3, shape).astype(np.float32)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # The second input has the same values in another order: equal input scales, so that a concatenation needs no
    # requantisation, and products of either sign.
    samples = [values, np.flip(values).copy()][:inputs]
    converter.representative_dataset = lambda: iter([samples])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    # uint8 would put a QUANTIZE operator at each end.
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _node_function(node: str, height: int, width: int, channels: int, rng: np.random.Generator) -> Callable[..., Any]:
    import tensorflow as tf

    def convolution(size: int) -> Callable[[tf.Tensor], tf.Tensor]:
        spread = (2 / (size * size * channels)) ** 0.5
        kernel = rng.normal(0, spread, (size, size, channels, channels)).astype(np.float32)
        bias = rng.normal(0, 0.1, channels).astype(np.float32)
        return lambda x: tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)

    enlarged = (height // _SCALE * _SCALE, width // _SCALE * _SCALE)
    parts = next(n for n in range(2, channels + 1) if channels % n == 0)
    functions: dict[str, Callable[..., Any]] = {
        "split": lambda x: tf.split(x, parts, axis=-1),
        "concat": lambda a, b: tf.concat([a, b], axis=-1),
        "concat9": lambda x: tf.concat([x] * 9, axis=-1),
        "add": lambda a, b: a + b,
        "multiply": lambda a, b: a * b,
        "max-pool": lambda x: tf.reduce_max(x, axis=[1, 2], keepdims=True),
        "average-pool": lambda x: tf.reduce_mean(x, axis=[1, 2], keepdims=True),
        "conv3": convolution(3),
        "conv1": convolution(1),
        "relu": tf.nn.relu,
        "leaky-relu": lambda x: tf.nn.leaky_relu(x, 0.2),
        "nearest": lambda x: tf.image.resize(x, enlarged, method="nearest"),
        "bilinear": lambda x: tf.image.resize(x, enlarged, method="bilinear"),
    }
    return functions[node]


def _assert_one_operator(content: bytes, operator: str, kind: Kind) -> None:
    from ai_edge_litert import schema_py_generated as schema

    found = graphs.operator_names(content)
    if found != [operator]:
        made = ", ".join(found) or "nothing"
        raise DeviceError(f"the converter made {made} where {operator} alone was meant: use the pinned TensorFlow")
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)).subgraphs[0]
    types = {graph.tensors[i].type for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0}
    if kind == "int8" and not types <= {schema.TensorType.INT8, schema.TensorType.INT32}:
        raise DeviceError(f"the converter left {operator} in floating point: use the pinned TensorFlow")


def _export_network(
    model: Any, path: Path, height: int, width: int, kind: Kind, *, weights_of: str | None = None
) -> None:
    from abpn_lib import networks
    from abpn_lib.train import runs

    try:
        from abpn_lib.int8 import quantization
    except ImportError as error:
        raise DeviceError("exporting needs tensorflow-model-optimization: install abpn-lib[quantize]") from error
    networks.start_as_identity(model, 0.1)
    if weights_of:
        with contextlib.suppress(ModelError):  # none are shipped for the readings of Table 3
            runs.load_weights(model, weights(weights_of))
    form = quantization.Export(height, width)
    if kind == "fp32":
        quantization.export_float(model, path, form)
    else:
        quantization.export_int8(model, quantization.calibrate(model, [_noise_image(model)]), path, form)


def _noise_image(model: Any) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 48, model.input_shape[-1]), dtype=np.uint8)
