"""Timing: the order of the calls, the statistics, the records, and that the timed graphs are what they claim to be."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from abpn_lib import models, paper, results
from abpn_lib.files import DeviceError, InputError, ModelError, sha256
from abpn_lib.tflite import graph
from abpn_lib.tflite.interpreter import interpreter
from abpn_lib.timing import latency, nodes, profile, rounds

SIZE = {"height": 36, "width": 48}
CONTEXT = results.Context("abpn latency", "a device", {"numpy": np.__version__}, "abc", "2026-01-01")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return nodes.build(tmp_path_factory.mktemp("nodes"), **SIZE)


@pytest.fixture(scope="module")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def timing(*samples: float) -> rounds.Timing:
    return rounds.Timing.of(samples, samples)


def work(times: int) -> Callable[[], None]:
    numbers = np.linspace(0, 1, 20_000)

    def call() -> None:
        for _ in range(times):
            np.sort(np.sin(numbers))

    return call


# Rounds and statistics


def test_candidates_take_turns_and_outliers_are_kept() -> None:
    calls: list[str] = []

    def candidate(name: str) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            if name == "B" and calls.count("B") == 5:
                time.sleep(0.05)

        return call

    timings = rounds.measure({name: candidate(name) for name in "ABC"}, rounds=15, warmup=1)
    assert "".join(calls) == "ABC" * 16
    assert list(timings) == ["A", "B", "C"]
    assert {len(t.samples) for t in timings.values()} == {len(t.cpu_samples) for t in timings.values()} == {15}
    spiky = timings["B"]
    assert max(spiky.samples) >= 50 > 10 > spiky.median_ms
    # Waiting is no CPU time.
    assert spiky.cpu_samples[spiky.samples.index(max(spiky.samples))] < 25
    for options in ({"rounds": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match="candidates"):
            rounds.measure({"a": int}, **options)


@pytest.mark.xdist_group("timing")
def test_eight_times_the_work_is_found_slower() -> None:
    timings = rounds.measure({"one": work(1), "eight": work(8)}, rounds=25)
    ratio, low, high = rounds.paired_ratio(timings["eight"], timings["one"], clock="cpu")
    assert 1 < low <= ratio <= high
    inverse, _, _ = rounds.paired_ratio(timings["one"], timings["eight"], clock="cpu")
    assert inverse == pytest.approx(1 / ratio)


@pytest.mark.parametrize(("count", "outside"), [(6, 0), (8, 0), (9, 1), (15, 3), (25, 7), (100, 39)])
def test_the_interval_holds_the_median_with_95_percent(count: int, outside: int) -> None:
    # Ranks from the binomial table of the sign test at 5 %, two-sided.
    samples = np.random.default_rng(0).permutation(count) + 1.0
    median, low, high = rounds.median_interval(samples)
    assert (low, high) == (outside + 1, count - outside)
    assert median == np.median(samples)


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [rounds.median_interval(rng.lognormal(0, 1, 15)) for _ in range(1000)]
    assert sum(low <= 1 <= high for _, low, high in intervals) >= 950


def test_ratios_and_differences_are_taken_round_by_round() -> None:
    # The machine slows down tenfold halfway; the ratio within every round stays 2.
    drift = [1.0] * 8 + [10.0] * 7
    a, b = timing(*[2 * x for x in drift]), timing(*drift)
    assert rounds.paired_ratio(a, b) == (2.0, 2.0, 2.0)
    assert rounds.subtract(a, b) == b
    for compare in (rounds.paired_ratio, rounds.subtract):
        with pytest.raises(ValueError, match="argument 2 is"):
            compare(timing(1.0, 2.0), timing(1.0))
    with pytest.raises(DeviceError, match="too short"):
        rounds.paired_ratio(timing(1.0), timing(0.0))


# The verbs


def test_models_are_timed_into_complete_records(any_size: Path, tmp_path: Path) -> None:
    files = {"abpn-int8-ptq": models.find("abpn-int8-ptq"), "fsrcnn-int8-ptq": any_size}
    timed = latency.time_models(files, CONTEXT, size="24x20", threads=2, kernels="builtin", rounds=9)
    record, taken = timed.records["abpn-int8-ptq"], timed.timings["abpn-int8-ptq"]
    assert record.id == "latency/abpn-int8-ptq[kernels=builtin,size=24x20,threads=2]"
    assert (record.value, record.unit, record.count, record.kind) == (taken.median_ms, "ms", 9, "measured")
    assert record.spread == (taken.low_ms, taken.high_ms)
    assert record.spread_is.startswith("95 % interval")
    assert (record.model_sha256, record.context) == (sha256(files["abpn-int8-ptq"]), CONTEXT)
    results.save(tmp_path / "records.json", timed.records.values())
    assert results.load(tmp_path / "records.json", "measured") == list(timed.records.values())

    ratio = timed.ratio("abpn-int8-ptq", "fsrcnn-int8-ptq", "cpu")
    assert ratio.quantity == "cpu-time-ratio"
    assert ratio.subject == "abpn-int8-ptq/fsrcnn-int8-ptq"
    assert (ratio.get("size"), ratio.get("threads"), ratio.count) == ("24x20", 2, 9)
    assert ratio.spread is not None
    assert ratio.spread[0] <= ratio.value <= ratio.spread[1]
    assert timed.lines[0].startswith("abpn-int8-ptq ")
    assert "times as long as abpn-int8-ptq" in timed.lines[2]
    assert {kernels for _, kernels in timed.placed["abpn-int8-ptq"]} == {"builtin"}


def test_few_rounds_claim_no_confidence(any_size: Path) -> None:
    (record,) = latency.time_models({"a": any_size}, CONTEXT, size="8x8", rounds=3).records.values()
    assert record.spread_is == "least and greatest round"


@pytest.mark.xdist_group("timing")
def test_nodes_are_timed_without_the_copying(any_size: Path) -> None:
    timed = latency.time_nodes(
        CONTEXT, size="480x360", without=(*nodes.RESIZES, "split", "concat", "add", "multiply", "relu"), concat9=True,
        beside={"abpn-int8-ptq": models.find("abpn-int8-ptq")}, rounds=3, warmup=1, kernels="builtin",
    )
    names = [f"{prefix}-{node}" for prefix in ("node", "handover")
             for node in ("max-pool", "average-pool", "conv3", "conv1", "leaky-relu", "concat9-lr")]
    assert set(timed.records) == {*names, "abpn-int8-ptq"}
    conv = timed.records["node-conv3"]
    assert conv.id == "latency/node-conv3[channels=3,kernels=builtin,size=480x360,threads=1]"
    assert conv.value == timed.timings["node-conv3"].median_ms > 0
    assert conv.model_sha256
    assert {timed.records[name].get("size") for name in ("node-concat9-lr", "abpn-int8-ptq")} == {"160x120"}
    assert timed.records["abpn-int8-ptq"].get("channels") is None
    assert timed.placed["node-conv3"] == [("CONV_2D", "builtin")]


def test_operators_are_timed_alone(tmp_path: Path) -> None:
    found = profile.operators(models.find("abpn-int8-ptq"), "abpn-int8-ptq", CONTEXT, size="16x12", rounds=1)
    by_quantity = {record.quantity: [each for each in found if each.quantity == record.quantity] for record in found}
    times, rates, intensities = (by_quantity[quantity] for quantity in ("latency", "rate", "intensity"))
    assert (len(times), times[0].subject) == (12, "abpn-int8-ptq#0 QUANTIZE")
    assert [record.subject for record in by_quantity["peak"]] == ["conv3-int8", "conv3-fp32"]
    (share,) = by_quantity["profile-share"]
    assert (share.subject, share.get("size")) == ("abpn-int8-ptq", "16x12")
    costs = graph.costs(graph.fix_size(models.find("abpn-int8-ptq").read_bytes(), 12, 16))
    (products, moved), taken = costs[3], {record.subject: record for record in times}[rates[2].subject]
    assert len(rates) == len(intensities) == 8
    assert rates[2].value == pytest.approx(products / taken.value / 1e6)
    assert intensities[2].value == pytest.approx(products / moved)
    with pytest.raises(ModelError, match=r"missing\.tflite"):
        profile.operators(tmp_path / "missing.tflite", "m", CONTEXT, size="16x12")


def test_models_of_one_stem_keep_apart() -> None:
    assert latency.names(["abpn-fp32", "x/m.tflite"]) == {"abpn-fp32": "abpn-fp32", "m": "x/m.tflite"}
    assert list(latency.names(["a/m.tflite", "b/m.tflite"])) == ["a-m", "b-m"]
    for twice in (["m", "m"], ["x/a/m.tflite", "y/a/m.tflite"]):
        with pytest.raises(InputError, match=f"{twice[0]} and another model would both be called"):
            latency.names(twice)


@pytest.mark.parametrize("size", ["huge", "0x4", "4x-4", "²x3", "5x" + "9" * 5000, "640", "640x360x3", "99999x1"])
def test_bad_sizes_are_refused(size: str) -> None:
    assert latency.sides("640X360") == (640, 360)
    with pytest.raises(InputError, match="is not WIDTHxHEIGHT"):
        latency.sides(size)


# What is timed


def test_models_of_any_size_and_of_one_size_run(any_size: Path, built: dict[str, Path]) -> None:
    for kernels in ("xnnpack", "builtin"):
        latency.Runner(any_size, "50x30", kernels=kernels).run()
        latency.Runner(built["conv3"], "48x36", threads=2, kernels=kernels).run()
        latency.Runner(built["nearest"], "48x36", fit=False, kernels=kernels).run(copy=True)
    assert latency.Runner(built["conv3"], "48x36").placed == [("CONV_2D", "xnnpack")]
    assert {kernels for _, kernels in latency.Runner(any_size, "8x8").placed} == {"xnnpack"}


@pytest.mark.xdist_group("timing")
def test_larger_images_and_batches_take_longer(any_size: Path) -> None:
    runners = {
        "small": latency.Runner(any_size, "40x40"), "large": latency.Runner(any_size, "320x320"),
        "batch": latency.Runner(any_size, "40x40", batch=32),
    }
    timings = rounds.measure({name: runner.run for name, runner in runners.items()}, rounds=25)
    for name in ("large", "batch"):
        assert rounds.paired_ratio(timings[name], timings["small"], clock="cpu")[1] > 1


def test_bad_models_and_options_are_named(any_size: Path, built: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model at all")
    for model in (broken, tmp_path / "missing.tflite"):
        with pytest.raises(ModelError, match=model.name):
            latency.Runner(model, "8x8")
    with pytest.raises(ModelError, match="not 9x8 images"):
        latency.Runner(built["add"], "9x8")
    for options in ({"threads": 0}, {"kernels": "gpu"}, {"batch": 0}):
        with pytest.raises(InputError):
            latency.Runner(any_size, "8x8", **options)


@pytest.mark.parametrize("name", ["abpn-fp32", "abpn-int8-ptq", "fsrcnn-fp32", "bilinear-int8-ptq"])
def test_a_copy_of_one_size_computes_what_the_resized_model_does(name: str, tmp_path: Path) -> None:
    path, fixed = models.find(name), tmp_path / "fixed.tflite"
    fixed.write_bytes(latency.fixed_copy(path, "28x20"))
    answers = []
    for each in (path, fixed):
        # XNNPACK has kernels of its own for operators that it takes from graphs of one size alone.
        network = interpreter(each, kernels="builtin")
        (lr,), (hr,) = network.get_input_details(), network.get_output_details()
        network.resize_tensor_input(lr["index"], (1, 20, 28, 3))
        network.allocate_tensors()
        network.set_tensor(lr["index"], np.random.default_rng(0).integers(0, 256, (1, 20, 28, 3)).astype(lr["dtype"]))
        network.invoke()
        answers.append(network.get_tensor(hr["index"]))
    assert lr["shape_signature"].tolist() == [1, 20, 28, 3]
    assert answers[1].shape == (1, 60, 84, 3)
    assert np.array_equal(*answers)
    assert answers[1].std() > 0
    # A model of one size is left as it is, and taken for no other.
    assert latency.fixed_copy(fixed, "28x20") == fixed.read_bytes()
    with pytest.raises(ModelError, match="not 48x32 images"):
        latency.fixed_copy(fixed, "48x32")


@pytest.mark.slow
def test_exports_for_timing_have_one_size(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="INT8 export needs abpn-lib[quantize]")
    from abpn_lib.int8 import export

    def convolutions(path: Path) -> int:
        return graph.operator_names(path.read_bytes()).count("CONV_2D")

    depths = {pairs: export.export_for_latency(tmp_path, "abpn", pairs=pairs, height=12, width=16) for pairs in (0, 3)}
    assert {pairs: convolutions(path) for pairs, path in depths.items()} == {0: 3, 3: 6}  # anchor, first and last
    wanted = ["abpn", "fsrcnn-relu", "fsrcnn-subpixel", "fsrcnn-y"]
    built = {name: export.export_for_latency(tmp_path, name, height=12, width=16) for name in wanted}
    latency.time_models(built, CONTEXT, size="16x12", rounds=1)
    assert convolutions(built["abpn"]) == 8
    assert "PRELU" not in graph.operator_names(built["fsrcnn-relu"].read_bytes())
    assert "TRANSPOSE_CONV" not in graph.operator_names(built["fsrcnn-subpixel"].read_bytes())
    (lr,) = interpreter(built["abpn"]).get_input_details()
    assert (lr["shape_signature"].tolist(), lr["dtype"]) == ([1, 12, 16, 3], np.uint8)
    with pytest.raises(InputError, match="no network is called 'edsr'"):
        export.export_for_latency(tmp_path, "edsr")


def test_importing_and_timing_leave_tensorflow_alone(any_size: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from abpn_lib.timing import latency
latency.Runner(Path({str(any_size)!r}), "8x8").run()
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Table 1's nodes

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


@pytest.mark.parametrize("node", paper.META_NODES)
def test_a_meta_node_is_one_integer_operator(built: dict[str, Path], node: str) -> None:
    operator, shape = EXPECTED[node]
    assert latency.Runner(built[node], "48x36", fit=False, kernels="builtin").placed == [(operator, "builtin")]
    network = interpreter(built[node])
    inputs, outputs = network.get_input_details(), network.get_output_details()
    assert {tensor["dtype"] for tensor in (*inputs, *outputs)} == {np.int8}
    assert len(inputs) == (2 if node in ("concat", "add", "multiply") else 1)
    assert len(outputs) == (3 if node == "split" else 1)
    lr = [12, 16, 3] if node in nodes.RESIZES else [36, 48, 3]
    assert all(tensor["shape"].tolist() == [1, *lr] for tensor in inputs)
    assert all(tensor["shape"].tolist() == [1, *shape] for tensor in outputs)


def run(model: Path, *arrays: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The real numbers that go into a node and come out of it."""
    network = interpreter(model)
    network.allocate_tensors()

    def real(tensor: dict) -> np.ndarray:
        scale, zero = tensor["quantization"]
        return (network.get_tensor(tensor["index"]).astype(np.float64) - zero) * scale

    inputs = network.get_input_details()
    for tensor, array in zip(inputs, arrays, strict=True):
        network.set_tensor(tensor["index"], array)
    going_in = [real(tensor) for tensor in inputs]
    network.invoke()
    return going_in, [real(tensor) for tensor in network.get_output_details()]


