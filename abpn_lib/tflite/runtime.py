"""Running a .tflite super-resolution model on an image of any size, with LiteRT.

Memory is bounded by tiling: the image is cut into tiles that overlap by the network's reach, so that
every pixel that is kept saw what it would have seen in the whole image, the zero padding at the
image's border included. Tiled and untiled output are equal bit for bit, with one caveat: float32
kernels other than XNNPACK's (``kernels="builtin"``, and FSRCNN's transposed convolution) add up in
an order that depends on the tile's shape, so that a value within about 2e-5 of a half could round
to either side. None of 15 million values did where this was measured.

One operator is not the same everywhere in an image. LiteRT's integer RESIZE_BILINEAR steps by
341/1024 instead of 1/3, and so drifts by one LR pixel in 1024. Resizing tile by tile would undo the
drift and change the model. `Upscaler` therefore computes this operator itself, at coordinates of
the whole image and with LiteRT's arithmetic, and feeds the result to the rest of the graph.

Source: ``resize_bilinear.h`` in TensorFlow Lite's reference kernels (the arithmetic of
RESIZE_BILINEAR, checked against LiteRT's own output bit for bit).
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Literal

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from PIL import Image, ImageOps

from abpn_lib.degradation import bicubic_up
from abpn_lib.files import InputError, ModelError, write_atomically

__all__ = [
    "FORMATS", "MAX_PIXELS",  "Kernels",  "Upscaler", "open_image", "save_image",
    "upscale_image",
]

MAX_PIXELS = 8192 * 8192
"""The largest image that is opened: 8K (7680x4320) fits twice; a decompression bomb does not."""

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}
"""Extension -> Pillow's name of the format, for the files that `save_image` writes."""

Kernels = Literal["xnnpack", "builtin"]
"""LiteRT's default (XNNPACK where it can), or its built-in kernels alone."""




_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

# Each output value depends on the input values at its own place only.
_POINTWISE = {
    "ABS", "ADD", "CAST", "CONCATENATION", "DEQUANTIZE", "DIV", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM",
    "MINIMUM", "MUL", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SUB", "TANH",
}


@dataclass(frozen=True)
class _Resize:
    """A RESIZE_BILINEAR of the LR image, taken out of its graph: its tensor is an input now."""

    name: str
    scale: int
    offset: int
    integer: bool


@dataclass(frozen=True)
class _Plan:
    """What must be known of a graph to run it on tiles."""

    content: bytes
    operators: list[str]
    scale: int
    halo: int  # LR pixels
    resizes: list[_Resize]


