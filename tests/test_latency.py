"""Timing: the order of the calls, the statistics, the records, and that the timed graphs are what they claim to be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from abpn_lib import results
from abpn_lib.files import sha256
from abpn_lib.tflite import graphs
from abpn_lib.timing import latency

SIZE = {"height": 36, "width": 48}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> dict[str, Path]:
    return latency.build_meta_nodes(tmp_path_factory.mktemp("nodes"), **SIZE)


@pytest.fixture(scope="module")
def context() -> results.Context:
    return results.Context("abpn latency", "a device", {"numpy": np.__version__}, "abc", "2026-01-01")


def timing(*samples: float) -> latency.Timing:
    return latency.Timing(float(np.median(samples)), min(samples), max(samples), 1.0, samples, samples)


def work(times: int):
    numbers = np.linspace(0, 1, 20_000)

    def call() -> None:
        for _ in range(times):
            np.sort(np.sin(numbers))

    return call


def test_candidates_take_turns_after_the_warm_up():
    calls: list[str] = []
    timings = latency.measure({name: lambda name=name: calls.append(name) for name in "ABC"}, rounds=4, warmup=1)
    assert "".join(calls) == "ABC" * 5
    assert list(timings) == ["A", "B", "C"]
    assert {len(t.samples) for t in timings.values()} == {len(t.cpu_samples) for t in timings.values()} == {4}


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_eight_times_the_work_is_found_slower(clock):
    timings = latency.measure({"one": work(1), "eight": work(8)}, rounds=25)
    ratio, low, high = latency.paired_ratio(timings["eight"], timings["one"], clock=clock)
    assert 1 < low <= ratio <= high
    assert not latency.within_noise(timings["eight"], timings["one"], clock=clock)
    inverse, _, _ = latency.paired_ratio(timings["one"], timings["eight"], clock=clock)
    assert inverse == pytest.approx(1 / ratio)


def test_cpu_time_leaves_waiting_out():
    timings = latency.measure({"wait": _wait}, rounds=7)
    assert timings["wait"].cpu_ms < timings["wait"].median_ms / 2


def _wait() -> None:
    time.sleep(0.02)


def test_outliers_are_kept_and_do_not_move_the_median():
    calls = iter(range(100))

    def call() -> None:
        if next(calls) == 5:
            _wait()

    (found,) = latency.measure({"spiky": call}, rounds=15, warmup=0).values()
    assert len(found.samples) == 15
    assert max(found.samples) >= 20
    assert found.median_ms < 10


@pytest.mark.parametrize(("rounds", "outside"), [(6, 0), (8, 0), (9, 1), (15, 3), (25, 7), (100, 39)])
def test_the_interval_holds_the_median_with_95_percent(rounds, outside):
    # Ranks from the binomial table of the sign test at 5 %, two-sided.
    samples = tuple(float(n) for n in np.random.default_rng(0).permutation(rounds) + 1)
    ratio, low, high = latency.paired_ratio(timing(*samples), timing(*[1.0] * rounds))
    assert (low, high) == (outside + 1, rounds - outside)
    assert ratio == np.median(samples)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    ones = timing(*[1.0] * 15)
    covered = 0
    for _ in range(1000):
        _, low, high = latency.paired_ratio(timing(*rng.lognormal(0, 1, 15)), ones)
        covered += low <= 1 <= high
    assert covered >= 950


def test_a_ratio_is_paired_round_by_round():
    # The machine slows down tenfold halfway; the ratio within every round stays 2.
    drift = [1.0] * 8 + [10.0] * 7
    a, b = timing(*[2 * x for x in drift]), timing(*drift)
    assert latency.paired_ratio(a, b) == (2.0, 2.0, 2.0)
    assert latency.within_noise(b, b)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(latency.DeviceError, match="do not pair"):
        latency.paired_ratio(timing(1.0, 2.0), timing(1.0))
    with pytest.raises(latency.DeviceError, match="too short"):
        latency.paired_ratio(timing(1.0), timing(0.0))


@pytest.mark.parametrize(
    ("candidates", "options"),
    [({}, {}), ({"a": int}, {"rounds": 0}), ({"a": int}, {"warmup": -1})],
)
def test_bad_measurements_are_refused(candidates, options):
    with pytest.raises(latency.DeviceError):
        latency.measure(candidates, **options)


def test_records_are_complete(context, nodes, tmp_path):
    timings = latency.measure({name: work(1) for name in ("add", "split")}, rounds=9)
    where = latency.conditions(1080, 1920, threads=2, kernels="builtin")
    records = latency.timing_records(timings, context, conditions=where, subject="node-{}", models=nodes)
    add = records[0]
    assert [record.subject for record in records] == ["node-add", "node-split"]
    assert add.id == "latency/node-add[kernels=builtin,size=1920x1080,threads=2]"
    assert (add.value, add.unit, add.count, add.kind) == (timings["add"].median_ms, "ms", 9, "measured")
    assert add.spread == (timings["add"].low_ms, timings["add"].high_ms)
    assert add.spread_is.startswith("95 % interval")
    assert add.model_sha256 == sha256(nodes["add"])
    assert add.command == "abpn latency"
    (cpu, _) = latency.timing_records(timings, context, "cpu-time")
    assert (cpu.quantity, cpu.value, cpu.subject) == ("cpu-time", timings["add"].cpu_ms, "add")
    results.save(tmp_path / "records.json", records)
    assert results.load(tmp_path / "records.json", "measured") == records


def test_few_rounds_claim_no_confidence(context):
    timings = latency.measure({"a": work(1)}, rounds=3)
    (record,) = latency.timing_records(timings, context)
    assert record.spread == (min(timings["a"].samples), max(timings["a"].samples))
    assert "95" not in record.spread_is


EXPECTED = {
    "split": ("SPLIT", [36, 48, 1]),
    "concat": ("CONCATENATION", [36, 48, 6]),
    "add": ("ADD", [36, 48, 3]),
    "multiply": ("MUL", [36, 48, 3]),
    "max-pool": ("REDUCE_MAX", [1, 1, 3]),
    "average-pool": ("MEAN", [1, 1, 3]),
    "conv3": ("CONV_2D", [36, 48, 3]),
    "conv1": ("CONV_2D", [36, 48, 3]),
    "relu": ("RELU", [36, 48, 3]),
    "leaky-relu": ("LEAKY_RELU", [36, 48, 3]),
    "nearest": ("RESIZE_NEAREST_NEIGHBOR", [36, 48, 3]),
    "bilinear": ("RESIZE_BILINEAR", [36, 48, 3]),
}


@pytest.mark.parametrize("node", latency.META_NODES)
def test_a_meta_node_is_one_integer_operator(nodes, node):
    from ai_edge_litert.interpreter import Interpreter

    operator, shape = EXPECTED[node]
    assert latency.operators(nodes[node], kernels="builtin") == [(operator, "builtin")]
    interpreter = Interpreter(model_path=str(nodes[node]))
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    assert {tensor["dtype"] for tensor in (*inputs, *outputs)} == {np.int8}
    assert {tensor["dtype"] for tensor in interpreter.get_tensor_details() if tensor["name"]} <= {np.int8, np.int32}
    assert len(inputs) == (2 if node in ("concat", "add", "multiply") else 1)
    assert len(outputs) == (3 if node == "split" else 1)
    lr = [12, 16, 3] if node in ("nearest", "bilinear") else [36, 48, 3]
    assert all(tensor["shape"].tolist() == [1, *lr] for tensor in inputs)
    assert all(tensor["shape"].tolist() == [1, *shape] for tensor in outputs)


def run(model: Path, *arrays: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The real numbers that go into a node and come out of it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model))
    interpreter.allocate_tensors()

    def real(tensor: dict) -> np.ndarray:
        scale, zero = tensor["quantization"]
        return (interpreter.get_tensor(tensor["index"]).astype(np.float64) - zero) * scale

    inputs = interpreter.get_input_details()
    for tensor, array in zip(inputs, arrays, strict=True):
        interpreter.set_tensor(tensor["index"], array)
    going_in = [real(tensor) for tensor in inputs]
    interpreter.invoke()
    return going_in, [real(tensor) for tensor in interpreter.get_output_details()]


def test_meta_nodes_compute_what_their_names_say(nodes):
    rng = np.random.default_rng(2)
    # Short of the ends: the range of a result was calibrated on other noise, and saturates.
    a, b = (rng.integers(-100, 101, (1, 36, 48, 3), dtype=np.int8) for _ in range(2))

    def agree(node: str, expected, *arrays: np.ndarray, within: float = 0.05) -> None:
        going_in, coming_out = run(nodes[node], *arrays)
        got = np.concatenate(coming_out, axis=-1)
        assert np.abs(got - expected(*going_in)).max() < within, node

    # The converter orders inputs and outputs by name: compare what is split and joined as a set.
    for node, arrays in (("split", (a,)), ("concat", (a, b))):
        going_in, coming_out = run(nodes[node], *arrays)
        assert np.array_equal(np.sort(np.concatenate(coming_out, -1)), np.sort(np.concatenate(going_in, -1)))
    agree("add", np.add, a, b)
    agree("multiply", np.multiply, a, b, within=0.1)
    agree("max-pool", lambda x: x.max((1, 2), keepdims=True), a)
    agree("average-pool", lambda x: x.mean((1, 2), keepdims=True), a, within=0.1)
    agree("relu", lambda x: np.maximum(x, 0), a)
    agree("leaky-relu", lambda x: np.where(x > 0, x, 0.2 * x), a)
    agree("nearest", lambda x: x.repeat(3, 1).repeat(3, 2), a[:, :12, :16])


def test_meta_nodes_come_in_other_widths_and_are_kept(tmp_path):
    first = latency.build_meta_nodes(tmp_path, height=12, width=16, channels=28)
    (split,) = [path for node, path in first.items() if node == "split"]
    _, halves = run(split, np.zeros((1, 12, 16, 28), np.int8))
    assert [half.shape for half in halves] == [(1, 12, 16, 14)] * 2
    written = {node: path.stat().st_mtime_ns for node, path in first.items()}
    again = latency.build_meta_nodes(tmp_path, height=12, width=16, channels=28)
    assert {node: path.stat().st_mtime_ns for node, path in again.items()} == written


@pytest.mark.parametrize("size", [{"height": 2}, {"width": 0}, {"channels": 1}])
def test_bad_node_sizes_leave_nothing_behind(tmp_path, size):
    with pytest.raises(latency.DeviceError, match="at least"):
        latency.build_meta_nodes(tmp_path / "nodes", **{**SIZE, **size})
    assert not (tmp_path / "nodes").exists()


def test_a_graph_that_was_folded_is_noticed(nodes):
    with pytest.raises(latency.DeviceError, match="CONV_2D where RELU alone"):
        latency._assert_one_operator(nodes["conv1"].read_bytes(), "RELU", "int8")


@pytest.fixture(scope="module")
def any_size(tmp_path_factory) -> Path:
    """A float model of any size: one convolution."""
    import tensorflow as tf

    kernel = np.full((3, 3, 3, 3), 0.1, np.float32)
    function = tf.function(
        lambda x: tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")),
        input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)],
    )
    path = tmp_path_factory.mktemp("any") / "any.tflite"
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    path.write_bytes(converter.convert())
    return path


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_models_of_any_size_and_of_one_size_are_timed(any_size, nodes, kernels):
    candidates = {
        "any": latency.invoker(any_size, 30, 50, kernels=kernels),
        "fixed": latency.invoker(nodes["conv3"], 36, 48, threads=2, kernels=kernels),
        "unnamed": latency.invoker(nodes["add"], kernels=kernels),
    }
    assert set(latency.measure(candidates, rounds=2)) == set(candidates)


def test_a_larger_image_takes_longer(any_size):
    calls = {"small": latency.invoker(any_size, 40, 40), "large": latency.invoker(any_size, 320, 320)}
    timings = latency.measure(calls, rounds=25)
    assert latency.paired_ratio(timings["large"], timings["small"], clock="cpu")[1] > 1


def test_xnnpack_takes_what_it_can(nodes, any_size):
    assert latency.operators(nodes["conv3"]) == [("CONV_2D", "xnnpack")]
    assert {kernels for _, kernels in latency.operators(any_size, 8, 8)} == {"xnnpack"}
    assert {kernels for _, kernels in latency.operators(any_size, 8, 8, kernels="builtin")} == {"builtin"}


def test_bad_models_and_options_are_named(any_size, nodes, tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model at all")
    for model in (broken, tmp_path / "missing.tflite"):
        with pytest.raises(latency.DeviceError, match=model.name):
            latency.invoker(model, 8, 8)
    with pytest.raises(latency.DeviceError, match="name the height and width"):
        latency.invoker(any_size)
    with pytest.raises(latency.DeviceError, match="not 9x8 images"):
        latency.invoker(nodes["add"], 8, 9)
    for options in ({"threads": 0}, {"kernels": "gpu"}, {"height": 8}, {"height": 0, "width": 4}):
        with pytest.raises(latency.DeviceError):
            latency.invoker(any_size, **options)


def test_a_network_is_exported_at_one_size(tmp_path):
    pytest.importorskip("tensorflow_model_optimization", reason="INT8 export needs abpn-lib[quantize]")
    from ai_edge_litert.interpreter import Interpreter

    (path,) = latency.networks_for_latency(tmp_path, ["abpn"], height=24, width=32).values()
    interpreter = Interpreter(model_path=str(path))
    (lr,), (hr,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (lr["shape_signature"].tolist(), lr["dtype"]) == ([1, 24, 32, 3], np.uint8)
    assert (hr["shape"].tolist(), hr["dtype"]) == ([1, 72, 96, 3], np.uint8)
    assert [name for name, _ in latency.operators(path)].count("CONV_2D") == 8
    latency.measure({"abpn": latency.invoker(path, 24, 32)}, rounds=1)
    with pytest.raises(latency.DeviceError, match="no network is called 'edsr'"):
        latency.networks_for_latency(tmp_path, ["edsr"])


def test_importing_and_timing_leave_tensorflow_alone(any_size):
    code = f"""
