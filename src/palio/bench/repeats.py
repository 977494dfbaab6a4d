"""Whether a server answers what it has seen before faster than what it has not.

MLPerf's TEST04 calls that caching when it is more than 10 %. A cache is not a fault, so it is no
verdict; but a benchmark that asks the same again measures the cache, and must say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from palio.bench.attempts import Attempts, Bools

FASTER: Final = 0.9
FEWEST: Final = 50  # of each kind


@dataclass(frozen=True, slots=True)
class Repeats:
    """Median service latencies of inputs asked for the first time and asked again."""

    first_ms: float
    again_ms: float

    @property
    def looks_cached(self) -> bool:
        """Whether repeats are faster by more than a tenth."""
        return self.again_ms < FASTER * self.first_ms


def repeats(attempts: Attempts) -> Repeats | None:
    """Compare both kinds over the time in which both occur; None where either is too rare.

    Pass every row, warm-up included: what was asked there has been seen. First askings crowd the
    beginning, so only rows up to the last of them count; a long warm-up of the server itself can
    still pass for a cache, and a workload without repeats hides one.
    """
    again = asked_before(attempts.input_id)
    last = len(again) - int(np.argmin(again[::-1])) if len(again) else 0
    good = attempts.is_good & (np.arange(len(again)) < last)
    service_ms = attempts.service_ms
    firsts, seconds = service_ms[good & ~again], service_ms[good & again]
    if min(len(firsts), len(seconds)) < FEWEST:
        return None
    return Repeats(float(np.median(firsts)), float(np.median(seconds)))


def asked_before(input_id: npt.NDArray[np.integer[Any]]) -> Bools:
    """Which rows carry an input that an earlier row carried."""
    before = np.ones(len(input_id), np.bool_)
    before[np.unique(input_id, return_index=True)[1]] = False
    return before