def test_meta_nodes_compute_what_their_names_say(built: dict[str, Path]) -> None:
    rng = np.random.default_rng(2)
    # Short of the ends: the range of a result was calibrated on other noise, and saturates.
    a, b = (rng.integers(-100, 101, (1, 36, 48, 3), dtype=np.int8) for _ in range(2))

    def agree(node: str, expected: Callable, *arrays: np.ndarray, within: float = 0.05) -> None:
        going_in, coming_out = run(built[node], *arrays)
        got = np.concatenate(coming_out, axis=-1)
        assert np.abs(got - expected(*going_in)).max() < within, node

    # The converter orders inputs and outputs by name: compare what is split and joined as a set.
    for node, arrays in (("split", (a,)), ("concat", (a, b))):
        going_in, coming_out = run(built[node], *arrays)
        assert np.array_equal(np.sort(np.concatenate(coming_out, -1)), np.sort(np.concatenate(going_in, -1)))
    agree("add", np.add, a, b)
    agree("multiply", np.multiply, a, b, within=0.1)
    agree("max-pool", lambda x: x.max((1, 2), keepdims=True), a)
    agree("average-pool", lambda x: x.mean((1, 2), keepdims=True), a, within=0.1)
    agree("relu", lambda x: np.maximum(x, 0), a)
    agree("leaky-relu", lambda x: np.where(x > 0, x, 0.2 * x), a)
    agree("nearest", lambda x: x.repeat(3, 1).repeat(3, 2), a[:, :12, :16])


