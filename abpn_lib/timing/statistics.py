"""An interval that assumes nothing of how timings are distributed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

__all__ = ["median_interval"]


def median_interval(samples: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and the two order statistics that hold the true one with at least 95 %, whatever the distribution.

    Fewer than six samples cannot enclose it so surely: then these are the least and the greatest.

    Reference
    ---------
    H. A. David and H. N. Nagaraja, "Order Statistics", 3rd edition, Wiley 2003, section 7.1.
    """
    ranked = np.sort(np.asarray(samples, np.float64))
    # As many samples may lie outside on each side as leave a binomial tail of 2.5 % at most.
    outside = max(int(binom.ppf(0.025, len(ranked), 0.5)) - 1, 0)
    return float(np.median(ranked)), float(ranked[outside]), float(ranked[-1 - outside])
