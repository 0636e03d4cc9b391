"""Where in an image a printed PSNR and SSIM could come from: every window of many sizes, by integral images.

The paper prints both values of the crops in its Figure 3, and not where the crops lie. Over a window, the
squared error is a difference of four values of an integral image. So is SSIM: a pixel of a crop that lies a
filter's reach or more from the crop's edge has the same SSIM in the crop as in the whole image, and only
those pixels count. All windows of one size are then judged by two subtractions and one comparison each,
which is exact; nothing is sampled but the sizes.

``python -m tools.crops --out figure3-crops.json`` repeats the search for Figure 3. It reads
Urban100 and the authors' models.

References
----------
F. Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from abpn_lib import datasets, degradation, metrics, paper, results
from abpn_lib.tflite.upscaler import Upscaler

__all__ = [
    "BICUBICS", "MODELS", "READINGS", "Integrals", "Reading", "Target", "Window", "bicubic_pair", "figure3", "main",
    "scores", "search",
]

Rgb = NDArray[np.uint8]


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    y: int
    x: int
    height: int
    width: int

    @property
    def cut(self) -> tuple[slice, slice]:
        """The slices that cut it out of an image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} at x {self.x}, y {self.y}"


@dataclass(frozen=True)
class Target:
    """A PSNR in dB and an SSIM that are looked for; both may be off by their tolerance."""

    psnr: float
    ssim: float
    psnr_tolerance: float = 0.005
    ssim_tolerance: float = 0.00005


@dataclass(frozen=True)
class Reading:
    """How a printed pair may have been computed.

    `colour` is that of both values. `filter` is SSIM's: "gaussian" is 11x11 with sigma 1.5 (Wang et al.),
    "uniform" is 7x7 with sample covariance (scikit-image's default). `over` is what SSIM is the mean of: "crop"
    computes it on the crop, and leaves out the pixels where the filter would reach out; "map" cuts the
    window out of the whole image's SSIM map.
    """

    colour: Literal["rgb", "y"] = "rgb"
    filter: Literal["gaussian", "uniform"] = "gaussian"
    over: Literal["crop", "map"] = "crop"

    @property
    def reach(self) -> int:
        """Pixels at each edge of the window whose SSIM does not count."""
        return 0 if self.over == "map" else 5 if self.filter == "gaussian" else 3

    @property
    def name(self) -> str:
        """A short name for records, such as ``rgb gaussian crop``."""
        return f"{self.colour} {self.filter} {self.over}"


READINGS = tuple(
    Reading(colour, filter, over)
    for colour in ("rgb", "y") for filter in ("gaussian", "uniform") for over in ("crop", "map")
)
"""All readings; the first is `abpn_lib.metrics` without a border."""

BICUBICS = ("imresize", "imresize, OpenCV up", "OpenCV")
"""What "bicubic" may mean: MATLAB's imresize both ways; LR by imresize, enlarged by OpenCV; OpenCV both ways."""


class Integrals:
    """The squared error and the SSIM of an image pair, summed so that any window's mean takes four look-ups.

    Parameters
    ----------
    truth, estimate
        (H, W, 3) uint8 images of one shape.
    readings
        Which to prepare; all of one colour.

    Raises
    ------
    ValueError
        If shapes differ, the dtype is not uint8, a side is under 11 pixels, or the readings are of two colours or none.
    """

    def __init__(self, truth: Rgb, estimate: Rgb, readings: Sequence[Reading] = READINGS[:1]) -> None:
        if truth.shape != estimate.shape or truth.ndim != 3 or truth.shape[2] != 3:
            raise ValueError(f"two images of one (H, W, 3) shape are needed, not {truth.shape} and {estimate.shape}")
        if truth.dtype != np.uint8 or estimate.dtype != np.uint8:
            raise ValueError(f"uint8 images are needed, not {truth.dtype} and {estimate.dtype}")
        if min(truth.shape[:2]) < 11:
            raise ValueError(f"SSIM needs at least 11 pixels a side, not {truth.shape[1]}x{truth.shape[0]}")
        if len({reading.colour for reading in readings}) != 1:
            raise ValueError("readings of one colour are needed")
        a, b = (_planes(image, readings[0].colour) for image in (truth, estimate))
        self.shape: tuple[int, int] = a.shape[:2]
        self.error = np.square(a - b).mean(axis=-1)  # (H, W)
        self._error_sum = _integral(self.error)
        maps = {filter: _ssim_map(a, b, filter) for filter in {reading.filter for reading in readings}}
        self._ssim_sums = {filter: _integral(values) for filter, values in maps.items()}

    def scores(self, windows: NDArray[np.int64], reading: Reading) -> tuple[NDArray, NDArray]:
        """PSNR in dB and SSIM of (N, 4) windows, each y, x, height, width."""
        y, x, height, width = windows.T
        with np.errstate(divide="ignore"):
            psnr = 10 * np.log10(255**2 / np.maximum(_mean(self._error_sum, y, x, height, width), 0))
        n = reading.reach
        ssim = _mean(self._ssim_sums[reading.filter], y + n, x + n, height - 2 * n, width - 2 * n)
        return psnr, ssim