class Upscaler:
    """A .tflite model, ready for images of any size. Not for use from several threads at once.

    Parameters
    ----------
    model
        RGB in, RGB out, NHWC; uint8, int8 or float32 in [0, 255], with an open height and width.
    threads
        Of LiteRT, at least 1.
    kernels
        The two differ in a part of the INT8 values, by a few levels.
    raw
        Take the model's integers for pixels (int8 shifted by 128) instead of reading them by its
        scales and zero points, as the authors' evaluation does. Float models are not affected.

    Attributes
    ----------
    scale
        HR pixels per LR pixel.
    halo
        LR pixels that a tile needs around what is kept of it.
    operators
        The graph's operators in their order, by LiteRT's names.
    input_dtype
        uint8, int8 or float32.
    output_quantization
        (scale, zero point) of the output; (0.0, 0) for a float one.

    Raises
    ------
    ModelError
        If the file is not such a model.
    """

    def __init__(self, model: Path, *, threads: int = 1, kernels: Kernels = "xnnpack", raw: bool = False) -> None:
        if threads < 1 or kernels not in ("xnnpack", "builtin"):
            raise ValueError(f"threads {threads} and kernels {kernels!r}: at least 1, and 'xnnpack' or 'builtin'")
        plan = _plan(model)
        self.scale, self.halo, self.operators = plan.scale, plan.halo, plan.operators
        self._path, self._resizes, self._raw = model, plan.resizes, raw
        self._interpreter = _interpreter(plan.content, threads, kernels)
        by_name = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
        self._resized_inputs = [by_name.pop(resize.name) for resize in plan.resizes]
        (self._input,) = by_name.values()
        (self._output,) = self._interpreter.get_output_details()
        self.input_dtype = np.dtype(self._input["dtype"])
        self.output_quantization = (float(self._output["quantization"][0]), int(self._output["quantization"][1]))
        self._pixel_to_input = _pixel_to_integer(self._input, raw)
        self._output_to_pixel = _integer_to_pixel(self._output, raw)
        self._shape: tuple[int, int] | None = None

    def upscale(
        self, lr: NDArray[np.uint8], *, tile: int | None = 256, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8]:
        """Enlarge an LR (H, W, 3) uint8 image to (sH, sW, 3) uint8, rounded and clipped to [0, 255].

        Parameters
        ----------
        tile
            Side in LR pixels of what is kept of each tile; None runs the whole image at once, in
            memory that grows with it.
        progress
            Called with (tiles done, tiles in all) after each tile.

        Raises
        ------
        ValueError
            If the shape, the dtype or `tile` is not as described.
        ModelError
            If LiteRT cannot run the model at this size.
        """
        if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f"an LR image is (H, W, 3) uint8, not {lr.shape} {lr.dtype}")
        if tile is not None and tile < 1:
            raise ValueError(f"a tile of {tile} pixels: at least 1 is needed, or None for the whole image")
        height, width = lr.shape[:2]
        rows, columns = (list(_spans(side, tile or side, self.halo)) for side in (height, width))
        hr = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        done = 0
        for row in rows:
            for column in columns:
                _put(hr, self._run(lr, row, column), row, column, self.scale)
                done += 1
                if progress:
                    progress(done, len(rows) * len(columns))
        return hr

    def _run(self, lr: NDArray[np.uint8], row: _Span, column: _Span) -> NDArray[np.uint8]:
        patch = lr[row.start : row.stop, column.start : column.stop]
        try:
            self._allocate(patch.shape[0], patch.shape[1])
            self._interpreter.set_tensor(self._input["index"], self._pixel_to_input(patch)[None])
            for resize, detail in zip(self._resizes, self._resized_inputs, strict=True):
                values = _resize_bilinear(lr, self._pixel_to_input, resize, row, column)
                self._interpreter.set_tensor(detail["index"], values[None])
            self._interpreter.invoke()
        except (RuntimeError, ValueError, MemoryError) as error:
            size = f"{patch.shape[1]}x{patch.shape[0]}"
            raise ModelError(f"{self._path}: LiteRT cannot run it on {size} pixels ({_line(error)})") from error
        return self._output_to_pixel(self._interpreter.get_tensor(self._output["index"])[0])

    def _allocate(self, height: int, width: int) -> None:
        if self._shape == (height, width):
            return
        self._shape = None
        self._interpreter.resize_tensor_input(self._input["index"], (1, height, width, 3))
        for resize, detail in zip(self._resizes, self._resized_inputs, strict=True):
            shape = (1, height * resize.scale, width * resize.scale, 3)
            self._interpreter.resize_tensor_input(detail["index"], shape)
        self._interpreter.allocate_tensors()
        self._shape = (height, width)


@dataclass(frozen=True)
class _Span:
    """One tile along one axis, in LR pixels: what it reads and what is kept of it."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int
    length: int  # of the image


def _spans(length: int, tile: int, halo: int) -> Iterator[_Span]:
    """Cut an axis into tiles of one size; a tile that would pass a border is moved back to end there."""
    size = min(length, tile + 2 * halo)
    for keep in range(0, length, tile):
        start = min(max(keep - halo, 0), length - size)
        yield _Span(start, start + size, keep, min(keep + tile, length), length)


def _put(hr: NDArray[np.uint8], patch: NDArray[np.uint8], row: _Span, column: _Span, scale: int) -> None:
    def cut(span: _Span, origin: int) -> slice:
        return slice((span.keep_start - origin) * scale, (span.keep_stop - origin) * scale)

    hr[cut(row, 0), cut(column, 0)] = patch[cut(row, row.start), cut(column, column.start)]


def _pixel_to_integer(detail: dict[str, Any], raw: bool) -> Callable[[NDArray[np.uint8]], NDArray]:
    """How a pixel becomes a value of the model's input."""
    dtype = np.dtype(detail["dtype"])
    if dtype == np.float32:
        return lambda pixels: pixels.astype(np.float32)
    limits = np.iinfo(dtype)
    scale, zero = (1.0, int(limits.min)) if raw else detail["quantization"]
    table = np.clip(np.rint(np.arange(256) / scale) + zero, limits.min, limits.max).astype(dtype)
    return lambda pixels: table[pixels]


