"""Export of a network as a .tflite file, in float32 or checked full-integer INT8, for LR images of any or one size.

The INT8 form saturates: the tensor that becomes the image has the fixed range [0, 255], so its uint8 scale is
exactly 1 and its zero point 0, and INT8 saturation is the clip node of section 3.3, at no cost. `clip=False` leaves
that tensor the range its values have, as the paper's first submission did (section 4.5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras

from abpn_lib import networks
from abpn_lib.files import InputError, write_atomically
from abpn_lib.int8 import ptq
from abpn_lib.int8.qat import fake_quantize
from abpn_lib.tflite.graph import check_full_integer


def export_float(model: keras.Model, path: Path, *, height: int | None = None, width: int | None = None) -> None:
    """Write a [0, 1] network as a float32 .tflite for values in [0, 255]; the output is not clipped.

    `height` and `width` are those of the LR images it takes (None: any).
    """
    write_atomically(path, _converter(_for_bytes(model), height, width).convert())


def export_int8(
    model: keras.Model, ranges: ptq.Ranges, path: Path, *, height: int | None = None, width: int | None = None,
    dtype: Literal["uint8", "int8"] = "uint8", per_channel: bool = True, clip: bool = True,
) -> None:
    """Write a [0, 1] network and its ranges as a full-integer .tflite, checked before it is kept.

    `height` and `width` are those of the LR images it takes (None: any), `dtype` their type and that of its output.
    Raises `ModelError` if a range is missing, or the file is not full-integer in the form described above.
    """
    integer = fake_quantize(_for_bytes(model), ranges, top=255.0, per_channel=per_channel, clip=clip)
    # Weight ranges are those of the last batch seen in training: show it one, so that they are the weights' own.
    integer(np.zeros((1, 16, 16, model.input_shape[-1]), np.float32), training=True)
    converter = _converter(integer, height, width)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, dtype)
    content = converter.convert()
    check_full_integer(content, saturates=clip)
    write_atomically(path, content)


def _for_bytes(model: keras.Model) -> keras.Model:
    """A copy of a [0, 1] network, for values in [0, 255]."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    networks.rescale(copy, 255.0)
    return copy


def _converter(model: keras.Model, height: int | None, width: int | None) -> tf.lite.TFLiteConverter:
    signature = tf.TensorSpec((1, height, width, model.input_shape[-1]), tf.float32, name="lr")
    function = tf.function(lambda lr: model(lr, training=False), input_signature=[signature])
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)


def export_for_latency(
    folder: Path, name: str, *, pairs: int = 5, channels: int | None = None, height: int = 360, width: int = 640,
    kind: Literal["int8", "fp32"] = "int8", dtype: Literal["uint8", "int8"] = "uint8",
) -> Path:
    """Export a network for one LR size, `dtype` in and out (or float32), for timing only; return the path.

    Weights are the initial ones, and ranges come from noise: time does not depend on the values. A file that is there
    already is kept. Raises `InputError` if the name is unknown.
    """
    there = (*networks.NETWORKS, *networks.FSRCNN_VARIANTS)
    if name not in there:
        raise InputError(f"no network is called {name!r}; there are {', '.join(there)}")
    form = f"{kind}-{dtype}-{height}x{width}x{channels or ''}"
    path = folder / f"{name}{'' if pairs == 5 else f'-pairs{pairs}'}-{form}.tflite"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        model = networks.build(name, pairs=pairs, channels=channels)
        networks.start_as_identity(model, 0.1)
        if kind == "fp32":
            export_float(model, path, height=height, width=width)
        else:
            noise = np.random.default_rng(0).integers(0, 256, (48, 48, model.input_shape[-1]), dtype=np.uint8)
            export_int8(model, ptq.calibrate(model, [noise]), path, height=height, width=width, dtype=dtype)
    return path
