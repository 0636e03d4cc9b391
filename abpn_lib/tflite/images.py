"""Image files of any kind through a super-resolution model: EXIF, colour profiles, 16 bits, palettes, transparency."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from abpn_lib.datasets import READABLE
from abpn_lib.degradation import bicubic_up
from abpn_lib.files import InputError, ModelError, whole
from abpn_lib.tflite.abreast import Budget, in_order
from abpn_lib.tflite.interpreter import first_line
from abpn_lib.tflite.upscaler import TILE, Upscaler, spans

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
    ".gif": "GIF",
}
"""Extension -> Pillow's name of the format, for the files that `save_image` writes."""

_ANIMATED = ("GIF", "PNG", "WEBP")


def open_image(path: Path) -> Image.Image:
    """Read an image file whole (of an animation, its first frame; `ImageSequence` has the others).

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


def is_film(source: Path, target: Path) -> bool:
    """Whether a film is asked for: a file that is to become neither an image nor an animation."""
    known = target.suffix.lower() in FORMATS
    return not known and target.suffix != "" and not source.is_dir() and not target.is_dir()


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
    inputs = sorted(path for path in source.iterdir() if path.suffix.lower() in FORMATS)
    if not inputs:
        raise InputError(f"{source} holds no image ({', '.join(sorted(FORMATS))})")
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


def upscale_files(
    upscaler: Upscaler, files: Sequence[tuple[Path, Path]], *, threads: int = 1, tile: int | None = TILE,
) -> Iterator[str]:
    """Enlarge files (from, to), `threads` at once, animations as such: for each what went wrong, or "" if nothing.

    The upscaler works with one thread for each file. Large images are done fewer at once, so that they share half of
    the memory.
    """
    budget = Budget(_physical_memory() // 2)

    def enlarge(pair: tuple[Path, Path]) -> str:
        source, target = pair
        try:
            with Image.open(source, formats=READABLE) as header:
                needed = _needed(header.size, upscaler.scale)
        except Exception:  # `open_image` says what is wrong with it
            needed = 0
        try:
            with budget.take(needed):
                upscale_file(upscaler, source, target, tile=tile)
        except (InputError, ModelError, OSError) as error:
            return str(error) if str(source) in str(error) else f"{source}: {error}"
        return ""

    return in_order(enlarge, files, threads)


def upscale_file(
    upscaler: Upscaler, source: Path, target: Path, *, threads: int = 1, tile: int | None = TILE
) -> None:
    """Enlarge an image file, or all frames of an animation if `target` can hold them, `threads` at once.

    Raises as `open_image`, `upscale_image` and `save_image`.
    """
    if _format(target) in _ANIMATED and _is_animation(source):
        _upscale_animation(upscaler, source, target, threads, tile)
    else:
        # No name holds the image: a large one is let go before its result is made.
        save_image(upscale_image(upscaler, open_image(source), tile=tile), target)


def _is_animation(path: Path) -> bool:
    with suppress(Exception), Image.open(path, formats=READABLE) as image:  # `open_image` says what is wrong with it
        return image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1
    return False


def _upscale_animation(upscaler: Upscaler, source: Path, target: Path, threads: int, tile: int | None) -> None:
    first, form = open_image(source), _format(target)
    durations: list[int] = []

    def read() -> Iterator[Image.Image]:
        try:
            with Image.open(source, formats=READABLE) as image:
                # Pillow takes all frames before it writes the first.
                all_at_once = (image.width * getattr(image, "n_frames", 1), image.height)
                _check_memory(all_at_once, upscaler.scale, _physical_memory())
                for frame in ImageSequence.Iterator(image):
                    yield frame.convert("RGBA" if frame.has_transparency_data else "RGB")
                    durations.append(frame.info.get("duration", 100))
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise almost anything on a broken file
            raise InputError(f"{source}: a broken animation ({first_line(error)})") from error

    made = list(in_order(lambda frame: upscale_image(upscaler, frame, tile=tile), read(), threads))
    options: dict[str, Any] = {"duration": durations}
    if "loop" in first.info or form != "GIF":
        options["loop"] = first.info.get("loop", 1)
    if form == "GIF":
        options["disposal"] = 2  # what is transparent in a frame shows nothing of the one before
    save_image(made[0], target, save_all=True, append_images=made[1:], **options)


def save_image(image: Image.Image, path: Path, **animation: Any) -> None:
    """Write an image file whole or not at all, in the format of the path's extension (`FORMATS`).

    `animation` are Pillow's options for further frames.

    Raises `InputError` if the extension is not known or the format cannot hold the image, and `OSError` if the folder
    cannot be written to.
    """
    form = _format(path)
    if form == "JPEG" and image.mode in ("RGBA", "LA"):
        raise InputError(f"{path}: JPEG has no transparency; write a .png")
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile"), **animation}
    if form in ("JPEG", "WEBP"):
        options["quality"] = 95
    if form == "PNG":
        # A third of the default's time for a tenth more bytes: writing must not take longer than enlarging.
        options["compress_level"] = 3
    # To the disk and not through memory, where a large one would lie a second time.
    with whole(path) as scratch:
        try:
            image.save(scratch, form, **options)
        except (OSError, ValueError, struct.error) as error:
            if getattr(error, "errno", None):
                raise
            why = f"{form} cannot hold this {image.width}x{image.height} image ({first_line(error)})"
            raise InputError(f"{path}: {why}; write a .png") from error


def upscale_image(
    upscaler: Upscaler, image: Image.Image, *, tile: int | None = TILE, memory: int | None = None
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
    lr, profile = np.asarray(base.convert("RGB")), image.info.get("icc_profile")
    described = profile is not None and image.mode not in ("CMYK", "LAB", "YCbCr", "HSV")
    mode = base.mode
    del image, upright, base  # of a large one each takes what a tenth of the result does
    hr = Image.new(mode, (lr.shape[1] * upscaler.scale, lr.shape[0] * upscaler.scale))
    for row, column, pixels in upscaler.tiles(lr, tile=tile):
        # Pillow's pixels have four bytes: an array of the whole result beside them would take as much again.
        hr.paste(Image.fromarray(pixels).convert(mode), (column.start, row.start))
    if alpha is not None:
        hr.putalpha(_enlarge_alpha(np.asarray(alpha), upscaler.scale))
    if described:
        hr.info["icc_profile"] = profile
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


def _enlarge_alpha(alpha: NDArray[np.uint8], scale: int) -> Image.Image:
    """Bicubic enlargement of an (H, W) image in bands, since it is computed at 64 bits."""
    hr = Image.new("L", (alpha.shape[1] * scale, alpha.shape[0] * scale))
    for read, kept, cut in spans(alpha.shape[0], 128, 4, scale):
        hr.paste(Image.fromarray(bicubic_up(alpha[read], scale)[cut]), (0, kept.start))
    return hr


def _check_memory(size: tuple[int, int], scale: int, memory: int) -> None:
    needed = _needed(size, scale)
    if needed > memory:
        raise InputError(
            f"enlarging {size[0]}x{size[1]} pixels {scale} times needs {needed / 2**30:.1f} GiB of memory, "
            f"and there are {memory / 2**30:.1f}: crop the image"
        )


def _needed(size: tuple[int, int], scale: int) -> int:
    """Bytes: for each LR pixel Pillow's and an array, for each HR pixel Pillow's four and one of alpha."""
    return size[0] * size[1] * (8 + 5 * scale**2)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63  # not told on this system: let the allocation itself decide
