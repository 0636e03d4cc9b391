from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from abpn_lib import datasets, degradation, measure, metrics, models
from abpn_lib.tflite.upscaler import Upscaler
from tools import windows

FOLDER = Path(datasets.__file__).with_name("crops")
METHODS = {
    "bicubic": measure.bicubic_upscaler(3),
    **{name: Upscaler(models.find(name)).upscale for name in (windows.OURS, windows.RIVALS[1])},
}


def test_the_shipped_windows_are_those_of_the_records_with_the_hashes_of_the_registry() -> None:
    hashes = {Path(entry.path).stem: entry.sha256 for entry in datasets.dataset("urban100").entries}
    rows = list(csv.DictReader((FOLDER / "crops.csv").read_text().splitlines()))
    assert list(datasets.crops()) == [row["image"] for row in rows] == windows.chosen()
    assert [row["sha256"] for row in rows] == [hashes[row["image"]] for row in rows]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000, "a quotation, not a data set"


def test_every_method_makes_a_shipped_window_from_the_pixels_around_it() -> None:
    for crop in datasets.crops().values():
        made = {name: upscale(crop.lr)[crop.cut] for name, upscale in METHODS.items()}
        assert {sr.shape for sr in made.values()} == {crop.hr.shape} == {(windows.HEIGHT, windows.WIDTH, 3)}
        psnr = {name: metrics.psnr(crop.hr, sr, metrics.Protocol("rgb", 0)) for name, sr in made.items()}
        assert psnr[windows.OURS] > psnr["bicubic"] > 10, crop.place


def test_the_worst_tile_is_where_bicubic_errs() -> None:
    hr = np.full((60, 90, 3), 100, np.uint8)
    hr[31:34, 62:64] = 255
    assert windows.worst_tile(hr, 30, 30) == (30, 60)


@pytest.mark.skipif(not datasets.available("urban100"), reason="Urban100 is not there: set ABPN_DATA")
def test_with_the_data_the_same_windows_are_cut_and_made_to_the_same_bits(tmp_path: Path) -> None:
    assert windows.main(["--out", str(tmp_path)]) == 0
    for name in ("crops.csv", *(f"{name}-{part}.webp" for name in datasets.crops() for part in ("hr", "lr"))):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    # One window in the middle, one in the image's corner.
    for name in ("img_091_SRF_4_HR", "img_043_SRF_4_HR"):
        crop, hr = datasets.crops()[name], dict(datasets.images("urban100"))[name]
        y, x = windows.worst_tile(hr)
        window = slice(y, y + windows.HEIGHT), slice(x, x + windows.WIDTH)
        assert np.array_equal(crop.hr, hr[window])
        for method, upscale in METHODS.items():
            whole = upscale(degradation.bicubic_down(hr, 3))
            assert np.array_equal(upscale(crop.lr)[crop.cut], whole[window]), method


def test_without_the_data_one_line_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path / "none"))
    assert windows.main(["--out", str(tmp_path / "out")]) == 2
    assert "abpn data fetch urban100" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
