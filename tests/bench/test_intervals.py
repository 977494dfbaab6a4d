"""Intervals are tested by counting how often they hold what they claim to.

`python -m tests.bench.test_intervals` prints the table in docs/explanation.
"""

from __future__ import annotations

from math import exp, inf
from typing import NamedTuple

import numpy as np
import pytest
from scipy import signal, stats  # type: ignore[import-untyped]

from palio.bench.attempts import F64
from palio.bench.intervals import SECTIONS, T_NINE, Interval, interval
from palio.bench.percentiles import percentile

_SIGMA = 0.5  # of the log-normal margin
_RUNS = 1000
# Below this share of runs that print an interval, a cell says more about luck than about coverage.
_OFTEN = 0.1
_GRID = [
    *((0.0, n) for n in (1000, 1200, 1500, 2000, 3000, 5000, 10_000)),
    *((0.5, n) for n in (1500, 2000, 3000, 5000, 10_000)),
    *((0.7, n) for n in (2000, 3000, 5000, 10_000)),
    *((0.9, n) for n in (3000, 5000, 10_000, 15_000, 20_000)),
]


class Cell(NamedTuple):
    """Of so many runs, how many intervals were printed, and how many of those were right."""

    runs: int
    printed: int
    right: int

    @property
    def coverage(self) -> float:
        return self.right / self.printed


def latencies(rho: float, n: int, seed: int) -> F64:
    """An AR(1) of log-normal margin."""
    noise = np.random.default_rng(seed).standard_normal(n)
    noise[1:] *= np.sqrt(1 - rho**2)
    series: F64 = np.exp(_SIGMA * signal.lfilter([1], [1, -rho], noise))
    return series


def count(rho: float, n: int, p: float, runs: int) -> Cell:
    truth = exp(_SIGMA * float(stats.norm.ppf(p / 100)))
    # The same seeds in every cell would make one unlucky series many.
    first = round(rho * 10) * 10_000_000 + n * 1000
    found = [interval(latencies(rho, n, first + run), p) for run in range(runs)]
    printed = [each for each in found if each is not None]
    return Cell(runs, len(printed), sum(truth in each for each in printed))


@pytest.mark.slow
def test_p99_intervals_hold_what_they_claim_wherever_they_are_printed() -> None:
    cells = {(rho, n): count(rho, n, 99, _RUNS) for rho, n in _GRID}
    often = {at: cell for at, cell in cells.items() if cell.printed >= _OFTEN * cell.runs}
    for at, cell in often.items():
        assert 0.90 <= cell.coverage <= 0.98, (at, cell)
    # Nothing is hidden in the cells that seldom print: all that is printed at one rho is right
    # often enough too, and every rho prints at last.
    for rho in (0.0, 0.5, 0.7, 0.9):
        row = [cell for (of, _), cell in cells.items() if of == rho]
        everything = Cell(*np.sum(row, axis=0).tolist())
        assert 0.90 <= everything.coverage <= 0.98, (rho, everything)
        assert row[-1].printed == row[-1].runs


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("p", [50.0, 90.0])
def test_so_do_intervals_of_the_easier_percentiles(p: float, rho: float) -> None:
    cell = count(rho, 3000, p, _RUNS)
    assert cell.printed > 0.9 * cell.runs
    assert 0.90 <= cell.coverage <= 0.98, cell


def test_the_constant_is_students() -> None:
    assert pytest.approx(stats.t.ppf(0.975, SECTIONS - 1), rel=1e-9) == T_NINE


def test_the_percentile_is_in_its_interval() -> None:
    for seed in range(50):
        series = latencies(0.5, 3000, seed)
        found = interval(series, 99)
        assert found is not None
        assert percentile(series, 99) in found


def test_no_interval_without_the_support_for_it() -> None:
    assert interval(latencies(0, 3000, 1), 99.9) is None
    assert interval(latencies(0, 500, 1), 99) is None
    assert interval(latencies(0, 500, 1), 90) is not None


def test_an_interval_may_reach_to_never() -> None:
    series = latencies(0, 5000, 1)
    series[np.random.default_rng(2).random(5000) < 0.009] = inf
    found = interval(series, 99)
    assert found is not None
    assert 0 < found.low < inf
    assert found.high == inf


def test_all_never_is_never() -> None:
    assert interval(np.full(2000, inf), 99) == Interval(inf, inf)


def test_all_alike_is_sure() -> None:
    assert interval(np.full(2000, 3.0), 99) == Interval(3, 3)


def test_it_goes_by_ranks_so_units_do_not_matter() -> None:
    series = latencies(0.5, 3000, 4)
    plain, bent = interval(series, 99), interval(series**3, 99)
    assert plain is not None
    assert bent is not None
    assert (bent.low, bent.high) == pytest.approx((plain.low**3, plain.high**3))


def table() -> str:
    """Markdown: coverage of the p99 intervals, and how often one was printed."""
    lines = ["| rho | requests | printed | right |", "|---|---|---|---|"]
    for rho, n in _GRID:
        cell = count(rho, n, 99, _RUNS)
        right = f"{cell.coverage:.1%}" if cell.printed else "none printed"
        lines.append(f"| {rho:g} | {n:,} | {cell.printed / cell.runs:.1%} | {right} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(table() + "\n")
