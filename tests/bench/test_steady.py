from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.bench.attempts import F64, I64
from palio.bench.steady import mser, steadiness, trend

_SECOND = 1_000_000_000


def run(level: F64, seed: int = 1, sd: float = 0.3) -> tuple[I64, F64]:
    """Latencies around a level per request, evenly over twenty seconds."""
    intended = np.linspace(0, 20 * _SECOND, len(level), endpoint=False).astype(np.int64)
    return intended, level * np.random.default_rng(seed).lognormal(0, sd, len(level))


def test_what_never_changes_is_steady_from_the_start() -> None:
    found = steadiness(*run(np.full(4000, 5.0), sd=0.0), 0, 20 * _SECOND)
    assert (found.begins_ns, found.drift) == (0, 0)


@pytest.mark.parametrize("by", [0.6, 1.6, 2.0])
def test_drift_is_found_with_its_size(by: float) -> None:
    found = steadiness(*run(np.linspace(5, 5 * by, 4000)), 0, 20 * _SECOND)
    assert found.begins_ns is None
    assert (found.drift > 0) == (by > 1)
    # At most half the run may have been taken for a warm-up.
    assert 0.2 * abs(by - 1) < abs(found.drift) < 1.2 * abs(by - 1)


def test_a_sure_but_small_drift_is_let_pass() -> None:
    found = steadiness(*run(np.linspace(5, 5.3, 40_000), sd=0.05), 0, 20 * _SECOND)
    assert found.begins_ns is not None
    assert 0 < found.drift < 0.1


def test_a_warm_up_is_cut_off() -> None:
    level = 5 + 10 * np.exp(-np.arange(4000) / 200)
    found = steadiness(*run(level), 0, 20 * _SECOND)
    assert found.begins_ns is not None
    assert 2 * _SECOND <= found.begins_ns <= 8 * _SECOND


def test_a_change_for_good_late_in_the_run_is_unsteady() -> None:
    level = np.where(np.arange(4000) < 2800, 5.0, 9.0)
    assert steadiness(*run(level), 0, 20 * _SECOND).begins_ns is None


@pytest.mark.parametrize("at", [1000, 2000, 3000])
def test_a_freeze_is_neither_warm_up_nor_drift(at: int) -> None:
    level = np.full(4000, 5.0)
    level[at : at + 200] += np.linspace(1000, 0, 200)
    found = steadiness(*run(level), 0, 20 * _SECOND)
    assert found.begins_ns is not None
    assert found.begins_ns < at / 200 * _SECOND


def test_what_was_never_answered_counts_as_the_slowest() -> None:
    intended, latencies = run(np.full(4000, 5.0))
    latencies[np.random.default_rng(1).random(4000) < np.linspace(0, 0.8, 4000)] = inf
    found = steadiness(intended, latencies, 0, 20 * _SECOND)
    assert found.begins_ns is None
    assert found.drift > 0.1


@pytest.mark.parametrize("n", [0, 1, 30, 190])
def test_too_little_to_tell_is_said_to_be_so(n: int) -> None:
    found = steadiness(*run(np.full(n, 5.0)), 0, 20 * _SECOND)
    assert (found.begins_ns, found.is_known) == (0, False)


def test_nothing_answered_is_too_little_to_tell() -> None:
    intended, _ = run(np.full(500, 5.0))
    assert not steadiness(intended, np.full(500, inf), 0, 20 * _SECOND).is_known


def test_only_what_is_between_the_moments_counts() -> None:
    level = np.where(np.arange(4000) < 1000, 50.0, 5.0)
    found = steadiness(*run(level), 5 * _SECOND, 20 * _SECOND)
    assert found.begins_ns is not None
    assert found.begins_ns >= 5 * _SECOND


def test_pauses_between_bursts_are_no_windows_of_nothing() -> None:
    intended, latencies = run(np.full(4000, 5.0))
    assert steadiness(intended // _SECOND * _SECOND, latencies, 0, 20 * _SECOND).is_known


@given(st.lists(st.floats(-3, 3), min_size=10, max_size=20))
def test_at_most_half_is_ever_cut(levels: list[float]) -> None:
    assert 0 <= mser(np.array(levels)) <= len(levels) // 2


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), min_size=10, max_size=20))
def test_a_trend_read_backwards_is_the_opposite_trend(levels: list[float]) -> None:
    there, back = trend(np.array(levels)), trend(np.array(levels[::-1]))
    assert (1 + there.size) * (1 + back.size) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_chance_is_seldom_sure_even_where_neighbours_are_alike(rho: float) -> None:
    rng = np.random.default_rng(8)
    sure = 0
    for _ in range(1000):
        levels = rng.standard_normal(20)
        for at in range(1, 20):
            levels[at] = rho * levels[at - 1] + (1 - rho**2) ** 0.5 * levels[at]
        sure += trend(levels).is_sure
    assert sure / 1000 <= 0.05
