"""Post-training quantisation (PTQ): the ranges of a trained network's activations, and weights that suit INT8 better.

Values are in [0, 1] here; the export moves them to [0, 255].

References
----------
B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018 (the scheme).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from abpn_lib import networks
from abpn_lib.files import ModelError

Ranges = Mapping[str, tuple[float, float]]
"""Layer name -> the least and greatest value of its output, for values in [0, 1]."""


def ranged_layers(model: keras.Model) -> list[str]:
    """Layers whose output needs a range of its own; the others pass their input's on."""
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.PReLU, keras.layers.Add)
    return [layer.name for layer in model.layers if isinstance(layer, kinds)]


def calibrate(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]]) -> dict[str, tuple[float, float]]:
    """Measure every activation's least and greatest value over LR (H, W, 3) uint8 images.

    Raises `ModelError` if there are no images, or the network's output is not finite.
    """
    names = ranged_layers(model)
    probe = keras.Model(model.input, [model.get_layer(name).output for name in names])
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for lr in lr_images:
        outputs = probe(lr[None].astype(np.float32) / 255)
        low = np.minimum(low, [float(tf.reduce_min(output)) for output in outputs])
        high = np.maximum(high, [float(tf.reduce_max(output)) for output in outputs])
    if not np.all(np.isfinite([low, high])):
        raise ModelError(f"{model.name} cannot be calibrated: no images, or activations that are not finite")
    # A range must hold zero, which padding needs exactly, and cannot be empty.
    return {name: (min(float(a), 0.0), max(float(b), 1e-6)) for name, a, b in zip(names, low, high, strict=True)}


def equalize(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]]) -> keras.Model:
    """Cross-layer equalisation: the same function, each channel using the whole 8-bit range of its layer.

    A ReLU lets a positive factor through: what a channel is divided by, the next convolution's kernel is
    multiplied with. A layer's widest channel keeps its values: QAT's steps have one size for all layers, so
    that no layer's values may become small as a whole. The network given is not changed.

    Raises `ModelError` if the network is not a chain of convolutions and ReLUs, or there are no images.

    References
    ----------
    M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019; here
    the ranges are those of the activations over images, not those of the kernels.
    """
    chain = networks.chain(model)
    maxima = networks.channel_maxima(model, lr_images)
    if not all(values.any() for values in maxima):
        raise ModelError(f"{model.name} cannot be equalised: no images, or a layer silent on all of them")
    equal = keras.models.clone_model(model)
    equal.set_weights(model.get_weights())
    for values, first, second in zip(maxima, chain, chain[1:], strict=False):
        # A channel that is nearly silent must not be made loud: its noise would be as well.
        factor = np.maximum(values / values.max(), 1e-3)
        kernel, bias = equal.get_layer(first.name).get_weights()
        equal.get_layer(first.name).set_weights([kernel / factor, bias / factor])
        kernel, bias = equal.get_layer(second.name).get_weights()
        equal.get_layer(second.name).set_weights([kernel * factor[:, None], bias])
    return equal


def fold_anchor(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]]) -> tuple[keras.Model, Ranges]:
    """ABPN as a plain chain, without the anchor and its addition, and the ranges of its activations.

    Three further channels carry the image through the chain: a centre tap of 1 passes it, and a ReLU too, since it is
    not negative. The last kernel adds it. All other channels are scaled to reach 1 as the image does, so that every
    layer has the image's own range, [0, 1], and INT8 passes it exactly; those that stay dead on the images are left
    out. On an NPU, which computes 16 channels at once, 31 cost what 28 do.

    The last kernel's scales now have to hold the 1: round it by `gptq`.

    Raises `ModelError` if the network has no anchor, is not a chain of convolutions and ReLUs, or there are no images.
    """
    layers, reach = networks.chain(model), networks.channel_maxima(model, lr_images)
    anchor = next((layer for layer in model.layers if isinstance(layer, networks.Anchor)), None)
    if anchor is None or not all(values.any() for values in reach):
        raise ModelError(f"{model.name} has no anchor to fold, or no images, or a layer silent on all of them")
    copies = anchor.constant[0, 0]  # (C, s²C)
    colours = len(copies)
    lr = x = keras.Input(model.input_shape[1:], name="lr")
    before = np.ones(colours, np.float32)
    for layer, after in zip(layers, [*reach, np.ones(layers[-1].filters, np.float32)], strict=True):
        first, last = layer is layers[0], layer is layers[-1]
        kernel, bias = layer.get_weights()
        live_in, live = before > 0, after > 0
        kernel = kernel[:, :, live_in][..., live] * before[live_in, None] / after[live]
        # The image's channels stand before the others; it is itself what the first layer reads.
        kernel = np.pad(kernel, ((0, 0), (0, 0), (0 if first else colours, 0), (0 if last else colours, 0)))
        passed = copies if last else np.eye(colours, dtype=np.float32)
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, :colours, : passed.shape[1]] += passed
        convolution = keras.layers.Conv2D.from_config({**layer.get_config(), "filters": kernel.shape[-1]})
        x, before = convolution(x), after
        convolution.set_weights([kernel, np.pad(bias[live] / after[live], (0 if last else colours, 0))])
    scale = model.get_layer("shuffle").scale
    folded = keras.Model(lr, networks.DepthToSpace(scale, name="shuffle")(x), name=f"{model.name}_folded")
    return folded, dict.fromkeys((layer.name for layer in layers), (0.0, 1.0))
