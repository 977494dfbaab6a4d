"""Where a run's steady state begins, or that it has none.

Windows are windows of issue: by time of completion the slow answers of one would be counted in the
next, and the last would hold only quick ones. A rule like "three windows within 10 %" picks lucky
plateaus and lets slow drift through, so there are two: MSER-5 finds the end of the warm-up, and
what follows must show no trend.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, sqrt
from typing import Final

import numpy as np

from palio.bench.attempts import F64, I64

WINDOWS: Final = 100
PER_BATCH: Final = 5  # MSER-5 looks at windows five at a time
FEWEST_PER_WINDOW: Final = 4
FEWEST_BATCHES: Final = 10
SURPRISE: Final = 2.81  # two-sided 0.5 % of a normal
DRIFT: Final = 0.10  # what nobody would call a trend, however surely it is one
JUDGED_BY_THIRDS: Final = 15  # fewer levels have thirds that lie apart by chance
WORTH: Final = 0.7  # of the squared error must be left at most, or nothing is cut off
_NOTHING: Final = 1e-15  # rounding, where all levels are the same
_OUTLIER: Final = 3 * 1.4826  # three standard deviations, in median absolute deviations


@dataclass(frozen=True, slots=True)
class Steadiness:
    """When it settled, None if it never did, and by how much latency drifted afterwards.

    `drift` is relative, from the beginning of what is steady to its end: 0.3 is 30 % slower. A run
    too short to tell counts as settled from the start, with `is_known` False.
    """

    begins_ns: int | None
    drift: float = 0.0
    is_known: bool = True


def steadiness(intended: I64, latency_ms: F64, from_ns: int, until_ns: int) -> Steadiness:
    """Look at the attempts intended between two moments."""
    levels, width_ns = _levels(intended, latency_ms, from_ns, until_ns)
    if len(levels) < FEWEST_BATCHES:
        return Steadiness(from_ns, is_known=False)
    settled = mser(levels)
    whole, rest = trend(levels), trend(levels[settled:])
    # A warm-up is a trend of the whole that ends. Half a run often cannot be sure of a drift that
    # the whole is sure of, so then the rest must be flat and not just undecided.
    if (whole.is_sure or rest.is_sure) and abs(rest.size) > DRIFT:
        return Steadiness(None, rest.size)
    return Steadiness(from_ns + round(settled * width_ns), rest.size)


def mser(levels: F64) -> int:
    """How many levels to leave out so that the mean of the rest is surest; at most half.

    A level far from all others is taken as no further than three standard deviations: one freeze
    in the middle of a run is not the end of a warm-up, and must not be cut off as one. Few levels
    can lie close together by luck, so over half is never left out, and nothing where little is
    gained; what has not settled by then is for `trend` to find.
    """
    middle = np.median(levels)
    spread = _OUTLIER * float(np.median(abs(levels - middle)))
    tame = np.clip(levels, middle - spread, middle + spread)
    n = len(tame)
    errors = [float(tame[d:].var()) / (n - d) for d in range(n // 2 + 1)]
    best = int(np.argmin(errors))
    return best if errors[0] > _NOTHING and errors[best] < WORTH * errors[0] else 0


@dataclass(frozen=True, slots=True)
class Trend:
    """A relative change from first to last, and whether it is more than chance."""

    size: float
    is_sure: bool


def trend(levels: F64) -> Trend:
    """Theil and Sen's slope of levels that are logarithms, and two tests by rank.

    Mann and Kendall's finds what creeps; what neighbours have in common is allowed for, or a
    queue's slow breathing would often pass for a trend. Whether the last third lies wholly beyond
    the first finds what jumped. No single level makes a trend in any of the three.
    """
    n = len(levels)
    earlier, later = np.triu_indices(n, 1)
    steps = levels[later] - levels[earlier]
    slope = float(np.median(steps / (later - earlier)))
    at = np.arange(n)
    rest = levels - np.polyval(np.polyfit(at, levels, 2), at)
    power = float(rest @ rest)
    kinship = float(rest[1:] @ rest[:-1]) / power if power else 0.0
    kinship = min(max(kinship, 0.0), 0.9)
    variance = n * (n - 1) * (2 * n + 5) / 18 * (1 + kinship) / (1 - kinship)
    score = float(np.sign(steps).sum())
    creeps = abs(score) > SURPRISE * sqrt(variance)
    first, last = levels[: n // 3], levels[-(n // 3) :]
    jumped = bool(first.max() < last.min() or last.max() < first.min())
    return Trend(expm1(slope * (n - 1)), creeps or (jumped and n >= JUDGED_BY_THIRDS))


def _levels(intended: I64, latency_ms: F64, from_ns: int, until_ns: int) -> tuple[F64, float]:
    """The mean log latency of each batch of five windows, and how long a batch is.

    Logarithms make drift a slope and keep a few very slow answers from being all one sees. What
    was never answered counts as the slowest that was.
    """
    inside = (intended >= from_ns) & (intended < until_ns)
    answered = np.isfinite(latency_ms) & (latency_ms > 0)
    if not (inside & answered).any():
        return np.empty(0), 0.0
    slowest = float(latency_ms[inside & answered].max())
    logs = np.log(np.clip(latency_ms[inside], 1e-6, slowest))
    windows = min(WINDOWS, len(logs) // FEWEST_PER_WINDOW // PER_BATCH * PER_BATCH)
    if not windows:
        return np.empty(0), 0.0
    place = (intended[inside] - from_ns) * windows // (until_ns - from_ns)
    counts = np.bincount(place, minlength=windows)
    sums = np.bincount(place, weights=logs, minlength=windows)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    batches = means.reshape(-1, PER_BATCH)
    batches = batches[~np.isnan(batches).all(axis=1)]
    levels: F64 = np.nanmean(batches, axis=1)
    return levels, (until_ns - from_ns) / windows * PER_BATCH
