"""The networks of the paper: ABPN, Table 2's other residual strategies, and FSRCNN.

Every network maps LR RGB (N, H, W, 3) to HR RGB (N, sH, sW, 3), both float32, in whatever range
it was trained on. A plain ReLU network is homogeneous, so one trained on [0, 1] becomes one for
[0, 255] when its biases are scaled (`rescale`).

Sources: section 3.3 and Figures 1 and 2 of the paper; the channel counts follow the authors'
published code where the paper's wording does not give its own 42.54 K parameters. FSRCNN: C. Dong,
C. C. Loy, X. Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from abpn_lib.files import ModelError
from abpn_lib.paper import TABLE2

NETWORKS = (
    *TABLE2, "fsrcnn", "fsrcnn-anchor", "abpn-as-worded", "abpn-leaky", "abpn-batchnorm", "abpn32", "abpn32-short",
)
"""The networks that are trained: Table 2's rows, where `abpn` is the baseline + ABRL, and others for comparison.

`abpn-as-worded` is ABPN as the paper's sentences read: 43,035 parameters. `abpn-leaky` has leaky ReLU of slope
0.1 in place of ReLU (S3), `abpn-batchnorm` a batch normalisation before each ReLU (S5), and
`fsrcnn-anchor` adds ABPN's anchor path to FSRCNN's output. `abpn32` is ABPN with 32 channels, as NCNet
is: 52,279 parameters; `abpn32-short` is the same without the last convolution, 27 to 27: 45,691.
"""

FSRCNN_VARIANTS = ("fsrcnn-relu", "fsrcnn-subpixel", "fsrcnn-y")
"""What Table 3's FSRCNN may have been, which the paper does not specify; `build` takes them too, for timing.

ReLU in place of PReLU; a 3x3 convolution and a pixel shuffle in place of the deconvolution, which can compute the
same function; the Y channel alone, (N, H, W, 1) to (N, sH, sW, 1), as in the FSRCNN paper.
"""


class _Scaled(keras.layers.Layer):
    def __init__(self, scale: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.utils.register_keras_serializable("abpn")
class Anchor(_Scaled):
    """Repeat every LR pixel scale² times along the channels: (N, H, W, C) -> (N, H, W, s²C).

    After `DepthToSpace` this is nearest-neighbour interpolation, bit for bit (section 3.2, S10).
    Computed as a 1x1 convolution with a frozen kernel of zeros and ones: a concatenation of nine
    inputs gives the same bits, but XNNPACK does not take it.
    """

    def build(self, input_shape: tuple) -> None:
        copies = np.tile(np.eye(input_shape[-1], dtype=np.float32), (1, self.scale**2))
        self.constant = copies[None, None]  # (1, 1, C, s²C); no weight, so that the paper's count holds
        self.frozen: Any = self.constant  # what is applied; quantisation puts a fake-quantised copy here
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, self.frozen, strides=1, padding="VALID")


@keras.utils.register_keras_serializable("abpn")
class DepthToSpace(_Scaled):
    """Pixel shuffle: (N, H, W, s²C) -> (N, sH, sW, C), channel index = (row · s + column) · C + c."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(x, self.scale) if self.scale > 1 else x


