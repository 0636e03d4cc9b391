"""Running a .tflite super-resolution model on an image of any size, with LiteRT.

Memory is bounded by tiling: the image is cut into tiles that overlap by the network's receptive field, so that
every pixel that is kept saw what it would have seen in the whole image, the zero padding at the image's border
included. Tiled and untiled output are equal bit for bit, with one caveat: float32 kernels other than XNNPACK's
(``kernels="builtin"``, and FSRCNN's transposed convolution) add up in an order that depends on the tile's shape, so
that a value within about 2e-5 of a half could round to either side. None of 15 million values did where this was
measured.

A graph with an operator whose reach is not known, or not the same everywhere, runs on the whole image, up to
`UNTILED_PIXELS`. Such a one is RESIZE_BILINEAR: LiteRT's integer kernel steps by 341/1024 instead of 1/3, and so
drifts by one LR pixel in 1024.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from abpn_lib.files import InputError, ModelError
from abpn_lib.tflite.graph import fix_size, name_of, parsing, read
from abpn_lib.tflite.interpreter import Kernels, first_line, interpreter, read_model

TILE = 384
"""LR pixels a side of what is run at once: about 110 MB for ABPN; smaller ones overlap more, larger save little."""

UNTILED_PIXELS = 1024 * 1024
"""LR pixels that a graph which cannot be tiled takes: about 1 GiB of memory."""


class Upscaler:
    """A .tflite model, ready for images of any size, and for use from several threads: each has its own interpreter.

    `model` takes and gives RGB, NHWC, as uint8, int8 or float32 in [0, 255], with an open height and width; `threads`,
    at least 1, and `kernels` are LiteRT's (the kernels differ in a part of the INT8 values, by a few levels). `raw`
    takes an integer model's values for pixels (int8 shifted by 128) instead of reading them by their scales and zero
    points, as the authors' evaluation does.

    Its `scale` is HR pixels per LR pixel; `halo` the LR pixels that a tile needs around what is kept of it, which is
    the receptive field's radius, or None for a graph that is not tiled; `input_dtype` uint8, int8 or float32;
    `output_quantization` the output's (scale, zero point), (0.0, 0) for a float one.

    Raises `ModelError` if the file is not such a model.
    """

    def __init__(self, model: Path, *, threads: int = 1, kernels: Kernels = "xnnpack", raw: bool = False) -> None:
        self._path = model
        content = read_model(model)
        self._make, self._own = partial(interpreter, content, threads, kernels), threading.local()
        try:
            read(content)
            self._own.interpreter = self._make()
            self._input = _image(self._own.interpreter.get_input_details(), "input")
            self._output = _image(self._own.interpreter.get_output_details(), "output")
            self.scale, self.halo, self._untiled = _tiling(content, self._input)
        except ModelError as error:
            raise ModelError(f"{model}: {error}") from error
        self.input_dtype = np.dtype(self._input["dtype"])
        self.output_quantization = (float(self._output["quantization"][0]), int(self._output["quantization"][1]))
        self._to_input, self._to_pixel = _table(self._input, "input", raw), _table(self._output, "output", raw)

    def upscale(self, lr: NDArray[np.uint8], *, tile: int | None = TILE) -> NDArray[np.uint8]:
        """Enlarge an LR (H, W, 3) uint8 image to (sH, sW, 3) uint8, rounded and clipped to [0, 255].

        `tile` and what it raises are those of `tiles`.
        """
        parts = self.tiles(lr, tile=tile)
        hr = np.empty((lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3), np.uint8)
        for row, column, part in parts:
            hr[row, column] = part
        return hr

    def tiles(
        self, lr: NDArray[np.uint8], *, tile: int | None = TILE
    ) -> Iterator[tuple[slice, slice, NDArray[np.uint8]]]:
        """Enlarge an image as `upscale` does, tile by tile: the HR rows and columns of each, and its pixels.

        `tile` is the greatest side in LR pixels of what is kept of each tile; None runs the whole image at once, in
        memory that grows with it.

        Raises `InputError` if the graph cannot be tiled and the image has more than `UNTILED_PIXELS`, and `ModelError`
        if LiteRT cannot run the model at this size.
        """
        if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ValueError(f"an LR image is (H, W, 3) uint8, not {lr.shape} {lr.dtype}")
        if tile is not None and tile < 1:
            raise ValueError(f"a tile of {tile} pixels: at least 1 is needed, or None for the whole image")
        height, width = lr.shape[:2]
        if self.halo is None and tile is not None:
            if height * width > UNTILED_PIXELS:
                raise InputError(
                    f"{self._path}: its {self._untiled} needs the whole image at once, so that {UNTILED_PIXELS} pixels "
                    f"are its limit, not {width}x{height}: take another model, or crop the image"
                )
            tile = None
        # As few tiles as that greatest side allows, and of one size: the last one has no more overlap than the others.
        sides = ((side, ceil(side / ceil(side / (tile or side)))) for side in (height, width))
        rows, columns = (spans(side, most, self.halo or 0, self.scale) for side, most in sides)
        return (
            (kept_row, kept_column, self._run(lr[row, column])[cut_row, cut_column])
            for (row, kept_row, cut_row), (column, kept_column, cut_column) in product(rows, columns)
        )

    def _run(self, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        own = self._own
        try:
            own.interpreter = getattr(own, "interpreter", None) or self._make()
            if getattr(own, "shape", None) != patch.shape:
                own.shape = None
                own.interpreter.resize_tensor_input(self._input["index"], (1, *patch.shape))
                own.interpreter.allocate_tensors()
                own.shape = patch.shape
            given = patch.astype(np.float32) if self._to_input is None else self._to_input[patch]
            own.interpreter.set_tensor(self._input["index"], given[None])
            own.interpreter.invoke()
        except (RuntimeError, ValueError, MemoryError) as error:
            size = f"{patch.shape[1]}x{patch.shape[0]}"
            raise ModelError(f"{self._path}: LiteRT cannot run it on {size} pixels ({first_line(error)})") from error
        made = own.interpreter.get_tensor(self._output["index"])[0]
        if self._to_pixel is None:
            return np.clip(np.rint(made), 0, 255).astype(np.uint8)
        if made.dtype == np.uint8 and np.array_equal(self._to_pixel, np.arange(256)):
            return made  # its values are pixels: a table would take a tenth of the network's time
        return self._to_pixel[made.astype(np.int16) - np.iinfo(made.dtype).min]


def spans(length: int, tile: int, halo: int, scale: int = 1) -> Iterator[tuple[slice, slice, slice]]:
    """Cut an axis of LR pixels into tiles of one size; one that would pass a border is moved back to end there.

    Yields what each tile reads, and in HR pixels where what is kept of it goes, and where it lies in the tile's output.
    """
    size = min(length, tile + 2 * halo)
    for keep in range(0, length, tile):
        start, stop = min(max(keep - halo, 0), length - size), min(keep + tile, length)
        kept, cut = slice(keep * scale, stop * scale), slice((keep - start) * scale, (stop - start) * scale)
        yield slice(start, start + size), kept, cut


def _table(detail: dict[str, Any], role: str, raw: bool) -> NDArray | None:
    """A value of the model's input for each pixel, or a pixel for each of its output's; None for a float32 model."""
    if detail["dtype"] == np.float32:
        return None
    limits = np.iinfo(detail["dtype"])
    scale, zero = (1.0, int(limits.min)) if raw else detail["quantization"]
    if role == "input":
        return np.clip(np.rint(np.arange(256) / scale) + zero, limits.min, limits.max).astype(limits.dtype)
    return np.clip(np.rint((np.arange(limits.min, limits.max + 1) - zero) * scale), 0, 255).astype(np.uint8)


# What a graph lets be done with it


def _image(details: list[dict[str, Any]], role: str) -> dict[str, Any]:
    """The one image that a network takes or gives, as LiteRT describes it."""
    if len(details) != 1:
        raise ModelError(f"it has not one {role}, but {len(details)}")
    shape, dtype = details[0]["shape"].tolist(), np.dtype(details[0]["dtype"])
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
        raise ModelError(f"its {role} has the shape {shape}, not one RGB image, (1, H, W, 3)")
    if dtype not in (np.uint8, np.int8, np.float32):
        raise ModelError(f"its {role} is neither uint8, int8 nor float32")
    if dtype != np.float32 and not details[0]["quantization"][0] > 0:
        raise ModelError(f"its {role} is an integer without a scale")
    return details[0]


@parsing()
def _tiling(content: bytes, lr: dict[str, Any]) -> tuple[int, int | None, str]:
    """HR pixels per LR pixel; how far from a pixel the output looks, in LR pixels, or None and the operator's name."""
    height, width = 12, 24  # unlike, and divisible by what strides are
    try:
        model = read(fix_size(content, height, width))
    except ModelError as error:
        if -1 in lr["shape_signature"]:
            raise
        size = f"{lr['shape'][2]}x{lr['shape'][1]}"
        raise ModelError(f"fixed at {size} pixels; export it with an open height and width") from error
    graph, untiled = model.subgraphs[0], ""
    # Of every tensor that depends on the image: its side over the LR image's side, and how far it looks.
    sides, radii = {int(graph.inputs[0]): Fraction(1)}, {int(graph.inputs[0]): Fraction(0)}
    for operator in graph.operators:
        images = [int(index) for index in operator.inputs if int(index) in sides]
        for index in map(int, operator.outputs):
            sides[index] = _side(graph.tensors[index], height, width)
        own = _radius(graph, name_of(model, operator), operator, set(sides))
        untiled = untiled or ("" if own is not None else name_of(model, operator))
        total = max(radii[index] for index in images) + (own or 0) / sides[images[0]]
        radii.update(dict.fromkeys(map(int, operator.outputs), total))
    output = int(graph.outputs[0])
    if output not in sides:
        raise ModelError("its output does not depend on its input")
    if sides[output].denominator != 1 or sides[output] < 1:
        raise ModelError(f"changes the image's size by {sides[output]}, not by a whole number of at least 1")
    return int(sides[output]), None if untiled else ceil(radii[output]), untiled


