from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abpn_lib import datasets, metrics
from abpn_lib.degradation import bicubic_down, bicubic_resize, bicubic_up, crop_to_multiple


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize(
    ("name", "rgb", "luma"),
    [("set5", 28.634, 30.40), ("set14", 25.873, 27.63)],
)
def test_bicubic_scores_on_the_benchmarks(data_folder: Path, name: str, rgb: float, luma: float) -> None:
    # Measured on these files; the literature's 30.39 and 27.54 dB (Y) come from slightly different ones.
    pairs = [(hr, bicubic_up(bicubic_down(hr, 3), 3)) for _, hr in datasets.images(name, data_folder)]
    assert np.mean([metrics.psnr(*pair, metrics.AUTHORS) for pair in pairs]) == pytest.approx(rgb, abs=0.0006)
    assert np.mean([metrics.psnr(*pair, metrics.Y_BORDER3) for pair in pairs]) == pytest.approx(luma, abs=0.006)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_constants_stay_constant_borders_included(scale: int, dtype: type) -> None:
    image = np.full((12, 24, 3), 77, dtype)
    for resized in (bicubic_down(image, scale), bicubic_up(image, scale)):
        assert resized.dtype == dtype
        np.testing.assert_allclose(resized, 77, rtol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_linear_ramps_stay_linear_away_from_borders(scale: int) -> None:
    ramp = np.add.outer(2.0 * np.arange(60), 3.0 * np.arange(72))
    inside = (slice(3, -3), slice(3, -3))
    # The centre of LR pixel i is at HR position s·i + (s - 1) / 2.
    rows, columns = (scale * np.arange(n // scale) + (scale - 1) / 2 for n in ramp.shape)
    np.testing.assert_allclose(bicubic_down(ramp, scale)[inside], np.add.outer(2 * rows, 3 * columns)[inside])
    rows, columns = ((np.arange(n * scale) + 0.5) / scale - 0.5 for n in ramp.shape)
    inside = (slice(3 * scale, -3 * scale),) * 2
    np.testing.assert_allclose(bicubic_up(ramp, scale)[inside], np.add.outer(2 * rows, 3 * columns)[inside])


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_sizes(scale: int) -> None:
    assert bicubic_down(noise(24, 36, 3), scale).shape == (24 // scale, 36 // scale, 3)
    assert bicubic_up(noise(5, 7), scale).shape == (5 * scale, 7 * scale)
    assert bicubic_resize(noise(10, 11, 3), Fraction(1, 3)).shape == (4, 4, 3)  # MATLAB rounds sides up


def test_scale_one_changes_nothing() -> None:
    image = (noise(9, 11, 3) * 255).astype(np.uint8)
    np.testing.assert_array_equal(bicubic_down(image, 1), image)
    np.testing.assert_array_equal(bicubic_up(image, 1), image)


@pytest.mark.parametrize("resize", [bicubic_down, bicubic_up])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mirroring_and_transposing_commute_with_resizing(resize: object, scale: int) -> None:
    assert callable(resize)
    image = noise(24, 36)
    resized = resize(image, scale)
    np.testing.assert_allclose(resize(image[::-1, ::-1], scale), resized[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(resize(image.T, scale), resized.T, atol=1e-12)


def test_channels_do_not_mix() -> None:
    image = noise(12, 15, 3)
    resized = bicubic_down(image, 3)
    for channel in range(3):
        np.testing.assert_allclose(resized[..., channel], bicubic_down(image[..., channel], 3), atol=1e-12)


@pytest.mark.parametrize("factor", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2), Fraction(3)])
def test_agrees_with_pillow_away_from_borders(factor: Fraction) -> None:
    image = (noise(72, 96, seed=1) * 255).astype(np.float32)
    ours = bicubic_resize(image, factor)
    pillow = Image.fromarray(image).resize((ours.shape[1], ours.shape[0]), Image.Resampling.BICUBIC)
    # The kernel reaches two LR pixels, two input pixels when enlarging.
    margin = 3 * max(1, int(factor))
    inside = (slice(margin, -margin),) * 2
    np.testing.assert_allclose(ours[inside], np.asarray(pillow)[inside], atol=2e-3)


def test_one_pixel_by_hand() -> None:
    # Down by 2, phase 1/2: Keys' kernel (a = -1/2) at distances 1/4, 3/4, 5/4, 7/4 in LR pixels, both sides.
    distances = np.array([7, 5, 3, 1, 1, 3, 5, 7]) / 4
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    weights = np.where(distances <= 1, near, far) / 2
    signal = noise(1, 16)
    tall = np.repeat(signal, 8, axis=0)  # constant along the other axis
    assert bicubic_down(tall, 2)[2, 3] == pytest.approx(float(weights @ signal[0, 3:11]))


def test_uint8_is_rounded_once_and_saturated() -> None:
    image = np.zeros((12, 12), np.uint8)
    image[4:8, 4:8] = 255
    exact = bicubic_up(image.astype(np.float64), 3)
    assert exact.min() < 0 < 255 < exact.max()  # the kernel overshoots at edges
    np.testing.assert_array_equal(bicubic_up(image, 3), np.clip(np.floor(exact + 0.5), 0, 255))


def test_floats_are_neither_rounded_nor_clipped() -> None:
    image = noise(12, 12) * 1000 - 500
    np.testing.assert_allclose(bicubic_down(image * 2, 3), 2 * bicubic_down(image, 3))
    assert bicubic_down(image.astype(np.float32), 3).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, bool])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="uint8 or floating"):
        bicubic_down(np.zeros((6, 6), dtype), 3)


def test_sizes_that_do_not_divide_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="7x6 pixels do not divide by 3: use crop_to_multiple"):
        bicubic_down(np.zeros((6, 7, 3), np.uint8), 3)


def test_crop_to_multiple_keeps_the_top_left() -> None:
    image = noise(11, 13, 3)
    np.testing.assert_array_equal(crop_to_multiple(image, 3), image[:9, :12])
    np.testing.assert_array_equal(crop_to_multiple(image, 1), image)
    with pytest.raises(ValueError, match="13x2 pixels cannot be cropped to a multiple of 3"):
        crop_to_multiple(image[:2], 3)
