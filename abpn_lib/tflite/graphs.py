"""Surgery on .tflite files: one size, another interface, one operator alone, and the graph written the long way.

A .tflite file is a list of operators on numbered tensors. What is done here keeps every weight and every scale, so
that a graph made from another gives the same bits where it computes the same function.

Source: section 3.3 of the paper and Figure 2 for the graph written the long way.
"""

from __future__ import annotations

import copy
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from abpn_lib.files import ModelError

__all__ = [  "bytes_moved", "fix_size", "long_way", "multiplications", "operator_alone", "operator_names",
    "with_int8_interface",
]

_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

_SIZES = (("FLOAT32", 4), ("INT32", 4), ("UINT8", 1), ("INT8", 1))
_BYTES = {getattr(schema.TensorType, name): size for name, size in _SIZES}



def operator_names(content: bytes) -> list[str]:
    """The operators of a .tflite file by their TFLite names ("CONV_2D"), in the order of execution."""
    model = _read(content)
    return [_name(model, operator) for operator in model.subgraphs[0].operators]


def fix_size(content: bytes, height: int, width: int, *, batch: int = 1) -> bytes:
    """The same network for LR images of one size, as phones, NPUs and browsers take it.

    Raises
    ------
    ModelError
        If the file cannot be read, or its network does not take that size.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if min(height, width, batch) < 1:
        raise ModelError(f"{batch} image(s) of {width}x{height}: at least 1 of each is needed")
    model = _read(content)
    graph = model.subgraphs[0]
    try:
        # Without delegates: they put tensors of their own among the network's.
        interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        for tensor in interpreter.get_input_details():
            interpreter.resize_tensor_input(tensor["index"], (batch, height, width, int(tensor["shape"][3])))
        interpreter.allocate_tensors()
        # Some shapes, such as a deconvolution's, are known only after a run.
        interpreter.invoke()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ModelError(f"this network does not take {batch} image(s) of {width}x{height}: {_first(error)}") from error
    for tensor in interpreter.get_tensor_details():
        if tensor["index"] < len(graph.tensors):
            graph.tensors[tensor["index"]].shape = np.asarray(tensor["shape"], np.int32)
            graph.tensors[tensor["index"]].shapeSignature = None
    return _write(model)


def with_int8_interface(content: bytes) -> bytes:
    """A full-integer network of uint8 images as one of int8 images: every value is 128 less, every bit the same.

    The QUANTIZE at either end, which only subtracts or adds 128, goes.

    Raises
    ------
    ModelError
        If the file has not a QUANTIZE from uint8 to int8 at its start and one back at its end.
    """
    model = _read(content)
    graph = model.subgraphs[0]
    first, last = graph.operators[0], graph.operators[-1]
    ends = (graph.tensors[first.inputs[0]].type, graph.tensors[last.outputs[0]].type)
    if {_name(model, first), _name(model, last)} != {"QUANTIZE"} or set(ends) != {schema.TensorType.UINT8}:
        raise ModelError("this network does not take and give uint8 images: only such a one can be turned to int8")
    inner = {first.inputs[0]: first.outputs[0], last.outputs[0]: last.inputs[0]}
    graph.inputs = np.array([inner[i] for i in graph.inputs], np.int32)
    graph.outputs = np.array([inner[i] for i in graph.outputs], np.int32)
    graph.operators = graph.operators[1:-1]
    model.signatureDefs = []
    return _write(model)


def operator_alone(content: bytes, position: int) -> bytes:
    """One operator as a network of its own: its constants stay constants, its other inputs become the network's.

    Raises
    ------
    ModelError
        If there is no such operator.
    """
    model = _read(content)
    graph = model.subgraphs[0]
    if not 0 <= position < len(graph.operators):
        raise ModelError(f"there is no operator {position}: the file has {len(graph.operators)}")
    operator = graph.operators[position]
    constant = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
    graph.operators = [operator]
    graph.inputs = np.array([i for i in dict.fromkeys(operator.inputs) if i >= 0 and not constant[i]], np.int32)
    graph.outputs = np.array(operator.outputs, np.int32)
    model.signatureDefs = []
    return _write(model)


def long_way(content: bytes) -> bytes:
    """INT8 ABPN as one would first write it: nine copies joined for the anchor, and two clip nodes (section 3.3).

    The exported graph has a frozen 1x1 convolution instead of the copies, and leaves the clip to the saturation of the
    addition's output. Both give the same bits.

    Raises
    ------
    ModelError
        If the file is not an ABPN that this library exported in INT8.
    """
    model = _read(content)
    graph = model.subgraphs[0]
    names = operator_names(content)
    if names[:2] != ["QUANTIZE", "CONV_2D"] or names[-3:] != ["ADD", "DEPTH_TO_SPACE", "QUANTIZE"]:
        raise ModelError("this is not an INT8 ABPN with an anchor and saturation in place of the clip")
    anchor, add = graph.operators[1], graph.operators[-3]
    source, joined = graph.tensors[anchor.inputs[0]], graph.tensors[anchor.outputs[0]]
    if (source.quantization.scale[0], source.quantization.zeroPoint[0]) != (
        joined.quantization.scale[0], joined.quantization.zeroPoint[0]
    ):
        raise ModelError("the anchor has another scale than the image: copies of it would not have the same bits")
    factor = int(joined.shape[-1]) // int(source.shape[-1])
    anchor.opcodeIndex = _code(model, schema.BuiltinOperator.CONCATENATION)
    anchor.inputs = np.array([anchor.inputs[0]] * factor, np.int32)
    anchor.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
    anchor.builtinOptions = schema.ConcatenationOptionsT()
    anchor.builtinOptions.axis = 3
    _clip(model, after=add)
    return _write(model)


def multiplications(content: bytes) -> list[int]:
    """Multiply-accumulates of each operator of a network of one size: those of its convolutions, 0 for the others."""
    model = _read(content)
    graph = model.subgraphs[0]
    return [_multiplications(graph, _name(model, operator), operator) for operator in graph.operators]


def bytes_moved(content: bytes) -> list[int]:
    """Bytes that each operator of a network of one size reads and writes at least: each tensor once, weights too."""
    graph = _read(content).subgraphs[0]
    sizes = [int(np.prod(tensor.shape)) * _BYTES[tensor.type] for tensor in graph.tensors]
    return [
        sum(sizes[i] for i in {*operator.inputs, *operator.outputs} if i >= 0) for operator in graph.operators
    ]


def _multiplications(graph: Any, name: str, operator: Any) -> int:
    if name not in ("CONV_2D", "TRANSPOSE_CONV"):
        return 0
    kernel = graph.tensors[operator.inputs[1]].shape  # (C_out, k, k, C_in)
    if name == "CONV_2D":
        return int(np.prod(graph.tensors[operator.outputs[0]].shape) * np.prod(kernel[1:]))
    # Every input value of a deconvolution meets every weight of its channel.
    return int(np.prod(graph.tensors[operator.inputs[2]].shape) * np.prod(kernel[:3]))


def _clip(model: Any, *, after: Any) -> None:
    """Put MINIMUM with the greatest value, and RELU, behind an operator; every reader of its output reads theirs."""
    graph = model.subgraphs[0]
    output = int(after.outputs[0])
    greatest = schema.BufferT()
    greatest.data = np.array([127], np.int8).view(np.uint8)
    model.buffers.append(greatest)
    limit = copy.deepcopy(graph.tensors[output])
    limit.name, limit.buffer = b"clip/limit", len(model.buffers) - 1
    limit.shape, limit.shapeSignature = np.array([1], np.int32), None
    graph.tensors.append(limit)
    nodes: tuple[tuple[int, list[int]], ...] = (
        (schema.BuiltinOperator.MINIMUM, [len(graph.tensors) - 1]), (schema.BuiltinOperator.RELU, [])
    )
    position, value = graph.operators.index(after) + 1, output
    for builtin, more in nodes:
        clipped = copy.deepcopy(graph.tensors[output])
        clipped.name = f"clip/{_NAMES[builtin].lower()}".encode()
        graph.tensors.append(clipped)
        node = schema.OperatorT()
        node.opcodeIndex = _code(model, builtin)
        node.inputs = np.array([value, *more], np.int32)
        node.outputs = np.array([len(graph.tensors) - 1], np.int32)
        if builtin == schema.BuiltinOperator.MINIMUM:
            node.builtinOptionsType = schema.BuiltinOptions.MaximumMinimumOptions
            node.builtinOptions = schema.MaximumMinimumOptionsT()
        graph.operators.insert(position, node)
        position, value = position + 1, len(graph.tensors) - 1
    for reader in graph.operators[position:]:
        reader.inputs = np.array([value if i == output else i for i in reader.inputs], np.int32)


def _code(model: Any, builtin: int) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, 2  # version 2 is the first with INT8
    code.deprecatedBuiltinCode = min(builtin, 127)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    # Old operators are kept in the byte-sized field, where new ones have 127.
    return _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _read(content: bytes) -> Any:
    if content[4:8] != b"TFL3":
        raise ModelError("this is not a .tflite file")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))


def _write(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
