"""How much a server can take within a promise: latency made monotone in rate, and where it crosses.

A server is not faster under more load, so a point that says so is noise and is averaged with its
neighbours. The capacity is the highest rate that keeps the promise. Some servers get there
smoothly, and the crossing can be read off between two measured rates. Others fall off a cliff: the
last good rate is well within the promise and the next far beyond it. There, nothing in between
was seen, and the last good rate is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, log
from typing import Final

import numpy as np

from palio.bench.attempts import F64

FAR: Final = 10.0  # so many times the promise is as bad as never
CLIFF: Final = 2.0  # beyond the promise by this factor at the next rate: not a slope
FEWEST_REPEATS: Final = 3
DRAWS: Final = 2000


class Edge(StrEnum):
    """What the measured rates say about where the promise breaks."""

    CLIFF = "cliff"
    SMOOTH = "smooth"
    NOT_BRACKETED = "not bracketed"  # all rates keep the promise, or none does


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One rate and the latency of each of its trials; +inf where saturated or not reached."""

    rate_per_s: float
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate that keeps the promise, and how sure that is.

    Not bracketed from above, the capacity is at least `rate_per_s`; from below, that is 0.
    `low` and `high` are a 95 % interval over repeats, None with fewer than three of each rate.
    `high` is +inf where the repeats do not rule out that all rates would have kept the promise.
    """

    rate_per_s: float
    edge: Edge
    low: float | None = None
    high: float | None = None


def pava(values: F64, weights: F64) -> F64:
    """The non-decreasing sequence nearest to `values`, by weighted least squares."""
    means: list[float] = []
    loads: list[float] = []
    widths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, load, width = value, weight, 1
        while means and means[-1] >= mean:
            before, width = loads.pop(), width + widths.pop()
            mean = (means.pop() * before + mean * load) / (before + load)
            load += before
        means.append(mean)
        loads.append(load)
        widths.append(width)
    return np.repeat(means, widths)


def capacity(points: Sequence[RatePoint], slo_ms: float, *, seed: int = 0) -> Capacity:
    """The highest rate at which the latency is within `slo_ms`."""
    ordered = sorted(points, key=lambda point: point.rate_per_s)
    rates = [point.rate_per_s for point in ordered]
    if not rates or len(set(rates)) < len(rates) or not all(p.latencies_ms for p in ordered):
        raise ValueError("each rate needs to be there once, with a latency")
    margins = [_margins(point, slo_ms) for point in ordered]
    weights = np.array([float(len(each)) for each in margins])
    rate, edge = _crossing(rates, np.array([each.mean() for each in margins]), weights)
    if min(weights) < FEWEST_REPEATS:
        return Capacity(rate, edge)
    rng = np.random.default_rng(seed)
    again = np.column_stack([rng.choice(each, (DRAWS, len(each))).mean(axis=1) for each in margins])
    drawn = []
    for means in again:
        at, kind = _crossing(rates, means, weights)
        drawn.append(inf if kind is Edge.NOT_BRACKETED and at else at)
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    return Capacity(rate, edge, min(float(low), rates[-1]), float(high))


def _margins(point: RatePoint, slo_ms: float) -> F64:
    """How far beyond the promise, as logarithms: 0 is just kept."""
    times = [min(max(ms / slo_ms, 1 / FAR), FAR) for ms in point.latencies_ms]
    return np.array([log(each) for each in times])


def _crossing(rates: Sequence[float], margins: F64, weights: F64) -> tuple[float, Edge]:
    fitted = pava(margins, weights)
    keeps = int(np.count_nonzero(fitted <= 0))
    if not keeps:
        return 0.0, Edge.NOT_BRACKETED
    last = rates[keeps - 1]
    if keeps == len(rates):
        return last, Edge.NOT_BRACKETED
    if fitted[keeps] > log(CLIFF):
        return last, Edge.CLIFF
    inner, outer = float(fitted[keeps - 1]), float(fitted[keeps])
    share = -inner / (outer - inner)
    return last + share * (rates[keeps] - last), Edge.SMOOTH
