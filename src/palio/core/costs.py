"""How long a batch takes, as a formula, and how its three numbers are learnt.

A batch of `rows` rows padded to `length` takes about

    base + rows · length · unit + rows · length² · square

nanoseconds: what every run costs, what every padded place costs, and what attention adds, which
grows with the square of the length. Models without a length axis have length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cost:
    """The three numbers of the formula, in nanoseconds."""

    base_ns: float
    unit_ns: float
    square_ns: float = 0.0

    def predict_ns(self, rows: int, length: int) -> float:
        """The expected time of one run."""
        return self.base_ns + rows * length * (self.unit_ns + self.square_ns * length)


# Before anything is measured: a run costs about as much as ten places.
UNKNOWN: Final = Cost(base_ns=1e6, unit_ns=1e5)

# A run may take this many times what was expected before it is counted as only that much: one
# stall of a shared machine must not rewrite the formula, a lasting change still does.
_SURPRISE: Final = 4.0
_SWEEPS: Final = 8
_SCALE: Final = (1e6, 1e4, 1e2)


class CostLearner:
    """Learns a `Cost` from runs as they happen, and follows the machine as it drifts.

    Least squares on the relative error with exponential forgetting, every coefficient kept
    non-negative by cyclic coordinate descent (Lawson and Hanson's problem, solved as in Franc,
    Hlaváč and Navara 2005, "Sequential coordinate-wise algorithm for non-negative least squares").
    """

    def __init__(self, start: Cost = UNKNOWN, *, forget: float = 0.98) -> None:
        """`forget` is the weight the past keeps after each run, between 0 and 1."""
        self._forget = forget
        self._seen = 0
        self._x = [
            start.base_ns / _SCALE[0],
            start.unit_ns / _SCALE[1],
            start.square_ns / _SCALE[2],
        ]
        self._s = [[0.0] * 3 for _ in range(3)]
        self._v = [0.0] * 3
        self.cost = start

    @property
    def runs_seen(self) -> int:
        """How many runs the formula rests on."""
        return self._seen

    def observe(self, rows: int, length: int, took_ns: int) -> None:
        """Take in one run that really happened."""
        took = float(max(1, took_ns))
        if self._seen >= 8:
            took = min(took, _SURPRISE * self.cost.predict_ns(rows, length))
        places = rows * length
        features = (
            _SCALE[0] / took,
            _SCALE[1] * places / took,
            _SCALE[2] * places * length / took,
        )
        for i, f in enumerate(features):
            self._v[i] = self._forget * self._v[i] + f
            row = self._s[i]
            for j, g in enumerate(features):
                row[j] = self._forget * row[j] + f * g
        self._seen += 1
        self._solve()

    def _solve(self) -> None:
        x, s, v = self._x, self._s, self._v
        # Runs of one size cannot tell the three numbers apart; leaning a hair towards the last
        # answer keeps the split between them from wandering.
        for _ in range(_SWEEPS):
            for i in range(3):
                lean = 1e-6 * s[i][i] + 1e-12
                rest = v[i] - sum(s[i][j] * x[j] for j in range(3) if j != i)
                x[i] = max(0.0, (rest + lean * x[i]) / (s[i][i] + lean))
        self.cost = Cost(x[0] * _SCALE[0], x[1] * _SCALE[1], x[2] * _SCALE[2])
