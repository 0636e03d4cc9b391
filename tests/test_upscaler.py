"""`upscaler` and `images` on real models, exported here from random weights."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import picture
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import degradation
from abpn_lib.files import InputError, ModelError
from abpn_lib.tflite.images import FORMATS, open_image, save_image, upscale_image
from abpn_lib.tflite.upscaler import Upscaler


@pytest.fixture(scope="module")
def models(exported: Callable[..., Path]) -> Callable[[str], Path]:
    """models("abpn-int8"): the path of a .tflite, made where a test first asks for it."""
    small = {"channels": 4, "pairs": 1}

    def find(name: str) -> Path:
        if name == "x2-int8":
            return exported("abpn", "int8", dtype="int8", scale=2, **small)
        if name == "x2-uint8":
            return exported("abpn", "int8", scale=2, **small)
        if name.startswith("fixed"):
            return exported("nearest" if name == "fixed-resize" else "baseline", "fp32", size=(24, 32), **small)
        network, precision = name.rsplit("-", 1)
        return exported(network, precision)

    return find


Find = Callable[[str], Path]
OPEN = ("abpn-int8", "bilinear-int8", "fsrcnn-int8", "abpn-fp32", "bilinear-fp32", "fsrcnn-fp32")


def plain(model: Path, lr: NDArray[np.uint8], kernels: str = "xnnpack") -> NDArray[np.uint8]:
    """LiteRT on the whole image and the file as it is, without our code."""
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if kernels == "builtin" else OpResolverType.AUTO
    interpreter = Interpreter(model_path=str(model), num_threads=1, experimental_op_resolver_type=resolver)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], (1, *lr.shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], lr[None].astype(given["dtype"]))
    interpreter.invoke()
    return np.clip(np.rint(interpreter.get_tensor(made["index"])[0].astype(np.float64)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("name", OPEN)
def test_tiled_untiled_and_plain_litert_agree_bit_for_bit(models: Find, name: str, kernels: str) -> None:
    upscaler = Upscaler(models(name), kernels=kernels)
    for height, width in ((1, 1), (2, 61), (37, 5), (83, 71)):
        lr = picture(height, width)
        expected = plain(models(name), lr, kernels)
        assert expected.shape == (3 * height, 3 * width, 3)
        for tile in (None, 256, 40, 17):
            found = upscaler.upscale(lr, tile=tile)
            if (name, kernels) == ("fsrcnn-fp32", "builtin"):
                # These add up in an order that depends on the tile's shape: a value close to a half may go either way.
                apart = np.abs(found.astype(int) - expected)
                assert apart.max() <= 1
                assert np.count_nonzero(apart) <= 1 + apart.size / 10_000
            else:
                np.testing.assert_array_equal(found, expected, f"{height}x{width}, tile {tile}")


def test_threads_share_an_upscaler_and_tiles_have_one_size(models: Find) -> None:
    images = [picture(40 + 3 * n, 61, seed=n) for n in range(8)]
    upscaler = Upscaler(models("abpn-int8"))
    expected = [upscaler.upscale(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        for found, right in zip(pool.map(upscaler.upscale, images), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    parts = [part.shape for _, _, part in upscaler.tiles(np.zeros((60, 101, 3), np.uint8), tile=50)]
    assert parts == [(90, 102, 3), (90, 102, 3), (90, 99, 3)] * 2, "not one of 50, 50 and a last one of 1"


def test_a_graph_with_bilinear_resizing_runs_untiled_up_to_a_limit(models: Find) -> None:
    upscaler = Upscaler(models("bilinear-int8"))
    # LiteRT's integer kernel drifts by one LR pixel in 1024, which tiles would undo.
    lr = picture(2, 2600)
    np.testing.assert_array_equal(upscaler.upscale(lr, tile=300), plain(models("bilinear-int8"), lr))
    with pytest.raises(InputError, match=r"\.tflite: .* 1048576 pixels are its limit, not 1025x1024"):
        upscaler.upscale(np.zeros((1024, 1025, 3), np.uint8))


def test_the_halo_is_needed_and_is_the_receptive_field(models: Find) -> None:
    assert Upscaler(models("abpn-int8")).halo == 7  # seven 3x3 convolutions
    assert Upscaler(models("bilinear-int8")).halo is None
    assert Upscaler(models("fsrcnn-fp32")).halo == 2 + 4 + 2  # 5x5, four 3x3, 9x9 at stride 3
    assert Upscaler(models("x2-int8")).halo == 3
    upscaler = Upscaler(models("abpn-int8"))
    lr = picture(60, 60)
    whole = upscaler.upscale(lr, tile=None)
    upscaler.halo = 5
    assert (upscaler.upscale(lr, tile=20) != whole).any()


def test_changing_one_pixel_reaches_no_further_than_the_halo(models: Find) -> None:
    for name in ("abpn-fp32", "fsrcnn-fp32"):
        upscaler = Upscaler(models(name))
        lr = picture(41, 41)
        changed = lr.copy()
        changed[20, 20] = 255 - changed[20, 20]
        difference = (upscaler.upscale(lr) != upscaler.upscale(changed)).any(axis=2)
        rows, columns = np.nonzero(difference)
        reach = max(abs(np.concatenate([rows, columns]) // 3 - 20))
        assert 2 <= reach <= upscaler.halo, name


def test_what_an_upscaler_says_of_its_model(models: Find) -> None:
    integer, real = Upscaler(models("abpn-int8")), Upscaler(models("abpn-fp32"))
    assert (integer.scale, integer.input_dtype, integer.output_quantization) == (3, np.uint8, (1.0, 0))
    assert (real.scale, real.input_dtype, real.output_quantization) == (3, np.float32, (0.0, 0))


def test_int8_and_uint8_interfaces_give_the_same_pixels(models: Find) -> None:
    lr = picture(30, 41)
    expected = plain(models("x2-uint8"), lr)
    assert expected.shape == (60, 82, 3)
    for raw in (False, True):
        for name in ("x2-uint8", "x2-int8"):
            upscaler = Upscaler(models(name), raw=raw)
            assert upscaler.scale == 2
            np.testing.assert_array_equal(upscaler.upscale(lr, tile=9), expected)


def test_output_is_read_by_its_scale_unless_raw(models: Find, tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(models("x2-uint8").read_bytes()))
    quantization = model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].quantization
    quantization.scale, quantization.zeroPoint = [1.25], [20]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = tmp_path / "scaled.tflite"
    path.write_bytes(builder.Output())
    lr = picture(12, 12)
    integers = plain(path, lr)
    expected = np.clip(np.rint((integers.astype(float) - 20) * 1.25), 0, 255)
    assert (expected != integers).any()
    np.testing.assert_array_equal(Upscaler(path).upscale(lr), expected)
    np.testing.assert_array_equal(Upscaler(path, raw=True).upscale(lr), integers)


def test_a_fixed_size_is_opened_where_the_graph_allows_it(models: Find) -> None:
    lr = picture(15, 50)
    upscaler = Upscaler(models("fixed-chain"))
    np.testing.assert_array_equal(upscaler.upscale(lr, tile=11), plain(models("fixed-chain"), lr))
    with pytest.raises(ModelError, match=r"\.tflite: fixed at 32x24 pixels; export it with an open"):
        Upscaler(models("fixed-resize"))


def test_wrong_arrays_and_options_are_refused(models: Find) -> None:
    upscaler = Upscaler(models("x2-uint8"))
    for shape, dtype in (((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((0, 4, 3), np.uint8), ((4, 4, 3), np.float32)):
        wrong = np.zeros(shape, dtype)
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
            upscaler.upscale(wrong)
    with pytest.raises(ValueError, match="tile of 0"):
        upscaler.upscale(picture(4, 4), tile=0)
    with pytest.raises(InputError, match="threads 0"):
        Upscaler(models("x2-uint8"), threads=0)


def test_files_that_are_no_such_model_are_refused_in_one_line(models: Find, tmp_path: Path) -> None:
    content = models("abpn-int8").read_bytes()
    (tmp_path / "text.tflite").write_text("no model")
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "half.tflite").write_bytes(content[: len(content) // 2])
    messages = {
        "none": "there is no such file", "text": "not a TensorFlow Lite model", "empty": "not a TensorFlow Lite model",
        "half": "a broken TensorFlow Lite model",
    }
    for name, message in messages.items():
        with pytest.raises(ModelError, match=message) as caught:
            Upscaler(tmp_path / f"{name}.tflite")
        assert f"{name}.tflite: " in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot be read"):
        Upscaler(tmp_path)


def test_other_graphs_run_untiled_or_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    path = tmp_path / "model.tflite"

    def write(compute: object, channels: int = 3) -> None:
        signature = tf.TensorSpec((1, None, None, channels), tf.float32)
        function = tf.function(compute, input_signature=[signature]).get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())

    def untiled(compute: object, lr: NDArray[np.uint8]) -> str:
        """The operator for which the graph runs untiled."""
        write(compute)
        upscaler = Upscaler(path)
        assert upscaler.halo is None
        np.testing.assert_array_equal(upscaler.upscale(lr, tile=7), plain(path, lr))
        with pytest.raises(InputError, match="needs the whole image at once") as caught:
            upscaler.upscale(np.zeros((1024, 1025, 3), np.uint8))
        return str(caught.value)

    def refusal(compute: object, channels: int = 3) -> str:
        write(compute, channels)
        with pytest.raises(ModelError) as caught:
            Upscaler(path)
        return str(caught.value)

    def convolve(x: tf.Tensor, filters: int, stride: int) -> tf.Tensor:
        return tf.nn.conv2d(x, np.ones((3, 3, 3, filters), np.float32), stride, "SAME")

    lr = picture(20, 24)
    assert "its MAX_POOL_2D needs" in untiled(lambda x: tf.nn.max_pool2d(x, 3, 1, "SAME"), lr)
    assert "its CONV_2D needs" in untiled(lambda x: tf.nn.depth_to_space(convolve(x, 12, 2), 2), lr)
    assert "does not follow the size" in refusal(lambda x: x - tf.reduce_mean(x, axis=(1, 2), keepdims=True))
    assert "not one RGB image" in refusal(lambda x: x * 2.0, channels=1)
    assert "not one RGB image" in refusal(lambda x: tf.concat([x, x], axis=-1))
    assert "does not follow the size" in refusal(lambda x: tf.concat([x, x], axis=1))


# Images ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upscaler(models: Find) -> Upscaler:
    return Upscaler(models("abpn-int8"))


def test_rgb_is_what_upscale_gives(upscaler: Upscaler) -> None:
    lr = picture(17, 23)
    hr = upscale_image(upscaler, Image.fromarray(lr), tile=8)
    assert hr.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(hr), upscaler.upscale(lr))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_stays_gray(upscaler: Upscaler, mode: str) -> None:
    lr = Image.fromarray(picture(17, 23)).convert(mode)
    hr = upscale_image(upscaler, lr)
    assert (hr.mode, hr.size) == ("L", (69, 51))
    expected = Image.fromarray(upscaler.upscale(np.asarray(lr.convert("RGB")))).convert("L")
    np.testing.assert_array_equal(np.asarray(hr), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_enlarged_bicubically(upscaler: Upscaler, mode: str) -> None:
    lr = Image.fromarray(picture(300, 23)).convert(mode)
    lr.putalpha(Image.fromarray(picture(300, 23, seed=1)[..., 0]))
    hr = upscale_image(upscaler, lr)
    assert (hr.mode, hr.size) == (mode, (69, 900))
    expected = degradation.bicubic_up(np.asarray(lr)[..., -1], 3)
    np.testing.assert_array_equal(np.asarray(hr)[..., -1], expected)
    colours = upscale_image(upscaler, lr.convert(mode[:-1]))
    np.testing.assert_array_equal(np.asarray(hr.convert(mode[:-1])), np.asarray(colours))


def test_sixteen_bit_gray_is_rounded_to_eight(upscaler: Upscaler, tmp_path: Path) -> None:
    gray = picture(9, 14)[..., 0]
    for offset in (-128, 0, 128):
        values = np.clip(gray.astype(np.int64) * 257 + offset, 0, 65535)
        path = tmp_path / "deep.png"
        Image.fromarray(values.astype(np.uint16)).save(path)
        deep = open_image(path)
        assert deep.mode.startswith("I")
        expected = upscale_image(upscaler, Image.fromarray(gray))
        np.testing.assert_array_equal(np.asarray(upscale_image(upscaler, deep)), np.asarray(expected))
    with pytest.raises(InputError, match="32-bit"):
        upscale_image(upscaler, Image.fromarray(np.full((2, 2), 70000, np.int32)))
    with pytest.raises(InputError, match="floating-point"):
        upscale_image(upscaler, Image.fromarray(np.zeros((2, 2), np.float32)))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG file put together by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def test_sixteen_bit_colour_is_read_at_eight(upscaler: Upscaler, tmp_path: Path) -> None:
    lr = picture(6, 5)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in lr)
    path = tmp_path / "deep.png"
    path.write_bytes(png(5, 6, 16, 2, rows))
    np.testing.assert_array_equal(np.asarray(upscale_image(upscaler, open_image(path))), upscaler.upscale(lr))


def test_sixteen_bit_colour_key_becomes_alpha(upscaler: Upscaler, tmp_path: Path) -> None:
    values = np.array([[0, 30000, 65535], [30000, 30001, 5]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path = tmp_path / "key.png"
    path.write_bytes(png(3, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 30000))))
    hr = upscale_image(upscaler, open_image(path))
    assert (hr.mode, hr.size) == ("LA", (9, 6))
    assert np.asarray(hr)[1, [1, 4, 7], 1].tolist() == [255, 0, 255]


def test_palette_with_and_without_transparency(upscaler: Upscaler, tmp_path: Path) -> None:
    lr = Image.fromarray(picture(16, 16)).quantize(16)
    hr = upscale_image(upscaler, lr)
    assert hr.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(hr), upscaler.upscale(np.asarray(lr.convert("RGB"))))
    for extension in ("gif", "png"):
        path = tmp_path / f"palette.{extension}"
        lr.save(path, transparency=3)
        clear = upscale_image(upscaler, open_image(path))
        assert clear.mode == "RGBA"
        assert np.asarray(clear)[..., 3].min() == 0
        assert np.asarray(clear)[..., 3].max() == 255


def test_cmyk_becomes_rgb(upscaler: Upscaler, tmp_path: Path) -> None:
    path = tmp_path / "press.jpg"
    Image.fromarray(picture(16, 16)).convert("CMYK").save(path)
    image = open_image(path)
    assert image.mode == "CMYK"
    hr = upscale_image(upscaler, image)
    np.testing.assert_array_equal(np.asarray(hr), upscaler.upscale(np.asarray(image.convert("RGB"))))
    with pytest.raises(InputError, match="mode La"):
        upscale_image(upscaler, Image.new("La", (2, 2)))


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_exif_orientation_is_applied_once(upscaler: Upscaler, tmp_path: Path, extension: str) -> None:
    lr = picture(10, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    path = tmp_path / f"turned.{extension}"
    Image.fromarray(lr).save(path, exif=exif, **({"lossless": True} if extension == "webp" else {}))
    hr = upscale_image(upscaler, open_image(path))
    np.testing.assert_array_equal(np.asarray(hr), upscaler.upscale(np.rot90(lr, -1)))
    save_image(hr, tmp_path / "out.png")
    assert open_image(tmp_path / "out.png").getexif().get(0x0112, 1) == 1


def test_one_pixel_of_every_mode(upscaler: Upscaler) -> None:
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"):
        assert upscale_image(upscaler, Image.new(mode, (1, 1))).size == (3, 3), mode


def test_too_large_a_result_is_refused_before_any_work(upscaler: Upscaler) -> None:
    with pytest.raises(InputError, match=r"enlarging 2000x2000 pixels 3 times needs 0\.2 GiB .* crop"):
        upscale_image(upscaler, Image.new("RGB", (2000, 2000)), memory=50_000_000)


def test_broken_and_hostile_images_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(picture(64, 64)).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:4000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    # Pillow would hand it to Ghostscript.
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    (tmp_path / "large.png").write_bytes(png(9460, 9460, 8, 2, b""))
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, 8, 2, b""))
    (tmp_path / "nothing.png").write_bytes(png(0, 5, 8, 2, b""))
    messages = {
        "half.png": "a broken image", "text.png": "not an image", "empty.png": "not an image",
        "eps.png": "not an image",
        "none.png": "no such file", "large.png": "more than 89478485 pixels", "bomb.png": "more than 89478485 pixels",
        "nothing.png": "nothing.png",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="a folder"):
        open_image(tmp_path)


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    image = Image.fromarray(picture(8, 8))
    for extension in FORMATS:
        path = tmp_path / f"image{extension}"
        save_image(image, path)
        assert open_image(path).size == (8, 8)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refusals = {
        "image.xyz": (image, "none of .png, .jpg"), "image": (image, "none of .png"),
        "image.jpg": (image.convert("RGBA"), "no transparency"),
        "image.webp": (Image.new("RGB", (17000, 1)), "write a .png"),
    }
    for name, (wrong, message) in refusals.items():
        with pytest.raises(InputError, match=message):
            save_image(wrong, tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OSError):
        save_image(image, tmp_path / "no" / "folder.png")


def test_a_colour_profile_stays_with_its_pixels(upscaler: Upscaler, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(picture(8, 8)).save(tmp_path / name, icc_profile=profile)
        save_image(upscale_image(upscaler, open_image(tmp_path / name)), tmp_path / f"hr-{name}")
        assert open_image(tmp_path / f"hr-{name}").info["icc_profile"] == profile


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_tiled_memory_does_not_grow_with_the_image(models: Find) -> None:
    script = (
        "import re, sys; from pathlib import Path; import numpy as np; from abpn_lib.tflite.upscaler import Upscaler\n"
        "upscaler = Upscaler(Path(sys.argv[1])); lr = np.full((int(sys.argv[2]), 3000, 3), 7, np.uint8)\n"
        "hr = upscaler.upscale(lr); print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )

    # VmHWM, not ru_maxrss, which a child inherits from the process that started it.
    def peak(height: int) -> int:
        command = [sys.executable, "-c", script, str(models("x2-uint8")), str(height)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024

    grown = peak(2000) - peak(500)
    images = (2000 - 500) * 3000 * 3 * (1 + 2**2)
    assert images - 2**24 < grown < images + 2**24