def _integer_to_pixel(detail: dict[str, Any], raw: bool) -> Callable[[NDArray], NDArray[np.uint8]]:
    """How a value of the model's output becomes a pixel."""
    dtype = np.dtype(detail["dtype"])
    if dtype == np.float32:
        return lambda values: np.clip(np.rint(values), 0, 255).astype(np.uint8)
    limits = np.iinfo(dtype)
    scale, zero = (1.0, int(limits.min)) if raw else detail["quantization"]
    table = np.clip(np.rint((np.arange(limits.min, limits.max + 1) - zero) * scale), 0, 255).astype(np.uint8)
    return lambda values: table[values.astype(np.int16) - limits.min]


# The model file ----------------------------------------------------------------------------------


def _interpreter(content: bytes, threads: int, kernels: Kernels) -> Interpreter:
    resolver = OpResolverType.AUTO if kernels == "xnnpack" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=resolver)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _plan(path: Path) -> _Plan:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if content[4:8] != b"TFL3":
        raise ModelError(f"{path}: not a TensorFlow Lite model")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        _check_interface(path, model)
        scales = _scales(path, content, model)
    except (struct.error, LookupError, TypeError, AttributeError, ValueError, MemoryError) as error:
        raise ModelError(f"{path}: a broken TensorFlow Lite model ({_line(error)})") from error
    graph = model.subgraphs[0]
    operators = [_operator(model, operator) for operator in graph.operators]
    halo = ceil(_reach(path, model, scales))
    scale = scales[graph.outputs[0]]
    if scale.denominator != 1 or scale < 1:
        raise ModelError(f"{path}: changes the image's size by {scale}, not by a whole number of at least 1")
    resizes = _take_out_resizes(path, model, scales)
    if resizes:
        builder = flatbuffers.Builder(len(content))
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        content = bytes(builder.Output())
    return _Plan(content, operators, int(scale), halo, resizes)


