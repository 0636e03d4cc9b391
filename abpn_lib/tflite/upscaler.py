"""Running a .tflite super-resolution model on an image of any size, with LiteRT.

Memory is bounded by tiling: the image is cut into tiles that overlap by the network's receptive field, so that
every pixel that is kept saw what it would have seen in the whole image, the zero padding at the image's border
included. Tiled and untiled output are equal bit for bit, with one caveat: float32 kernels other than XNNPACK's
(``kernels="builtin"``, and FSRCNN's transposed convolution) add up in an order that depends on the tile's shape, so
that a value within about 2e-5 of a half could round to either side. None of 15 million values did where this was
measured.

One operator is not the same everywhere in an image: LiteRT's integer RESIZE_BILINEAR steps by 341/1024 instead of
1/3, and so drifts by one LR pixel in 1024. A graph that holds it runs on the whole image, up to `UNTILED_PIXELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from abpn_lib.files import InputError, ModelError
from abpn_lib.tflite.graph import dependent, is_constant, name_of, parsing, read
from abpn_lib.tflite.interpreter import Kernels, first_line, interpreter, read_model

__all__ = ["UNTILED_PIXELS", "Span", "Upscaler", "spans"]

UNTILED_PIXELS = 1024 * 1024
"""LR pixels that a graph with RESIZE_BILINEAR takes: about 1 GiB of memory."""

# Each output value depends on the input values at its own place only.
_POINTWISE = {
    "ABS", "ADD", "CAST", "CONCATENATION", "DEQUANTIZE", "DIV", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM",
    "MINIMUM", "MUL", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SUB", "TANH",
}


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
        LR pixels that a tile needs around what is kept of it: the receptive field's radius; None for
        a graph with RESIZE_BILINEAR, which is not tiled.
    operators
        The graph's operators in their order, by LiteRT's names.
    input_dtype
        uint8, int8 or float32.
    output_quantization
        (scale, zero point) of the output; (0.0, 0) for a float one.

    Raises `ModelError` if the file is not such a model.
    """

    def __init__(self, model: Path, *, threads: int = 1, kernels: Kernels = "xnnpack", raw: bool = False) -> None:
        self._path = model
        content = read_model(model)
        try:
            with parsing():
                parsed = read(content)
                _check_interface(parsed)
                scales = _scales(content, parsed)
                self.scale = int(scales[parsed.subgraphs[0].outputs[0]])
                self.operators = [name_of(parsed, operator) for operator in parsed.subgraphs[0].operators]
                self.halo = None if "RESIZE_BILINEAR" in self.operators else _receptive_field(parsed, scales)
            self._interpreter = interpreter(content, threads, kernels)
        except ModelError as error:
            raise ModelError(f"{model}: {error}") from error
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
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
        InputError
            If the graph cannot be tiled and the image has more than `UNTILED_PIXELS`.
        ModelError
            If LiteRT cannot run the model at this size.
        """
        if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f"an LR image is (H, W, 3) uint8, not {lr.shape} {lr.dtype}")
        if tile is not None and tile < 1:
            raise ValueError(f"a tile of {tile} pixels: at least 1 is needed, or None for the whole image")
        height, width = lr.shape[:2]
        if self.halo is None and tile is not None:
            if height * width > UNTILED_PIXELS:
                raise InputError(
                    f"{self._path}: its RESIZE_BILINEAR needs the whole image at once, so that {UNTILED_PIXELS} pixels "
                    f"are its limit, not {width}x{height}: take another model, or crop the image"
                )
            tile = None
        rows, columns = (list(spans(side, tile or side, self.halo or 0)) for side in (height, width))
        hr = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        for done, (row, column) in enumerate(((row, column) for row in rows for column in columns), start=1):
            patch = self._run(lr[row.start : row.stop, column.start : column.stop])
            hr[row.kept(self.scale), column.kept(self.scale)] = patch[row.cut(self.scale), column.cut(self.scale)]
            if progress:
                progress(done, len(rows) * len(columns))
        return hr

    def _run(self, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            if self._shape != patch.shape:
                self._shape = None
                self._interpreter.resize_tensor_input(self._input["index"], (1, *patch.shape))
                self._interpreter.allocate_tensors()
                self._shape = patch.shape
            self._interpreter.set_tensor(self._input["index"], self._pixel_to_input(patch)[None])
            self._interpreter.invoke()
        except (RuntimeError, ValueError, MemoryError) as error:
            size = f"{patch.shape[1]}x{patch.shape[0]}"
            raise ModelError(f"{self._path}: LiteRT cannot run it on {size} pixels ({first_line(error)})") from error
        return self._output_to_pixel(self._interpreter.get_tensor(self._output["index"])[0])


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels: what it reads and what is kept of it."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    def kept(self, scale: int) -> slice:
        """Where what is kept goes in the HR image."""
        return slice(self.keep_start * scale, self.keep_stop * scale)

    def cut(self, scale: int) -> slice:
        """Where it comes from in the tile's own output."""
        return slice((self.keep_start - self.start) * scale, (self.keep_stop - self.start) * scale)


def spans(length: int, tile: int, halo: int) -> Iterator[Span]:
    """Cut an axis into tiles of one size; a tile that would pass a border is moved back to end there."""
    size = min(length, tile + 2 * halo)
    for keep in range(0, length, tile):
        start = min(max(keep - halo, 0), length - size)
        yield Span(start, start + size, keep, min(keep + tile, length))


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


# What a graph lets be done with it ---------------------------------------------------------------


