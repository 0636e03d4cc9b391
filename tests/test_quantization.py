"""Quantisation: real exports, read back with LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from abpn_lib import metrics, networks
from abpn_lib.degradation import bicubic_down
from abpn_lib.int8 import quantization
from abpn_lib.train import training


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    hr = skimage.data.chelsea()[:150, :225]
    return bicubic_down(hr, 3), hr


def run(path: Path, lr: np.ndarray, *, builtin: bool = False) -> np.ndarray:
    """The raw output of a .tflite for one LR image."""
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else OpResolverType.AUTO
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    tensor = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(tensor["index"], (1, *lr.shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(tensor["index"], lr[None].astype(tensor["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


def start(name: str) -> networks.keras.Model:
    model = networks.build(name)
    networks.start_as_identity(model, 0.05)
    return model


@pytest.mark.parametrize("name", [*networks.TABLE2, "fsrcnn"])
def test_every_network_exports_to_full_integer_and_stays_close(name: str, tmp_path: Path, pair: tuple) -> None:
    lr, _ = pair
    model = start(name)
    ranges = quantization.calibrate(model, [lr])
    path = tmp_path / f"{name}.tflite"
    quantization.export_int8(model, ranges, path)
    interpreter = Interpreter(model_path=str(path))
    for details in (interpreter.get_input_details()[0], interpreter.get_output_details()[0]):
        assert details["dtype"] is np.uint8
        assert details["quantization"] == (1.0, 0)
    exact = np.clip(np.rint(model(lr[None].astype(np.float32) / 255).numpy()[0] * 255), 0, 255).astype(np.uint8)
    # Seven quantised layers may shift values by some levels; a wrong scale or branch would by far more.
    assert metrics.psnr(exact, run(path, lr)) > 33


def test_float_export_equals_the_network(tmp_path: Path, pair: tuple) -> None:
    lr, _ = pair
    model = start("abpn")
    quantization.export_float(model, tmp_path / "f.tflite")
    expected = model(lr[None].astype(np.float32) / 255).numpy()[0] * 255
    np.testing.assert_allclose(run(tmp_path / "f.tflite", lr), expected, atol=0.01)


def test_per_channel_and_per_tensor_weights_differ_in_the_file(tmp_path: Path, pair: tuple) -> None:
    model = start("abpn")
    ranges = quantization.calibrate(model, [pair[0]])
    scales = {}
    for per_channel in (True, False):
        path = tmp_path / f"{per_channel}.tflite"
        quantization.export_int8(model, ranges, path, per_channel=per_channel)
        details = Interpreter(
            model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        scales[per_channel] = max(
            len(t["quantization_parameters"]["scales"])
            for t in details.get_tensor_details()
            if tuple(t["shape"]) == (28, 3, 3, 28)
        )
    assert scales == {True: 28, False: 1}


def test_without_the_clip_the_output_keeps_its_own_range(tmp_path: Path, pair: tuple) -> None:
    model = start("abpn")
    ranges = {**quantization.calibrate(model, [pair[0]]), "anchor_add": (-0.3, 1.4)}
    path = tmp_path / "noclip.tflite"
    quantization.export_int8(model, ranges, path, clip=False)
    scale, zero = Interpreter(model_path=str(path)).get_output_details()[0]["quantization"]
    assert scale == pytest.approx(1.7, abs=0.01)
    assert zero == pytest.approx(45, abs=1)
    with pytest.raises(quantization.ModelError, match="does not clip"):
        quantization.assert_full_integer(path.read_bytes())


def test_int8_interface_is_offered(tmp_path: Path, pair: tuple) -> None:
    model = start("abpn")
    ranges = quantization.calibrate(model, [pair[0]])
    path = tmp_path / "int8.tflite"
    quantization.export_int8(model, ranges, path, quantization.Export(24, 40, "int8"))
    details = Interpreter(model_path=str(path)).get_output_details()[0]
    assert details["dtype"] is np.int8
    assert details["quantization"] == (1.0, -128)


def test_a_float_file_is_not_full_integer(tmp_path: Path) -> None:
    quantization.export_float(start("baseline"), tmp_path / "f.tflite")
    with pytest.raises(quantization.ModelError, match="not full-integer"):
        quantization.assert_full_integer((tmp_path / "f.tflite").read_bytes())


def test_missing_ranges_are_named(tmp_path: Path, pair: tuple) -> None:
    model = start("abpn")
    with pytest.raises(quantization.ModelError, match="transition"):
        quantization.export_int8(model, {"sfe": (0.0, 1.0)}, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())
    with pytest.raises(quantization.ModelError, match="no images"):
        quantization.calibrate(model, [])


def test_fake_quantised_network_predicts_the_exported_one(tmp_path: Path, pair: tuple) -> None:
    lr, _ = pair
    model = start("abpn")
    ranges = quantization.calibrate(model, [lr])
    quantization.export_int8(model, ranges, tmp_path / "m.tflite")
    simulated = quantization.fake_quantize(model, ranges)
    simulated(lr[None].astype(np.float32) / 255, training=True)  # sets the weights' ranges
    predicted = np.rint(simulated(lr[None].astype(np.float32) / 255, training=False).numpy()[0] * 255)
    real = run(tmp_path / "m.tflite", lr, builtin=True).astype(float)
    assert np.mean(np.abs(predicted - real)) < 0.5


def test_qat_trains_weights_and_ranges_and_resumes(tmp_path: Path, pair: tuple) -> None:
    hr = skimage.data.chelsea()[:300, :450]
    model = start("abpn")
    before = [weight.copy() for weight in model.get_weights()]
    ranges = quantization.calibrate(model, [pair[0]])
    recipe = training.recipe("qat-table2", data="embedded", steps=6, batch=2, patch=16)
    tuned, new_ranges = quantization.train_qat(model, ranges, recipe, [hr], tmp_path, save_every=3, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not np.array_equal(tuned.get_weights()[0], before[0])
    assert new_ranges["dfe1"] != ranges["dfe1"]
    # Started at the measured ranges, not at +-6.
    assert new_ranges["dfe1"][1] == pytest.approx(ranges["dfe1"][1], rel=0.1)
    again, same_ranges = quantization.train_qat(model, ranges, recipe, [hr], tmp_path, save_every=3, progress=False)
    assert same_ranges == new_ranges
    np.testing.assert_array_equal(again.get_weights()[0], tuned.get_weights()[0])


def test_qat_can_leave_the_ranges_alone(tmp_path: Path, pair: tuple) -> None:
    lr, hr = pair
    model = start("abpn")
    ranges = quantization.calibrate(model, [lr])
    recipe = training.recipe("qat-kept", data="embedded", steps=3, batch=2, patch=16)
    tuned, same = quantization.train_qat(model, ranges, recipe, [hr], tmp_path, save_every=3, progress=False)
    assert same == ranges
    assert any((new != old).any() for new, old in zip(tuned.get_weights(), model.get_weights(), strict=True))


def test_equalizing_keeps_the_function_and_saves_a_lopsided_network() -> None:
    lr_images = [skimage.data.chelsea()[:60, :60], skimage.data.astronaut()[100:160, 100:160]]
    model = networks.build("abpn")
    networks.start_as_identity(model, 0.3)
    # Channels of a thousandfold range: after training some networks come near that.
    factor = np.geomspace(0.05, 50, 28).astype(np.float32)
    kernel, bias = model.get_layer("dfe1").get_weights()
    model.get_layer("dfe1").set_weights([kernel * factor, bias * factor])
    kernel, bias = model.get_layer("dfe2").get_weights()
    model.get_layer("dfe2").set_weights([kernel / factor[:, None], bias])
    equal = quantization.equalize(model, lr_images)
    lr = lr_images[0][None].astype(np.float32) / 255
    exact = model(lr).numpy()
    np.testing.assert_allclose(equal(lr), exact, atol=1e-4)
    errors = []
    for candidate in (model, equal):
        ranges = quantization.calibrate(candidate, lr_images)
        errors.append(np.abs(quantization.fake_quantize(candidate, ranges)(lr, training=True).numpy() - exact).mean())
    assert errors[1] < 0.7 * errors[0]
    for name in ("fsrl", "fsrcnn"):
        with pytest.raises(quantization.ModelError, match=name):
            quantization.equalize(networks.build(name), lr_images)
    with pytest.raises(quantization.ModelError, match="no images"):
        quantization.equalize(model, [])


def on_grid(model: networks.keras.Model) -> networks.keras.Model:
    """A copy with every kernel rounded to the nearest step of its output channels, as the export does."""
    copy = networks.keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if isinstance(layer, networks.keras.layers.Conv2D):
            kernel = layer.kernel.numpy()
            scale = np.abs(kernel).max((0, 1, 2)) / 127
            layer.kernel.assign(np.rint(kernel / scale) * scale)
    return copy


def test_weights_rounded_in_turn_are_on_the_grid_and_lose_less(tmp_path: Path, pair: tuple) -> None:
    from abpn_lib import models

    model = networks.build("abpn")
    training.load_weights(model, models.weights("abpn"))
    images = [bicubic_down(image, 3) for image in (pair[1], skimage.data.astronaut()[:300, :300])]
    lr = bicubic_down(skimage.data.coffee()[:210, :300], 3)  # seen by neither
    rounded = quantization.round_weights(model, images)

    def loss(candidate: networks.keras.Model) -> float:
        """Mean square of what INT8 weights alone change."""
        exact = model(lr[None].astype(np.float32) / 255).numpy()
        return float(np.square(on_grid(candidate)(lr[None].astype(np.float32) / 255).numpy() - exact).mean())

    assert loss(rounded) < 0.7 * loss(model)
    for layer in ("sfe", "dfe1", "dfe5", "transition"):
        kernel, before = (candidate.get_layer(layer).kernel.numpy() for candidate in (rounded, model))
        scale = np.abs(kernel).max((0, 1, 2)) / 127
        np.testing.assert_allclose(kernel / scale, np.rint(kernel / scale), atol=1e-3)
        np.testing.assert_allclose(np.abs(kernel).max((0, 1, 2)), np.abs(before).max((0, 1, 2)), rtol=1e-5)
    with pytest.raises(quantization.ModelError, match="fsrl"):
        quantization.round_weights(networks.build("fsrl"), images)
    with pytest.raises(quantization.ModelError, match="no images"):
        quantization.round_weights(model, [])
