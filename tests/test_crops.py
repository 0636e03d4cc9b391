from __future__ import annotations

import numpy as np
import pytest

from abpn_lib import datasets, degradation, results
from tools import crops
from tools.crops import READINGS, Integrals, Reading, Target, Window

each_reading = pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.name)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    hr = dict(datasets.images("embedded"))["astronaut"][:120, 180:300]
    return hr, degradation.bicubic_up(degradation.bicubic_down(hr, 3), 3)


def test_the_first_reading_is_that_of_the_metrics() -> None:
    assert READINGS[0] == Reading("rgb", "gaussian", "crop")
    assert len({reading.name for reading in READINGS}) == len(READINGS) == 8


@each_reading
def test_integral_images_give_the_values_of_the_crop_itself(pair, reading: Reading) -> None:
    windows = [Window(0, 0, 120, 120), Window(7, 30, 24, 51), Window(96, 0, 24, 24), Window(50, 61, 33, 12)]
    psnr, ssim = Integrals(*pair, [reading]).scores(np.array(windows), reading)
    for number, window in enumerate(windows):
        expected = crops.scores(*pair, window, reading)
        assert (psnr[number], ssim[number]) == pytest.approx(expected, abs=1e-9)


@each_reading
def test_a_planted_window_is_found(pair, reading: Reading) -> None:
    planted = Window(41, 17, 30, 45)
    psnr, ssim = crops.scores(*pair, planted, reading)
    # As a paper prints it.
    target = Target(round(psnr, 2), round(ssim, 4))
    readings = [other for other in READINGS if other.colour == reading.colour]
    tried, hits = crops.search(Integrals(*pair, readings), target, readings, range(24, 40, 3), [44, 45])
    assert tried == sum((120 - height + 1) * (120 - width + 1) for height in range(24, 40, 3) for width in (44, 45))
    found = [Window(*map(int, window)) for window in hits[reading]]
    assert planted in found
    for window in found:
        values = crops.scores(*pair, window, reading)
        assert values == (pytest.approx(target.psnr, abs=0.005001), pytest.approx(target.ssim, abs=0.0000501))


def test_none_is_lost(pair) -> None:
    """The search by wrapped integers against every window, scored one by one."""
    reading = READINGS[0]
    windows = np.array([(y, x, 40, 50) for y in range(81) for x in range(71)])
    psnr, ssim = Integrals(*pair).scores(windows, reading)
    target = Target(float(np.median(psnr)), float(np.median(ssim)), 0.5, 0.02)
    expected = windows[(np.abs(psnr - target.psnr) <= 0.5) & (np.abs(ssim - target.ssim) <= 0.02)]
    tried, hits = crops.search(Integrals(*pair), target, [reading], [40], [50])
    assert tried == len(windows)
    assert 0 < len(expected) < tried
    assert hits[reading].tolist() == expected.tolist()


def test_windows_larger_than_the_image_are_left_out(pair) -> None:
    assert crops.search(Integrals(*pair), Target(20, 0.5), READINGS[:1], [121], [24])[0] == 0


def test_equal_images_are_infinitely_good(pair) -> None:
    psnr, ssim = Integrals(pair[0], pair[0]).scores(np.array([(3, 4, 30, 30)]), READINGS[0])
    assert psnr[0] == np.inf
    assert ssim[0] == pytest.approx(1)


def test_a_window_says_where_it_is() -> None:
    window = Window(y=3, x=5, height=24, width=30)
    assert str(window) == "30x24 at x 5, y 3"
    assert np.zeros((100, 100))[window.cut].shape == (24, 30)


def test_bad_input_is_refused(pair) -> None:
    hr, sr = pair
    with pytest.raises(ValueError, match="one \\(H, W, 3\\) shape"):
        Integrals(hr, sr[:-3])
    with pytest.raises(ValueError, match="uint8"):
        Integrals(hr, sr.astype(float))
    with pytest.raises(ValueError, match="at least 11"):
        Integrals(hr[:9], sr[:9])
    with pytest.raises(ValueError, match="one colour"):
        Integrals(hr, sr, READINGS)
    with pytest.raises(ValueError, match="one colour"):
        Integrals(hr, sr, [])
    with pytest.raises(ValueError, match="at least 12"):
        crops.search(Integrals(hr, sr), Target(20, 0.5), READINGS[:1], [24], [8, 24])
    with pytest.raises(ValueError, match="at least 12"):
        crops.search(Integrals(hr, sr), Target(20, 0.5), READINGS[:1], [], [24])
    for window in (Window(0, 0, 121, 24), Window(-1, 0, 24, 24), Window(100, 100, 24, 24)):
        with pytest.raises(ValueError, match="not inside"):
            crops.scores(hr, sr, window)


