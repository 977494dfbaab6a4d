"""How sure a percentile of one run is: a 95 % interval that knows slow answers come together.

The latencies are taken in the order of issue and cut into ten sections. How unequally the
exceedances of the percentile fall on the sections says how far their number could have been off;
that number, give or take, picks two latencies of the sample. Nothing is assumed about the shape of
the latencies, and `+inf` is a legal end: "from 80 ms to not reached".

It speaks of this run alone. Another run differs by more; see what-our-intervals-mean.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

from palio.bench.attempts import F64
from palio.bench.percentiles import exceedances, supports

SECTIONS: Final = 10
T_NINE: Final = 2.2621571628  # Student's t for 95 %, two-sided, with SECTIONS - 1 degrees


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`; `high` may be +inf."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def interval(latencies: F64, p: float) -> Interval | None:
    """The 95 % interval of a percentile of latencies in the order of issue.

    None where the sample does not support the percentile, or its ends lie outside the sample.
    """
    if not supports(latencies, p):
        return None
    n = len(latencies)
    beyond = n * (1 - p / 100)
    give = _give_or_take(exceedances(latencies, p).astype(np.float64))
    fewest, most = round(beyond - give), round(beyond + give)
    if fewest < 1 or most >= n:
        return None
    low, high = n - most - 1, n - fewest
    ordered = np.partition(latencies, (low, high))
    return Interval(float(ordered[low]), float(ordered[high]))


def _give_or_take(exceeding: F64) -> float:
    """How far, at 95 %, the number of exceedances may be from what it should be."""
    length = len(exceeding) // SECTIONS
    counts = exceeding[-length * SECTIONS :].reshape(SECTIONS, length).sum(axis=1)
    return T_NINE * sqrt(float(counts.var(ddof=1)) * len(exceeding) / length)
