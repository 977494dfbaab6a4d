"""Percentiles of latencies, and which of them a sample can carry.

`+inf` is a value like any other: what was never answered took longer than everything else, and a
percentile that falls among those was not reached. How sure a percentile is, `intervals` says.
"""

from __future__ import annotations

from functools import cache
from math import ceil, comb, isinf
from typing import Final

import numpy as np

from palio.bench.attempts import F64, Bools

SHOWN: Final = (50.0, 90.0, 99.0, 99.9)

# MLPerf's rule for how much must be seen before a percentile is spoken of: with MISSES answers
# beyond it, a sample this large would be a surprise (1 - CONFIDENCE) were the percentile worse.
MISSES: Final = 3
CONFIDENCE: Final = 0.99
FEWEST: Final = 100  # whatever the percentile: ten sections of ten (see `intervals`)


def percentile(latencies: F64, p: float) -> float:
    """The smallest latency that `p` percent of them do not exceed; +inf where it was not reached.

    It is always one of the values: interpolating between 80 ms and never would invent something.
    """
    if not 0 < p <= 100:
        raise ValueError(f"no such percentile: {p}")
    if not len(latencies):
        raise ValueError("no percentile of nothing")
    rank = ceil(round(p * len(latencies) / 100, 9)) - 1
    return float(np.partition(latencies, rank)[rank])


def supported(latencies: F64) -> tuple[float, ...]:
    """Which of 50, 90, 99 and 99.9 this sample, in the order of issue, can carry."""
    return tuple(p for p in SHOWN if supports(latencies, p))


def supports(latencies: F64, p: float) -> bool:
    """Whether this sample, in the order of issue, is worth enough for this percentile."""
    return len(latencies) >= needed(p) and effective_size(latencies, p) >= needed(p)


def shortfall(latencies: F64, p: float) -> str | None:
    """Why this sample cannot carry `p`, in figures; None if it can.

    One freeze makes all the slowest answers one event: they are seen, but not often enough to say
    how often. Whoever leaves the percentile out has to say this, and show the worst latency.
    """
    if not len(latencies) or supports(latencies, p):
        return None
    worth = effective_size(latencies, p)
    return (
        f"{len(latencies)} latencies are worth {worth:.0f} independent ones for p{p:g}, "
        f"{needed(p)} are needed"
    )


@cache
def needed(p: float) -> int:
    """How many independent latencies `p` asks for: the least n with P[Bin(n, 1-p) <= 3] <= 1 %."""
    low, high = 0, FEWEST
    while _few_misses(high, p) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _few_misses(middle, p) > 1 - CONFIDENCE else (low, middle)
    return max(high, FEWEST)


def effective_size(latencies: F64, p: float) -> float:
    """How many independent latencies this sample, in the order of issue, is worth for `p`.

    Slow answers come together, so it is less than there are. What counts is how the exceedances
    of the percentile cluster, not how latencies do. There are few of them, and a guess that
    happens to be too high would choose the samples it is wrong about; so the exceedances of a
    threshold ten times easier to exceed are asked as well, and the more clustered of the two wins.
    """
    easier = 100 - min(50.0, 10 * (100 - p))
    return len(latencies) / max(clustering(exceedances(latencies, at)) for at in {p, easier})


def exceedances(latencies: F64, p: float) -> Bools:
    """Which latencies are above the sample's own percentile; where it is +inf, which are +inf."""
    threshold = percentile(latencies, p)
    above: Bools = np.isinf(latencies) if isinf(threshold) else latencies > threshold
    return above


def clustering(events: Bools) -> float:
    """How many times the variance of a count of `events` exceeds that of independent ones.

    The sum of the autocorrelations, cut off where pairs of them stop being positive (Geyer's
    initial monotone sequence); never below 1.
    """
    n = len(events)
    if n < 4 or events.all() or not events.any():
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(events - events.mean(), size)
    covariances = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[: n // 2 * 2]
    pairs = (covariances / covariances[0]).reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    positive = np.minimum.accumulate(pairs[: ends[0]] if len(ends) else pairs)
    return max(1.0, 2 * float(positive.sum()) - 1)


def _few_misses(n: int, p: float) -> float:
    miss = 1 - p / 100
    return sum(comb(n, k) * miss**k * (1 - miss) ** (n - k) for k in range(MISSES + 1))
