from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from palio.core.errors import RowRejected
from palio.core.isolation import Allowance, isolate, most_runs


class Model:
    """Squares what it gets; a negative number spoils the batch it is in."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, xs: Sequence[int]) -> list[int]:
        self.batches.append(list(xs))
        if bad := [x for x in xs if x < 0]:
            raise RowRejected(f"no {bad[0]}")
        if 666 in xs:
            raise RuntimeError("not the row's fault")
        return [x * x for x in xs]


@given(n=st.integers(2, 64), at=st.integers(0, 63))
def test_one_bad_row_is_found_and_its_neighbours_are_answered(n: int, at: int) -> None:
    xs = list(range(n))
    xs[at % n] = -1
    model = Model()
    found = isolate(xs, model, RowRejected("somewhere"))
    assert found.runs == len(model.batches) <= most_runs(n)
    assert found.unresolved == []
    for x, outcome in zip(xs, found.outcomes, strict=True):
        assert isinstance(outcome, RowRejected) if x < 0 else outcome == x * x


@given(xs=st.lists(st.sampled_from([1, 2, 3, -1, 666]), min_size=1, max_size=40))
def test_whatever_the_poison_the_runs_are_bounded_and_everyone_has_an_outcome(
    xs: list[int],
) -> None:
    xs = [*xs, -1]
    model = Model()
    found = isolate(xs, model, RowRejected("somewhere"))
    assert found.runs <= most_runs(len(xs))
    assert len(found.outcomes) == len(xs)
    for index, (x, outcome) in enumerate(zip(xs, found.outcomes, strict=True)):
        assert isinstance(outcome, Exception) or outcome == x * x
        if x < 0:
            assert isinstance(outcome, Exception), "a bad row was answered"
        if isinstance(outcome, RowRejected) and index not in found.unresolved:
            assert x < 0, "an innocent row was blamed"


def test_halving_never_takes_more_than_its_share_of_the_time() -> None:
    allowance = Allowance(share=0.1, most_ns=100, credit_ns=100.0)
    spent = now = 0
    for _ in range(10_000):
        now += 10
        if allowance.allows(now):
            allowance.spend(40)
            spent += 40
            now += 40
    assert spent <= 0.1 * now + 100 + 40
    assert spent >= 0.09 * now, "what it may spend it can spend"
