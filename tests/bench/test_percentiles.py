from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from palio.bench.percentiles import (
    clustering,
    effective_size,
    needed,
    percentile,
    shortfall,
    supported,
)

_LATENCIES = st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, inf]), min_size=1, max_size=40)


@given(_LATENCIES, st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_the_smallest_latency_that_enough_do_not_exceed(
    values: list[float], p: float
) -> None:
    latencies = np.array(values)
    found = percentile(latencies, p)
    assert found in values
    assert np.count_nonzero(latencies <= found) * 100 >= p * len(values) - 1e-6
    assert np.count_nonzero(latencies < found) * 100 < p * len(values)


def test_what_was_not_answered_is_beyond_what_was() -> None:
    latencies = np.array([*range(1, 99), inf, inf], np.float64)
    assert percentile(latencies, 98) == 98
    assert percentile(latencies, 99) == inf


@pytest.mark.parametrize("p", [0, -1, 101])
def test_no_such_percentile(p: float) -> None:
    with pytest.raises(ValueError, match="no such"):
        percentile(np.ones(3), p)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile(np.empty(0), 50)
    assert supported(np.empty(0)) == ()
    assert shortfall(np.empty(0), 50) is None


@pytest.mark.parametrize("p", [90.0, 95.0, 99.0, 99.9])
def test_how_many_are_needed_is_the_binomial_rule(p: float) -> None:
    def surprise(n: int) -> float:
        return float(stats.binom.cdf(3, n, 1 - p / 100))

    if needed(p) > 100:
        assert surprise(needed(p)) <= 0.01 < surprise(needed(p) - 1)
    else:
        assert surprise(100) <= 0.01


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (50, ()),
        (800, (50.0, 90.0)),
        (3_000, (50.0, 90.0, 99.0)),
        (30_000, (50.0, 90.0, 99.0, 99.9)),
    ],
)
def test_what_independent_latencies_can_carry(n: int, shown: tuple[float, ...]) -> None:
    assert supported(np.random.default_rng(5).lognormal(0, 1, n)) == shown


def test_latencies_that_come_in_clumps_carry_less() -> None:
    rng = np.random.default_rng(5)
    clumped = np.repeat(rng.lognormal(0, 1, 300), 10)
    assert supported(clumped) == (50.0, 90.0)
    assert effective_size(clumped, 90) == pytest.approx(300, rel=0.25)


def test_one_freeze_is_one_event_and_the_tool_says_so() -> None:
    latencies = np.random.default_rng(5).lognormal(0, 0.3, 4000)
    latencies[2000:2200] += np.linspace(1000, 0, 200)
    why = shortfall(latencies, 99)
    assert why is not None
    assert why.startswith("4000 latencies are worth ")
    assert why.endswith(" independent ones for p99, 1001 are needed")
    assert shortfall(latencies, 50) is None


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_clustering_is_how_much_more_a_count_varies(rho: float) -> None:
    # A two-state chain that stays with probability `rho` and else draws anew: its autocorrelation
    # at lag k is rho**k, so its variance inflation is (1 + rho) / (1 - rho).
    rng = np.random.default_rng(3)
    stays, drawn = rng.random(200_000) < rho, rng.random(200_000) < 0.1
    stays[0] = False
    last = np.maximum.accumulate(np.where(stays, 0, np.arange(len(stays))))
    assert clustering(drawn[last]) == pytest.approx((1 + rho) / (1 - rho), rel=0.15)


@pytest.mark.parametrize("events", [[], [True], [False] * 9, [True] * 9])
def test_what_never_varies_does_not_cluster(events: list[bool]) -> None:
    assert clustering(np.array(events, np.bool_)) == 1
