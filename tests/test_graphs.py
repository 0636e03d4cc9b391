"""Surgery on real .tflite files: what comes out is run, and compared bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from skimage import data

from abpn_lib import models
from abpn_lib.tflite import graphs

ABPN = models.find("abpn-int8-ptq").read_bytes()
FSRCNN = models.find("fsrcnn-int8-ptq").read_bytes()
HEIGHT, WIDTH = 37, 53

IMAGES = {
    "natural": data.astronaut()[100 : 100 + HEIGHT, 180 : 180 + WIDTH],
    "random": np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
}


def run(
    content: bytes, image: NDArray, *, resize: bool = True, kernels: OpResolverType = OpResolverType.AUTO
) -> NDArray:
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    (tensor,) = interpreter.get_input_details()
    images = image if image.ndim == 4 else image[None]
    if resize:
        interpreter.resize_tensor_input(tensor["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(tensor["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(params=IMAGES)
def image(request) -> NDArray:
    return IMAGES[request.param]


@pytest.mark.parametrize("content", [ABPN, FSRCNN], ids=["abpn", "fsrcnn"])
def test_a_network_of_one_size_gives_the_same_bits(content, image):
    fixed = graphs.fix_size(content, HEIGHT, WIDTH)
    assert np.array_equal(run(fixed, image, resize=False), run(content, image))
    interpreter = Interpreter(model_content=fixed)
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [1, HEIGHT, WIDTH, 3]
    assert interpreter.get_output_details()[0]["shape"].tolist() == [1, 3 * HEIGHT, 3 * WIDTH, 3]


def test_a_batch_is_enlarged_as_its_images_are():
    both = np.stack(list(IMAGES.values()))
    enlarged = run(graphs.fix_size(ABPN, HEIGHT, WIDTH, batch=2), both, resize=False)
    assert np.array_equal(enlarged, np.concatenate([run(ABPN, image) for image in both]))


@pytest.mark.parametrize("content", [ABPN, FSRCNN], ids=["abpn", "fsrcnn"])
def test_int8_images_give_the_same_bits_less_128(content, image):
    signed = graphs.with_int8_interface(content)
    assert graphs.operator_names(signed) == graphs.operator_names(content)[1:-1]
    enlarged = run(signed, (image.astype(np.int16) - 128).astype(np.int8))
    assert enlarged.dtype == np.int8
    assert np.array_equal(enlarged.astype(np.int16) + 128, run(content, image))


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES])
def test_the_graph_written_the_long_way_gives_the_same_bits(image, kernels):
    long = graphs.long_way(ABPN)
    names = graphs.operator_names(long)
    assert {"CONCATENATION", "MINIMUM", "RELU"} <= set(names)
    assert len(names) == len(graphs.operator_names(ABPN)) + 2
    assert np.array_equal(run(long, image, kernels=kernels), run(ABPN, image, kernels=kernels))


def test_the_clip_nodes_of_the_long_way_are_in_the_path(image):
    # Were they dead ends, taking them away would change nothing: here the limit is lowered instead, and must show.
    model = graphs._read(graphs.long_way(ABPN))
    graph = model.subgraphs[0]
    (limit,) = (tensor for tensor in graph.tensors if tensor.name == b"clip/limit")
    model.buffers[limit.buffer].data = np.array([-28], np.int8).view(np.uint8)
    assert run(graphs._write(model), image).max() == 100 < run(ABPN, image).max()


def test_the_operators_alone_make_the_whole(image):
    fixed = graphs.fix_size(ABPN, HEIGHT, WIDTH)
    names = graphs.operator_names(fixed)
    values = {0: image[None]}
    graph = graphs._read(fixed).subgraphs[0]
    for position, name in enumerate(names):
        alone = graphs.operator_alone(fixed, position)
        assert graphs.operator_names(alone) == [name]
        interpreter = Interpreter(model_content=alone)
        interpreter.allocate_tensors()
        taken = [int(i) for i in graph.operators[position].inputs if int(i) in values]
        for tensor, source in zip(interpreter.get_input_details(), taken, strict=True):
            interpreter.set_tensor(tensor["index"], values[source])
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        values[int(graph.operators[position].outputs[0])] = interpreter.get_tensor(output["index"])
    assert np.array_equal(values[int(graph.outputs[0])], run(ABPN, image))


def test_multiplications_are_those_of_the_paper_by_hand():
    fixed = graphs.fix_size(ABPN, 360, 640)
    pixels = 360 * 640
    widths = [(3, 28), *[(28, 28)] * 4, (28, 27), (27, 27)]
    anchor = pixels * 3 * 27
    convolutions = [pixels * 9 * a * b for a, b in widths]
    assert graphs.multiplications(fixed) == [0, anchor, *convolutions, 0, 0, 0]
    deconvolution = graphs.multiplications(graphs.fix_size(FSRCNN, 8, 9))[-2]
    assert deconvolution == 8 * 9 * 56 * 81 * 3


def test_bytes_are_those_of_the_tensors_by_hand():
    pixels = 36 * 64
    moved = graphs.bytes_moved(graphs.fix_size(ABPN, 36, 64))
    assert moved[0] == pixels * 3 * 2
    assert moved[3] == pixels * 28 * 2 + 28 * 28 * 9 + 28 * 4
    assert moved[-1] == pixels * 27 * 2


def test_what_cannot_be_operated_on_is_refused():
    with pytest.raises(graphs.ModelError, match=r"not a \.tflite"):
        graphs.operator_names(b"no model at all")
    with pytest.raises(graphs.ModelError, match="of 0x8"):
        graphs.fix_size(ABPN, 8, 0)
    with pytest.raises(graphs.ModelError, match="uint8"):
        graphs.with_int8_interface(graphs.with_int8_interface(ABPN))
    with pytest.raises(graphs.ModelError, match="uint8"):
        graphs.with_int8_interface(models.find("abpn-fp32").read_bytes())
    with pytest.raises(graphs.ModelError, match="INT8 ABPN"):
        graphs.long_way(FSRCNN)
    with pytest.raises(graphs.ModelError, match="no operator 12"):
        graphs.operator_alone(ABPN, 12)