def scores(truth: Rgb, estimate: Rgb, window: Window, reading: Reading = READINGS[0]) -> tuple[float, float]:
    """PSNR in dB and SSIM of one window, computed on the crop itself wherever the reading allows it.

    Raises
    ------
    ValueError
        If the images are not a pair, the window is not inside them, or it is under 11 pixels a side.
    """
    if min(window) < 0 or window.y + window.height > truth.shape[0] or window.x + window.width > truth.shape[1]:
        raise ValueError(f"{window} is not inside {truth.shape[1]}x{truth.shape[0]} pixels")
    crops = truth[window.cut], estimate[window.cut]
    if reading.over == "map":
        psnr, ssim = Integrals(truth, estimate, [reading]).scores(np.array([window]), reading)
        return float(psnr[0]), float(ssim[0])
    protocol = metrics.Protocol(reading.colour, 0)
    if reading.filter == "gaussian":
        return metrics.psnr(*crops, protocol), metrics.ssim(*crops, protocol)
    a, b = (_planes(crop, reading.colour) for crop in crops)
    return metrics.psnr(*crops, protocol), float(structural_similarity(a, b, data_range=255, channel_axis=-1))


def search(
    pair: Integrals, target: Target, readings: Iterable[Reading], heights: Iterable[int], widths: Iterable[int]
) -> tuple[int, dict[Reading, NDArray[np.int64]]]:
    """How many windows of these sizes there are, and by reading those (N, 4) that meet the target, at every position.

    Raises
    ------
    ValueError
        If a size is under 12 pixels, or there is none.
    """
    rows, columns = pair.shape
    readings, heights, widths = list(readings), list(heights), list(widths)
    if min(min(sizes, default=0) for sizes in (heights, widths)) < 12:
        raise ValueError("windows of at least 12 pixels a side are needed")
    # Integers in 32 bits wrap around, and their differences with them: a window may pass that should
    # not, which the exact scores below tell, but none that should pass is lost.
    table = np.round(_integral(np.round(pair.error * _STEPS))).astype(np.int64).astype(np.uint32)
    least, most = (255**2 / 10 ** ((target.psnr + sign * target.psnr_tolerance) / 10) for sign in (1, -1))
    tried, hits = 0, {reading: [np.empty((0, 4), np.int64)] for reading in readings}
    for height in (n for n in heights if n <= rows):
        band = (table[height:] - table[:-height]).ravel()
        for width in (n for n in widths if n <= columns):
            tried += (rows - height + 1) * (columns - width + 1)
            # Rounding to steps moves a window's mean by half a step at most.
            low, high = (int(height * width * (mean * _STEPS + slack)) for mean, slack in ((least, -1), (most, 1)))
            sums = band[width:] - band[:-width]
            sums -= np.uint32(low % 2**32)
            found = np.flatnonzero(sums <= high - low)
            y, x = np.divmod(found, columns + 1)
            inside = x + width <= columns
            windows = np.stack([y[inside], x[inside], *(np.full(inside.sum(), n) for n in (height, width))], axis=1)
            for reading in readings:
                hits[reading].append(windows[_distance(*pair.scores(windows, reading), target) <= 1])
    return tried, {reading: np.concatenate(parts) for reading, parts in hits.items()}


_STEPS = 16  # of one squared grey level

