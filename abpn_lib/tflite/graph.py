"""The graph of a .tflite file: read, checked, and changed without changing its weights or its bits.

A .tflite file is a list of operators on numbered tensors. What is done here keeps every weight and every scale, so
that a graph made from another gives the same bits where it computes the same function. Every function raises
ModelError, in one line, for a file that is broken or not a .tflite.

Source: section 3.3 of the paper and Figure 2 for the unfused graph.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from abpn_lib.files import ModelError
from abpn_lib.tflite.interpreter import first_line, interpreter

_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

_TYPE = schema.TensorType
_BYTES = {_TYPE.FLOAT32: 4, _TYPE.INT32: 4, _TYPE.UINT8: 1, _TYPE.INT8: 1}


@contextmanager
def parsing() -> Iterator[None]:
    """Turn whatever a broken file makes the generated parser, or a reader of its fields, raise into ModelError."""
    try:
        yield
    except (
        struct.error, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, MemoryError
    ) as error:
        raise ModelError(f"a broken TensorFlow Lite model ({first_line(error)})") from error


@parsing()
def read(content: bytes) -> schema.ModelT:
    """Parse a .tflite file into LiteRT's own objects; its first subgraph is the network."""
    if content[4:8] != b"TFL3":
        raise ModelError("not a TensorFlow Lite model")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = model.subgraphs[0]
    tensors = range(-1, len(graph.tensors))
    indices = [*graph.inputs, *graph.outputs, *(i for op in graph.operators for i in (*op.inputs, *op.outputs))]
    if not all(int(index) in tensors for index in indices):
        raise ModelError("a broken TensorFlow Lite model (an operator's tensor is not there)")
    return model


def write(model: schema.ModelT) -> bytes:
    """The .tflite file of what `read` gave."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def name_of(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """An operator's TFLite name, such as "CONV_2D"; "CUSTOM" for one that is not TFLite's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Old operators are kept in the byte-sized field, where new ones have 127.
    return _NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")


@parsing()
def operator_names(content: bytes) -> list[str]:
    """The operators of a .tflite file by their TFLite names, in the order of execution."""
    model = read(content)
    return [name_of(model, operator) for operator in model.subgraphs[0].operators]


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    """Whether a tensor's values stand in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _dependent(model: schema.ModelT) -> set[int]:
    """Tensors computed from the image's pixels, the image included, and not from its size alone."""
    graph = model.subgraphs[0]
    found = {int(index) for index in graph.inputs}
    for operator in graph.operators:
        if name_of(model, operator) != "SHAPE" and found.intersection(map(int, operator.inputs)):
            found.update(int(index) for index in operator.outputs)
    return found


@parsing()
def fix_size(content: bytes, height: int, width: int, *, batch: int = 1) -> bytes:
    """The same network for LR images of one size, as phones, NPUs and browsers take it.

    What an any-size graph computes from the image's size becomes a constant.

    Raises `ModelError` if the file cannot be read, or its network does not take that size.
    """
    size = f"{batch} image(s) of {width}x{height}"
    if min(height, width, batch) < 1:
        raise ModelError(f"{size}: at least 1 of each is needed")
    model = read(content)
    graph = model.subgraphs[0]
    try:
        # Without delegates: they put tensors of their own among the network's.
        sized = interpreter(content, kernels="builtin", keep_all=True)
        for tensor in sized.get_input_details():
            sized.resize_tensor_input(tensor["index"], (batch, height, width, int(tensor["shape"][3])))
        sized.allocate_tensors()
        # Some shapes, such as a deconvolution's, are known only after a run.
        sized.invoke()
    except (ValueError, RuntimeError, IndexError, MemoryError) as error:
        raise ModelError(f"this network does not take {size}: {first_line(error)}") from error
    for detail in sized.get_tensor_details():
        if detail["index"] < len(graph.tensors):
            graph.tensors[detail["index"]].shape = np.asarray(detail["shape"], np.int32)
            graph.tensors[detail["index"]].shapeSignature = None
    pixels = _dependent(model)
    for operator in graph.operators:
        for index in set(map(int, operator.outputs)) - pixels:
            graph.tensors[index].buffer = _buffer(model, sized.get_tensor(index))
    graph.operators = [operator for operator in graph.operators if pixels.intersection(map(int, operator.outputs))]
    return write(model)


