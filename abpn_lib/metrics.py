"""PSNR and SSIM under an explicit protocol.

SSIM is that of Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Trans. Image Processing 13(4), 2004; the Y channel is ITU-R BT.601's, as MATLAB's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([65.481, 128.553, 24.966]) / 255


@dataclass(frozen=True)
class Protocol:
    """What is compared: the colour space and how many border pixels are cropped first."""

    colour: Literal["rgb", "y"]
    border: int

    @property
    def name(self) -> str:
        """A short name for records, such as ``rgb-border1``."""
        return f"{self.colour}-border{self.border}"


AUTHORS = Protocol("rgb", 1)
"""The authors' evaluation: all three channels, one border pixel cropped."""

Y_BORDER3 = Protocol("y", 3)
"""What most papers report at x3: BT.601 luma, three border pixels cropped."""


def psnr(truth: NDArray[np.uint8], estimate: NDArray[np.uint8], protocol: Protocol = AUTHORS) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) uint8 images, peak 255.

    The squared error is averaged over all pixels and channels together. Equal images give inf. Raises `ValueError` if
    shapes differ or the border leaves nothing to compare.
    """
    from skimage.metrics import peak_signal_noise_ratio

    a, b = _prepared(truth, estimate, protocol)
    if np.array_equal(a, b):
        return float("inf")
    return float(peak_signal_noise_ratio(a, b, data_range=255))


def ssim(truth: NDArray[np.uint8], estimate: NDArray[np.uint8], protocol: Protocol = AUTHORS) -> float:
    """Structural similarity (mean over pixels and channels) of two (H, W, 3) uint8 images.

    An 11x11 Gaussian window with sigma 1.5 and population covariance, as in Wang et al. Raises `ValueError` as `psnr`,
    and if a side is under 11 pixels after the crop.
    """
    from skimage.metrics import structural_similarity

    a, b = _prepared(truth, estimate, protocol)
    if min(a.shape[:2]) < 11:
        raise ValueError(f"SSIM needs at least 11 pixels a side after cropping, not {a.shape[1]}x{a.shape[0]}")
    return float(structural_similarity(
        a, b, data_range=255, channel_axis=-1 if a.ndim == 3 else None, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    ))


def _prepared(truth: NDArray, estimate: NDArray, protocol: Protocol) -> tuple[NDArray, NDArray]:
    if truth.shape != estimate.shape or truth.ndim != 3 or truth.shape[2] != 3:
        raise ValueError(f"two images of one (H, W, 3) shape are needed, not {truth.shape} and {estimate.shape}")
    if truth.dtype != np.uint8 or estimate.dtype != np.uint8:
        raise ValueError(f"uint8 images are needed, not {truth.dtype} and {estimate.dtype}")
    n, (height, width) = protocol.border, truth.shape[:2]
    if min(height, width) <= 2 * n:
        raise ValueError(f"a border of {n} leaves nothing of {width}x{height} pixels")
    a, b = (image[n : height - n, n : width - n] for image in (truth, estimate))
    if protocol.colour == "y":
        return a @ _LUMA + 16, b @ _LUMA + 16
    return a.astype(np.float64), b.astype(np.float64)