MODELS = ("authors-int8-qat", "authors-int8-ptq")
"""The paper's own network, as its authors published it: what the paper's ABPN values are compared with."""

# Shift of the image's number, bicubic, scale, colour, and how many times coarser the sizes go. What the paper
# names comes first; then what if the image is counted otherwise, or its values belong to scale 4.
_PLAN = (
    (0, "imresize", 3, "rgb", 1),
    (0, "imresize", 3, "y", 2),
    *((0, bicubic, 3, colour, 2) for bicubic in BICUBICS[1:] for colour in ("rgb", "y")),
    *((shift, "imresize", 3, colour, 4) for shift in (-1, 1) for colour in ("rgb", "y")),
    *((0, "imresize", 4, colour, 2) for colour in ("rgb", "y")),
)


def figure3(
    context: results.Context, image: str, *, step: int = 3, told: Callable[[str], None] = lambda line: None
) -> list[results.Record]:
    """Search for the crop of Figure 3 that the paper calls `image`, "img004" or "img091".

    Heights and widths are free, 24 to 300 pixels by `step`; by 2 or 4 times that for less likely readings.
    `told` gets a line on each search. Of "crop-matches", the count is that of the windows looked at, and the
    subjects are "bicubic", whose printed pair must be met in every digit, and "authors-int8", where besides one of
    the authors' models (`MODELS`, raw output) comes within 0.05 dB and 0.005 of ABPN's. At x4, which these
    models do not do, there is bicubic alone. "crop-nearest-psnr" and "crop-nearest-ssim" are the nearest such
    model's values on the nearest of bicubic's windows, over all readings of the image.

    Raises
    ------
    KeyError
        If the paper shows no such image.
    DataError
        If Urban100 or the authors' models are not at hand.
    """
    printed, wanted = _targets(image)
    upscalers = {model: Upscaler(datasets.official_model(model), raw=True).upscale for model in MODELS}
    records: list[results.Record] = []
    nearest: tuple[float, list[results.Record]] = (math.inf, [])
    for shift, bicubic, scale, colour, coarser in _PLAN:
        name = f"img_{int(image[-3:]) + shift:03d}"
        readings = [reading for reading in READINGS if reading.colour == colour]
        hr = degradation.crop_to_multiple(_urban(name), scale)
        lr, enlarged = bicubic_pair(hr, bicubic, scale)
        sizes = range(24, 301, step * coarser)
        tried, hits = search(Integrals(hr, enlarged, readings), printed, readings, sizes, sizes)
        testable = scale == 3 and any(len(windows) for windows in hits.values())
        estimates = {m: Integrals(hr, up(lr), readings) for m, up in upscalers.items()} if testable else {}
        for reading, windows in hits.items():
            conditions: dict[str, str | int] = {
                "figure": image, "dataset": "urban100", "image": name, "scale": scale, "bicubic": bicubic,
                "reading": reading.name, "sizes": f"24 to 300 by {sizes.step}",
            }
            meets = np.zeros(len(windows), bool)
            for model, estimate in estimates.items():
                psnr, ssim = estimate.scores(windows, reading)
                far = _distance(psnr, ssim, wanted)
                meets |= far <= 1
                if shift == 0 and len(far) and far.min() < nearest[0]:
                    i = int(far.argmin())
                    window = str(Window(*map(int, windows[i])))
                    where: dict[str, str | int] = {**conditions, "model": model, "window": window}
                    values = (("psnr", psnr[i], "dB"), ("ssim", ssim[i], ""))
                    nearest = (float(far[i]), [
                        context.record(f"crop-nearest-{key}", "authors-int8", value, unit, where)
                        for key, value, unit in values
                    ])
            counts = {"bicubic": len(windows)} | ({"authors-int8": int(meets.sum())} if scale == 3 else {})
            for subject, number in counts.items():
                records.append(context.record(
                    "crop-matches", subject, number, "windows", conditions, count=tried
                ))
            told(f"{name} x{scale}, {bicubic}, {reading.name}: {counts} of {tried} windows")
    return records + nearest[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Search for both crops of Figure 3 and write the records: minutes of one core."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m tools.crops", description="Search for Figure 3's crops.")
    parser.add_argument("--out", type=Path, required=True, help="the file of records to write")
    parser.add_argument("--step", type=int, default=3, help="of the heights and widths, in pixels")
    options = parser.parse_args(words)
    context = results.Context.here(shlex.join(["python", "-m", "tools.crops", *words]))
    found = [
        record for image in ("img004", "img091")
        for record in figure3(context, image, step=options.step, told=lambda line: print(line, flush=True))
    ]
    results.save(options.out, found)
    return 0


