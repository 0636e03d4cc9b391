"""FP32 to full-integer INT8: calibration (PTQ), quantisation-aware training (QAT), and export.

A quantised network is two things: a trained float network, and a range for each of its activations.
PTQ measures the ranges, QAT trains both; `export_int8` turns either into a .tflite file. Values are
in [0, 1] until the export, which moves them to [0, 255].

The form that is exported saturates: the tensor that becomes the image has the fixed range [0, 255],
so its uint8 scale is exactly 1 and its zero point 0, and INT8 saturation is the clip node of section
3.3, at no cost. `clip=False` leaves that tensor the range its values have, as the paper's first
submission did (section 4.5).

References
----------
B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018 (the scheme). Section 4.3 of the paper (QAT's learning rate).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from abpn_lib import networks, results
from abpn_lib.files import ModelError, sha256, write_atomically
from abpn_lib.train import loop, runs
from abpn_lib.train.recipe import Recipe

__all__ = [
    "Export",
    "Ranges",
    "Writer",
    "assert_full_integer",
    "calibrate",
    "equalize",
    "export_float",
    "export_int8",
    "fake_quantize",
    "round_weights",
    "train_qat",
]

Ranges = Mapping[str, tuple[float, float]]
"""Layer name -> the least and greatest value of its output, for values in [0, 1]."""

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


def _image_layer(model: keras.Model) -> str:
    """The layer whose output is the HR image, before or after the pixel shuffle."""
    names = [layer.name for layer in model.layers]
    return next(name for name in ("anchor_add", "image_add", "deconv", "transition") if name in names)


def _ranged_layers(model: keras.Model) -> list[str]:
    """Layers whose output needs a range of its own; the others pass their input's on."""
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.PReLU, keras.layers.Add)
    return [layer.name for layer in model.layers if isinstance(layer, kinds)]


def calibrate(model: keras.Model, lr_images: Iterable[NDArray[np.uint8]]) -> dict[str, tuple[float, float]]:
    """Measure every activation's least and greatest value over LR (H, W, 3) uint8 images.

    Raises
    ------
    ModelError
        If there are no images, or the network's output is not finite.
    """
    names = _ranged_layers(model)
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
    """The same function with channels of equal reach, so that each of them uses the whole 8-bit range of its layer.

    A ReLU lets a positive factor through: what a channel is divided by, the next convolution's kernel is
    multiplied with. A layer's widest channel keeps its values: QAT's steps have one size for all layers, so
    that no layer's values may become small as a whole. The network given is not changed.

    Raises
    ------
    ModelError
        If the network is not a chain of convolutions and ReLUs, or there are no images.

    References
    ----------
    M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019; here
    the reach is that of the activations over images, not that of the kernels.
    """
    chain = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    simple = all(layer.activation is keras.activations.relu for layer in chain[:-1])
    if not simple or "feature_add" in [layer.name for layer in model.layers]:
        raise ModelError(f"{model.name} is not a chain of convolutions and ReLUs: it cannot be equalised")
    reach = networks.reach(model, lr_images)
    if not all(values.any() for values in reach):
        raise ModelError(f"{model.name} cannot be equalised: no images, or a layer silent on all of them")
    equal = keras.models.clone_model(model)
    equal.set_weights(model.get_weights())
    for values, first, second in zip(reach, chain, chain[1:], strict=False):
        # A channel that is nearly silent must not be made loud: its noise would be as well.
        factor = np.maximum(values / values.max(), 1e-3)
        kernel, bias = equal.get_layer(first.name).get_weights()
        equal.get_layer(first.name).set_weights([kernel / factor, bias / factor])
        kernel, bias = equal.get_layer(second.name).get_weights()
        equal.get_layer(second.name).set_weights([kernel * factor[:, None], bias])
    return equal


def round_weights(
    model: keras.Model, lr_images: Iterable[NDArray[np.uint8]], *, samples: int = 2000, seed: int = 0
) -> keras.Model:
    """The network with kernels already on their INT8 grid, each rounded so that the errors of the others are made good.

    Rounding every weight to its nearest step is not the best for their sum. Here a kernel is rounded weight by
    weight, and what one of them loses is spread over those that are still to come, by least squares over the
    activations that the kernel meets; the bias, which is not rounded to 8 bits, comes last. A channel's greatest
    weight keeps its value, so that the scale of the export, one per output channel, is the scale assumed here.

    Parameters
    ----------
    lr_images
        LR images (H, W, 3) uint8 on which activations are seen.
    samples
        Pixels taken from each image.
    seed
        Of the choice of pixels.

    Raises
    ------
    ModelError
        If the network is not a chain of convolutions, or there are no images.

    References
    ----------
    E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.
    """
    chain = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    images = [image[None].astype(np.float32) / 255 for image in lr_images]
    if "feature_add" in [layer.name for layer in model.layers] or any(layer.strides != (1, 1) for layer in chain):
        raise ModelError(f"{model.name} is not a chain of convolutions: its weights cannot be rounded in turn")
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


def fake_quantize(
    model: keras.Model,
    ranges: Ranges,
    *,
    top: float = 1.0,
    per_channel: bool = True,
    clip: bool = True,
    learn: bool = False,
) -> keras.Model:
    """Clone a network with fake quantisation everywhere, its activations at `ranges` times `top`.

    The clone has its own copies of the weights, and takes values in [0, top]. With `learn` the ranges
    follow the data as a moving average (QAT); without, they are fixed (export).

    Raises
    ------
    ModelError
        If a layer has no range.
    """
    missing = sorted(set(_ranged_layers(model)) - set(ranges))
    if missing:
        raise ModelError(f"{model.name} has no range for {', '.join(missing)}: calibrate this very network")
    image = _image_layer(model)

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

    lr = keras.Input(model.input_shape[1:], name="lr")
    # Replayed layer by layer: clone_model never returns when it is given an input tensor of its own.
    tensors = {id(model.input): _InputQuantizer(top, name="quantize_input")(lr)}
    for layer in model.layers[1:]:
        tensors[id(layer.output)] = wrap(layer)(tf.nest.map_structure(lambda tensor: tensors[id(tensor)], layer.input))
    return keras.Model(lr, tensors[id(model.output)], name=model.name)


