"""A .tflite network as an ONNX model with the same weights and scales, for ONNX Runtime, OpenVINO and others.

Images are taken and given as the .tflite has them: NHWC, of its type and size, open or fixed. In between the layout is
ONNX's own, NCHW. A quantised tensor becomes a pair of QuantizeLinear and DequantizeLinear (the form called QDQ), which
runtimes fuse into integer kernels. Activations and weights are stored as uint8, 128 more than in the .tflite: with int8
weights ONNX Runtime lets sums saturate on an x86 CPU without VNNI, which moved pixels by 80 levels. What an any-size
graph computes from the image's size is left out: no operator that is written needs it.

Source: the ONNX operators of opset 17, https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from abpn_lib.files import InputError, ModelError
from abpn_lib.tflite.graph import fix_size, name_of, parsing, read

_FLOAT, _INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
_TYPES: dict[int, type] = {
    _FLOAT: np.float32, _INT8: np.int8, schema.TensorType.UINT8: np.uint8, schema.TensorType.INT32: np.int32,
}
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_KERNEL = {"CONV_2D": (0, 3, 1, 2), "TRANSPOSE_CONV": (3, 0, 1, 2)}  # from (C_out, k, k, C_in)
_OPERATORS = {
    "ADD": "Add", "CONCATENATION": "Concat", "CONV_2D": "Conv", "DEPTH_TO_SPACE": "DepthToSpace", "MINIMUM": "Min",
    "PRELU": "PRelu", "QUANTIZE": "", "RELU": "Relu", "RESIZE_BILINEAR": "Resize",
    "RESIZE_NEAREST_NEIGHBOR": "Resize", "TRANSPOSE_CONV": "ConvTranspose",
}


@parsing()
def to_onnx(content: bytes) -> bytes:
    """The ONNX model of a .tflite with one image (N, H, W, C) in, "lr", and one out, "sr"; checked by ONNX's checker.

    Raises `InputError` without the package onnx, and `ModelError` if the file cannot be read, or has operators that
    cannot be written so: it names them.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError("ONNX needs the package onnx: install abpn-lib[onnx]") from error

    graph = read(content).subgraphs[0]
    lr = graph.tensors[graph.inputs[0]]
    is_open = lr.shapeSignature is not None and -1 in lr.shapeSignature
    height, width = (12, 24) if is_open else lr.shape[1:3]
    model = read(fix_size(content, int(height), int(width), batch=int(lr.shape[0])))
    if refused := {_refusal(model, operator) for operator in model.subgraphs[0].operators} - {""}:
        raise ModelError(f"ONNX export cannot write {', '.join(sorted(refused))}: take another model")
    made = onnx.helper.make_model(
        _Writer(model).graph(is_open), producer_name="abpn-lib", ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def _refusal(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """What of an operator cannot be written; "" for nothing."""
    name, options = name_of(model, operator), operator.builtinOptions
    if name not in _OPERATORS:
        return name
    if name == "RESIZE_BILINEAR" and model.subgraphs[0].tensors[operator.outputs[0]].type != _FLOAT:
        return f"{name} in integers, where LiteRT's kernel drifts by a pixel in a thousand"
    if getattr(options, "fusedActivationFunction", 0) not in (0, schema.ActivationFunctionType.RELU):
        return f"{name} with another activation than ReLU"
    if name.startswith("RESIZE") and (options.alignCorners or not options.halfPixelCenters):
        return f"{name} without half-pixel centres"
    return ""


class _Writer:
    """The nodes and constants of an ONNX graph, operator by operator."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model, self.network, self.tensors = model, model.subgraphs[0], model.subgraphs[0].tensors
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray] = {}
        # By a tensor's number in the .tflite: what holds its values, NCHW, as float32 or uint8.
        self.stored: dict[int, str] = {}

    def graph(self, is_open: bool) -> Any:
        """The whole network as an onnx.GraphProto; `is_open` leaves height and width open."""
        from onnx import helper, numpy_helper

        (lr,), (sr,), images = self.network.inputs, self.network.outputs, []
        self.stored[lr] = self._node("Transpose", ["lr"], perm=_TO_NCHW)
        if self.tensors[lr].type == _INT8:
            self.stored[lr] = self._quantized(self._real(lr, np.int8), lr)
        for operator in self.network.operators:
            self._write(operator)
        made = self._quantized(self._real(sr), sr, np.int8) if self.tensors[sr].type == _INT8 else self.stored[sr]
        self._node("Transpose", [made], "sr", perm=_TO_NHWC)
        for name, tensor in (("lr", self.tensors[lr]), ("sr", self.tensors[sr])):
            shape: list[Any] = tensor.shape.tolist()
            shape[1:3] = [f"{name}_height", f"{name}_width"] if is_open else shape[1:3]
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(_TYPES[tensor.type]))
            images.append(helper.make_tensor_value_info(name, dtype, shape))
        constants = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        return helper.make_graph(self.nodes, "abpn", images[:1], images[1:], constants)

    def _write(self, operator: schema.OperatorT) -> None:
        """An operator on real numbers, its activation, and the quantisation of its output."""
        name, source, index = name_of(self.model, operator), int(operator.inputs[0]), int(operator.outputs[0])
        meaning = self._meaning(index)
        if name == "QUANTIZE" and meaning == self._meaning(source):
            self.stored[index] = self.stored[source]  # int8 from uint8, or back
            return
        inputs, attributes = self._form(name, operator)
        made = self._node(_OPERATORS[name], inputs, **attributes) if name != "QUANTIZE" else inputs[0]
        # A zero point of 0 is a ReLU by itself.
        if getattr(operator.builtinOptions, "fusedActivationFunction", 0) and meaning[1:] != (0,):
            made = self._node("Relu", [made])
        if name == "PRELU" and meaning:
            made = self._rounded_first(made, operator)
        self.stored[index] = self._quantized(made, index) if meaning else made

    def _rounded_first(self, real: str, operator: schema.OperatorT) -> str:
        """A PReLU as LiteRT's integer kernel rounds it: first to 1/2^k of a level, then, halves outwards, to a level.

        k is the shift of its multiplier, one where the input is negative and another where it is not.
        """
        source, slope, output = (self._meaning(int(i))[0] for i in (*operator.inputs, *operator.outputs))
        grids = [2.0 ** max(-frexp(ratio)[1], 0) / output for ratio in (source * slope / output, source / output)]
        below = self._node("Less", [self._real(int(operator.inputs[0])), self._keep(np.float32(0))])
        grid = self._node("Where", [below, *(self._keep(np.float32(one)) for one in grids)])
        levels = self._node("Round", [self._node("Mul", [real, grid])])
        return self._node("Mul", [self._node("Div", [levels, grid]), self._keep(np.float32(1 + 1e-6))])

    def _form(self, name: str, operator: schema.OperatorT) -> tuple[list[str], dict[str, Any]]:
        """The inputs and attributes of an operator in ONNX."""
        options, inputs = operator.builtinOptions, [int(i) for i in operator.inputs if i >= 0]
        if name in _KERNEL:
            image, kernel, *bias = inputs if name == "CONV_2D" else [inputs[2], inputs[1], *inputs[3:]]
            padding = "SAME_UPPER" if options.padding == schema.Padding.SAME else "VALID"
            attributes: dict[str, Any] = {"auto_pad": padding, "strides": [options.strideH, options.strideW]}
            if name == "CONV_2D":
                attributes["dilations"] = [options.dilationHFactor, options.dilationWFactor]
            constants = [self._constant(kernel, _KERNEL[name]), *(self._constant(one, (0,)) for one in bias)]
            return [self._real(image), *constants], attributes
        if name.startswith("RESIZE"):
            before, after = (self.tensors[i].shape for i in (operator.inputs[0], operator.outputs[0]))
            scales = self._keep(np.divide(after, before, dtype=np.float32)[list(_TO_NCHW)])
            return [self._real(inputs[0]), "", scales], {"mode": "linear" if "BILINEAR" in name else "nearest"}
        attributes = {"blocksize": options.blockSize} if name == "DEPTH_TO_SPACE" else {}
        attributes |= {"axis": _TO_NHWC[options.axis]} if name == "CONCATENATION" else {}
        return [self._real(i) if i in self.stored else self._constant(i) for i in inputs], attributes

    def _constant(self, index: int, order: Sequence[int] = ()) -> str:
        """The real values of a constant with its axes in this order, or in that of images."""
        tensor = self.tensors[index]
        data = bytes(self.model.buffers[tensor.buffer].data)
        values: NDArray = np.frombuffer(data, _TYPES[tensor.type]).reshape(tensor.shape)
        if not order:
            values, order = values.reshape((1,) * (4 - values.ndim) + values.shape), _TO_NCHW
        if not self._meaning(index):
            return self._keep(values.transpose(order))
        dtype = _TYPES[tensor.type]
        if tensor.type == _INT8:
            values, dtype = (values.astype(np.int16) + 128).astype(np.uint8), np.uint8
        kept = self._keep(values.transpose(order))
        axis = list(order).index(tensor.quantization.quantizedDimension)
        return self._node("DequantizeLinear", [kept, *self._scale(index, dtype)], axis=axis)

    def _real(self, index: int, dtype: type = np.uint8) -> str:
        """The real values of an activation, by a node of its own: so runtimes fuse it into what reads them."""
        stored = self.stored[index]
        return self._node("DequantizeLinear", [stored, *self._scale(index, dtype)]) if self._meaning(index) else stored

    def _quantized(self, real: str, index: int, dtype: type = np.uint8) -> str:
        return self._node("QuantizeLinear", [real, *self._scale(index, dtype)])

    def _scale(self, index: int, dtype: type) -> list[str]:
        """A tensor's scale and zero point, for values of this type: one, or one for each channel."""
        found = self.tensors[index].quantization
        zero = np.add(found.zeroPoint, 128 if (self.tensors[index].type, dtype) == (_INT8, np.uint8) else 0)
        shape = (-1,) if len(found.scale) > 1 else ()
        return [self._keep(np.reshape(found.scale, shape)), self._keep(zero.astype(dtype).reshape(shape))]

    def _meaning(self, index: int) -> tuple[float, ...]:
        """A tensor's first scale and its zero point as uint8; () for a float one."""
        tensor = self.tensors[index]
        if tensor.type == _FLOAT:
            return ()
        found = tensor.quantization
        return float(found.scale[0]), int(found.zeroPoint[0]) + (128 if tensor.type == _INT8 else 0)

    def _keep(self, values: NDArray | np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output or f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]