@keras.utils.register_keras_serializable("abpn")
class Resize(keras.layers.UpSampling2D):
    """Enlarge (N, H, W, C) to (N, sH, sW, C) by `interpolation`, "nearest" or "bilinear" (half-pixel centres)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # One factor for both sides: the layer's own call has two, which would change the bytes of exported files.
        return tf.image.resize(x, tf.shape(x)[1:3] * self.size[0], method=self.interpolation)


def build(name: str, scale: int = 3, *, channels: int | None = None, pairs: int = 5, seed: int = 0) -> keras.Model:
    """Build one of `NETWORKS`, or of `FSRCNN_VARIANTS`, with He-initialised weights of this seed (section 4.1).

    `channels` and `pairs` are the width and the number of conv-ReLU pairs after the first convolution: 28 and 5 in the
    paper, and 32 wide where the name says so. FSRCNN has its own (56, 12, 4) and ignores them. Raises `ValueError` if
    the name is unknown, the scale below 1, the width below 3 or the number of pairs below 0.
    """
    if name not in (*NETWORKS, *FSRCNN_VARIANTS):
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    channels = channels or (32 if name.startswith("abpn32") else 28)
    if scale < 1 or channels < 3 or pairs < 0:
        raise ValueError(f"scale {scale}, channels {channels}, pairs {pairs}: at least 1, 3 and 0 are needed")
    lr = keras.Input((None, None, 1 if name == "fsrcnn-y" else 3), name="lr")
    convolution = _Convolutions(seed)
    if name.startswith("fsrcnn"):
        output = _fsrcnn(lr, name, scale, convolution)
    else:
        output = _plain(lr, name, scale, channels, pairs, convolution)
    return keras.Model(lr, output, name=name.replace("-", "_"))


class _Convolutions:
    """Makes convolutions of one seed sequence, so that a network's start depends on its seed alone."""

    def __init__(self, seed: int) -> None:
        self.seeds = np.random.SeedSequence(seed)

    def initializer(self) -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=int(self.seeds.spawn(1)[0].generate_state(1)[0] % 2**31))

    def __call__(
        self, x: tf.Tensor, filters: int, name: str, *, kernel: int = 3, activation: str | None = None
    ) -> tf.Tensor:
        return keras.layers.Conv2D(
            filters, kernel, padding="same", activation=activation, kernel_initializer=self.initializer(), name=name
        )(x)

    def pair(self, x: tf.Tensor, filters: int, name: str, network: str) -> tf.Tensor:
        """A convolution and what follows it in this network."""
        if network == "abpn-leaky":
            return keras.layers.LeakyReLU(0.1, name=f"{name}_leaky")(self(x, filters, name))
        if network == "abpn-batchnorm":
            x = keras.layers.BatchNormalization(name=f"{name}_norm")(self(x, filters, name))
            return keras.layers.ReLU(name=f"{name}_relu")(x)
        return self(x, filters, name, activation="relu")


def _plain(lr: tf.Tensor, name: str, scale: int, channels: int, pairs: int, convolution: _Convolutions) -> tf.Tensor:
    """The plain chain of Figure 2 under one of Table 2's residual strategies."""
    out_channels = 3 * scale**2
    # The text has every pair at full width; the authors' code narrows in the last pair, which gives 42,539.
    last = channels if name == "abpn-as-worded" else out_channels
    x = shallow = convolution.pair(lr, channels, "sfe", name)  # (N, H, W, 28)
    for i in range(1, pairs):
        x = convolution.pair(x, channels, f"dfe{i}", name)  # (N, H, W, 28)
    if name == "fsrl":
        # Figure 1a; before the narrowing pair, the last place where both sides have 28 channels.
        x = keras.layers.Add(name="feature_add")([x, shallow])
    if pairs and name != "abpn32-short":
        x = convolution.pair(x, last, f"dfe{pairs}", name)  # (N, H, W, 27)
    x = convolution(x, out_channels, "transition")  # (N, H, W, 27)
    if name.startswith("abpn"):
        x = keras.layers.Add(name="anchor_add")([x, Anchor(scale, name="anchor")(lr)])
    x = DepthToSpace(scale, name="shuffle")(x)  # (N, 3H, 3W, 3)
    if name in ("nearest", "bilinear"):
        x = keras.layers.Add(name="image_add")([x, Resize(scale, interpolation=name, name="resize")(lr)])
    return x


