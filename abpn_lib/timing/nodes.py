"""The meta-nodes of Table 1, each a .tflite of one operator, and two more convolution and concatenation graphs.

Source: section 3.1 and Table 1; section 3.2 for the concatenation of nine LR images (S7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from abpn_lib import paper
from abpn_lib.files import InputError, ModelError, write_atomically
from abpn_lib.tflite import graph

Precision = Literal["int8", "fp32"]

RESIZES = ("nearest", "bilinear")
"""The nodes that enlarge x3, from the network's input."""

_SCALE = 3


def build(
    folder: Path, names: Iterable[str] = tuple(paper.META_NODES), *, height: int = 1080, width: int = 1920,
    channels: int = 3, precision: Precision = "int8",
) -> dict[str, Path]:
    """Write each node as a .tflite of one operator, int8 or float32 in and out; return the paths.

    `names` are of `paper.META_NODES`, or "concat9" (`build_concat9`).
    The nodes take (1, height, width, channels); the two resize nodes enlarge x3 from a third of that, the network's
    input. Table 1 does not say how many channels its "1080P network output" has: 3 is the literal reading, and 28
    channels at 360x640 is what an inner layer of the network sees. The split is into the least number of equal parts,
    the convolutions keep the number of channels, weights are random. Files that are there already are kept.
    """
    if min(height, width) < _SCALE or channels < 2:
        raise InputError(f"{width}x{height}, {channels} channels: at least {_SCALE}x{_SCALE} and 2 are needed")
    paths = {node: folder / f"{node}-{precision}-{height}x{width}x{channels}.tflite" for node in names}
    for node, path in paths.items():
        if path.is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        operator, content = _converted(node, height, width, channels, precision)
        # Another converter may make more of a node, or leave it in floating point: that would be no time of the node.
        if (made := graph.operator_names(content)) != [operator]:
            raise ModelError(f"TensorFlow made {', '.join(made)} of {operator} alone: use the pinned version")
        if precision == "int8":
            graph.check_full_integer(content, saturates=False)
        write_atomically(path, content)
    return paths


def build_concat9(folder: Path, *, height: int = 360, width: int = 640, channels: int = 3) -> Path:
    """Write the concatenation of nine copies of an LR image, of which ABRL's anchor is made (S7), in INT8."""
    return build(folder, ["concat9"], height=height, width=width, channels=channels)["concat9"]


def _converted(node: str, height: int, width: int, channels: int, precision: Precision) -> tuple[str, bytes]:
    """A meta-node's operator and its .tflite, in INT8 through post-training quantisation on noise."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shrink = _SCALE if node in RESIZES else 1
    shape = (1, height // shrink, width // shrink, channels)
    inputs = 2 if node in ("concat", "add", "multiply") else 1
    operator, function = _function(node, height, width, channels, rng)
    module = tf.Module()
    module.node = tf.function(function, autograph=False)
    specs = [tf.TensorSpec(shape, tf.float32, name=f"x{i}") for i in range(inputs)]
    concrete = module.node.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if precision == "fp32":
        return operator, converter.convert()
    # An off-centre range, so that a ReLU cuts and a mean is not zero.
    values = rng.uniform(-1, 3, shape).astype(np.float32)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # The second input has the same values in another order: equal input scales, so that a concatenation needs no
    # requantisation, and products of either sign.
    samples = [values, np.flip(values).copy()][:inputs]
    converter.representative_dataset = lambda: iter([samples])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    # uint8 would put a QUANTIZE operator at each end.
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return operator, converter.convert()


def _function(
    node: str, height: int, width: int, channels: int, rng: np.random.Generator
) -> tuple[str, Callable[..., Any]]:
    """A node's TFLite operator, and the function that becomes it."""
    import tensorflow as tf

    def convolution(size: int) -> Callable[[tf.Tensor], tf.Tensor]:
        spread = (2 / (size * size * channels)) ** 0.5
        kernel = rng.normal(0, spread, (size, size, channels, channels)).astype(np.float32)
        bias = rng.normal(0, 0.1, channels).astype(np.float32)
        return lambda x: tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)

    enlarged = (height // _SCALE * _SCALE, width // _SCALE * _SCALE)
    parts = next(n for n in range(2, channels + 1) if channels % n == 0)
    functions: dict[str, tuple[str, Callable[..., Any]]] = {
        "split": ("SPLIT", lambda x: tf.split(x, parts, axis=-1)),
        "concat": ("CONCATENATION", lambda a, b: tf.concat([a, b], axis=-1)),
        "concat9": ("CONCATENATION", lambda x: tf.concat([x] * 9, axis=-1)),
        "add": ("ADD", lambda a, b: a + b),
        "multiply": ("MUL", lambda a, b: a * b),
        "max-pool": ("REDUCE_MAX", lambda x: tf.reduce_max(x, axis=[1, 2], keepdims=True)),
        "average-pool": ("MEAN", lambda x: tf.reduce_mean(x, axis=[1, 2], keepdims=True)),
        "conv3": ("CONV_2D", convolution(3)),
        "conv1": ("CONV_2D", convolution(1)),
        "relu": ("RELU", tf.nn.relu),
        "leaky-relu": ("LEAKY_RELU", lambda x: tf.nn.leaky_relu(x, 0.2)),
        "nearest": ("RESIZE_NEAREST_NEIGHBOR", lambda x: tf.image.resize(x, enlarged, method="nearest")),
        "bilinear": ("RESIZE_BILINEAR", lambda x: tf.image.resize(x, enlarged, method="bilinear")),
    }
    return functions[node]