def test_bicubic_as_imresize_and_as_opencv(pair) -> None:
    hr = pair[0]
    lr, up = crops.bicubic_pair(hr, "imresize")
    assert np.array_equal(lr, degradation.bicubic_down(hr, 3))
    assert np.array_equal(up, pair[1])
    mixed_lr, mixed = crops.bicubic_pair(hr, "imresize, OpenCV up")
    assert np.array_equal(mixed_lr, lr)
    # Keys' kernel with another slope: alike, but not the same. The middle of each block lies on an LR pixel.
    assert 0 < np.abs(mixed.astype(int) - up).max() < 60
    assert np.array_equal(mixed[1::3, 1::3], lr)
    sharp_lr, sharp = crops.bicubic_pair(hr, "OpenCV")
    assert np.array_equal(sharp_lr, hr[1::3, 1::3])
    assert np.array_equal(sharp[1::3, 1::3], sharp_lr)
    assert sharp.shape == hr.shape
    with pytest.raises(ValueError, match="nearest"):
        crops.bicubic_pair(hr, "nearest")
    with pytest.raises(ValueError, match="odd"):
        crops.bicubic_pair(hr, "OpenCV", 4)


def test_opencv_s_kernel_by_hand() -> None:
    # One bright LR pixel at 2; HR pixel 3 * 2 + 2 lies a third of a pixel after it, HR pixel 3 * 3 + 2 four thirds.
    lr = np.zeros((15, 15, 3), np.uint8)
    lr[:, 6:9] = 200
    row = crops.bicubic_pair(lr, "imresize, OpenCV up")[1][7, :, 0]
    value = degradation.bicubic_down(lr, 3)[2, :, 0].astype(float)

    def kernel(x: float) -> float:
        return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)

    expected = sum(value[2 + n] * kernel(abs(n - 1 / 3)) for n in (-1, 0, 1, 2))
    assert row[8] == round(min(max(expected, 0), 255))


def test_only_the_papers_images_can_be_searched_for() -> None:
    with pytest.raises(KeyError):
        crops.figure3(results.Context.here("test"), "img005")


def test_without_the_data_the_remedy_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    with pytest.raises(datasets.DataError, match="abpn data fetch"):
        crops.figure3(results.Context.here("test"), "img004")
    with pytest.raises(datasets.DataError, match="abpn data fetch urban100"):
        crops._urban("img_004")


at_hand = datasets.available("urban100") and datasets.available("authors")


@pytest.mark.slow
@pytest.mark.skipif(not at_hand, reason="Urban100 or the authors' models are not there: set ABPN_DATA")
def test_figure_3_is_searched_as_recorded(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(crops, "_PLAN", ((0, "imresize", 3, "rgb", 1), (0, "imresize", 4, "rgb", 1)))
    assert crops.main(["--out", str(tmp_path / "r.json"), "--step", "69"]) == 0
    rows = results.load(tmp_path / "r.json")
    matches = [row for row in rows if row.quantity == "crop-matches"]
    # Two images, four readings, at x3 with the authors' models.
    assert len(matches) == 2 * 4 * (2 + 1)
    assert len(capsys.readouterr().out.splitlines()) == 2 * 4 * 2
    for row in matches:
        assert row.count > row.value >= 0
        assert row.get("sizes") == "24 to 300 by 69"
        assert row.context.command.startswith("python -m tools.crops")


def test_the_recorded_nearest_crop_meets_bicubic_s_printed_pair() -> None:
    nearest = [record for record in results.recorded() if record.quantity == "crop-nearest-psnr"]
    assert {record.get("figure") for record in nearest} <= {"img004", "img091"}
    for record in nearest:
        assert results.find("crop-nearest-ssim", results.recorded(), figure=record.get("figure"))
