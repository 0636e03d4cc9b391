"""Quantisation: real exports, read back with LiteRT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import picture

from abpn_lib import int8, metrics, models, networks, results
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import DataError, InputError, ModelError, sha256
from abpn_lib.paper import TABLE2
from abpn_lib.tflite import graph
from abpn_lib.train import loop, runs
from abpn_lib.train.recipe import recipe


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


@pytest.fixture(scope="module")
def abpn(pair: tuple) -> tuple[networks.keras.Model, dict]:
    """A network near the identity, and its ranges over an image."""
    model = networks.build("abpn")
    networks.start_as_identity(model, 0.05)
    return model, int8.calibrate(model, [pair[0]])


@pytest.mark.parametrize("name", [*TABLE2, "fsrcnn"])
def test_every_network_exports_to_full_integer_and_stays_close(
    name: str, pair: tuple, started: Callable, exported: Callable
) -> None:
    lr, _ = pair
    interpreter = Interpreter(model_path=str(exported(name)))
    for details in (interpreter.get_input_details()[0], interpreter.get_output_details()[0]):
        assert details["dtype"] is np.uint8
        assert details["quantization"] == (1.0, 0)
    exact = started(name)(lr[None].astype(np.float32) / 255).numpy()[0] * 255
    # Seven quantised layers may shift values by some levels; a wrong scale or branch would by far more.
    assert metrics.psnr(np.clip(np.rint(exact), 0, 255).astype(np.uint8), run(exported(name), lr)) > 33


def test_float_export_equals_the_network_and_is_not_full_integer(
    pair: tuple, started: Callable, exported: Callable
) -> None:
    lr, _ = pair
    expected = started("abpn")(lr[None].astype(np.float32) / 255).numpy()[0] * 255
    np.testing.assert_allclose(run(exported("abpn", "fp32"), lr), expected, atol=0.01)
    with pytest.raises(ModelError, match="not full-integer"):
        graph.check_full_integer(exported("abpn", "fp32").read_bytes())


@pytest.mark.parametrize(("name", "precision"), [
    pytest.param(name, precision, marks=() if (name, precision) == ("nearest", "int8") else pytest.mark.slow)
    for name in (*networks.NETWORKS, *networks.FSRCNN_VARIANTS) for precision in ("int8", "fp32")
    if name not in ("abpn-leaky", "abpn-batchnorm")  # neither is exported: no INT8 leaky ReLU; folded first
])
def test_a_graph_for_one_size_has_no_arithmetic_on_sizes(name: str, precision: str, exported: Callable) -> None:
    fixed = graph.fix_size(exported(name, precision).read_bytes(), 12, 16)
    straight = exported(name, precision, size=(12, 16)).read_bytes()
    computing = {"SHAPE", "SLICE", "STRIDED_SLICE", "PACK", "MUL"}
    for content in (fixed, straight):
        assert not computing.intersection(graph.operator_names(content))
    lr = picture(12, 16)[..., : 1 if name == "fsrcnn-y" else 3]
    outputs = []
    for content in (fixed, straight):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        tensor = interpreter.get_input_details()[0]
        interpreter.set_tensor(tensor["index"], lr[None].astype(tensor["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(*outputs)


def test_per_channel_and_per_tensor_weights_differ_in_the_file(tmp_path: Path, abpn: tuple) -> None:
    model, ranges = abpn
    scales = {}
    for per_channel in (True, False):
        path = tmp_path / f"{per_channel}.tflite"
        int8.export_int8(model, ranges, path, per_channel=per_channel)
        details = Interpreter(
            model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        scales[per_channel] = max(
            len(t["quantization_parameters"]["scales"])
            for t in details.get_tensor_details()
            if tuple(t["shape"]) == (28, 3, 3, 28)
        )
    assert scales == {True: 28, False: 1}


def test_without_the_clip_the_output_keeps_its_own_range(tmp_path: Path, abpn: tuple) -> None:
    model, ranges = abpn
    ranges = {**ranges, networks.image_layer(model).name: (-0.3, 1.4)}
    path = tmp_path / "noclip.tflite"
    int8.export_int8(model, ranges, path, clip=False)
    scale, zero = Interpreter(model_path=str(path)).get_output_details()[0]["quantization"]
    assert scale == pytest.approx(1.7, abs=0.01)
    assert zero == pytest.approx(45, abs=1)
    with pytest.raises(ModelError, match="does not clip"):
        graph.check_full_integer(path.read_bytes())


def test_int8_interface_is_offered(exported: Callable) -> None:
    details = Interpreter(model_path=str(exported("abpn", dtype="int8", size=(24, 40)))).get_output_details()[0]
    assert details["dtype"] is np.int8
    assert details["quantization"] == (1.0, -128)


def test_missing_ranges_are_named(tmp_path: Path, abpn: tuple) -> None:
    model, _ = abpn
    with pytest.raises(ModelError, match="transition"):
        int8.export_int8(model, {"sfe": (0.0, 1.0)}, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="no images"):
        int8.calibrate(model, [])


def test_fake_quantised_network_predicts_the_exported_one(tmp_path: Path, pair: tuple, abpn: tuple) -> None:
    lr, _ = pair
    model, ranges = abpn
    int8.export_int8(model, ranges, tmp_path / "m.tflite")
    simulated = int8.fake_quantize(model, ranges)
    simulated(lr[None].astype(np.float32) / 255, training=True)  # sets the weights' ranges
    predicted = np.rint(simulated(lr[None].astype(np.float32) / 255, training=False).numpy()[0] * 255)
    real = run(tmp_path / "m.tflite", lr, builtin=True).astype(float)
    assert np.mean(np.abs(predicted - real)) < 0.5


def test_qat_trains_weights_and_ranges_and_resumes(tmp_path: Path, abpn: tuple) -> None:
    hr = skimage.data.chelsea()[:300, :450]
    model, ranges = abpn
    before = [weight.copy() for weight in model.get_weights()]
    chosen = recipe("qat-table2", data="embedded", steps=6, batch=2, patch=16)
    tuned, new_ranges = int8.train_qat(model, ranges, chosen, [hr], tmp_path, save_every=3, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not np.array_equal(tuned.get_weights()[0], before[0])
    assert new_ranges["dfe1"] != ranges["dfe1"]
    # Started at the measured ranges, not at +-6.
    assert new_ranges["dfe1"][1] == pytest.approx(ranges["dfe1"][1], rel=0.1)
    again, same_ranges = int8.train_qat(model, ranges, chosen, [hr], tmp_path, save_every=3, progress=False)
    assert same_ranges == new_ranges
    np.testing.assert_array_equal(again.get_weights()[0], tuned.get_weights()[0])


@pytest.mark.slow
def test_qat_can_leave_the_ranges_alone(tmp_path: Path, pair: tuple, abpn: tuple) -> None:
    _, hr = pair
    model, ranges = abpn
    chosen = recipe("qat-fixed-ranges", data="embedded", steps=3, batch=2, patch=16)
    tuned, same = int8.train_qat(model, ranges, chosen, [hr], tmp_path, save_every=3, progress=False)
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
    equal = int8.equalize(model, lr_images)
    lr = lr_images[0][None].astype(np.float32) / 255
    exact = model(lr).numpy()
    np.testing.assert_allclose(equal(lr), exact, atol=1e-4)
    errors = []
    for candidate in (model, equal):
        ranges = int8.calibrate(candidate, lr_images)
        errors.append(np.abs(int8.fake_quantize(candidate, ranges)(lr, training=True).numpy() - exact).mean())
    assert errors[1] < 0.7 * errors[0]
    for name in ("fsrl", "fsrcnn"):
        with pytest.raises(ModelError, match=name):
            int8.equalize(networks.build(name), lr_images)
    with pytest.raises(ModelError, match="no images"):
        int8.equalize(model, [])


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


def test_gptq_weights_are_on_the_grid_and_lose_less(pair: tuple) -> None:
    model = networks.build("abpn")
    runs.load_weights(model, models.weights("abpn"))
    images = [bicubic_down(image, 3) for image in (pair[1], skimage.data.astronaut()[:300, :300])]
    lr = bicubic_down(skimage.data.coffee()[:210, :300], 3)  # seen by neither
    rounded = int8.gptq(model, images)

    def loss(candidate: networks.keras.Model) -> float:
        """Mean square of what INT8 weights alone change."""
        exact = model(lr[None].astype(np.float32) / 255).numpy()
        return float(np.square(on_grid(candidate)(lr[None].astype(np.float32) / 255).numpy() - exact).mean())

    assert loss(rounded) < 0.7 * loss(model)
    for new, old in zip(networks.chain(rounded), networks.chain(model), strict=True):
        kernel, before = new.kernel.numpy(), old.kernel.numpy()
        scale = np.abs(kernel).max((0, 1, 2)) / 127
        np.testing.assert_allclose(kernel / scale, np.rint(kernel / scale), atol=1e-3)
        np.testing.assert_allclose(np.abs(kernel).max((0, 1, 2)), np.abs(before).max((0, 1, 2)), rtol=1e-5)
    with pytest.raises(ModelError, match="fsrl"):
        int8.gptq(networks.build("fsrl"), images)
    with pytest.raises(ModelError, match="no images"):
        int8.gptq(model, [])


@pytest.fixture(scope="module")
def shipped() -> networks.keras.Model:
    model = networks.build("abpn")
    runs.load_weights(model, models.weights("abpn-long"))
    return model


def test_a_folded_anchor_is_the_same_function_and_int8_passes_the_image_exactly(
    pair: tuple, shipped: networks.keras.Model, tmp_path: Path
) -> None:
    lr, hr = pair
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    # Over noise too, so that no channel is dead on one of them alone.
    folded, ranges = int8.fold_anchor(shipped, [lr, noise])
    for image in (lr, noise):
        scaled = image[None].astype(np.float32) / 255
        np.testing.assert_allclose(folded(scaled), shipped(scaled), atol=1e-5)
    int8.export_int8(int8.gptq(folded, [lr]), ranges, tmp_path / "folded.tflite")
    content = (tmp_path / "folded.tflite").read_bytes()
    assert not {"ADD", "CONCATENATION"}.intersection(graph.operator_names(content))
    fixed = graph.fix_size(content, *noise.shape[:2])
    interpreter = Interpreter(
        model_content=fixed, experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise[None])
    interpreter.invoke()
    hidden = [operator.outputs[0] for operator in graph.read(fixed).subgraphs[0].operators[1:7]]
    for index in hidden:
        np.testing.assert_array_equal(interpreter.get_tensor(index)[0, ..., :3].astype(int) + 128, noise)
    # What is lost in the last kernel's coarser steps is less than the addition's own rounding.
    int8.export_int8(int8.gptq(shipped, [lr]), int8.calibrate(shipped, [lr]), tmp_path / "unfolded.tflite")
    scores = [metrics.psnr(hr, run(tmp_path / f"{form}.tflite", lr)) for form in ("folded", "unfolded")]
    assert scores[0] > scores[1] - 0.02


def test_folding_leaves_out_dead_channels_and_needs_an_anchor(shipped: networks.keras.Model, pair: tuple) -> None:
    silent = networks.keras.models.clone_model(shipped)
    silent.set_weights(shipped.get_weights())
    kernel, bias = silent.get_layer("dfe3").get_weights()
    bias[[2, 5]] = -1000
    silent.get_layer("dfe3").set_weights([kernel, bias])
    widths = [[layer.filters for layer in networks.chain(int8.fold_anchor(model, [pair[0]])[0])]
              for model in (shipped, silent)]
    assert (widths[0][3], widths[1][3]) == (31, 29)
    for name in ("baseline", "fsrl"):
        with pytest.raises(ModelError, match=name):
            int8.fold_anchor(networks.build(name), [pair[0]])
    with pytest.raises(ModelError, match="no images"):
        int8.fold_anchor(shipped, [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / "abpn"
    chosen = recipe("table2", data="embedded", steps=2, batch=2, patch=16, pairs=1)
    loop.train(chosen, [skimage.data.chelsea()[:300, :450]], folder, save_every=2, progress=False)
    runs.write_provenance(folder, chosen, results.Context.here("abpn train"), 1)
    return folder


def test_the_models_of_a_run_are_made_with_their_provenance(finished: Path, tmp_path: Path) -> None:
    fields = {"data": "embedded", "steps": 2, "batch": 2, "patch": 16, "pairs": 1}
    made = int8.make_models(
        finished, tmp_path, results.Context.here("abpn quantize"), name="tiny", calibrate="embedded", images=2,
        equalize=True, gptq=True, forms=int8.FORMS, qat_recipe="qat-table2", qat_fields=fields, progress=False,
    )
    assert [path.name for path in made] == [f"tiny-{form}.tflite" for form in int8.FORMS]
    for path, form in zip(made, int8.FORMS, strict=True):
        provenance = json.loads(path.with_suffix(".json").read_text())
        assert (provenance["name"], provenance["kind"]) == (path.stem, "-".join(form.split("-")[:2]))
        assert provenance["sha256"] == sha256(path)
        assert provenance["exported_by"]["command"] == "abpn quantize"
        assert provenance["per_channel"] is {"fp32": None, "int8-ptq-tensor": False}.get(form, True)
    assert provenance["started_from"]["network"] == "abpn"
    assert (tmp_path / "tiny.npz").is_file()


def test_what_cannot_be_made_is_refused_before_anything_is_written(finished: Path, tmp_path: Path) -> None:
    context = results.Context.here("abpn quantize")
    refusals = (
        ({"name": "a/b"}, InputError, "a/b"), ({"name": "../x"}, InputError, "name of a file"),
        ({"network": "edsr"}, InputError, "edsr"), ({"qat_recipe": "nosuch"}, InputError, "nosuch"),
        ({"calibrate": "nosuch"}, DataError, "nosuch"), ({"forms": ["int8-qat"]}, InputError, "--qat"),
    )
    for wrong, error, message in refusals:
        with pytest.raises(error, match=message):
            int8.make_models(finished, tmp_path / "out", context, **{"calibrate": "embedded", **wrong})
    with pytest.raises(DataError, match="no finished run"):
        int8.make_models(tmp_path, tmp_path / "out", context)
    assert not (tmp_path / "out").exists()