@parsing()
def with_int8_interface(content: bytes) -> bytes:
    """A full-integer network of uint8 images as one of int8 images: every value is 128 less, every bit the same.

    The QUANTIZE at either end, which only subtracts or adds 128, goes.

    Raises `ModelError` if the file has not a QUANTIZE from uint8 to int8 at its start and one back at its end.
    """
    model = read(content)
    graph = model.subgraphs[0]
    first, last = graph.operators[0], graph.operators[-1]
    ends = (graph.tensors[first.inputs[0]].type, graph.tensors[last.outputs[0]].type)
    if {name_of(model, first), name_of(model, last)} != {"QUANTIZE"} or set(ends) != {_TYPE.UINT8}:
        raise ModelError("this network does not take and give uint8 images: only such a one can be turned to int8")
    inner = {first.inputs[0]: first.outputs[0], last.outputs[0]: last.inputs[0]}
    graph.inputs = np.array([inner[i] for i in graph.inputs], np.int32)
    graph.outputs = np.array([inner[i] for i in graph.outputs], np.int32)
    graph.operators = graph.operators[1:-1]
    model.signatureDefs = []
    return write(model)


@parsing()
def operator_alone(content: bytes, position: int) -> bytes:
    """One operator as a network of its own: its constants stay constants, its other inputs become the network's.

    Raises `ModelError` if there is no such operator.
    """
    model = read(content)
    graph = model.subgraphs[0]
    if not 0 <= position < len(graph.operators):
        raise ModelError(f"there is no operator {position}: the file has {len(graph.operators)}")
    operator = graph.operators[position]
    graph.operators = [operator]
    given = [i for i in dict.fromkeys(operator.inputs) if i >= 0 and not _is_constant(model, graph.tensors[i])]
    graph.inputs, graph.outputs = np.array(given, np.int32), np.array(operator.outputs, np.int32)
    model.signatureDefs = []
    return write(model)


