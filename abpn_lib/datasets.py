"""Where images come from: the embedded ones, the benchmarks, the training images, DIV2K, the authors' models.

One registry (``registry.csv`` beside this module) names every file with its sha256 and its public home at a pinned
commit. Files live in one cache folder: the one `ABPN_DATA` names, else the user's cache. Nothing is downloaded unless
`fetch` is called, and no registered file is read whose hash is wrong. (DIV2K's archives are registered, not the images
in them: those come from a checked archive.)
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abpn_lib.degradation import bicubic_down, crop_to_multiple
from abpn_lib.files import DataError, sha256

__all__ = [
    "BENCHMARKS", "DATASETS", "EMBEDDED", "OFFICIAL", "SCORED", "Dataset", "Entry", "available", "data_root", "dataset",
    "fetch", "fingerprint", "images", "official_model", "read_image", "require", "spaced_lr_images", "verify",
]

Rgb = NDArray[np.uint8]

EMBEDDED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle", "hubble", "ihc", "retina")
"""scikit-image's own colour images, in its wheel: always there, no licence strings attached."""

BENCHMARKS = ("set5", "set14", "bsd100", "urban100")
"""The field's test sets, in the field's order: the one list of them."""

SCORED = ("embedded", *BENCHMARKS)
"""What networks are scored on: the embedded images, which are always there, then the benchmarks."""

OFFICIAL = {
    "authors-int8-ptq": "base7_D4C28_bs16ps64_lr1e-3", "authors-int8-qat": "base7_D4C28_bs16ps64_lr1e-3_qat",
    "authors-int8-ptq-time": "base7_D4C28_bs16ps64_lr1e-3_time",
    "authors-int8-qat-time": "base7_D4C28_bs16ps64_lr1e-3_qat_time",
}
"""The authors' published INT8 models; the two `-time` ones were calibrated on one crop, for timing only."""


@dataclass(frozen=True)
class Entry:
    """One file of the registry: where it lies below the data root, and where it comes from."""

    path: str
    sha256: str
    address: str
    # Camera JPEGs are halved before use: at full size they hold mostly sensor blur.
    halve: bool = False


@dataclass(frozen=True)
class Dataset:
    """A named list of files, with what a reader must know before using it."""

    name: str
    title: str
    licence: str
    entries: tuple[Entry, ...]
    # An archive holds these image names; they lie in a folder named as the archive.
    members: tuple[str, ...] = ()


# The sets that registry.csv lists, and their titles; of an archive it lists the archive, not the images in it.
_LISTED = {
    "set5": "Set5", "set14": "Set14", "bsd100": "BSD100", "urban100": "Urban100",
    "train": "BSDS500 train and test, and 19 CC0 photos", "train-more": "252 images of CID22, CLIC 2025 and gb82",
    "train-all": "train and train-more", "select": "46 images on which models are chosen: no test set has a say",
    "div2k-valid-36": "36 of DIV2K's 100 validation images", "authors": "the authors' four published .tflite files",
    "div2k-train": "DIV2K, archive DIV2K_train_HR", "div2k-valid": "DIV2K, archive DIV2K_valid_HR",
    "div2k-train-lr": "DIV2K, archive DIV2K_train_LR_bicubic_X3",
    "div2k-valid-lr": "DIV2K, archive DIV2K_valid_LR_bicubic_X3",
}
# Several listed sets under one name.
_UNIONS = {"train-all": ("train", "train-more")}
# The image numbers of an archive, and what follows the number in a file's name.
_MEMBERS = {
    "div2k-train": (range(1, 801), ""), "div2k-valid": (range(801, 901), ""),
    "div2k-train-lr": (range(1, 801), "x3"), "div2k-valid-lr": (range(801, 901), "x3"),
}

DATASETS = ("embedded", *_LISTED)
"""The names that `images`, `fetch`, `verify` and `available` take."""