def _targets(image: str) -> tuple[Target, Target]:
    """Bicubic's printed pair, to be met in every digit, and ABPN's, to be met roughly."""
    def pair(method: str) -> tuple[float, float]:
        psnr, ssim = (paper.quoted(f"F3.{image}.{method}.{key}").number for key in ("psnr", "ssim"))
        return psnr, ssim

    return Target(*pair("bicubic")), Target(*pair("abpn"), psnr_tolerance=0.05, ssim_tolerance=0.005)


def _distance(psnr: NDArray, ssim: NDArray, target: Target) -> NDArray[np.float64]:
    """How far values are from a target: at most 1 where both are within their tolerance."""
    return np.maximum(
        np.abs(psnr - target.psnr) / target.psnr_tolerance, np.abs(ssim - target.ssim) / target.ssim_tolerance
    )


def _urban(name: str) -> Rgb:
    entries = datasets.dataset("urban100").entries
    entry = next(entry for entry in entries if Path(entry.path).name.startswith(f"{name}_"))
    path = datasets.data_root() / entry.path
    if not path.is_file():
        raise datasets.DataError(f"{path} is missing: run `abpn data fetch urban100`, or set ABPN_DATA")
    return datasets.read_image(path)


def bicubic_pair(hr: Rgb, bicubic: str, scale: int = 3) -> tuple[Rgb, Rgb]:
    """The LR image and its bicubic enlargement, under one of `BICUBICS`.

    OpenCV takes Keys' kernel with a = -0.75 and does not antialias: by an odd scale it shrinks to the middle
    pixel of each block.

    Raises
    ------
    ValueError
        If `bicubic` is none of them, or OpenCV's LR is asked for at an even scale.
    """
    if bicubic not in BICUBICS:
        raise ValueError(f"{bicubic!r} is none of {BICUBICS}")
    if bicubic != "OpenCV":
        lr = degradation.bicubic_down(hr, scale)
        return lr, degradation.bicubic_up(lr, scale) if bicubic == "imresize" else _opencv_up(lr, scale)
    if scale % 2 == 0:
        raise ValueError("OpenCV's LR image is written out for odd scales alone")
    lr = np.ascontiguousarray(hr[scale // 2 :: scale, scale // 2 :: scale])
    return lr, _opencv_up(lr, scale)


def _opencv_up(lr: Rgb, scale: int) -> Rgb:
    values = lr.astype(np.float64)
    for axis in (0, 1):
        centre = (np.arange(lr.shape[axis] * scale) + 0.5) / scale - 0.5
        taps = np.floor(centre).astype(int)[:, None] + np.arange(-1, 3)  # (output length, 4)
        distance = np.abs(centre[:, None] - taps)
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights = np.where(distance <= 1, near, far)
        weights = weights.reshape(*weights.shape, *(1,) * (2 - axis))
        source = np.take(values, np.clip(taps, 0, lr.shape[axis] - 1), axis=axis)
        values = (source * weights).sum(axis=axis + 1)
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def _planes(image: Rgb, colour: str) -> NDArray[np.float64]:
    if colour == "y":
        return np.asarray(rgb2ycbcr(image))[..., :1]
    return image.astype(np.float64)


def _ssim_map(a: NDArray[np.float64], b: NDArray[np.float64], filter: str) -> NDArray[np.float64]:
    wang: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options = wang if filter == "gaussian" else {}
    return structural_similarity(a, b, data_range=255, channel_axis=-1, full=True, **options)[1].mean(axis=-1)


def _integral(values: NDArray[np.float64]) -> NDArray[np.float64]:
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return table


def _mean(table: NDArray[np.float64], y: NDArray, x: NDArray, height: NDArray, width: NDArray) -> NDArray[np.float64]:
    bottom, right = y + height, x + width
    return (table[bottom, right] - table[y, right] - table[bottom, x] + table[y, x]) / (height * width)


if __name__ == "__main__":
    sys.exit(main())