@parsing()
def unfused(content: bytes) -> bytes:
    """INT8 ABPN as one would first write it: nine copies joined for the anchor, and two clip nodes (section 3.3).

    The exported graph has a frozen 1x1 convolution instead of the copies, and leaves the clip to the saturation of the
    addition's output. Both give the same bits.

    Raises `ModelError` if the file is not an ABPN that this library exported in INT8.
    """
    model = read(content)
    graph = model.subgraphs[0]
    names = [name_of(model, operator) for operator in graph.operators]
    if names[:2] != ["QUANTIZE", "CONV_2D"] or names[-3:] != ["ADD", "DEPTH_TO_SPACE", "QUANTIZE"]:
        raise ModelError("this is not an INT8 ABPN with an anchor and saturation in place of the clip")
    anchor, add, to_space = graph.operators[1], graph.operators[-3], graph.operators[-2]
    source, joined = graph.tensors[anchor.inputs[0]], graph.tensors[anchor.outputs[0]]
    if (source.quantization.scale[0], source.quantization.zeroPoint[0]) != (
        joined.quantization.scale[0], joined.quantization.zeroPoint[0]
    ):
        raise ModelError("the anchor has another scale than the image: copies of it would not have the same bits")
    copies = [int(anchor.inputs[0])] * (int(joined.shape[-1]) // int(source.shape[-1]))
    graph.operators[1] = _operator(model, "CONCATENATION", copies, int(anchor.outputs[0]), "ConcatenationOptions")
    graph.operators[1].builtinOptions.axis = 3
    added = int(add.outputs[0])
    limit, limited, clipped = (_copy(graph, added, f"clip/{name}") for name in ("limit", "minimum", "relu"))
    graph.tensors[limit].buffer = _buffer(model, np.array([127], np.int8))
    graph.tensors[limit].shape, graph.tensors[limit].shapeSignature = np.array([1], np.int32), None
    graph.operators[-2:-2] = [
        _operator(model, "MINIMUM", [added, limit], limited, "MaximumMinimumOptions"),
        _operator(model, "RELU", [limited], clipped),
    ]
    to_space.inputs = np.array([clipped], np.int32)
    return write(model)


@parsing()
def without_shuffle(content: bytes) -> bytes:
    """The same network for images of one size without DEPTH_TO_SPACE, which no Ethos-U NPU takes; every bit the same.

    What computes the s²C channels is split into s parts, one for each row of sub-pixels, (N, H, W, sC) each. Joined
    along the width, (N, H, s·W, sC), their values stand in the order of the image, (N, sH, sW, C).

    Raises `ModelError` if the file has no such operator, takes images of any size, or computes the channels by more
    than convolutions and additions, or for others too.
    """
    model = read(content)
    graph = model.subgraphs[0]
    shuffles = [op for op in graph.operators if name_of(model, op) == "DEPTH_TO_SPACE"]
    if not shuffles:
        raise ModelError("this network has no DEPTH_TO_SPACE that could be taken out")
    for shuffle in shuffles:
        source, image = int(shuffle.inputs[0]), int(shuffle.outputs[0])
        batch, height, width, channels = (int(n) for n in graph.tensors[source].shape)
        signature = graph.tensors[source].shapeSignature
        if signature is not None and -1 in signature:
            raise ModelError("DEPTH_TO_SPACE can be taken out for images of one size alone: name the size")
        rows = _split(model, source, shuffle.builtinOptions.blockSize)
        joined, sides = _copy(graph, source, "joined"), _copy(graph, image, "sides")
        graph.tensors[joined].shape = np.array([batch, height, len(rows) * width, channels // len(rows)], np.int32)
        shape, shape_of_image = graph.tensors[sides], np.asarray(graph.tensors[image].shape, np.int32)
        shape.type, shape.shape, shape.quantization = _TYPE.INT32, np.array([4], np.int32), None
        shape.buffer = _buffer(model, shape_of_image)
        join = _operator(model, "CONCATENATION", rows, joined, "ConcatenationOptions")
        join.builtinOptions.axis = 2
        reshape = _operator(model, "RESHAPE", [joined, sides], image, "ReshapeOptions")
        reshape.builtinOptions.newShape = shape_of_image
        position = graph.operators.index(shuffle)
        graph.operators[position : position + 1] = [join, reshape]
    return write(model)


@parsing()
def costs(content: bytes) -> list[tuple[int, int]]:
    """What each operator of a network of one size takes: its multiply-accumulates, and the bytes that it moves.

    Only convolutions have products. Moved at least is every tensor that is read or written, weights too, once.
    """
    model = read(content)
    graph = model.subgraphs[0]
    sizes = [int(np.prod(tensor.shape)) * _BYTES[tensor.type] for tensor in graph.tensors]
    return [
        (_products(graph, name_of(model, op), op), sum(sizes[i] for i in {*op.inputs, *op.outputs} if i >= 0))
        for op in graph.operators
    ]


@parsing()
def check_full_integer(content: bytes, *, saturates: bool = True) -> None:
    """Raise ModelError unless a .tflite computes in integers from input to output.

    With `saturates`, its output must also have scale 1 and zero point 0 (uint8) or -128 (int8).
    """
    model = read(content)
    graph = model.subgraphs[0]
    for tensor in (graph.tensors[i] for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0):
        if tensor.type not in (_TYPE.INT8, _TYPE.UINT8, _TYPE.INT32):
            raise ModelError(f"tensor {tensor.name.decode()} is not an integer: the export is not full-integer")
    tensor = graph.tensors[graph.outputs[0]]
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    expected = 0 if tensor.type == _TYPE.UINT8 else -128
    if saturates and (scale, zero) != (1.0, expected):
        raise ModelError(f"the output does not clip: scale {scale} and zero point {zero}, not 1 and {expected}")


def _products(graph: schema.SubGraphT, name: str, operator: schema.OperatorT) -> int:
    if name not in ("CONV_2D", "TRANSPOSE_CONV"):
        return 0
    kernel = graph.tensors[operator.inputs[1]].shape  # (C_out, k, k, C_in)
    if name == "CONV_2D":
        return int(np.prod(graph.tensors[operator.outputs[0]].shape) * np.prod(kernel[1:]))
    # Every input value of a deconvolution meets every weight of its channel.
    return int(np.prod(graph.tensors[operator.inputs[2]].shape) * np.prod(kernel[:3]))


def _split(model: schema.ModelT, index: int, count: int) -> list[int]:
    """Compute a tensor in `count` parts along its channels, by as many convolutions and additions; the new tensors."""
    graph = model.subgraphs[0]
    old = next((op for op in graph.operators if index in op.outputs), None)
    alone = sum(index in op.inputs for op in graph.operators) == 1
    if old is None or not alone or name_of(model, old) not in ("CONV_2D", "ADD"):
        raise ModelError("DEPTH_TO_SPACE can be taken out behind convolutions and additions that it alone reads")
    # Of a convolution the kernel and the bias, whose first axis is the output's channels; of an addition both sides.
    first = 1 if name_of(model, old) == "CONV_2D" else 0
    split = [_parts(model, int(i), count) if first else _split(model, int(i), count) for i in old.inputs[first:]]
    new = [copy.deepcopy(old) for _ in range(count)]
    for operator, output, *inputs in zip(new, _parts(model, index, count), *split, strict=True):
        operator.inputs = np.array([*old.inputs[:first], *inputs], np.int32)
        operator.outputs = np.array([output], np.int32)
    position = graph.operators.index(old)
    graph.operators[position : position + 1] = new
    return [int(operator.outputs[0]) for operator in new]


def _parts(model: schema.ModelT, index: int, count: int) -> list[int]:
    """New tensors for the parts of one: of a constant along its first axis with its values, else along its last."""
    graph, found = model.subgraphs[0], []
    for part in range(count):
        found.append(_copy(graph, index, f"{graph.tensors[index].name.decode()}/{part}"))
        tensor = graph.tensors[found[-1]]
        axis = 0 if _is_constant(model, tensor) else -1
        tensor.shape[axis] //= count
        if axis == 0:
            tensor.buffer = _buffer(model, np.split(model.buffers[tensor.buffer].data, count)[part])
        for field in ("scale", "zeroPoint"):
            values: Any = getattr(tensor.quantization, field, None)
            if np.size(values) > 1:  # one for each channel
                setattr(tensor.quantization, field, np.split(values, count)[part])
    return found


def _operator(model: schema.ModelT, name: str, inputs: list[int], output: int, options: str = "") -> schema.OperatorT:
    """A new operator by its TFLite name, with its `options` as they are by default."""
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    # Version 2 is the first with INT8, but RESHAPE has no other than 1.
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), 1 if name == "RESHAPE" else 2
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    operator.opcodeIndex = len(model.operatorCodes)
    model.operatorCodes.append(code)
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    if options:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T")()
    return operator


def _copy(graph: schema.SubGraphT, index: int, name: str) -> int:
    """The number of a new tensor like another one."""
    graph.tensors.append(copy.deepcopy(graph.tensors[index]))
    graph.tensors[-1].name = name.encode()
    return len(graph.tensors) - 1


def _buffer(model: schema.ModelT, values: np.ndarray) -> int:
    """The number of a new buffer with these values."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1