def _operator(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return _OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")


def _check_interface(path: Path, model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    if len(model.subgraphs) != 1 or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(f"{path}: not one graph with one input and one output")
    types = {schema.TensorType.UINT8, schema.TensorType.INT8, schema.TensorType.FLOAT32}
    for role, index in (("input", graph.inputs[0]), ("output", graph.outputs[0])):
        tensor = graph.tensors[index]
        shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
        if len(shape) != 4 or shape[0] not in (-1, 1) or shape[3] != 3:
            raise ModelError(f"{path}: its {role} has the shape {shape}, not one RGB image, (1, H, W, 3)")
        if tensor.type not in types:
            raise ModelError(f"{path}: its {role} is neither uint8, int8 nor float32")
        scales = None if tensor.quantization is None else tensor.quantization.scale
        if tensor.type != schema.TensorType.FLOAT32 and (scales is None or not scales[0] > 0):
            raise ModelError(f"{path}: its {role} is an integer without a scale")


def _scales(path: Path, content: bytes, model: schema.ModelT) -> dict[int, Fraction]:
    """Side of every tensor that depends on the image, over the LR image's side; found by running it small."""
    height, width = 12, 24  # unlike, and divisible by what strides are
    graph = model.subgraphs[0]
    dependent = _dependent(model)
    try:
        interpreter = _interpreter(content, 1, "builtin")
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, (1, height, width, 3))
        interpreter.allocate_tensors()
        interpreter.invoke()
        shapes = {detail["index"]: detail["shape"] for detail in interpreter.get_tensor_details()}
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: {_why_not_any_size(graph, error)}") from error
    scales = {}
    for tensor in dependent:
        name = graph.tensors[tensor].name.decode()
        if len(shapes[tensor]) != 4:
            raise ModelError(f"{path}: its tensor {name} is not an image, (1, H, W, C)")
        scales[tensor] = Fraction(int(shapes[tensor][1]), height)
        if scales[tensor] != Fraction(int(shapes[tensor][2]), width):
            raise ModelError(f"{path}: its tensor {name} does not follow the size of its input")
    return scales


def _why_not_any_size(graph: schema.SubGraphT, error: Exception) -> str:
    shape = [int(n) for n in graph.tensors[graph.inputs[0]].shape]
    signature = graph.tensors[graph.inputs[0]].shapeSignature
    if signature is None or -1 not in list(signature):
        return f"fixed at {shape[2]}x{shape[1]} pixels; export it with an open height and width"
    return f"LiteRT cannot run it ({_line(error)})"


def _dependent(model: schema.ModelT) -> list[int]:
    """Tensors that hold something computed from the image's pixels, not from its size alone."""
    graph = model.subgraphs[0]
    dependent = [int(graph.inputs[0])]
    for operator in graph.operators:
        if _operator(model, operator) != "SHAPE" and set(map(int, operator.inputs)) & set(dependent):
            dependent += [int(index) for index in operator.outputs]
    if graph.outputs[0] not in dependent:
        raise ValueError("the output does not depend on the input")
    return dependent


def _reach(path: Path, model: schema.ModelT, scales: dict[int, Fraction]) -> Fraction:
    """How far from a pixel the output looks, in LR pixels.

    Raises
    ------
    ModelError
        If the reach of an operator is not known.
    """
    graph = model.subgraphs[0]
    reach = {int(graph.inputs[0]): Fraction(0)}
    for operator in graph.operators:
        images = [int(index) for index in operator.inputs if int(index) in scales]
        outputs = [int(index) for index in operator.outputs]
        if not images or outputs[0] not in scales:
            continue  # it computes with sizes
        name = _operator(model, operator)
        own = _own_reach(model, name, operator, scales)
        if own is None or len({scales[index] for index in images}) > 1:
            raise ModelError(f"{path}: cannot be run in tiles: how far its operator {name} looks is not known")
        total = max(reach[index] for index in images) + own / scales[images[0]]
        reach.update(dict.fromkeys(outputs, total))
    return reach[int(graph.outputs[0])]


def _own_reach(
    model: schema.ModelT, name: str, operator: schema.OperatorT, scales: dict[int, Fraction]
) -> Fraction | None:
    """Reach of one operator in pixels of its input; None where it is not known, or not the same everywhere."""
    graph, options = model.subgraphs[0], operator.builtinOptions
    if name == "DEPTH_TO_SPACE":
        return Fraction(0)
    if name in _POINTWISE:
        constants = [graph.tensors[index] for index in operator.inputs if int(index) not in scales]
        same_everywhere = all(_is_constant(model, tensor) and not _has_sides(tensor) for tensor in constants)
        along_channels = name != "CONCATENATION" or options.axis in (3, -1)
        return Fraction(0) if same_everywhere and along_channels else None
    if name in ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"):
        # Half-pixel nearest coordinates never come close to a border of two pixels. Bilinear resizing is
        # taken out of the graph (`_take_out_resizes`), and then reaches nowhere.
        return Fraction(0) if options.halfPixelCenters and not options.alignCorners else None
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return None
    kernel = [int(n) for n in graph.tensors[operator.inputs[1]].shape[1:3]]
    strides = (int(options.strideH), int(options.strideW))
    same = options.padding == schema.Padding.SAME
    if name == "TRANSPOSE_CONV":
        before = [max(k - stride, 0) // 2 for k, stride in zip(kernel, strides, strict=True)]
        reaches = [ceil(max(k - 1 - b, b) / stride) for k, b, stride in zip(kernel, before, strides, strict=True)]
        return Fraction(max(reaches)) if same else None
    sides = [(kernel[0] - 1) * options.dilationHFactor, (kernel[1] - 1) * options.dilationWFactor]
    return Fraction(ceil(max(sides) / 2)) if strides == (1, 1) and (same or max(sides) == 0) else None


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _has_sides(tensor: schema.TensorT) -> bool:
    """Whether a constant differs from place to place, which a tile cannot follow."""
    return tensor.shape is not None and any(n > 1 for n in list(tensor.shape)[-3:-1])


# RESIZE_BILINEAR ---------------------------------------------------------------------------------


def _take_out_resizes(path: Path, model: schema.ModelT, scales: dict[int, Fraction]) -> list[_Resize]:
    """Turn the output of every RESIZE_BILINEAR of the LR image into an input of the graph, in place."""
    graph = model.subgraphs[0]
    taken = [operator for operator in graph.operators if _operator(model, operator) == "RESIZE_BILINEAR"]
    resizes = []
    for operator in taken:
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        offset = _offset_from_input(model, source)
        tensor = graph.tensors[target]
        if offset is None or scales[target].denominator != 1:
            raise ModelError(f"{path}: cannot be run in tiles: its RESIZE_BILINEAR enlarges not the LR image")
        name = f"resized_{target}"
        tensor.name, tensor.shapeSignature = name.encode(), [1, -1, -1, 3]
        integer = tensor.type == schema.TensorType.INT8
        resizes.append(_Resize(name, int(scales[target]), offset, integer))
        graph.inputs = [*graph.inputs, target]
    if taken:
        graph.operators = [operator for operator in graph.operators if operator not in taken]
        # A signature would name the old inputs.
        model.signatureDefs = []
    return resizes


def _offset_from_input(model: schema.ModelT, tensor: int) -> int | None:
    """What to add to the graph's input to get an int8 or float32 `tensor`; None if that is not all there is to it."""
    graph, kinds = model.subgraphs[0], schema.TensorType
    first = int(graph.inputs[0])
    types = (graph.tensors[first].type, graph.tensors[tensor].type)
    if tensor == first:
        return 0 if types[0] in (kinds.INT8, kinds.FLOAT32) else None
    maker = next(operator for operator in graph.operators if tensor in operator.outputs)
    if _operator(model, maker) != "QUANTIZE" or int(maker.inputs[0]) != first or types != (kinds.UINT8, kinds.INT8):
        return None
    before, after = graph.tensors[first].quantization, graph.tensors[tensor].quantization
    offset = int(after.zeroPoint[0]) - int(before.zeroPoint[0])
    return offset if before.scale[0] == after.scale[0] and offset == -128 else None


def _resize_bilinear(
    lr: NDArray[np.uint8], to_input: Callable[[NDArray[np.uint8]], NDArray], resize: _Resize, row: _Span, column: _Span
) -> NDArray:
    """One tile of LiteRT's RESIZE_BILINEAR of the whole image, (sH, sW, 3) int8 or float32."""
    top, bottom, y = _bilinear_axis(row, resize)
    left, right, x = _bilinear_axis(column, resize)
    first_row, first_column = int(top.min()), int(left.min())
    source = to_input(lr[first_row : int(bottom.max()) + 1, first_column : int(right.max()) + 1])
    y, x = y[:, None, None], x[None, :, None]
    if not resize.integer:
        upper, lower = source[top - first_row], source[bottom - first_row]
        left, right = left - first_column, right - first_column
        values = upper[:, left] * ((1 - y) * (1 - x))
        values += upper[:, right] * ((1 - y) * x)
        values += lower[:, left] * (y * (1 - x))
        values += lower[:, right] * (y * x)
        return values
    # Weights of 10 bits, so that the sums are exact in 32 bits and their order is free.
    image = source.astype(np.int32) + resize.offset
    across = image[:, left - first_column] * (1024 - x) + image[:, right - first_column] * x
    values = across[top - first_row] * (1024 - y) + across[bottom - first_row] * y
    half = np.where(values > 0, 1 << 19, -(1 << 19))
    rounded = np.abs(values + half) >> 20
    return (np.sign(values + half) * rounded).astype(np.int8)  # division towards zero


def _bilinear_axis(span: _Span, resize: _Resize) -> tuple[NDArray, NDArray, NDArray]:
    """Indices of the two LR pixels around every output pixel of a tile, and the weight of the second."""
    out_length = span.length * resize.scale
    out = np.arange(span.start * resize.scale, span.stop * resize.scale, dtype=np.int32)
    if resize.integer:
        step_1024 = (1024 * span.length + out_length // 2) // out_length
        position = out * step_1024 + step_1024 // 2 - 512
        lower = np.maximum(position // 1024, 0)
        upper = np.clip(-(-position // 1024), 0, span.length - 1)
        return lower, upper, position - 1024 * lower
    step = np.float32(span.length) / np.float32(out_length)
    place = (out.astype(np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    lower = np.maximum(np.floor(place), 0).astype(np.int32)
    upper = np.clip(np.ceil(place), 0, span.length - 1).astype(np.int32)
    return lower, upper, place - lower.astype(np.float32)


# Images ------------------------------------------------------------------------------------------


def open_image(path: Path) -> Image.Image:
    """Read an image file whole (of an animation, its first frame).

    Raises
    ------
    InputError
        If there is no such file, it is not an image, it is broken, or it has more than `MAX_PIXELS`.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not an image' if path.is_dir() else 'there is no such file'}")
    try:
        with warnings.catch_warnings():
            # Our own limit, below, is lower than the one that Pillow warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _check_size(path, image.size)
            image.load()
        return image
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more than {MAX_PIXELS} pixels; crop or shrink it") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not an image, or not in a format that is known") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise InputError(f"{path}: a broken image ({_line(error)})") from error


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{path}: {size[0]}x{size[1]} is more than {MAX_PIXELS} pixels; crop or shrink it")
    if 0 in size:
        raise InputError(f"{path}: has no pixels")


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file whole or not at all, in the format of the path's extension (`FORMATS`).

    Raises
    ------
    InputError
        If the extension is not known, or the format cannot hold the image.
    OSError
        If the folder cannot be written to.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the extension is none of {', '.join(FORMATS)}")
    form = FORMATS[path.suffix.lower()]
    if form == "JPEG" and image.mode in ("RGBA", "LA"):
        raise InputError(f"{path}: JPEG has no transparency; write a .png")
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if form in ("JPEG", "WEBP"):
        options["quality"] = 95
    if form == "PNG":
        # A third of the default's time for a tenth more bytes: writing must not take longer than enlarging.
        options["compress_level"] = 3
    content = io.BytesIO()
    try:
        image.save(content, form, **options)
    except (OSError, ValueError, struct.error) as error:
        size = f"{image.width}x{image.height}"
        raise InputError(f"{path}: {form} cannot hold this {size} image ({_line(error)}); write a .png") from error
    write_atomically(path, content.getvalue())


def upscale_image(
    upscaler: Upscaler,
    image: Image.Image,
    *,
    tile: int | None = 256,
    progress: Callable[[int, int], None] | None = None,
    memory: int | None = None,
) -> Image.Image:
    """Enlarge a Pillow image of any mode, turned upright by its EXIF orientation.

    Grayscale (also 1-bit and 16-bit) goes through the network as RGB and comes back as its luma, mode
    L; an alpha channel, or a palette's or colour key's transparency, is enlarged bicubically (LA,
    RGBA); everything else becomes RGB. The network works at 8 bits: 16-bit values are rounded to
    them, and Pillow itself reads 16-bit colour at 8 bits. A colour profile stays with the pixels
    it describes.

    Parameters
    ----------
    tile, progress
        As for `Upscaler.upscale`.
    memory
        Bytes that the result may take while it is made; the machine's physical memory if None.

    Raises
    ------
    InputError
        If the mode has no 8-bit reading (floating point, 32-bit integers), or the result is too large.
    ModelError
        If LiteRT cannot run the model.
    """
    _check_memory(image.size, upscaler.scale, _physical_memory() if memory is None else memory)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data: the pixels are good all the same
        upright = image
    base, alpha = _eight_bits(upright)
    hr = Image.fromarray(upscaler.upscale(np.asarray(base.convert("RGB")), tile=tile, progress=progress))
    if base.mode == "L":
        hr = hr.convert("L")
    if alpha is not None:
        hr.putalpha(Image.fromarray(_enlarge_alpha(np.asarray(alpha), upscaler.scale)))
    if image.mode not in ("CMYK", "LAB", "YCbCr", "HSV") and "icc_profile" in image.info:
        hr.info["icc_profile"] = image.info["icc_profile"]
    return hr


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Split any image into an L or RGB one and its alpha channel (L), if it has one."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _gray_from_integers(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    try:
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            with_alpha = image.convert("RGBA")
            return with_alpha.convert(mode), with_alpha.getchannel("A")
        return image.convert(mode), None
    except ValueError as error:
        raise InputError(f"an image of mode {image.mode} cannot be read as RGB: convert it first") from error


def _gray_from_integers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image)
    if image.mode == "F" or int(values.min()) < 0 or int(values.max()) > 65535:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise InputError(f"a {kind} image has no fixed white: convert it to 8 or 16 bits first")
    gray = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return gray, alpha


def _enlarge_alpha(alpha: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Bicubic enlargement of an (H, W) image in bands, since it is computed at 64 bits."""
    hr = np.empty((alpha.shape[0] * scale, alpha.shape[1] * scale), np.uint8)
    for span in _spans(alpha.shape[0], 128, 4):
        band = bicubic_up(alpha[span.start : span.stop], scale)
        kept = band[(span.keep_start - span.start) * scale : (span.keep_stop - span.start) * scale]
        hr[span.keep_start * scale : span.keep_stop * scale] = kept
    return hr


def _check_memory(size: tuple[int, int], scale: int, memory: int) -> None:
    # Per HR pixel: the array, Pillow's copy with its padding byte, its alpha, and the encoded file.
    needed = size[0] * size[1] * scale**2 * (3 + 4 + 1 + 3)
    if needed > memory:
        raise InputError(
            f"enlarging {size[0]}x{size[1]} pixels {scale} times needs {needed / 2**30:.1f} GiB of memory, "
            f"and there are {memory / 2**30:.1f}: crop the image"
        )


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63  # not told on this system: let the allocation itself decide
