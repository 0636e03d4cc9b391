"""Timing in interleaved rounds, and what can be said of two timings afterwards.

Candidates are timed in turn, A B C A B C, so that a machine that slows down slows all of them; each pair of
candidates is compared within its rounds. No sample is thrown away: the median and its order-statistic interval do
not need it. Wall time answers "how long"; CPU time compares more steadily where other programs run beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom

from abpn_lib.files import DeviceError
from abpn_lib.results import Column, Context, Record

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Timing:
    """One candidate's times in milliseconds, over all rounds.

    `low_ms` to `high_ms` covers the median wall time with at least 95 %, from six rounds on. `samples` are the wall
    times, `cpu_samples` the CPU times of the whole process (all threads), both in the order of the rounds.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    cpu_ms: float
    samples: tuple[float, ...]
    cpu_samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float], cpu_samples: Sequence[float]) -> Timing:
        """The timing of these samples (ms)."""
        return cls(*median_interval(samples), float(np.median(cpu_samples)), tuple(samples), tuple(cpu_samples))

    def record(self, context: Context, subject: str, where: Mapping[str, Column], model_sha256: str = "") -> Record:
        """The "latency" of `subject` (ms), with the columns `where`."""
        # Of fewer than six rounds, not even least to greatest covers the median with 95 %.
        few = len(self.samples) < 6
        spread_is = "least and greatest round" if few else "95 % interval of the median, by order statistics"
        return context.record(
            "latency", subject, self.median_ms, "ms", where, model_sha256=model_sha256, count=len(self.samples),
            spread=(self.low_ms, self.high_ms), spread_is=spread_is,
        )


def measure(candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, warmup: int = 2) -> dict[str, Timing]:
    """Time every candidate once a round, in the mapping's order, after `warmup` rounds that do not count."""
    if not candidates or rounds < 1 or warmup < 0:
        raise ValueError(f"{len(candidates)} candidates, {rounds} rounds, warm-up {warmup}: at least 1, 1 and 0")
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(warmup + rounds):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            samples[name].append(((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    return {name: Timing.of(*zip(*pairs[warmup:], strict=True)) for name, pairs in samples.items()}


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median and the two order statistics that hold the true one with at least 95 %, whatever the distribution.

    Fewer than six samples cannot enclose it so surely: then these are the least and the greatest.

    Reference: H. A. David and H. N. Nagaraja, "Order Statistics", 3rd edition, Wiley 2003, section 7.1.
    """
    ranked = np.sort(np.asarray(samples, np.float64))
    # As many samples may lie outside on each side as leave a binomial tail of 2.5 % at most.
    outside = max(int(binom.ppf(0.025, len(ranked), 0.5)) - 1, 0)
    return float(np.median(ranked)), float(ranked[outside]), float(ranked[-1 - outside])


def paired_ratio(a: Timing, b: Timing, *, clock: Clock = "wall") -> tuple[float, float, float]:
    """How many times as long `a` took as `b`: the median over rounds of a/b, and its 95 % interval (low, high).

    Both must come from one `measure`. On a busy machine the `clock` "cpu" tells more. Raises DeviceError if a sample
    of `b` is too short for the clock.
    """
    over, under = (timing.samples if clock == "wall" else timing.cpu_samples for timing in (a, b))
    if min(under) <= 0:
        raise DeviceError("a call was too short for the clock: let it do more work, such as a larger image")
    return median_interval([one / other for one, other in zip(over, under, strict=True)])


def subtract(whole: Timing, part: Timing) -> Timing:
    """What is left of `whole` without `part`, round by round; both must come from one `measure`."""
    both = zip(whole.samples, part.samples, strict=True), zip(whole.cpu_samples, part.cpu_samples, strict=True)
    return Timing.of(*([all_of_it - taken for all_of_it, taken in pairs] for pairs in both))