@functools.cache
def _registry_rows() -> tuple[dict[str, str], ...]:
    text = (importlib.resources.files("abpn_lib") / "registry.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def dataset(name: str | Dataset) -> Dataset:
    """A data set by its name, one of `DATASETS`; a `Dataset` is returned as it is. Raises `DataError` if unknown."""
    if isinstance(name, Dataset):
        return name
    if name == "embedded":
        return Dataset("embedded", "scikit-image's colour images", "see skimage.data", ())
    if name not in _LISTED:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    rows = [row for row in _registry_rows() if row["dataset"] in _UNIONS.get(name, (name,))]
    if not rows:
        raise DataError(f"{name}: registry.csv has no file of this data set")
    entries = tuple(Entry(row["path"], row["sha256"], row["address"], row["halve"] == "yes") for row in rows)
    numbers, suffix = _MEMBERS.get(name, ((), ""))
    members = tuple(f"{number:04d}{suffix}.png" for number in numbers)
    return Dataset(name, _LISTED[name], rows[0]["licence"], entries, members)


def fingerprint(name: str | Dataset) -> str:
    """One sha256 over the paths and hashes of a data set's registered files: what a provenance keeps of its data.

    The embedded images have no registered files; there it is over their names and scikit-image's version.
    """
    found = dataset(name)
    lines = "".join(f"{entry.path} {entry.sha256}\n" for entry in found.entries)
    if found.name == "embedded":
        lines = f"{' '.join(EMBEDDED)} scikit-image {importlib.metadata.version('scikit-image')}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def data_root() -> Path:
    """The cache folder: `ABPN_DATA`, or ``abpn`` in the user's cache folder. It need not exist."""
    if named := os.environ.get("ABPN_DATA"):
        return Path(named)
    import pooch

    return Path(pooch.os_cache("abpn"))


def available(name: str | Dataset, root: Path | None = None) -> bool:
    """Whether every file of a data set lies below `root` (hashes are checked when a file is read)."""
    found, root = dataset(name), root or data_root()
    if found.members:
        return all((_member_folder(found, root) / member).is_file() for member in found.members)
    return all((root / entry.path).is_file() for entry in found.entries)


def require(name: str | Dataset) -> None:
    """Make sure that a data set is at hand. Raises `DataError` if a file is missing, or there is no such set."""
    if not available(name):
        raise DataError(
            f"{dataset(name).name} is not in {data_root()}: run `abpn data fetch {name}`, or name another data set"
        )


def fetch(name: str | Dataset, root: Path | None = None, *, progress: bool = True) -> list[Path]:
    """Download the missing files of a data set; present ones are verified, not fetched again.

    Each file is written beside its place and moved there only when whole and of the right hash; an archive is then
    unpacked the same way, and not needed again once its images are there. Returns the paths of the files looked at.
    `progress` draws bars on standard error.

    Raises `DataError` if a file cannot be downloaded, or its hash is wrong (both are named; a wrong file that was
    there before is left as it is), and `OSError` if the folder cannot be written to.
    """
    from tqdm import tqdm

    found, root = dataset(name), root or data_root()
    if found.members and available(found, root):
        return []
    paths, many = [], len(found.entries) > 1
    for entry in tqdm(found.entries, desc=found.name, unit="file", disable=not (progress and many)):
        path = root / entry.path
        if path.is_file():
            _read_checked(root, entry, found.name)
        else:
            _download(entry, path, progress=progress and not many)
        paths.append(path)
        if found.members:
            _unpack(path, _member_folder(found, root), found.members, progress=progress)
    return paths


def verify(name: str | Dataset, root: Path | None = None) -> int:
    """Check every file of a data set and return how many. Raises `DataError` at the first missing or wrong one."""
    found, root = dataset(name), root or data_root()
    if found.members and available(found, root) and not (root / found.entries[0].path).is_file():
        archive = found.entries[0].path
        raise DataError(f"{found.name}: the images are there but {archive} is not, so no hash can be checked")
    for entry in found.entries:
        _read_checked(root, entry, found.name)
    return len(found.entries)


def images(name: str | Dataset, root: Path | None = None, *, scale: int = 3) -> Iterator[tuple[str, Rgb]]:
    """Yield (image name, HR image) of a data set in its published order.

    HR images are (H, W, 3) uint8, cropped to a multiple of `scale`. Grayscale files are repeated to RGB.

    Raises `DataError` if the set is unknown or has no images, or a file is missing or wrong.
    """
    found, root = dataset(name), root or data_root()
    if found.name == "authors":
        raise DataError("'authors' holds models, not images")
    if found.name == "embedded":
        for key in EMBEDDED:
            yield key, crop_to_multiple(_embedded(key), scale)
    elif found.members:
        folder = _member_folder(found, root)
        for member in found.members:
            if not (folder / member).is_file():
                raise _missing(folder / member, found.name)
            yield Path(member).stem, crop_to_multiple(read_image(folder / member), scale)
    else:
        for entry in found.entries:
            hr = read_image(_read_checked(root, entry, found.name))
            hr = bicubic_down(crop_to_multiple(hr, 2), 2) if entry.halve else hr
            yield Path(entry.path).stem, crop_to_multiple(hr, scale)


def official_model(name: str, root: Path | None = None) -> Path:
    """The path of one of the authors' published models, by a name of `OFFICIAL` or its file name without ``.tflite``.

    Raises `DataError` if it is unknown, missing or wrong.
    """
    entries = {Path(entry.path).stem: entry for entry in dataset("authors").entries}
    stem = OFFICIAL.get(name, name)
    if stem not in entries:
        raise DataError(f"the authors published no model {name!r}; there are {', '.join([*OFFICIAL, *entries])}")
    return _read_checked(root or data_root(), entries[stem], "authors")


# Pillow knows more formats, some of which start other programs (Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


def read_image(path: Path) -> Rgb:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or GIF file to (H, W, 3) uint8. Raises `DataError` if it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports a damaged file as any of these.
        raise DataError(f"{path} is not an image that can be read ({error})") from error


def _embedded(key: str) -> Rgb:
    import skimage.data

    loaders = {
        "motorcycle": lambda: skimage.data.stereo_motorcycle()[0], "hubble": skimage.data.hubble_deep_field,
        "ihc": skimage.data.immunohistochemistry,
    }
    return np.asarray(loaders.get(key, lambda: getattr(skimage.data, key)())())[..., :3]


def _member_folder(found: Dataset, root: Path) -> Path:
    return (root / found.entries[0].path).with_suffix("")


def _missing(path: Path, name: str) -> DataError:
    return DataError(f"{path} is missing: run `abpn data fetch {name}`, or point ABPN_DATA at a folder that has it")


def _read_checked(root: Path, entry: Entry, name: str) -> Path:
    path = root / entry.path
    if not path.is_file():
        raise _missing(path, name)
    if (found := sha256(path)) != entry.sha256:
        raise DataError(f"{path} has sha256 {found}, but {entry.sha256} is expected: delete it and fetch it again")
    return path


def _download(entry: Entry, path: Path, *, progress: bool) -> None:
    import pooch

    if not entry.address:
        raise DataError(f"{entry.path} has no address to be fetched from: put it there yourself")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    download = pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16, timeout=60)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as scratch:
        part = Path(scratch) / path.name
        try:
            download(entry.address, str(part), None)
        except (OSError, ValueError) as error:  # every error of requests is one of these, or both
            why = f"{entry.address}: {error}".replace("\n", " ")
            raise DataError(f"{path.name} could not be fetched: check the network and try again ({why})") from error
        if (found := sha256(part)) != entry.sha256:
            raise DataError(
                f"{entry.address} gave a {path.name} of sha256 {found}, but {entry.sha256} is expected: it was not kept"
            )
        part.replace(path)


