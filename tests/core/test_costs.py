from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.core.costs import Cost, CostLearner

SIZES = [(rows, length) for rows in (1, 2, 4, 8, 16, 32) for length in (8, 12, 32, 64, 128)]
MINILM = Cost(1.4e6, 2.1e5, 60.0)


def taught(truth: Cost, runs: int, noise: float = 0.0, seed: int = 1) -> CostLearner:
    rng = random.Random(seed)  # noqa: S311  (a test's own numbers)
    learner = CostLearner()
    for _ in range(runs):
        rows, length = rng.choice(SIZES)
        took = truth.predict_ns(rows, length) * rng.uniform(1 - noise, 1 + noise)
        learner.observe(rows, length, round(took))
    return learner


def test_it_learns_what_runs_cost() -> None:
    learner = taught(MINILM, 300, noise=0.1)
    for rows, length in SIZES:
        assert learner.cost.predict_ns(rows, length) == pytest.approx(
            MINILM.predict_ns(rows, length), rel=0.1
        )


def test_one_stall_does_not_rewrite_the_formula() -> None:
    learner = taught(MINILM, 300)
    learner.observe(8, 12, 5_000_000_000)
    assert learner.cost.predict_ns(8, 12) < 1.5 * MINILM.predict_ns(8, 12)


def test_a_lasting_change_is_followed() -> None:
    learner = taught(MINILM, 300)
    slow = Cost(MINILM.base_ns * 3, MINILM.unit_ns * 3, MINILM.square_ns * 3)
    rng = random.Random(2)  # noqa: S311  (a test's own numbers)
    for _ in range(600):
        rows, length = rng.choice(SIZES)
        learner.observe(rows, length, round(slow.predict_ns(rows, length)))
    assert learner.cost.predict_ns(8, 32) == pytest.approx(slow.predict_ns(8, 32), rel=0.15)


def test_models_without_a_length_are_learnt_too() -> None:
    truth = Cost(2e5, 2e4)
    learner = CostLearner()
    for run in range(200):
        rows = run % 32 + 1
        learner.observe(rows, 1, round(truth.predict_ns(rows, 1)))
    for rows in (1, 8, 32):
        assert learner.cost.predict_ns(rows, 1) == pytest.approx(truth.predict_ns(rows, 1), rel=0.1)


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 512), st.integers(0, 10**10)), max_size=40
    )
)
def test_it_never_predicts_nonsense(runs: list[tuple[int, int, int]]) -> None:
    learner = CostLearner()
    for rows, length, took in runs:
        learner.observe(rows, length, took)
        cost = learner.cost
        assert min(cost.base_ns, cost.unit_ns, cost.square_ns) >= 0
        assert cost.predict_ns(1, 1) > 0
