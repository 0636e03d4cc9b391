"""Cuts the windows that ship with the library, so that Figure 3 is shown where Urban100 is not at hand.

``python -m tools.windows`` writes them into ``abpn_lib/crops``: of the paper's two images, and of those where INT8 ABPN
gains most and least by the shipped records. Of each image it takes the tile where bicubic's squared error is greatest:
a rule that looks at none of the networks.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.util import view_as_blocks

from abpn_lib import cli, datasets, degradation, results
from abpn_lib.files import write_atomically

__all__ = ["chosen", "main", "worst_tile"]

PAPERS = ("img_004_SRF_4_HR", "img_091_SRF_4_HR")
OURS, RIVALS = "abpn-int8-qat", ("bicubic", "fsrcnn-int8-ptq")
HEIGHT, WIDTH = 120, 180
MARGIN = 12
"""LR pixels around a window: more than the receptive field's radius of any network here."""

_PROGRAM = "python -m tools.windows"


def chosen() -> list[str]:
    """The images that the page shows: the paper's, then where ABPN gains most and least against each of the others."""
    found = results.frame("psnr", image=results.ANY, dataset="urban100").dropna(subset="image")
    found["model"] = [record.subject for record in found.record]
    by_image = found.pivot(index="image", columns="model", values="value").astype(float)
    gains = [by_image[OURS] - by_image[rival] for rival in RIVALS]
    return list(dict.fromkeys([*PAPERS, *(name for gain in gains for name in (gain.idxmax(), gain.idxmin()))]))


def worst_tile(hr: NDArray[np.uint8], height: int = HEIGHT, width: int = WIDTH) -> tuple[int, int]:
    """Row and column of the tile of a (H, W, 3) image where bicubic's squared error is greatest."""
    error = np.square(hr.astype(float) - degradation.bicubic_up(degradation.bicubic_down(hr, 3), 3)).mean(axis=-1)
    rows, columns = (n // side * side for n, side in zip(error.shape, (height, width), strict=True))
    tiles = view_as_blocks(error[:rows, :columns].copy(), (height, width)).mean(axis=(2, 3))
    row, column = np.unravel_index(tiles.argmax(), tiles.shape)
    return int(row) * height, int(column) * width


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the windows; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Cut the windows of Urban100 that Figure 3 shows.")
    parser.add_argument("--out", type=Path, default=Path("abpn_lib/crops"), help="the folder to write to")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    datasets.require("urban100")
    names = chosen()
    hashes = {Path(entry.path).stem: entry.sha256 for entry in datasets.dataset("urban100").entries}
    images = {name: hr for name, hr in datasets.images("urban100") if name in names}
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        hr, (y, x) = images[name], worst_tile(images[name])
        window = slice(y, y + HEIGHT), slice(x, x + WIDTH)
        above, before = (max(n // 3 - MARGIN, 0) for n in (y, x))
        lr = degradation.bicubic_down(hr, 3)[above : (y + HEIGHT) // 3 + MARGIN, before : (x + WIDTH) // 3 + MARGIN]
        dark = hr // 3
        dark[window] = hr[window]
        rows.append([name, hashes[name], y, x, HEIGHT, WIDTH, y - 3 * above, x - 3 * before])
        whole = Image.fromarray(dark).resize((hr.shape[1] // 6, hr.shape[0] // 6), Image.Resampling.LANCZOS)
        _write(options.out / f"{name}-whole.webp", whole, quality=80)
        for part, pixels in (("hr", hr[window]), ("lr", lr)):
            _write(options.out / f"{name}-{part}.webp", Image.fromarray(pixels), lossless=True, quality=100)
    table = io.StringIO()
    head = ["image", "sha256", "y", "x", "height", "width", "top", "left"]
    csv.writer(table, lineterminator="\n").writerows([head, *rows])
    write_atomically(options.out / "crops.csv", table.getvalue().encode())
    print(f"{options.out}: {len(rows)} windows of Urban100")


def _write(path: Path, image: Image.Image, **options: bool | int) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=6, **options)
    write_atomically(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
