"""Where images come from: the embedded ones, the benchmarks, the training images, DIV2K, the authors' models.

One registry (``registry.csv`` beside this module) names every file with its sha256 and its public home at a pinned
commit. Files live in one cache folder: the one `ABPN_DATA` names, else the user's cache. Nothing is downloaded unless
`fetch` is called, and no registered file is read whose hash is wrong. (DIV2K's archives are registered, not the images
in them: those come from a checked archive.)
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.metadata
import importlib.resources
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abpn_lib.degradation import bicubic_down, crop_to_multiple
from abpn_lib.files import DataError, sha256, whole, write_atomically

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


DATASETS = (
    "embedded", *BENCHMARKS, "train", "train-more", "train-all", "train-photos", "select", "div2k-valid-36", "authors",
    "peers", "div2k-train", "div2k-valid", "div2k-train-lr", "div2k-valid-lr",
)
"""The names that `images`, `fetch`, `verify` and `available` take.

`train` is BSDS500's train and test and 19 CC0 photos, `train-more` 252 images of CID22, CLIC 2025 and gb82, `train-all`
both, and `train-photos` both without 37 graphics, more than 60 % of whose pixels equal the one on their right. `select`
are 46 images on which models are chosen, so that no test set has a say, `div2k-valid-36` 36 of DIV2K's validation set.
"""

# Several sets of registry.csv under one name.
_UNIONS = dict.fromkeys(("train-all", "train-photos"), ("train", "train-more"))
# The sets that are one archive there: the numbers of its images, and what follows the number in a file's name.
_ARCHIVES = {
    "div2k-train": (range(1, 801), ""), "div2k-valid": (range(801, 901), ""),
    "div2k-train-lr": (range(1, 801), "x3"), "div2k-valid-lr": (range(801, 901), "x3"),
}


@dataclass(frozen=True)
class Entry:
    """One file: where it lies below the data root; unless an archive holds it, its hash and where it comes from."""

    path: str
    sha256: str = ""
    address: str = ""
    # Camera JPEGs are halved before use: at full size they hold mostly sensor blur.
    halve: bool = False
    name: str = ""  # what follows a slash in the registry's name of its data set


@dataclass(frozen=True)
class Dataset:
    """A named list of files, and the archive that they are unpacked from, if there is one."""

    name: str
    entries: tuple[Entry, ...]
    archive: Entry | None = None

    @property
    def registered(self) -> tuple[Entry, ...]:
        """The files that are fetched, each with its hash."""
        return (self.archive,) if self.archive else self.entries


def dataset(name: str | Dataset) -> Dataset:
    """A data set by its name, one of `DATASETS`; a `Dataset` is returned as it is. Raises `DataError` if unknown."""
    if isinstance(name, Dataset):
        return name
    if name not in DATASETS:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    registry = (importlib.resources.files("abpn_lib") / "registry.csv").read_text(encoding="utf-8")
    entries = tuple(
        Entry(row["path"], row["sha256"], row["address"], row["halve"] == "yes", row["dataset"].partition("/")[2])
        for row in csv.DictReader(registry.splitlines())
        if row["dataset"].partition("/")[0] in _UNIONS.get(name, (name,))
        and not (name == "train-photos" and row["dataset"].endswith("/graphic"))
    )
    if name not in _ARCHIVES:
        return Dataset(name, entries)
    (archive,), (numbers, suffix) = entries, _ARCHIVES[name]
    folder = archive.path.removesuffix(".zip")
    return Dataset(name, tuple(Entry(f"{folder}/{number:04d}{suffix}.png") for number in numbers), archive)


def fingerprint(name: str | Dataset) -> str:
    """One sha256 over the paths and hashes of a data set's registered files: what a provenance keeps of its data.

    The embedded images have no registered files; there it is over their names and scikit-image's version.
    """
    found = dataset(name)
    lines = "".join(f"{entry.path} {entry.sha256}\n" for entry in found.registered)
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
    folder = root or data_root()
    return all((folder / entry.path).is_file() for entry in dataset(name).entries)


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
    if found.archive and available(found, root):
        return []
    many = len(found.registered) > 1
    for entry in tqdm(found.registered, desc=found.name, unit="file", disable=not (progress and many)):
        if (root / entry.path).is_file():
            _checked(root, entry, found.name)
        else:
            _download(entry, root / entry.path, progress=progress and not many)
    if found.archive:
        _unpack(found, root, progress=progress)
    return [root / entry.path for entry in found.registered]


def verify(name: str | Dataset, root: Path | None = None) -> int:
    """Check every file of a data set and return how many. Raises `DataError` at the first missing or wrong one."""
    found, root = dataset(name), root or data_root()
    if found.archive and available(found, root) and not (root / found.archive.path).is_file():
        archive = found.archive.path
        raise DataError(f"{found.name}: the images are there but {archive} is not, so no hash can be checked")
    for entry in found.registered:
        _checked(root, entry, found.name)
    return len(found.registered)


def images(name: str | Dataset, root: Path | None = None, *, scale: int = 3) -> Iterator[tuple[str, Rgb]]:
    """Yield (image name, HR image) of a data set in its published order.

    HR images are (H, W, 3) uint8, cropped to a multiple of `scale`. Grayscale files are repeated to RGB.

    Raises `DataError` if the set is unknown or has no images, or a file is missing or wrong.
    """
    found, root = dataset(name), root or data_root()
    if found.name in ("authors", "peers"):
        raise DataError(f"{found.name!r} holds models, not images")
    if found.name == "embedded":
        yield from ((key, crop_to_multiple(_embedded(key), scale)) for key in EMBEDDED)
    for entry in found.entries:
        hr = read_image(_checked(root, entry, found.name))
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
    return _checked(root or data_root(), entries[stem], "authors")


def peer_models(root: Path | None = None) -> dict[str, Path]:
    """The models that others published, by the names that they have in the registry. Raises as `official_model`."""
    return {entry.name: _checked(root or data_root(), entry, "peers") for entry in dataset("peers").entries}


READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
"""The formats that are read. Pillow knows more, some of which start other programs (Ghostscript)."""


def read_image(path: Path) -> Rgb:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or GIF file to (H, W, 3) uint8. Raises `DataError` if it cannot be read."""
    try:
        with Image.open(path, formats=READABLE) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports a damaged file as any of these.
        raise DataError(f"{path} is not an image that can be read ({error})") from error