import sys
from pathlib import Path
from abpn_lib import measure as evaluation
from abpn_lib.timing import latency
latency.measure({{"any": latency.invoker(Path({str(any_size)!r}), 8, 8)}}, rounds=1)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_handover_is_what_a_whole_call_has_more(nodes):
    calls = {
        "whole": latency.invoker(nodes["conv1"], handover=True),
        "handover": latency.handover(nodes["conv1"]),
        "bare": latency.invoker(nodes["conv1"]),
    }
    timings = latency.measure(calls, rounds=25)
    net = latency.subtract(timings["whole"], timings["handover"])
    assert net.samples[3] == pytest.approx(timings["whole"].samples[3] - timings["handover"].samples[3])
    # Most of a call is the node: with the overhead off, it is nearer to the bare node than twice its time.
    assert net.median_ms < timings["whole"].median_ms
    assert net.cpu_ms == pytest.approx(timings["bare"].cpu_ms, rel=0.9)
    with pytest.raises(latency.DeviceError, match="do not pair"):
        latency.subtract(timings["whole"], timing(1.0))


def test_float_nodes_are_the_same_operators_in_float(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    for node, path in latency.build_meta_nodes(tmp_path, height=12, width=18, kind="fp32").items():
        assert latency.operators(path, kernels="builtin") == [(EXPECTED[node][0], "builtin")]
        assert {tensor["dtype"] for tensor in Interpreter(model_path=str(path)).get_output_details()} == {np.float32}


def test_a_network_is_split_into_operators_that_can_be_timed(tmp_path):
    from abpn_lib import models

    parts = latency.split_up(models.find("abpn-int8-ptq"), tmp_path, 12, 16)
    assert [name.split()[1] for name in parts].count("CONV_2D") == 8
    latency.measure({name: latency.invoker(path) for name, path in parts.items()}, rounds=1)
    with pytest.raises(latency.DeviceError, match="cannot be taken apart"):
        latency.split_up(tmp_path / "missing.tflite", tmp_path, 12, 16)


def test_a_batch_takes_longer_than_one_image(any_size):
    calls = {str(batch): latency.invoker(any_size, 64, 64, batch=batch) for batch in (1, 8)}
    timings = latency.measure(calls, rounds=15)
    assert latency.paired_ratio(timings["8"], timings["1"], clock="cpu")[1] > 1
    with pytest.raises(latency.DeviceError, match="batch 0"):
        latency.invoker(any_size, 8, 8, batch=0)


def test_the_peak_is_one_large_convolution(tmp_path):
    for kind in ("int8", "fp32"):
        path, multiplications = latency.build_peak(tmp_path, kind=kind)
        assert latency.operators(path) == [("CONV_2D", "xnnpack")]
        assert multiplications == sum(graphs.multiplications(path.read_bytes()))


def test_depths_and_readings_are_exported_for_timing(tmp_path):
    pytest.importorskip("tensorflow_model_optimization", reason="INT8 export needs abpn-lib[quantize]")
    depths = latency.build_depths(tmp_path, [0, 3], height=12, width=16)
    counts = {pairs: [name for name, _ in latency.operators(path)].count("CONV_2D") for pairs, path in depths.items()}
    assert counts == {0: 3, 3: 6}  # with the anchor, the first and the last
    wanted = ["fsrcnn-relu", "fsrcnn-subpixel", "fsrcnn-y"]
    readings = latency.networks_for_latency(tmp_path, wanted, height=12, width=16)
    names = {reading: [name for name, _ in latency.operators(path)] for reading, path in readings.items()}
    assert "PRELU" not in names["fsrcnn-relu"]
    assert "TRANSPOSE_CONV" not in names["fsrcnn-subpixel"]
    latency.measure({name: latency.invoker(path) for name, path in readings.items()}, rounds=1)
