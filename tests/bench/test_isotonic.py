from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from palio.bench.isotonic import Capacity, Edge, RatePoint, capacity, pava

_VALUES = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), st.sampled_from([1.0, 2.0, 3.0])),
    min_size=1,
    max_size=12,
)


def points(*rows: tuple[float, list[float]]) -> list[RatePoint]:
    return [RatePoint(rate, tuple(latencies)) for rate, latencies in rows]


@given(_VALUES)
def test_pava_is_isotonic_regression(rows: list[tuple[float, float]]) -> None:
    values, weights = np.array(rows).T
    expected = isotonic_regression(values, weights=weights).x
    np.testing.assert_allclose(pava(values, weights), expected, atol=1e-12)


def test_a_smooth_crossing_is_read_between_two_rates() -> None:
    found = capacity(points((100, [10.0]), (200, [40.0]), (300, [62.5])), 50)
    # In logarithms 50 lies half-way between 40 and 62.5.
    assert found.edge is Edge.SMOOTH
    assert found.rate_per_s == pytest.approx(250)
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("beyond", [500.0, inf])
def test_beyond_a_cliff_nothing_is_made_up(beyond: float) -> None:
    found = capacity(points((100, [10.0]), (200, [12.0]), (300, [beyond])), 50)
    assert found == Capacity(200, Edge.CLIFF)


def test_all_rates_keep_the_promise() -> None:
    found = capacity(points((100, [10.0] * 3), (200, [12.0] * 3)), 50)
    assert found == Capacity(200, Edge.NOT_BRACKETED, 200, inf)


def test_no_rate_keeps_the_promise() -> None:
    found = capacity(points((100, [80.0] * 3), (200, [inf] * 3)), 50)
    assert found == Capacity(0, Edge.NOT_BRACKETED, 0, 0)


def test_just_within_is_within() -> None:
    assert capacity(points((100, [50.0]), (200, [500.0])), 50) == Capacity(100, Edge.CLIFF)


def test_the_order_of_the_points_does_not_matter() -> None:
    rows = points((300, [62.5]), (100, [10.0]), (200, [40.0]))
    assert capacity(rows, 50) == capacity(rows[::-1], 50)


def test_one_unlucky_point_between_good_ones_is_noise() -> None:
    rows = points((100, [10.0]), (200, [55.0]), (300, [15.0]), (400, [500.0]))
    assert capacity(rows, 50) == Capacity(300, Edge.CLIFF)


@pytest.mark.parametrize("rows", [[], points((1, [])), points((1, [1.0]), (1, [2.0]))])
def test_points_that_say_nothing_are_refused(rows: list[RatePoint]) -> None:
    with pytest.raises(ValueError, match="each rate"):
        capacity(rows, 50)


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_bootstraps_of_six_do() -> None:
    # Latency doubles every 100 a second, from 10 ms at none: 50 ms at 232.2 a second.
    truth = 100 * np.log2(5)
    rng = np.random.default_rng(4)
    holds = 0
    for _ in range(100):
        rows = [
            RatePoint(rate, tuple(10 * 2 ** (rate / 100) * rng.lognormal(0, 0.1, 6)))
            for rate in (100.0, 150.0, 200.0, 250.0, 300.0)
        ]
        found = capacity(rows, 50)
        assert found.edge is Edge.SMOOTH
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.rate_per_s <= found.high
        holds += found.low <= truth <= found.high
    # The bootstrap of a mean of six is known to be a little narrow.
    assert holds >= 80
