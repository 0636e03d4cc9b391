"""Surgery on real .tflite files: what comes out is run, and compared bit for bit."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from skimage import data

from abpn_lib import models
from abpn_lib.files import ModelError
from abpn_lib.tflite import graph

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
    fixed = graph.fix_size(content, HEIGHT, WIDTH)
    # XNNPACK takes a deconvolution only where its output's size is a constant, and rounds it in its own way.
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if content is FSRCNN else OpResolverType.AUTO
    assert np.array_equal(run(fixed, image, resize=False, kernels=kernels), run(content, image, kernels=kernels))
    interpreter = Interpreter(model_content=fixed)
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [1, HEIGHT, WIDTH, 3]
    assert interpreter.get_output_details()[0]["shape"].tolist() == [1, 3 * HEIGHT, 3 * WIDTH, 3]


def test_a_batch_is_enlarged_as_its_images_are():
    both = np.stack(list(IMAGES.values()))
    enlarged = run(graph.fix_size(ABPN, HEIGHT, WIDTH, batch=2), both, resize=False)
    assert np.array_equal(enlarged, np.concatenate([run(ABPN, image) for image in both]))


@pytest.mark.parametrize("content", [ABPN, FSRCNN], ids=["abpn", "fsrcnn"])
def test_int8_images_give_the_same_bits_less_128(content, image):
    signed = graph.with_int8_interface(content)
    assert graph.operator_names(signed) == graph.operator_names(content)[1:-1]
    enlarged = run(signed, (image.astype(np.int16) - 128).astype(np.int8))
    assert enlarged.dtype == np.int8
    assert np.array_equal(enlarged.astype(np.int16) + 128, run(content, image))


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES])
def test_the_graph_written_the_unfused_gives_the_same_bits(image, kernels):
    long = graph.unfused(ABPN)
    names = graph.operator_names(long)
    assert {"CONCATENATION", "MINIMUM", "RELU"} <= set(names)
    assert len(names) == len(graph.operator_names(ABPN)) + 2
    assert np.array_equal(run(long, image, kernels=kernels), run(ABPN, image, kernels=kernels))


def test_the_clip_nodes_of_the_unfused_are_in_the_path(image):
    # Were they dead ends, taking them away would change nothing: here the limit is lowered instead, and must show.
    model = graph.read(graph.unfused(ABPN))
    subgraph = model.subgraphs[0]
    (limit,) = (tensor for tensor in subgraph.tensors if tensor.name == b"clip/limit")
    model.buffers[limit.buffer].data = np.array([-28], np.int8).view(np.uint8)
    assert run(graph.write(model), image).max() == 100 < run(ABPN, image).max()


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES])
@pytest.mark.parametrize("name", [
    "abpn-long-int8-ptq", "abpn-long-int8-ptq-folded", "baseline-int8-ptq", "abpn-int8-ptq-tensor", "nearest-fp32",
])
def test_a_graph_without_the_shuffle_gives_the_same_bits(name, image, kernels):
    fixed = graph.fix_size(models.find(name).read_bytes(), HEIGHT, WIDTH)
    split = graph.without_shuffle(fixed)
    names, before = graph.operator_names(split), graph.operator_names(fixed)
    assert "DEPTH_TO_SPACE" not in names
    assert names.count("CONV_2D") - before.count("CONV_2D") == (4 if "ADD" in before and name.startswith("abpn") else 2)
    pixels = image.astype(np.float32) if name.endswith("fp32") else image
    outputs = [run(content, pixels, resize=False, kernels=kernels) for content in (fixed, split)]
    if name.endswith("fp32"):  # a sum of floats depends on how many channels are computed at once
        np.testing.assert_allclose(*outputs, atol=1e-3)
    else:
        np.testing.assert_array_equal(*outputs)


def test_the_shuffle_goes_for_a_batch_of_int8_images_too():
    signed = graph.with_int8_interface(ABPN)
    both = (np.stack(list(IMAGES.values())).astype(np.int16) - 128).astype(np.int8)
    fixed = graph.fix_size(signed, HEIGHT, WIDTH, batch=2)
    split = graph.without_shuffle(fixed)
    assert np.array_equal(run(split, both, resize=False), run(fixed, both, resize=False))


def test_the_operators_alone_make_the_whole(image):
    fixed = graph.fix_size(ABPN, HEIGHT, WIDTH)
    names = graph.operator_names(fixed)
    values = {0: image[None]}
    subgraph = graph.read(fixed).subgraphs[0]
    for position, name in enumerate(names):
        alone = graph.operator_alone(fixed, position)
        assert graph.operator_names(alone) == [name]
        interpreter = Interpreter(model_content=alone)
        interpreter.allocate_tensors()
        taken = [int(i) for i in subgraph.operators[position].inputs if int(i) in values]
        for tensor, source in zip(interpreter.get_input_details(), taken, strict=True):
            interpreter.set_tensor(tensor["index"], values[source])
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        values[int(subgraph.operators[position].outputs[0])] = interpreter.get_tensor(output["index"])
    assert np.array_equal(values[int(subgraph.outputs[0])], run(ABPN, image))


def test_multiplications_are_those_of_the_paper_by_hand():
    fixed = graph.fix_size(ABPN, 360, 640)
    pixels = 360 * 640
    widths = [(3, 28), *[(28, 28)] * 4, (28, 27), (27, 27)]
    anchor = pixels * 3 * 27
    convolutions = [pixels * 9 * a * b for a, b in widths]
    assert [products for products, _ in graph.costs(fixed)] == [0, anchor, *convolutions, 0, 0, 0]
    deconvolution, _ = graph.costs(graph.fix_size(FSRCNN, 8, 9))[-2]
    assert deconvolution == 8 * 9 * 56 * 81 * 3


def test_bytes_are_those_of_the_tensors_by_hand():
    pixels = 36 * 64
    moved = [moved for _, moved in graph.costs(graph.fix_size(ABPN, 36, 64))]
    assert moved[0] == pixels * 3 * 2
    assert moved[3] == pixels * 28 * 2 + 28 * 28 * 9 + 28 * 4
    assert moved[-1] == pixels * 27 * 2


def test_what_cannot_be_operated_on_is_refused():
    with pytest.raises(ModelError, match="not a TensorFlow Lite"):
        graph.operator_names(b"no model at all")
    with pytest.raises(ModelError, match="of 0x8"):
        graph.fix_size(ABPN, 8, 0)
    with pytest.raises(ModelError, match="uint8"):
        graph.with_int8_interface(graph.with_int8_interface(ABPN))
    with pytest.raises(ModelError, match="uint8"):
        graph.with_int8_interface(models.find("abpn-fp32").read_bytes())
    with pytest.raises(ModelError, match="INT8 ABPN"):
        graph.unfused(FSRCNN)
    with pytest.raises(ModelError, match="no DEPTH_TO_SPACE"):
        graph.without_shuffle(graph.fix_size(FSRCNN, 8, 8))
    with pytest.raises(ModelError, match="name the size"):
        graph.without_shuffle(ABPN)
    with pytest.raises(ModelError, match="convolutions and additions"):
        graph.without_shuffle(graph.fix_size(graph.unfused(ABPN), 8, 8))
    with pytest.raises(ModelError, match="no operator 12"):
        graph.operator_alone(ABPN, 12)


def test_broken_files_raise_nothing_but_model_error():
    rng = np.random.default_rng(0)
    checks = (graph.operator_names, graph.costs, graph.unfused, graph.check_full_integer)
    for _ in range(60):
        content = bytearray(ABPN[: rng.integers(8, len(ABPN))] if rng.random() < 0.3 else ABPN)
        for place in rng.integers(8, min(len(content), 6000), 20) if len(content) > 8 else ():
            content[place] = rng.integers(256)
        for check in checks:
            with contextlib.suppress(ModelError):
                check(bytes(content))


def test_litert_s_notices_do_not_reach_the_terminal():
    code = (
        "from abpn_lib import models; from abpn_lib.tflite.interpreter import interpreter\n"
        "interpreter(models.find('abpn-int8-ptq')).allocate_tensors()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
