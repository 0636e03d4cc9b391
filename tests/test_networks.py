from __future__ import annotations

import functools
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from abpn_lib import networks
from abpn_lib.files import ModelError
from abpn_lib.networks import NETWORKS, Anchor, DepthToSpace, Resize
from abpn_lib.paper import TABLE2


def lr_batch(*, height: int = 7, width: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((2, height, width, 3), np.float32)


def bilinear(lr: np.ndarray, scale: int) -> tf.Tensor:
    return Resize(scale, interpolation="bilinear")(lr)


def nearest(lr: np.ndarray, scale: int) -> np.ndarray:
    return lr.repeat(scale, axis=1).repeat(scale, axis=2)


@functools.cache
def built(name: str) -> keras.Model:
    """A network as `build` makes it; tests that change one build their own."""
    return networks.build(name)


def with_random_biases(model: keras.Model, seed: int = 0) -> keras.Model:
    """Biases start at zero, which would hide what `rescale` does to them."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "bias" in weight.name:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


def test_table_2_has_one_parameter_count() -> None:
    # Table 2 gives 42.54 K in all its rows.
    counts = {name: networks.parameter_count(built(name)) for name in TABLE2}
    assert counts == dict.fromkeys(TABLE2, 42_539)


def test_32_channels_by_hand() -> None:
    wide = 27 * 32 + 32 + 4 * (9 * 32 * 32 + 32) + 9 * 32 * 27 + 27
    assert networks.parameter_count(built("abpn32-short")) == wide == 45_691
    assert networks.parameter_count(built("abpn32")) == wide + 9 * 27 * 27 + 27 == 52_279


def test_widening_keeps_the_function_and_leaves_every_new_weight_a_gradient_in_two_steps() -> None:
    narrow = with_random_biases(networks.build("abpn", seed=1))
    wide = networks.build("abpn32", seed=2)
    networks.widen(narrow, wide)
    lr = lr_batch()
    np.testing.assert_allclose(wide(lr), narrow(lr), atol=1e-5)
    assert all(np.any(kernel[..., 28:]) for kernel in wide.get_weights() if kernel.shape[-1] == 32 and kernel.ndim == 4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(wide(lr)))
    # What reads the new channels is zero, but moves.
    moved = tape.gradient(loss, wide.get_layer("dfe5").kernel)
    assert np.any(moved[:, :, 28:])


def test_shortening_keeps_the_first_layers_and_starts_near_nearest_neighbour() -> None:
    whole, short = networks.build("abpn32", seed=1), networks.build("abpn32-short", seed=2)
    networks.shorten(whole, short)
    for kept, of in zip(networks.chain(short)[:-1], networks.chain(whole), strict=False):
        np.testing.assert_array_equal(kept.kernel, of.kernel)
    nearest = np.repeat(np.repeat(lr_batch(), 3, axis=1), 3, axis=2)
    assert np.abs(short(lr_batch()) - nearest).mean() < 0.5 * np.abs(whole(lr_batch()) - nearest).mean()


def test_only_a_wider_chain_of_the_same_layers_can_be_widened_to() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        networks.widen(networks.build("abpn32"), networks.build("abpn"))
    with pytest.raises(ValueError, match="shorter"):
        networks.widen(networks.build("abpn"), networks.build("abpn32-short"))


def test_parameter_counts_by_hand() -> None:
    def conv(kernel: int, c_in: int, c_out: int) -> int:
        return kernel * kernel * c_in * c_out + c_out

    code = conv(3, 3, 28) + 4 * conv(3, 28, 28) + conv(3, 28, 27) + conv(3, 27, 27)
    text = conv(3, 3, 28) + 5 * conv(3, 28, 28) + conv(3, 28, 27)
    assert (code, text) == (42_539, 43_035)
    assert networks.parameter_count(built("abpn-as-worded")) == text
    # FSRCNN(56, 12, 4) on RGB: 5x5 feature, 1x1 shrink, four 3x3, 1x1 expand, 9x9 deconvolution; a slope per channel.
    fsrcnn = (
        conv(5, 3, 56) + 56 + conv(1, 56, 12) + 12 + 4 * (conv(3, 12, 12) + 12) + conv(1, 12, 56) + 56 + conv(9, 56, 3)
    )
    assert networks.parameter_count(built("fsrcnn")) == fsrcnn
    assert networks.parameter_count(networks.build("abpn", 2, channels=16, pairs=3)) == (
        conv(3, 3, 16) + 2 * conv(3, 16, 16) + conv(3, 16, 12) + conv(3, 12, 12)
    )


def test_table_2_differs_in_the_residual_alone() -> None:
    def convolutions(name: str) -> list[tuple]:
        return [tuple(weight.shape) for weight in built(name).weights]

    assert all(convolutions(name) == convolutions("baseline") for name in TABLE2)

    def others(name: str) -> list[str]:
        return [type(layer).__name__ for layer in built(name).layers if not isinstance(layer, keras.layers.Conv2D)]

    assert {name: others(name) for name in TABLE2} == {
        "baseline": ["InputLayer", "DepthToSpace"],
        "nearest": ["InputLayer", "DepthToSpace", "Resize", "Add"],
        "bilinear": ["InputLayer", "DepthToSpace", "Resize", "Add"],
        "fsrl": ["InputLayer", "Add", "DepthToSpace"],
        "abpn": ["InputLayer", "Anchor", "Add", "DepthToSpace"],
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_any_lr_size_is_taken(name: str) -> None:
    for height, width in ((7, 9), (4, 5), (1, 1)):
        sr = built(name)(lr_batch(height=height, width=width))
        assert sr.shape == (2, 3 * height, 3 * width, 3)
        assert sr.dtype == tf.float32


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_anchors_are_nearest_neighbour_bit_for_bit(scale: int) -> None:
    # Section 3.2 (S10): repeat the channels s² times, add, shuffle = nearest-neighbour in image space.
    rng = np.random.default_rng(scale)
    lr = (rng.normal(0, 1, (2, 11, 13, 3)) * 10.0 ** rng.integers(-6, 6, (2, 11, 13, 3))).astype(np.float32)
    ours = DepthToSpace(scale)(Anchor(scale)(lr)).numpy()
    assert ours.tobytes() == nearest(lr, scale).tobytes()
    # The paper's own wording of it, and TensorFlow's resize, agree.
    concatenated = tf.concat([lr] * scale**2, axis=-1)
    np.testing.assert_array_equal(Anchor(scale)(lr), concatenated)
    np.testing.assert_array_equal(Resize(scale)(lr), ours)


def test_adding_anchors_before_the_shuffle_is_adding_nearest_after_it() -> None:
    # The claim is about the sum: the two rows of Table 2 are one function, given the same weights.
    abpn, interpolated = (with_random_biases(networks.build(name, seed=3)) for name in ("abpn", "nearest"))
    np.testing.assert_array_equal(abpn(lr_batch()), interpolated(lr_batch()))


def test_the_anchor_is_not_a_weight() -> None:
    anchor = Anchor(3)
    anchor(lr_batch())
    assert anchor.weights == []


def test_depth_to_space_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, 4, 5, 27), np.float32)
    ours = DepthToSpace(3)(x).numpy()
    for row in range(3):
        for column in range(3):
            for channel in range(3):
                expected = x[..., (row * 3 + column) * 3 + channel]
                np.testing.assert_array_equal(ours[:, row::3, column::3, channel], expected)


def test_bilinear_by_its_definition() -> None:
    # Half-pixel centres, clamped at borders.
    lr = lr_batch()
    position = np.clip((np.arange(7 * 3) + 0.5) / 3 - 0.5, 0, 6)
    low = np.minimum(position.astype(int), 5)
    share = (position - low).astype(np.float32)[:, None, None]
    rows = lr[:, low] * (1 - share) + lr[:, low + 1] * share
    ours = bilinear(lr, 3).numpy()
    np.testing.assert_allclose(ours[:, :, 1::3], rows, atol=1e-6)  # LR columns' own centres


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, 3) for name in NETWORKS if name != "abpn-batchnorm"), ("abpn", 1), ("abpn", 4)]
)
def test_an_identity_start_without_noise_is_the_plain_enlargement(name: str, scale: int) -> None:
    model = networks.build(name, scale)
    networks.start_as_identity(model, 0.0)
    expected = bilinear(lr_batch(), scale) if name == "bilinear" else nearest(lr_batch(), scale)
    np.testing.assert_allclose(model(lr_batch()), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["abpn", "baseline", "fsrcnn"])
def test_noise_leaves_the_identity_start_near_and_not_at_it(name: str) -> None:
    exact = nearest(lr_batch(), 3)
    errors = []
    for noise in (0.01, 0.1):
        model = networks.build(name)
        networks.start_as_identity(model, noise)
        errors.append(float(np.abs(model(lr_batch()) - exact).mean()))
    assert 0 < errors[0] < errors[1]


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


@pytest.mark.parametrize("name", ["abpn", "fsrl", "fsrcnn"])
def test_the_seed_decides_the_weights(name: str) -> None:
    first = weights_of(networks.build(name, seed=7))
    tf.random.uniform([3], seed=1)  # other draws do not disturb it
    again = weights_of(networks.build(name, seed=7))
    other = weights_of(networks.build(name, seed=8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [i for i, weight in enumerate(first) if weight.ndim == 4]
    assert all(not np.array_equal(first[i], other[i]) for i in kernels)
    # No two layers of a network share their numbers.
    assert len({first[i].ravel()[:8].tobytes() for i in kernels}) == len(kernels)


def test_the_start_is_he_normal() -> None:
    # Section 4.1: variance 2 / fan-in.
    for layer in built("abpn").layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "sfe":
            kernel = layer.kernel.numpy()
            assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * kernel.shape[2])), rel=0.05)
            assert not layer.bias.numpy().any()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "abpn-batchnorm"])
def test_rescaled_networks_take_the_larger_range(name: str) -> None:
    model = with_random_biases(networks.build(name))
    small = model(lr_batch()).numpy()
    networks.rescale(model, 255.0)
    np.testing.assert_allclose(model(lr_batch() * 255), small * 255, rtol=2e-4, atol=2e-3)
    assert np.abs(model(lr_batch()) - small).max() > 0.1  # the biases did change


def test_folding_keeps_what_a_normalised_network_computes() -> None:
    model = networks.build("abpn-batchnorm")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "norm" in weight.name or "bias" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    folded = networks.fold(model)
    np.testing.assert_allclose(folded(lr_batch()), model(lr_batch(), training=False), rtol=1e-3, atol=1e-3)
    assert networks.parameter_count(folded) == 42_539
    with pytest.raises(ValueError, match="fold it first"):
        networks.rescale(model, 255.0)


def test_the_structure_is_read_from_the_graph() -> None:
    others = {"fsrl", "fsrcnn", "fsrcnn-anchor", "abpn-leaky", "abpn-batchnorm"}
    chains = [name for name in NETWORKS if name not in others]
    for name in chains:
        assert [layer.filters for layer in networks.chain(built(name))][-1] == 27
        assert len(networks.chain(networks.build(name, pairs=0))) == 2
    for name in others:
        with pytest.raises(ModelError, match="not a chain"):
            networks.chain(built(name))
    kinds = {name: type(networks.image_layer(built(name))) for name in (*NETWORKS, "fsrcnn-subpixel")}
    plain = {"baseline": keras.layers.Conv2D, "fsrl": keras.layers.Conv2D, "fsrcnn-subpixel": keras.layers.Conv2D}
    assert kinds == dict.fromkeys(kinds, keras.layers.Add) | plain | {"fsrcnn": keras.layers.Conv2DTranspose}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: networks.build("edsr"), "'edsr'; there are baseline, nearest, bilinear, fsrl, abpn"),
        (lambda: networks.build("abpn", 0), "scale 0"),
        (lambda: networks.build("abpn", channels=2), "channels 2"),
        (lambda: networks.build("abpn", pairs=-1), "pairs -1"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", [name for name in NETWORKS if "fsrcnn" not in name])
def test_the_plain_chain_can_be_as_short_as_one_convolution(name: str) -> None:
    assert networks.build(name, 2, channels=3, pairs=0)(lr_batch()).shape == (2, 14, 18, 3)


@pytest.fixture
def silenced() -> tuple[keras.Model, np.ndarray]:
    """An ABPN two of whose channels can never fire, and an image."""
    model = networks.build("abpn")
    networks.start_as_identity(model, 0.3)
    for name, channel in (("sfe", 4), ("dfe2", 9)):
        bias = model.get_layer(name).bias
        bias.assign(tf.tensor_scatter_nd_update(bias, [[channel]], [-1e3]))
    return model, np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


def test_channel_maxima_find_the_dead_channels(silenced):
    model, image = silenced
    dead = [np.flatnonzero(values == 0).tolist() for values in networks.channel_maxima(model, [image])]
    assert 4 in dead[0]
    assert 9 in dead[2]
    output = keras.Model(model.input, model.get_layer("sfe").output)(image[None] / np.float32(255)).numpy()
    np.testing.assert_array_equal(networks.channel_maxima(model, [image])[0], output.max((0, 1, 2)))


def test_revived_channels_fire_and_the_output_stays_near(silenced):
    model, image = silenced
    before, weights = model(image[None] / np.float32(255)).numpy(), model.get_weights()
    counts = networks.revive(model, [image])
    assert counts[0] >= 1
    assert counts[2] >= 1
    maxima = networks.channel_maxima(model, [image])
    assert maxima[0][4] > 0
    assert maxima[2][9] > 0
    # What was alive keeps its weights; in the next layer only what read the dead channel is new.
    alive = [n for n in range(28) if n != 4]
    if counts[0] == 1:
        np.testing.assert_array_equal(model.get_weights()[0][..., alive], weights[0][..., alive])
        np.testing.assert_array_equal(model.get_weights()[2][:, :, alive], weights[2][:, :, alive])
    assert np.abs(model(image[None] / np.float32(255)).numpy() - before).mean() < 0.05
    with pytest.raises(ModelError, match="fsrl"):
        networks.revive(networks.build("fsrl"), [image])


@pytest.mark.parametrize("name", networks.FSRCNN_VARIANTS)
def test_variants_of_fsrcnn_enlarge_too(name):
    model = networks.build(name, 2)
    networks.start_as_identity(model, 0.0)
    colours = model.input_shape[-1]
    image = np.random.default_rng(1).uniform(size=(1, 7, 8, colours)).astype(np.float32)
    # With identity kernels, every network repeats the pixels.
    np.testing.assert_allclose(model(image).numpy(), image.repeat(2, 1).repeat(2, 2), atol=1e-6)


def test_a_shuffle_can_do_what_the_deconvolution_does():
    kernels = [
        networks.build(name).get_layer(layer).kernel.shape.num_elements()
        for name, layer in (("fsrcnn", "deconv"), ("fsrcnn-subpixel", "transition"))
    ]
    assert kernels[0] == kernels[1]