def _side(tensor: schema.TensorT, height: int, width: int) -> Fraction:
    """A tensor's side over that of the LR image."""
    if len(tensor.shape) != 4:
        raise ModelError(f"its tensor {tensor.name.decode()} is not an image, (1, H, W, C)")
    side = Fraction(int(tensor.shape[1]), height)
    if side != Fraction(int(tensor.shape[2]), width):
        raise ModelError(f"its tensor {tensor.name.decode()} does not follow the size of its input")
    return side


# Each output value depends on the input values at its own place only.
_POINTWISE = {
    "ABS", "ADD", "CAST", "CONCATENATION", "DEQUANTIZE", "DIV", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM",
    "MINIMUM", "MUL", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SUB", "TANH",
}


def _radius(graph: schema.SubGraphT, name: str, operator: schema.OperatorT, images: set[int]) -> int | None:
    """How far one operator looks, in pixels of its input; None where it is not known, or not the same everywhere."""
    options = operator.builtinOptions
    if name in _POINTWISE:
        constants = [graph.tensors[index].shape for index in operator.inputs if int(index) not in images]
        # A tile cannot follow a constant that differs from place to place.
        return None if any(n > 1 for shape in constants for n in list(shape)[-3:-1]) else 0
    if name == "DEPTH_TO_SPACE":
        return 0
    if name == "RESIZE_NEAREST_NEIGHBOR":
        # Half-pixel nearest coordinates never come close to a border of two pixels.
        return 0 if options.halfPixelCenters and not options.alignCorners else None
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return None
    kernel = [int(n) for n in graph.tensors[operator.inputs[1]].shape[1:3]]
    strides = (int(options.strideH), int(options.strideW))
    if name == "TRANSPOSE_CONV":
        return max(ceil((k - 1 - max(k - s, 0) // 2) / s) for k, s in zip(kernel, strides, strict=True))
    side = max((kernel[0] - 1) * options.dilationHFactor, (kernel[1] - 1) * options.dilationWFactor)
    return ceil(side / 2) if strides == (1, 1) else None