def _fsrcnn(lr: tf.Tensor, name: str, scale: int, convolution: _Convolutions) -> tf.Tensor:
    """FSRCNN (d, s, m) = (56, 12, 4) on RGB with PReLU and a 9x9 deconvolution, with or without an anchor path."""
    colours = lr.shape[-1]

    def activated(x: tf.Tensor, filters: int, layer: str, kernel: int = 3) -> tf.Tensor:
        if name == "fsrcnn-relu":
            return convolution(x, filters, layer, kernel=kernel, activation="relu")
        slope = keras.initializers.Constant(0.25)
        prelu = keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer=slope, name=f"{layer}_prelu")
        return prelu(convolution(x, filters, layer, kernel=kernel))

    x = activated(lr, 56, "feature", kernel=5)  # (N, H, W, 56)
    x = activated(x, 12, "shrink", kernel=1)  # (N, H, W, 12)
    for i in range(1, 5):
        x = activated(x, 12, f"map{i}")  # (N, H, W, 12)
    x = activated(x, 56, "expand", kernel=1)  # (N, H, W, 56)
    if name == "fsrcnn-subpixel":
        return DepthToSpace(scale, name="shuffle")(convolution(x, colours * scale**2, "transition"))  # (N, 3H, 3W, 3)
    x = keras.layers.Conv2DTranspose(
        colours, 9, strides=scale, padding="same", kernel_initializer=convolution.initializer(), name="deconv"
    )(x)  # (N, 3H, 3W, 3)
    if name == "fsrcnn-anchor":
        anchor = DepthToSpace(scale, name="anchor_shuffle")(Anchor(scale, name="anchor")(lr))
        x = keras.layers.Add(name="image_add")([x, anchor])
    return x


def chain(model: keras.Model) -> list[keras.layers.Conv2D]:
    """The convolutions of a plain chain in order, each but the last with a ReLU and read by the next alone.

    Raises `ModelError` if the network is no such chain: FSRL, FSRCNN, leaky ReLUs, a batch normalisation.
    """
    convolutions = _convolutions(model)
    inputs = [model.input, *(layer.output for layer in convolutions[:-1])]
    in_turn = all(layer.input is tensor for layer, tensor in zip(convolutions, inputs, strict=True))
    if not in_turn or any(layer.activation is not keras.activations.relu for layer in convolutions[:-1]):
        raise ModelError(f"{model.name} is not a chain of convolutions and ReLUs")
    return convolutions


def _convolutions(model: keras.Model) -> list[keras.layers.Conv2D]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def image_layer(model: keras.Model) -> keras.layers.Layer:
    """The layer whose output is the image, before a pixel shuffle: the image-space addition where there is one."""
    last = model.get_layer(model.output_names[0])
    if isinstance(last, DepthToSpace):
        last = next(layer for layer in model.layers if layer.output is last.input)
    return last


