"""Image files of any kind through a super-resolution model: EXIF, colour profiles, 16 bits, palettes, transparency."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from abpn_lib.datasets import READABLE
from abpn_lib.degradation import bicubic_up
from abpn_lib.files import InputError, write_atomically
from abpn_lib.tflite.interpreter import first_line
from abpn_lib.tflite.upscaler import Upscaler, spans

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}
"""Extension -> Pillow's name of the format, for the files that `save_image` writes."""


def open_image(path: Path) -> Image.Image:
    """Read an image file whole (of an animation, its first frame).

    Raises `InputError` if there is no such file, it is not an image, it is broken, or it has more pixels than Pillow
    takes for safe (`Image.MAX_IMAGE_PIXELS`: 8K fits twice, a decompression bomb does not).
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not an image' if path.is_dir() else 'there is no such file'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=READABLE)
        with image:
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels; crop or shrink it") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not an image, or not in a format that is known") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise InputError(f"{path}: a broken image ({first_line(error)})") from error
    if 0 in image.size:
        raise InputError(f"{path}: has no pixels")
    return image


def pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Which file becomes which: one image, or all images of a folder, each a PNG kept apart by its name.

    Raises `InputError` if there is no image, two would become one file, one would be overwritten by its own
    enlargement, or the target cannot be written.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist: name an image or a folder of images")
    if source.is_dir():
        found = _of_folder(source, target)
    else:
        if target.is_dir():
            raise InputError(f"{target} is a folder: name the file to write, for example {target / source.name}")
        _format(target)
        if not target.parent.is_dir():
            raise InputError(f"{target}: its folder does not exist")
        found = [(source, target)]
    for image, written in found:
        if written.exists() and image.samefile(written):
            raise InputError(f"{image} would be overwritten by its own enlargement: name another output")
    return found


def _of_folder(source: Path, target: Path) -> list[tuple[Path, Path]]:
    if target.is_file() or (not target.exists() and target.suffix.lower() in FORMATS):
        raise InputError(f"{target} names a file, but {source} is a folder: name a folder to write to")
    suffixes = {*FORMATS, ".gif"}
    inputs = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes)
    if not inputs:
        raise InputError(f"{source} holds no image ({', '.join(sorted(suffixes))})")
    # PNG throughout: a JPEG of an enlarged JPEG would lose what was just won.
    outputs = [target / f"{path.stem}.png" for path in inputs]
    twice = next((path for path in outputs if outputs.count(path) > 1), None)
    if twice:
        raise InputError(f"several images of {source} would become {twice}: rename one")
    return list(zip(inputs, outputs, strict=True))


def _format(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the extension is none of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file whole or not at all, in the format of the path's extension (`FORMATS`).

    Raises `InputError` if the extension is not known or the format cannot hold the image, and `OSError` if the folder
    cannot be written to.
    """
    form = _format(path)
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
        raise InputError(f"{path}: {form} cannot hold this {size} image ({first_line(error)}); write a .png") from error
    write_atomically(path, content.getvalue())


def upscale_image(
    upscaler: Upscaler, image: Image.Image, *, tile: int | None = 256, memory: int | None = None
) -> Image.Image:
    """Enlarge a Pillow image of any mode, turned upright by its EXIF orientation.

    Grayscale (also 1-bit and 16-bit) goes through the network as RGB and comes back as its luma, mode
    L; an alpha channel, or a palette's or colour key's transparency, is enlarged bicubically (LA,
    RGBA); everything else becomes RGB. The network works at 8 bits: 16-bit values are rounded to
    them, and Pillow itself reads 16-bit colour at 8 bits. A colour profile stays with the pixels
    it describes.

    `tile` is that of `Upscaler.upscale`, `memory` the bytes that the result may take while it is made (the machine's
    physical memory if None).

    Raises `InputError` if the mode has no 8-bit reading (floating point, 32-bit integers) or the result is too large,
    and `ModelError` if LiteRT cannot run the model.
    """
    _check_memory(image.size, upscaler.scale, _physical_memory() if memory is None else memory)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data: the pixels are good all the same
        upright = image
    base, alpha = _eight_bits(upright)
    hr = Image.fromarray(upscaler.upscale(np.asarray(base.convert("RGB")), tile=tile))
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
        if image.has_transparency_data:
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
    for read, kept, cut in spans(alpha.shape[0], 128, 4, scale):
        hr[kept] = bicubic_up(alpha[read], scale)[cut]
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
