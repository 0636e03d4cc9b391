"""Fake quantisation of a network, and quantisation-aware training (QAT, section 4.3 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from numpy.typing import NDArray

from abpn_lib import networks
from abpn_lib.files import ModelError
from abpn_lib.int8 import ptq
from abpn_lib.train import loop
from abpn_lib.train.recipe import Recipe

_quantizers = tfmot.quantization.keras.quantizers


class _PresetAverage(tfmot.quantization.keras.quantizers.MovingAverageQuantizer):
    """tfmot's moving average, started at a measured range: its decay takes thousands of steps to leave +-6."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.low, self.high = low, high

    def build(self, tensor_shape: Any, name: str, layer: keras.layers.Layer) -> dict[str, tf.Variable]:
        def variable(suffix: str, value: float) -> tf.Variable:
            return layer.add_weight(name + suffix, initializer=keras.initializers.Constant(value), trainable=False)

        return {"min_var": variable("_min", self.low), "max_var": variable("_max", self.high)}

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


class _Config(tfmot.quantization.keras.QuantizeConfig):
    """Which weights of a layer are quantised, and how its output is."""

    def __init__(self, output: tfmot.quantization.keras.quantizers.Quantizer | None, *, per_channel: bool) -> None:
        self.output, self.per_channel = output, per_channel

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list:
        # Not PReLU's slopes: behind a fake-quant the converter leaves PRELU in float; bare, it quantises them itself.
        if not isinstance(layer, keras.layers.Conv2D):
            return []
        # TFLite's per-channel axis is the last one of a convolution's kernel, but not of a deconvolution's.
        per_axis = self.per_channel and not isinstance(layer, keras.layers.Conv2DTranspose)
        quantizer = _quantizers.LastValueQuantizer(8, per_axis=per_axis, symmetric=True, narrow_range=True)
        return [(layer.kernel, quantizer)]

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list) -> None:
        for kernel in quantize_weights:
            layer.kernel = kernel
        if isinstance(layer, networks.Anchor):
            # The converter quantises a constant kernel only behind a fake-quant; 0 and 1 stay what they are.
            layer.frozen = tf.quantization.fake_quant_with_min_max_args(layer.constant, -1.0, 1.0, narrow_range=True)

    def get_activations_and_quantizers(self, layer: keras.layers.Layer) -> list:
        return []

    def set_quantize_activations(self, layer: keras.layers.Layer, quantize_activations: list) -> None:
        pass

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list:
        return [self.output] if self.output else []

    def get_config(self) -> dict[str, Any]:
        return {"output": self.output, "per_channel": self.per_channel}


def fake_quantize(
    model: keras.Model, ranges: ptq.Ranges, *, top: float = 1.0, per_channel: bool = True, clip: bool = True,
    learn: bool = False,
) -> keras.Model:
    """Clone a network with fake quantisation everywhere, its activations at `ranges` times `top`.

    The clone has its own copies of the weights, and takes values in [0, top]. With `learn` the ranges
    follow the data as a moving average (QAT); without, they are fixed (export).

    Raises `ModelError` if a layer has no range.
    """
    missing = sorted(set(ptq.ranged_layers(model)) - set(ranges))
    if missing:
        raise ModelError(f"{model.name} has no range for {', '.join(missing)}: calibrate this very network")
    image = networks.image_layer(model).name

    def output_quantizer(name: str) -> tfmot.quantization.keras.quantizers.Quantizer | None:
        if isinstance(model.get_layer(name), networks.Anchor) or (clip and name == image):
            return _quantizers.FixedQuantizer(8, 0.0, top, narrow_range=False)
        if name not in ranges:
            return None
        low, high = (value * top for value in ranges[name])
        return _PresetAverage(low, high) if learn else _quantizers.FixedQuantizer(8, low, high, narrow_range=False)

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = layer.__class__.from_config(layer.get_config())
        copy.build(layer.input_shape)
        copy.set_weights(layer.get_weights())
        config = _Config(output_quantizer(layer.name), per_channel=per_channel)
        return tfmot.quantization.keras.QuantizeWrapperV2(copy, config, name_prefix="quant_")

    def quantized(x: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_args(x, 0.0, top)

    lr = keras.Input(model.input_shape[1:], name="lr")
    # Replayed layer by layer: clone_model never returns when it is given an input tensor of its own.
    tensors = {id(model.input): keras.layers.Lambda(quantized, name="quantize_input")(lr)}
    for layer in model.layers[1:]:
        tensors[id(layer.output)] = wrap(layer)(tf.nest.map_structure(lambda tensor: tensors[id(tensor)], layer.input))
    return keras.Model(lr, tensors[id(model.output)], name=model.name)


def train_qat(
    model: keras.Model, ranges: ptq.Ranges, recipe: Recipe, hr_images: Iterable[NDArray[np.uint8]], folder: Path,
    **options: Any,
) -> tuple[keras.Model, dict[str, tuple[float, float]]]:
    """Quantisation-aware training from a trained network and its calibrated ranges (section 4.3).

    Runs, logs, checkpoints and resumes as `loop.train`, whose options it takes. Returns a float
    network with the new weights and its new ranges; the network given is not changed.

    Where `recipe.ranges` is "tracked" they follow the batches, as in the authors' code. A batch of small patches
    holds fewer extremes than an image does, so that they may come to clip what a large image has; "fixed" leaves them.
    """
    learner = fake_quantize(model, ranges, learn=recipe.ranges == "tracked")
    learner = loop.train(recipe, hr_images, folder, model=learner, **options)
    trained = keras.models.clone_model(model)
    new_ranges = dict(ranges)
    for layer in trained.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        wrapper = learner.get_layer(f"quant_{layer.name}")
        # The wrapper leaves fake-quantised tensors in its layer's attributes; its own list has the variables.
        new_weights = {_last_name(weight): weight.numpy() for weight in wrapper.trainable_weights}
        layer.set_weights([new_weights[_last_name(weight)] for weight in layer.weights])
        limits = {_last_name(weight): weight.numpy() for weight in wrapper.non_trainable_weights}
        if "output_min" in limits:
            new_ranges[layer.name] = (float(limits["output_min"]), float(limits["output_max"]))
    return trained, new_ranges


def _last_name(variable: tf.Variable) -> str:
    return variable.name.split("/")[-1].split(":")[0]
