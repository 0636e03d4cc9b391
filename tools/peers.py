"""The models that others published, as .tflite files: what ships as one is taken as it is, other weights are converted.

A PyTorch file is a zip archive of raw numbers and of a pickle that says which tensor they are. PyTorch is not needed to
read it, and nothing in it is executed: of the pickle only the three names that a table of tensors needs are taken. The
networks are built from the shapes found, and every one of them is held to a score that its authors printed
(``tests/test_peers.py``).

Sources of the structures: ECNUSR/ETDS, ``core/archs/ir`` (ABPN, ECBSR and ETDS after reparametrisation: plain chains);
cxzhou95/XLSR, ``model.py``. The .pb graphs (ESPCN and FSRCNN on the Y channel) go through TensorFlow's own converter.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from abpn_lib import datasets, networks
from abpn_lib.files import ModelError, write_atomically
from abpn_lib.int8 import ptq
from abpn_lib.int8.export import export_float, export_int8

State = Mapping[str, NDArray[np.float32]]

_MOST_BYTES = 64 * 2**20


def tflite(source: Path, name: str, folder: Path) -> Path:
    """A peer's file as a .tflite of its name's form ("...-fp32" or "...-int8-ptq"): itself, or made in `folder` once.

    INT8 is this project's plain PTQ, per channel, calibrated on the embedded images. Raises `ModelError` if it cannot
    be read or is no network known here.
    """
    if source.suffix == ".tflite":
        return source
    made = folder / f"{name}.tflite"
    if made.is_file():
        return made
    if source.suffix == ".pb":
        write_atomically(made, _from_graph(source))
        return made
    model = network(read_state(source))
    if name.endswith("-fp32"):
        export_float(model, made)
    else:
        export_int8(model, ptq.calibrate(model, datasets.spaced_lr_images("embedded", 8, 3)), made)
    return made


class _Tensors(pickle.Unpickler):
    """Reads the pickle of a table of float32 tensors; every other name in it is refused, not called."""

    def __init__(self, archive: zipfile.ZipFile, pickled: str) -> None:
        super().__init__(io.BytesIO(archive.read(pickled)))
        self._archive, self._folder = archive, pickled.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        known = {"collections OrderedDict": OrderedDict, "torch FloatStorage": np.float32,
                 "torch._utils _rebuild_tensor_v2": _tensor}
        if f"{module} {name}" not in known:
            raise ModelError(f"its pickle asks for {module}.{name}, which no table of float32 tensors needs")
        return known[f"{module} {name}"]

    def persistent_load(self, saved: Any) -> NDArray[np.float32]:
        values = np.frombuffer(self._archive.read(f"{self._folder}data/{saved[2]}"), "<f4")
        values.setflags(write=False)
        return values


def _tensor(values: NDArray[np.float32], offset: int, shape: tuple, strides: tuple, *_: object) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    dense = tuple(int(np.prod(shape[axis + 1:])) for axis in range(len(shape)))
    if strides != dense or not 0 <= offset <= len(values) - count:
        raise ModelError("one of its tensors does not lie within its numbers, row by row")
    return values[offset : offset + count].reshape(shape)


def read_state(path: Path) -> State:
    """The float32 tensors of a PyTorch state dict by name, in its order. Raises `ModelError` for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MOST_BYTES:
                raise ModelError(f"more than {_MOST_BYTES >> 20} MiB")
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            state = _Tensors(archive, pickled).load()
        if not isinstance(state, dict) or not all(isinstance(found, np.ndarray) for found in state.values()):
            raise ModelError("not a table of tensors")
        return state
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # a broken pickle or archive raises almost anything
        raise ModelError(f"{path} is not a PyTorch file of tensors ({type(error).__name__}: {error})") from error


def network(state: State) -> keras.Model:
    """The network of a state dict, for images in [0, 1]: ABPN, ECBSR, ETDS (x3, as inferred) or XLSR.

    Raises `ModelError` if it is none of these.
    """
    lr = keras.Input((None, None, 3), name="lr")
    try:
        x = _xlsr(lr, state) if "Gblocks.0.conv0.weight" in state else _chain(lr, state)
        return keras.Model(lr, networks.DepthToSpace(3, name="shuffle")(x), name="peer")
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"its tensors are those of no network known here ({error})") from error


def _chain(lr: tf.Tensor, state: State) -> tf.Tensor:
    """Convolutions one after another. ABPN and ECBSR (with PReLU) add the anchor; ETDS clips by its last two layers."""
    names = [name.removesuffix(".weight") for name, values in state.items() if values.ndim == 4]
    slopes = {name: values for name, values in state.items() if values.ndim == 1 and name.endswith(".1.weight")}
    anchored, x = state[f"{names[-1]}.weight"].shape[0] == 27, lr
    for name in names:
        slope, last = slopes.get(f"{name.rpartition('.')[0]}.1.weight"), name == names[-1]
        plain = (last and anchored) or slope is not None
        x = _convolution(x, state, name, activation=None if plain else "relu", order=_SUB_PIXELS if last else None)
        if slope is not None:
            prelu = keras.layers.PReLU(shared_axes=[1, 2], name=f"{name.replace('.', '_')}_prelu")
            x = prelu(x)
            prelu.set_weights([slope[None, None]])
    return keras.layers.Add(name="anchor_add")([x, networks.Anchor(3, name="anchor")(lr)]) if anchored else x


def _xlsr(lr: tf.Tensor, state: State) -> tf.Tensor:
    """XLSR: four small convolutions side by side, three grouped blocks, and one convolution past them."""
    heads = [_convolution(lr, state, f"conv0_{i}.conv", activation="relu") for i in range(4)]
    x = _convolution(keras.layers.Concatenate(name="heads")(heads), state, "conv2")
    for i in range(3):
        x = _convolution(x, state, f"Gblocks.{i}.conv0", activation="relu")
        x = _convolution(x, state, f"Gblocks.{i}.conv1")
    x = keras.layers.Concatenate(name="past")([x, _convolution(lr, state, "conv1")])
    x = _convolution(x, state, "conv3.conv", activation="relu")
    return _convolution(x, state, "conv4", order=_SUB_PIXELS)


# PyTorch's pixel shuffle counts colours first, TensorFlow's sub-pixels first; a 28th channel of ETDS is never read.
_SUB_PIXELS = [colour * 9 + place for place in range(9) for colour in range(3)]


def _convolution(
    x: tf.Tensor, state: State, name: str, *, activation: str | None = None, order: list[int] | None = None
) -> tf.Tensor:
    kernel, bias = state[f"{name}.weight"].transpose(2, 3, 1, 0), state[f"{name}.bias"]  # (k, k, C_in, C_out)
    if order:
        kernel, bias = kernel[..., order], bias[order]
    layer = keras.layers.Conv2D(
        kernel.shape[3], kernel.shape[0], padding="same", activation=activation,
        groups=x.shape[-1] // kernel.shape[2], name=name.replace(".", "_"),
    )
    y = layer(x)
    layer.set_weights([kernel, bias])
    return y


def _from_graph(source: Path) -> bytes:
    """A frozen graph of TensorFlow 1, from its one placeholder to the image before its last transposition."""
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(source.read_bytes())

    def imported(lr: tf.Tensor) -> Any:
        return tf.graph_util.import_graph_def(graph, {"IteratorGetNext": lr}, ["NHWC_output:0"])[0]

    function = tf.function(imported, input_signature=[tf.TensorSpec((1, None, None, 1), tf.float32, name="lr")])
    concrete = function.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