def residual_in_levels(model: keras.Model, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """The ranges with the residual's in steps of one pixel level, where a chain adds a residual to the image.

    Then the addition of image and residual rounds nothing. A residual beyond -128 to 127 levels saturates. Raises
    `ModelError` if the network is not a chain of convolutions and ReLUs.
    """
    if not isinstance(networks.image_layer(model), keras.layers.Add):
        return dict(ranges)
    return {**ranges, networks.chain(model)[-1].name: (-128 / 255, 127 / 255)}


def gptq(
    model: keras.Model, lr_images: Iterable[NDArray[np.uint8]], *, samples: int = 2000, seed: int = 0
) -> keras.Model:
    """GPTQ: round kernels to their INT8 grid weight by weight, each compensating the errors of those before it.

    What a weight loses is spread over those still to come, by least squares over the activations that the kernel
    meets at `samples` pixels of each LR (H, W, 3) uint8 image, drawn by `seed`; the bias, which is not rounded to
    8 bits, comes last. A channel's greatest weight keeps its value, so that the scale of the export, one per output
    channel, is the scale assumed here. The network given is not changed.

    Raises `ModelError` if the network is not a chain of convolutions and ReLUs, or there are no images.

    References
    ----------
    E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.
    """
    chain = networks.chain(model)
    images = [image[None].astype(np.float32) / 255 for image in lr_images]
    if not images:
        raise ModelError(f"{model.name} cannot be rounded: there are no images")
    rounded = keras.models.clone_model(model)
    rounded.set_weights(model.get_weights())
    rng = np.random.default_rng(seed)
    for layer in chain:
        target = rounded.get_layer(layer.name)
        # Later layers see what the rounded ones before them give.
        seen = _seen_by(keras.Model(rounded.input, target.input), target.kernel_size[0], images, samples, rng)
        kernel, bias = target.get_weights()
        flat = np.vstack([kernel.reshape(-1, kernel.shape[-1]), bias]).astype(np.float64)
        flat = _round_in_turn(flat, seen.T @ seen)
        target.set_weights([flat[:-1].reshape(kernel.shape), flat[-1]])
    return rounded


def _seen_by(
    before: keras.Model, side: int, images: list[NDArray[np.float32]], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """What a convolution multiplies its kernel with, at some pixels: (samples, side² · C_in + 1), the last a one."""
    rows = []
    for image in images:
        window = [1, side, side, 1]
        patches = tf.image.extract_patches(before(image), window, [1, 1, 1, 1], [1, 1, 1, 1], "VALID").numpy()
        patches = patches.reshape(-1, patches.shape[-1])
        rows.append(patches[rng.integers(len(patches), size=samples)])
    seen = np.concatenate(rows).astype(np.float64)
    return np.hstack([seen, np.ones((len(seen), 1))])


def _round_in_turn(weights: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round (inputs + 1, C_out) weights, the last row a bias that stays as it is but for what it makes good."""
    weights, inputs = weights.copy(), len(weights) - 1
    greatest = np.abs(weights[:-1]).argmax(axis=0)
    scale = np.maximum(np.abs(weights[greatest, np.arange(weights.shape[1])]) / 127, 1e-12)
    pinned = np.sign(weights[greatest, np.arange(weights.shape[1])]) * 127
    # The inputs that matter most go first, while many others can still make good for them; the bias goes last.
    order = np.append(np.argsort(-np.diag(covariance)[:-1], kind="stable"), inputs)
    damped = covariance + 0.01 * np.diag(covariance).mean() * np.eye(inputs + 1)
    spread = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    turned = weights[order]
    for i in range(inputs):
        steps = np.clip(np.rint(turned[i] / scale), -127, 127)
        steps = np.where(greatest == order[i], pinned, steps) * scale
        lost = (turned[i] - steps) / spread[i, i]
        turned[i + 1 :] -= np.outer(spread[i, i + 1 :], lost)
        turned[i] = steps
    weights[order] = turned
    return weights