@keras.utils.register_keras_serializable("abpn")
class _InputQuantizer(keras.layers.Layer):
    def __init__(self, top: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top = top

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_args(x, 0.0, self.top)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "top": self.top}


def train_qat(
    model: keras.Model,
    ranges: Ranges,
    recipe: Recipe,
    hr_images: Iterable[NDArray[np.uint8]],
    folder: Path,
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


@dataclass(frozen=True)
class Writer:
    """Writes the models of one finished training run, each beside its provenance, into a folder.

    Their names begin with `name` (None: the network's).
    """

    folder: Path
    run: runs.Run
    context: results.Context
    network: str
    name: str | None = None

    def fp32(self, model: keras.Model) -> Path:
        """``NAME-fp32.tflite``, and the float weights as ``NAME.npz``."""
        path = self._path("fp32")
        runs.save_weights(model, path.with_name(f"{self._stem}.npz"))
        export_float(model, path)
        return self._describe(path, "fp32", {"per_channel": None})

    def ptq(
        self, model: keras.Model, ranges: Ranges, calibrated_on: str, images: int, *, per_channel: bool = True
    ) -> Path:
        """``NAME-int8-ptq.tflite``, or with one scale for each weight tensor ``NAME-int8-ptq-tensor.tflite``."""
        path = self._path("int8-ptq" if per_channel else "int8-ptq-tensor")
        export_int8(model, ranges, path, per_channel=per_channel)
        calibration = {"data": calibrated_on, "images": images}
        return self._describe(
            path, "int8-ptq", {"ranges": ranges, "calibration": calibration, "per_channel": per_channel}
        )

    def qat(self, model: keras.Model, ranges: Ranges, run: runs.Run) -> Path:
        """``NAME-int8-qat.tflite``; its own training run is the one described."""
        path = self._path("int8-qat")
        export_int8(model, ranges, path)
        started = self.run.provenance["recipe"]
        return self._describe(
            path, "int8-qat", {**run.provenance, "ranges": ranges, "started_from": started, "per_channel": True}
        )

    @property
    def _stem(self) -> str:
        return self.name or self.network

    def _path(self, kind: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self._stem}-{kind}.tflite"

    def _describe(self, path: Path, kind: str, more: Mapping[str, Any]) -> Path:
        provenance = {
            **self.run.provenance,
            **more,
            "name": path.stem,
            "kind": kind,
            "network": self.network,
            "scale": self.run.recipe.scale,
            "sha256": sha256(path),
            "exported_by": asdict(self.context),
        }
        write_atomically(path.with_suffix(".json"), (json.dumps(provenance, indent=1) + "\n").encode())
        return path


def _last_name(variable: tf.Variable) -> str:
    return variable.name.split("/")[-1].split(":")[0]


@dataclass(frozen=True)
class Export:
    """How a .tflite file is written: its input size (None: any) and its integer interface."""

    height: int | None = None
    width: int | None = None
    dtype: str = "uint8"


def export_float(model: keras.Model, path: Path, form: Export = Export()) -> None:
    """Write a [0, 1] network as a float32 .tflite for values in [0, 255]; the output is not clipped."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    networks.rescale(copy, 255.0)
    write_atomically(path, _converter(copy, form).convert())


def export_int8(
    model: keras.Model,
    ranges: Ranges,
    path: Path,
    form: Export = Export(),
    *,
    per_channel: bool = True,
    clip: bool = True,
) -> None:
    """Write a [0, 1] network and its ranges as a full-integer .tflite, checked before it is kept.

    Raises
    ------
    ModelError
        If a range is missing, or the file is not full-integer in the form described above.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    networks.rescale(copy, 255.0)
    integer = fake_quantize(copy, ranges, top=255.0, per_channel=per_channel, clip=clip)
    # Weight ranges are those of the last batch seen in training: show it one, so that they are the weights' own.
    integer(np.zeros((1, 16, 16, model.input_shape[-1]), np.float32), training=True)
    converter = _converter(integer, form)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, form.dtype)
    content = converter.convert()
    assert_full_integer(content, saturates=clip)
    write_atomically(path, content)


def _converter(model: keras.Model, form: Export) -> tf.lite.TFLiteConverter:
    signature = tf.TensorSpec((1, form.height, form.width, model.input_shape[-1]), tf.float32, name="lr")
    function = tf.function(lambda lr: model(lr, training=False), input_signature=[signature])
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)


def assert_full_integer(content: bytes, *, saturates: bool = True) -> None:
    """Raise ModelError unless a .tflite computes in integers from input to output.

    With `saturates`, its output must also have scale 1 and zero point 0 (uint8) or -128 (int8).
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = model.subgraphs[0]
    allowed = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT32}
    for operator in graph.operators:
        for index in (*operator.inputs, *operator.outputs):
            if index >= 0 and graph.tensors[index].type not in allowed:
                name = graph.tensors[index].name.decode()
                raise ModelError(f"tensor {name} is not an integer: the export is not full-integer")
    tensor = graph.tensors[graph.outputs[0]]
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    expected = 0 if tensor.type == schema.TensorType.UINT8 else -128
    if saturates and (scale, zero) != (1.0, expected):
        raise ModelError(f"the output does not clip: scale {scale} and zero point {zero}, not 1 and {expected}")