@dataclass(frozen=True)
class Crop:
    """A window of a test image that is shipped, a quotation, so that Figure 3 is there without the data set.

    `hr` are its pixels; `lr` those that any x3 model needs to make them, of which `cut` keeps the window; `whole` is
    the image at a sixth of its size, dark but for the window. All are (H, W, 3) uint8. `place` is the window in words.
    """

    name: str
    place: str
    hr: Rgb
    lr: Rgb
    whole: Rgb
    cut: tuple[slice, slice]


def crops() -> dict[str, Crop]:
    """The shipped windows of Urban100 by their images' names, as ``python -m tools.windows`` cut them."""
    folder, found = Path(str(importlib.resources.files("abpn_lib") / "crops")), {}
    for row in csv.DictReader((folder / "crops.csv").read_text(encoding="utf-8").splitlines()):
        name, *places = row.values()
        y, x, height, width, top, left = map(int, places[1:])
        hr, lr, whole = (read_image(folder / f"{name}-{part}.webp") for part in ("hr", "lr", "whole"))
        cut = slice(top, top + height), slice(left, left + width)
        found[name] = Crop(name, f"{width}x{height} at x {x}, y {y}", hr, lr, whole, cut)
    return found


def spaced_lr_images(name: str, count: int, scale: int) -> list[NDArray[np.uint8]]:
    """`count` LR images (H, W, 3) uint8, evenly spaced through a data set: what activations are measured on."""
    hr_images = [hr for _, hr in images(name, scale=scale)]
    picks = np.linspace(0, len(hr_images) - 1, min(count, len(hr_images))).round().astype(int)
    return [bicubic_down(hr_images[pick], scale) for pick in picks]


def _embedded(key: str) -> Rgb:
    import skimage.data

    names = {"motorcycle": "stereo_motorcycle", "hubble": "hubble_deep_field", "ihc": "immunohistochemistry"}
    image = getattr(skimage.data, names.get(key, key))()
    # Of the stereo pair the left one.
    return np.asarray(image[0] if key == "motorcycle" else image)[..., :3]


def _checked(root: Path, entry: Entry, name: str) -> Path:
    """The path of a file that is there, with the hash that the registry has of it, if any."""
    path = root / entry.path
    if not path.is_file():
        raise DataError(f"{path} is missing: run `abpn data fetch {name}`, or point ABPN_DATA at a folder that has it")
    if entry.sha256 and (found := sha256(path)) != entry.sha256:
        raise DataError(f"{path} has sha256 {found}, but {entry.sha256} is expected: delete it and fetch it again")
    return path


def _download(entry: Entry, path: Path, *, progress: bool) -> None:
    import pooch

    if not entry.address:
        raise DataError(f"{entry.path} has no address to be fetched from: put it there yourself")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".abpn-*.tmp"):
        # Downloads that were killed leave these behind; one of the last hour may be another process's, at work.
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    download = pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16, timeout=60)
    with whole(path) as part:
        try:
            download(entry.address, str(part), None)
        except (OSError, ValueError) as error:  # every error of requests is one of these, or both
            why = f"{entry.address}: {error}".replace("\n", " ")
            raise DataError(f"{path.name} could not be fetched: check the network and try again ({why})") from error
        if (found := sha256(part)) != entry.sha256:
            raise DataError(
                f"{entry.address} gave a {path.name} of sha256 {found}, but {entry.sha256} is expected: it was not kept"
            )


def _unpack(found: Dataset, root: Path, *, progress: bool) -> None:
    """Bring the images of an archive, wherever in it they lie, to their places."""
    from tqdm import tqdm

    archive = root / found.registered[0].path
    with zipfile.ZipFile(archive) as zipped:
        by_name = {Path(item).name: item for item in zipped.namelist()}
        targets = [root / entry.path for entry in found.entries]
        if missing := [path.name for path in targets if path.name not in by_name]:
            raise DataError(f"{archive} does not hold {missing[0]}")
        for path in tqdm(targets, desc=found.name, unit="file", disable=not progress):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, zipped.read(by_name[path.name]))