def _check_interface(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    if len(model.subgraphs) != 1 or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError("not one graph with one input and one output")
    types = {schema.TensorType.UINT8, schema.TensorType.INT8, schema.TensorType.FLOAT32}
    for role, index in (("input", graph.inputs[0]), ("output", graph.outputs[0])):
        tensor = graph.tensors[index]
        shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
        if len(shape) != 4 or shape[0] not in (-1, 1) or shape[3] != 3:
            raise ModelError(f"its {role} has the shape {shape}, not one RGB image, (1, H, W, 3)")
        if tensor.type not in types:
            raise ModelError(f"its {role} is neither uint8, int8 nor float32")
        scales = None if tensor.quantization is None else tensor.quantization.scale
        if tensor.type != schema.TensorType.FLOAT32 and (scales is None or not scales[0] > 0):
            raise ModelError(f"its {role} is an integer without a scale")


def _scales(content: bytes, model: schema.ModelT) -> dict[int, Fraction]:
    """Side of every tensor that depends on the image, over the LR image's side; found by running it small."""
    height, width = 12, 24  # unlike, and divisible by what strides are
    graph = model.subgraphs[0]
    try:
        small = interpreter(content, kernels="builtin")
        small.resize_tensor_input(small.get_input_details()[0]["index"], (1, height, width, 3))
        small.allocate_tensors()
        small.invoke()
        shapes = {detail["index"]: detail["shape"] for detail in small.get_tensor_details()}
    except (RuntimeError, ValueError) as error:
        signature, shape = graph.tensors[graph.inputs[0]].shapeSignature, graph.tensors[graph.inputs[0]].shape
        if signature is None or -1 not in list(signature):
            raise ModelError(
                f"fixed at {shape[2]}x{shape[1]} pixels; export it with an open height and width"
            ) from error
        raise ModelError(f"LiteRT cannot run it ({first_line(error)})") from error
    pixels = dependent(model)
    if graph.outputs[0] not in pixels:
        raise ModelError("its output does not depend on its input")
    scales = {}
    for tensor in sorted(pixels):
        name = graph.tensors[tensor].name.decode()
        if len(shapes[tensor]) != 4:
            raise ModelError(f"its tensor {name} is not an image, (1, H, W, C)")
        scales[tensor] = Fraction(int(shapes[tensor][1]), height)
        if scales[tensor] != Fraction(int(shapes[tensor][2]), width):
            raise ModelError(f"its tensor {name} does not follow the size of its input")
    scale = scales[int(graph.outputs[0])]
    if scale.denominator != 1 or scale < 1:
        raise ModelError(f"changes the image's size by {scale}, not by a whole number of at least 1")
    return scales


def _receptive_field(model: schema.ModelT, scales: dict[int, Fraction]) -> int:
    """How far from a pixel the output looks, in LR pixels."""
    graph = model.subgraphs[0]
    radius = {int(graph.inputs[0]): Fraction(0)}
    for operator in graph.operators:
        images = [int(index) for index in operator.inputs if int(index) in scales]
        outputs = [int(index) for index in operator.outputs]
        if not images or outputs[0] not in scales:
            continue  # it computes with sizes
        name = name_of(model, operator)
        own = _own_radius(model, name, operator, scales)
        if own is None or len({scales[index] for index in images}) > 1:
            raise ModelError(f"cannot be run in tiles: how far its operator {name} looks is not known")
        total = max(radius[index] for index in images) + own / scales[images[0]]
        radius.update(dict.fromkeys(outputs, total))
    return ceil(radius[int(graph.outputs[0])])


def _own_radius(
    model: schema.ModelT, name: str, operator: schema.OperatorT, scales: dict[int, Fraction]
) -> Fraction | None:
    """How far one operator looks, in pixels of its input; None where it is not known, or not the same everywhere."""
    graph, options = model.subgraphs[0], operator.builtinOptions
    if name == "DEPTH_TO_SPACE":
        return Fraction(0)
    if name in _POINTWISE:
        constants = [graph.tensors[index] for index in operator.inputs if int(index) not in scales]
        same_everywhere = all(is_constant(model, tensor) and not _has_sides(tensor) for tensor in constants)
        along_channels = name != "CONCATENATION" or options.axis in (3, -1)
        return Fraction(0) if same_everywhere and along_channels else None
    if name == "RESIZE_NEAREST_NEIGHBOR":
        # Half-pixel nearest coordinates never come close to a border of two pixels.
        return Fraction(0) if options.halfPixelCenters and not options.alignCorners else None
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return None
    kernel = [int(n) for n in graph.tensors[operator.inputs[1]].shape[1:3]]
    strides = (int(options.strideH), int(options.strideW))
    same = options.padding == schema.Padding.SAME
    if name == "TRANSPOSE_CONV":
        before = [max(k - stride, 0) // 2 for k, stride in zip(kernel, strides, strict=True)]
        radii = [ceil(max(k - 1 - b, b) / stride) for k, b, stride in zip(kernel, before, strides, strict=True)]
        return Fraction(max(radii)) if same else None
    sides = [(kernel[0] - 1) * options.dilationHFactor, (kernel[1] - 1) * options.dilationWFactor]
    return Fraction(ceil(max(sides) / 2)) if strides == (1, 1) and (same or max(sides) == 0) else None


def _has_sides(tensor: schema.TensorT) -> bool:
    """Whether a constant differs from place to place, which a tile cannot follow."""
    return tensor.shape is not None and any(n > 1 for n in list(tensor.shape)[-3:-1])
