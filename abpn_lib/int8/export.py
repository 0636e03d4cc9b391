"""Export of a network as a .tflite file, in float32 or checked full-integer INT8, for LR images of any or one size.

The INT8 form saturates: the tensor that becomes the image has the fixed range [0, 255], so its uint8 scale is
exactly 1 and its zero point 0, and INT8 saturation is the clip node of section 3.3, at no cost. `clip=False` leaves
that tensor the range its values have, as the paper's first submission did (section 4.5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras

from abpn_lib import models, networks
from abpn_lib.files import InputError, ModelError, write_atomically
from abpn_lib.int8 import ptq
from abpn_lib.int8.qat import fake_quantize
from abpn_lib.tflite.graph import check_full_integer
from abpn_lib.train import runs

__all__ = ["Export", "build_depths", "export_float", "export_int8", "networks_for_latency"]


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
    model: keras.Model, ranges: ptq.Ranges, path: Path, form: Export = Export(), *, per_channel: bool = True,
    clip: bool = True,
) -> None:
    """Write a [0, 1] network and its ranges as a full-integer .tflite, checked before it is kept.

    Raises `ModelError` if a range is missing, or the file is not full-integer in the form described above.
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
    check_full_integer(content, saturates=clip)
    write_atomically(path, content)


def _converter(model: keras.Model, form: Export) -> tf.lite.TFLiteConverter:
    signature = tf.TensorSpec((1, form.height, form.width, model.input_shape[-1]), tf.float32, name="lr")
    function = tf.function(lambda lr: model(lr, training=False), input_signature=[signature])
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)


def networks_for_latency(
    folder: Path, names: Sequence[str], *, height: int = 360, width: int = 640, kind: Literal["int8", "fp32"] = "int8"
) -> dict[str, Path]:
    """Export networks for one LR size, uint8 in and out (or float32), for timing only; return the paths.

    Weights are the shipped ones where there are any, else the initial ones, and ranges come from noise: time does
    not depend on the values. Files that are there already are kept.

    Raises `InputError` if a name is unknown.
    """
    there = (*networks.NETWORKS, *networks.FSRCNN_VARIANTS)
    unknown = [name for name in names if name not in there]
    if unknown:
        raise InputError(f"no network is called {unknown[0]!r}; there are {', '.join(there)}")
    paths = {name: folder / f"{name}-{kind}-{height}x{width}.tflite" for name in names}
    for name, path in paths.items():
        if not path.is_file():
            model = networks.build(name)
            networks.start_as_identity(model, 0.1)
            with contextlib.suppress(ModelError):  # none are shipped for the variants of FSRCNN
                runs.load_weights(model, models.weights(name))
            _export_on_noise(model, path, Export(height, width), kind)
    return paths


def build_depths(folder: Path, pairs: Sequence[int], *, height: int = 360, width: int = 640) -> dict[int, Path]:
    """Export ABPN with other numbers of conv-ReLU pairs in INT8, for timing only; return the paths (S11)."""
    paths = {count: folder / f"abpn-pairs{count}-{height}x{width}.tflite" for count in pairs}
    for count, path in paths.items():
        if not path.is_file():
            model = networks.build("abpn", pairs=count)
            networks.start_as_identity(model, 0.1)
            _export_on_noise(model, path, Export(height, width), "int8")
    return paths


def _export_on_noise(model: keras.Model, path: Path, form: Export, kind: Literal["int8", "fp32"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fp32":
        export_float(model, path, form)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (48, 48, model.input_shape[-1]), dtype=np.uint8)
        export_int8(model, ptq.calibrate(model, [noise]), path, form)