def _remove_stale(folder: Path) -> None:
    """Remove what killed downloads left: scratch folders in which nothing was written for an hour.

    Not by process number: the folder may be shared by machines.
    """
    for scratch in (*folder.glob(".fetch-*"), *folder.glob(".unpack-*")):
        with contextlib.suppress(OSError):  # another process may finish it at this moment
            last = max(path.stat().st_mtime for path in (scratch, *scratch.rglob("*")))
            if time.time() - last > 3600:
                shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, folder: Path, members: tuple[str, ...], *, progress: bool) -> None:
    from tqdm import tqdm

    _remove_stale(archive.parent)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpack-") as scratch:
        target = Path(scratch) / folder.name
        target.mkdir()
        with zipfile.ZipFile(archive) as zipped:
            by_name = {Path(item).name: item for item in zipped.namelist()}
            if missing := [member for member in members if member not in by_name]:
                raise DataError(f"{archive} does not hold {missing[0]}")
            for member in tqdm(members, desc=folder.name, unit="file", disable=not progress):
                (target / member).write_bytes(zipped.read(by_name[member]))
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def spaced_lr_images(name: str, count: int, scale: int) -> list[NDArray[np.uint8]]:
    """`count` LR images (H, W, 3) uint8, evenly spaced through a data set: what activations are measured on."""
    hr_images = [hr for _, hr in images(name, scale=scale)]
    picks = np.linspace(0, len(hr_images) - 1, min(count, len(hr_images))).round().astype(int)
    return [bicubic_down(hr_images[pick], scale) for pick in picks]
