"""ONNX models run by ONNX Runtime, beside the .tflite files that they are made of, run by LiteRT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from abpn_lib import cli, datasets, degradation, measure, models
from abpn_lib.files import InputError, ModelError
from abpn_lib.tflite import graph
from abpn_lib.tflite.interpreter import interpreter
from abpn_lib.tflite.onnx_export import to_onnx

pytest.importorskip("onnx", reason="needs abpn-lib[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs abpn-lib[onnx]")

NAMES = [
    "abpn-fp32", "abpn-int8-ptq", "abpn-int8-ptq-tensor", "abpn-int8-qat", "abpn-long-int8-ptq", "abpn-long-int8-qat",
    "abpn-long-int8-ptq-folded", "baseline-int8-ptq-tensor", "bilinear-fp32", "fsrcnn-anchor-fp32",
    "fsrcnn-anchor-int8-qat", "fsrcnn-int8-ptq", "fsrl-int8-ptq", "nearest-int8-qat", "authors-int8-qat",
]
PHOTOGRAPHS = {
    name: degradation.bicubic_down(hr[: len(hr) // 3 * 3, : hr.shape[1] // 3 * 3], 3)[:120, :150]
    for name, hr in datasets.images("embedded") if name in ("astronaut", "chelsea", "coffee", "rocket")
}
IMAGES = {**PHOTOGRAPHS, "noise": np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)}


def by_litert(content: bytes, images: NDArray) -> NDArray:
    network = interpreter(content)
    index = network.get_input_details()[0]["index"]
    network.resize_tensor_input(index, images.shape)
    network.allocate_tensors()
    network.set_tensor(index, images)
    network.invoke()
    return network.get_tensor(network.get_output_details()[0]["index"])


def by_onnx_runtime(content: bytes, images: NDArray) -> NDArray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["sr"], {"lr": images})[0]


def apart(content: bytes, images: NDArray, onnx_model: bytes | None = None) -> NDArray:
    """How many levels the two runtimes are apart, value by value."""
    made = [by_litert(content, images), by_onnx_runtime(onnx_model or to_onnx(content), images)]
    assert made[0].dtype == made[1].dtype
    assert made[0].shape == made[1].shape
    one, other = (np.clip(np.rint(image), -128, 255).astype(int) for image in made)
    return np.abs(one - other)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_gives_what_litert_gives(name: str) -> None:
    if name.startswith("authors") and not datasets.available("authors"):
        pytest.skip("needs the authors' models in ABPN_DATA")
    content = measure.model_path(name).read_bytes()
    written = to_onnx(content)
    dtype = np.float32 if "fp32" in name else np.uint8
    levels = [apart(content, image[None].astype(dtype), written).ravel() for image in IMAGES.values()]
    found = np.concatenate(levels)
    assert found.max() <= 2
    assert np.mean(found <= 1) >= 0.999
    assert np.mean(found == 0) >= 0.98, "more than rounding differs"


def test_no_form_of_a_shipped_model_is_left_out_but_one() -> None:
    refused = set()
    for model in models.catalogue():
        try:
            to_onnx(model.path.read_bytes())
        except ModelError:
            refused.add(model.name)
    assert refused == {model.name for model in models.catalogue() if "bilinear-int8" in model.name}


def test_the_comparison_sees_another_network() -> None:
    image = IMAGES["coffee"][None]
    other = to_onnx(models.find("abpn-int8-qat").read_bytes())
    assert np.mean(apart(models.find("abpn-int8-ptq").read_bytes(), image, other) > 0) > 0.1


@pytest.mark.parametrize("io", ["uint8", "int8"])
def test_a_batch_of_one_size_in_the_type_of_the_tflite(io: str) -> None:
    content = models.find("abpn-long-int8-ptq").read_bytes()
    both = np.stack([image[:60, :80] for image in (IMAGES["astronaut"], IMAGES["rocket"])])
    if io == "int8":
        content, both = graph.with_int8_interface(content), (both.astype(int) - 128).astype(np.int8)
    fixed = graph.fix_size(content, 60, 80, batch=2)
    session = onnxruntime.InferenceSession(to_onnx(fixed), providers=["CPUExecutionProvider"])
    assert [(image.shape, image.type) for image in (*session.get_inputs(), *session.get_outputs())] == [
        ([2, 60, 80, 3], f"tensor({io})"), ([2, 180, 240, 3], f"tensor({io})"),
    ]
    assert apart(fixed, both).max() <= 1


def test_int8_stays_int8_in_onnx_runtime(tmp_path: Path) -> None:
    import onnx

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    content = to_onnx(models.find("abpn-long-int8-ptq").read_bytes())
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert names.count("QLinearConv") == 8, "every convolution was fused with its quantisation"
    assert "Conv" not in names


def test_no_weight_is_int8_whose_sums_saturate_on_some_processors() -> None:
    import onnx

    kept = onnx.load_from_string(to_onnx(models.find("abpn-long-int8-ptq").read_bytes())).graph.initializer
    kernels = [tensor.data_type for tensor in kept if len(tensor.dims) == 4]
    assert set(kernels) == {onnx.TensorProto.UINT8}


def test_openvino_runs_it_too() -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not there")
    content, image = models.find("abpn-long-int8-ptq").read_bytes(), IMAGES["coffee"][None]
    core = openvino.Core()
    # Else it computes in bfloat16 where the CPU can.
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(to_onnx(content), b""), "CPU", hints)
    found = np.abs(network({"lr": image})["sr"].astype(int) - by_litert(content, image))
    assert np.mean(found <= 1) >= 0.999
    assert found.max() <= 2


def test_the_command_writes_it_or_says_what_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    words = ["export", "abpn-long-fp32", "--format", "onnx", "-o", str(out)]
    assert cli.main([*words, "--size", "48x32"]) == 0
    fixed = out.read_bytes()
    assert by_onnx_runtime(fixed, np.zeros((1, 32, 48, 3), np.float32)).shape == (1, 96, 144, 3)
    assert cli.main(words) == 0
    assert out.read_bytes() != fixed
    assert out.read_bytes() == to_onnx(models.find("abpn-long-fp32").read_bytes()), "the same bytes each time"
    good = out.read_bytes()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(models.find("abpn-fp32").read_bytes()[:900])
    for model, *more, mention in (
        ("bilinear-int8-ptq", "RESIZE_BILINEAR"), (str(broken), "broken"),
        ("abpn-int8-ptq", "--device", "ethos-u65-512", "--device"),
    ):
        capsys.readouterr()
        assert cli.main(["export", model, *more, "--format", "onnx", "-o", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert mention in line
    assert out.read_bytes() == good


def test_an_operator_that_is_not_written_is_named() -> None:
    model = graph.read(models.find("abpn-int8-ptq").read_bytes())
    (add,) = (op for op in model.subgraphs[0].operators if graph.name_of(model, op) == "ADD")
    add.builtinOptions.fusedActivationFunction = 3
    with pytest.raises(ModelError, match="ADD with another activation"):
        to_onnx(graph.write(model))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"abpn-lib\[onnx\]"):
        to_onnx(models.find("abpn-fp32").read_bytes())