def test_meta_nodes_come_in_other_widths_and_in_float_and_are_kept(tmp_path: Path) -> None:
    first = nodes.build(tmp_path, height=12, width=18, channels=28, precision="fp32")
    for node, path in first.items():
        assert latency.Runner(path, "18x12", fit=False, kernels="builtin").placed == [(EXPECTED[node][0], "builtin")]
    _, halves = run(first["split"], np.zeros((1, 12, 18, 28), np.float32))
    assert [half.shape for half in halves] == [(1, 12, 18, 14)] * 2
    written = {path: path.stat().st_mtime_ns for path in first.values()}
    nodes.build(tmp_path, height=12, width=18, channels=28, precision="fp32")
    assert {path: path.stat().st_mtime_ns for path in first.values()} == written


@pytest.mark.parametrize("size", [{"height": 2}, {"width": 0}, {"channels": 1}])
def test_bad_node_sizes_leave_nothing_behind(tmp_path: Path, size: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        nodes.build(tmp_path / "nodes", **{**SIZE, **size})
    assert not (tmp_path / "nodes").exists()


def test_the_peak_is_one_large_convolution(tmp_path: Path) -> None:
    path = nodes.build(tmp_path, ["conv3"], height=48, width=48, channels=256)["conv3"]
    assert latency.Runner(path, "48x48").placed == [("CONV_2D", "xnnpack")]
    assert [products for products, _ in graph.costs(path.read_bytes())] == [48**2 * 9 * 256**2]
