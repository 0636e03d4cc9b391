from __future__ import annotations

import math

import numpy as np
import pytest

from abpn_lib.metrics import AUTHORS, Y_BORDER3, Protocol, psnr, ssim


def rgb(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_protocols_are_the_papers_and_the_fields() -> None:
    assert (AUTHORS.colour, AUTHORS.border, AUTHORS.name) == ("rgb", 1, "rgb-border1")
    assert (Y_BORDER3.colour, Y_BORDER3.border, Y_BORDER3.name) == ("y", 3, "y-border3")


def test_psnr_by_hand() -> None:
    truth = np.full((6, 8, 3), 100, np.uint8)
    assert psnr(truth, truth + np.uint8(5)) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr(np.zeros_like(truth), np.full_like(truth, 255)) == pytest.approx(0.0)
    # One pixel of 4x6 off by 10 in one channel of three, after the crop: MSE = 100 / 72.
    estimate = truth.copy()
    estimate[2, 3, 1] += 10
    assert psnr(truth, estimate) == pytest.approx(10 * math.log10(255**2 * 72 / 100))


def test_the_squared_error_is_pooled_over_channels_not_averaged_in_db() -> None:
    truth = np.full((5, 5, 3), 50, np.uint8)
    estimate = truth + np.array([0, 0, 12], np.uint8)
    assert psnr(truth, estimate) == pytest.approx(10 * math.log10(255**2 / (144 / 3)))


def test_only_the_border_is_left_out() -> None:
    truth = rgb(12, 14)
    for protocol, border in ((AUTHORS, 1), (Y_BORDER3, 3)):
        estimate = truth.copy()
        estimate[:border] ^= 255
        estimate[-border:] ^= 255
        estimate[:, :border] ^= 255
        estimate[:, -border:] ^= 255
        assert psnr(truth, estimate, protocol) == math.inf
        estimate[border, border] ^= 255
        assert math.isfinite(psnr(truth, estimate, protocol))


def test_luma_by_hand() -> None:
    # BT.601, studio range: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.
    truth = np.zeros((9, 9, 3), np.uint8)
    estimate = truth + np.array([10, 20, 30], np.uint8)
    difference = (65.481 * 10 + 128.553 * 20 + 24.966 * 30) / 255
    assert psnr(truth, estimate, Y_BORDER3) == pytest.approx(20 * math.log10(255 / difference))


def test_equal_images_give_inf_and_one() -> None:
    image = rgb(20, 20)
    for protocol in (AUTHORS, Y_BORDER3):
        assert psnr(image, image.copy(), protocol) == math.inf
        assert ssim(image, image.copy(), protocol) == pytest.approx(1.0)


def test_metrics_are_symmetric() -> None:
    a, b = rgb(20, 24, 1), rgb(20, 24, 2)
    assert psnr(a, b) == psnr(b, a)
    assert ssim(a, b) == pytest.approx(ssim(b, a))


def direct_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s equation 13 in two dimensions, window by window."""
    offsets = np.arange(-5, 6)
    gaussian = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11].astype(float), b[y : y + 11, x : x + 11].astype(float)
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            likeness = (2 * mean_p * mean_q + c1) * (2 * covariance + c2)
            values.append(likeness / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    return float(np.mean(values))


def test_ssim_against_its_definition() -> None:
    truth = rgb(18, 21, 3)
    estimate = np.clip(truth + np.random.default_rng(4).normal(0, 30, truth.shape), 0, 255).astype(np.uint8)
    expected = np.mean([direct_ssim(truth[1:-1, 1:-1, c], estimate[1:-1, 1:-1, c]) for c in range(3)])
    assert ssim(truth, estimate) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("truth", "estimate", "message"),
    [
        (rgb(20, 20), rgb(20, 21), "one .* shape"),
        (rgb(20, 20)[..., 0], rgb(20, 20)[..., 0], "one .* shape"),
        (np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 4), np.uint8), "one .* shape"),
        (rgb(20, 20), rgb(20, 20).astype(np.float32), "uint8 images are needed, not uint8 and float32"),
        (rgb(2, 20), rgb(2, 20), "a border of 1 leaves nothing of 20x2"),
    ],
)
def test_bad_input_is_refused(metric: object, truth: np.ndarray, estimate: np.ndarray, message: str) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match=message):
        metric(truth, estimate)


def test_ssim_needs_a_window() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels a side after cropping, not 30x10"):
        ssim(rgb(12, 32), rgb(12, 32, 1))
    assert -1 <= ssim(rgb(13, 13), rgb(13, 13, 1)) <= 1
    assert ssim(rgb(11, 11), rgb(11, 11), Protocol("rgb", 0)) == pytest.approx(1.0)