def parameter_count(model: keras.Model) -> int:
    """Trainable parameters, as Table 2 counts them."""
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def rescale(model: keras.Model, factor: float) -> None:
    """Turn a network for values in [0, r] into one for [0, factor · r], in place, by scaling its biases.

    A batch normalisation must be folded first (`fold`).
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(f"{model.name} holds a batch normalisation: fold it first")
        if getattr(layer, "use_bias", False):
            layer.bias.assign(layer.bias * factor)


def fold(model: keras.Model) -> keras.Model:
    """`abpn-batchnorm` as the ABPN it computes at inference: each normalisation becomes part of its convolution."""
    pairs = sum(layer.name.startswith("dfe") for layer in _convolutions(model))
    channels = model.get_layer("sfe").filters
    folded = build("abpn", model.get_layer("shuffle").scale, channels=channels, pairs=pairs)
    for layer in _convolutions(folded):
        kernel, bias = model.get_layer(layer.name).get_weights()
        if layer.name != "transition":
            norm = model.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * factor, (bias - mean) * factor + beta
        layer.set_weights([kernel, bias])
    return folded


def start_as_identity(model: keras.Model, noise: float) -> None:
    """Restart a network, in place, near nearest-neighbour interpolation: its kernels become an identity plus noise.

    Hidden kernels pass their first channels through, and `noise` scales the He-initialised rest. The
    last kernel is noise alone where an image-space branch adds the image, and copies the three colour
    channels to every sub-pixel where it does not. So no network spends its budget on learning the
    identity, which takes a plain chain thousands of steps.
    """
    image = image_layer(model)
    adds_image = isinstance(image, keras.layers.Add)
    # Both sides of FSRL's addition carry the image.
    passes = 2.0 if any(isinstance(layer, keras.layers.Add) and layer is not image for layer in model.layers) else 1.0
    convolutions = _convolutions(model)
    for layer in convolutions:
        kernel = layer.kernel.numpy() * noise
        if isinstance(layer, keras.layers.Conv2DTranspose):  # (9, 9, 3, C_in)
            scale, colours = layer.strides[0], kernel.shape[2]
            first = (kernel.shape[0] - scale) // 2
            if not adds_image:
                kernel[first : first + scale, first : first + scale, :, :colours] += np.eye(colours, dtype=np.float32)
        else:  # (k, k, C_in, C_out)
            middle, (c_in, c_out) = kernel.shape[0] // 2, kernel.shape[2:]
            if layer is not convolutions[-1]:
                kernel[middle, middle] += np.eye(c_in, c_out, dtype=np.float32)
            elif not adds_image:
                kernel[middle, middle, :3] += np.tile(np.eye(3, dtype=np.float32), (1, c_out // 3)) / passes
        layer.kernel.assign(kernel)


def channel_maxima(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """The greatest activation of each channel of a [0, 1] chain's hidden layers over LR (H, W, 3) uint8 images.

    Zero means a dead channel: its ReLU never fires. Without images, all are zero. Raises ModelError as `chain` does.
    """
    hidden = chain(model)[:-1]
    probe = keras.Model(model.input, [layer.output for layer in hidden])
    greatest = [np.zeros(layer.filters, np.float32) for layer in hidden]
    for lr in lr_images:
        # A single output comes bare.
        outputs = tf.nest.flatten(probe(lr[None].astype(np.float32) / 255))
        greatest = [np.maximum(old, np.max(new, axis=(0, 1, 2))) for old, new in zip(greatest, outputs, strict=True)]
    return greatest


def revive(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]], *, seed: int = 0) -> list[int]:
    """Give the dead channels of a trained chain new weights, in place; return their number for each layer.

    Such a channel has no gradient, and no training brings it back. It gets half of a He-initialised kernel
    and no bias, and what follows reads it through a kernel so small (a twentieth) that the network's output stays
    nearly what it was. Raises ModelError as `chain` does.
    """
    layers = chain(model)
    seeds = np.random.SeedSequence(seed).generate_state(2 * len(layers)) % 2**31
    dead = [values <= 0 for values in channel_maxima(model, lr_images)]
    for i, silent in enumerate(dead):
        for layer, factor, axis, draw in ((layers[i], 0.5, -1, 2 * i), (layers[i + 1], 0.05, -2, 2 * i + 1)):
            kernel = layer.kernel.numpy()
            fresh = keras.initializers.HeNormal(seed=int(seeds[draw]))(kernel.shape).numpy() * factor
            layer.kernel.assign(np.where(np.expand_dims(silent, -1) if axis == -2 else silent, fresh, kernel))
        layers[i].bias.assign(np.where(silent, 0, layers[i].bias.numpy()))
    return [int(silent.sum()) for silent in dead]


def widen(narrow: keras.Model, wide: keras.Model) -> None:
    """Make `wide` compute what `narrow` does, in place: two chains alike but for their width, such as abpn and abpn32.

    The further channels keep half of their initial kernels, and nothing of what `narrow` had reads them yet: their
    outgoing weights to it are zero, which training then moves. Raises `ValueError` if `wide` has other layers, or is
    the narrower one.
    """
    for old, new in zip(chain(narrow), chain(wide), strict=True):
        (kernel, bias), wider = old.get_weights(), new.get_weights()[0] * np.float32(0.5)
        c_in, c_out = kernel.shape[2:]
        wider[..., :c_out] = 0
        wider[:, :, :c_in, :c_out] = kernel
        new.set_weights([wider, np.pad(bias, (0, wider.shape[3] - c_out))])


def shorten(whole: keras.Model, short: keras.Model) -> None:
    """Give `short` the layers that it shares with `whole`, in place; the last convolution, a new one, starts small."""
    for layer in chain(short)[:-1]:
        layer.set_weights(whole.get_layer(layer.name).get_weights())
    last = chain(short)[-1]
    last.kernel.assign(last.kernel * 0.1)
