from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from palio.core.batching import Ticket
from palio.core.costs import Cost
from palio.core.policies import alone, everything_near, most_useful_per_second

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(sorted)
COSTS = st.builds(Cost, st.integers(1, 50), st.integers(1, 5), st.sampled_from([0, 0.1, 1]))


def queue_of(lengths: list[int]) -> list[Ticket[int]]:
    return [Ticket(i, 1, i, length=length) for i, length in enumerate(lengths)]


def rate(lengths: list[int], cost: Cost) -> float:
    return sum(lengths) / cost.predict_ns(len(lengths), max(lengths))


@given(
    lengths=LENGTHS,
    at=st.integers(0, 11),
    cost=COSTS,
    max_rows=st.integers(1, 6),
    padding=st.sampled_from([0.0, 0.2, 0.5, 0.99]),
)
def test_no_run_around_the_oldest_has_more_use_per_second(
    lengths: list[int], at: int, cost: Cost, max_rows: int, padding: float
) -> None:
    oldest = at % len(lengths)
    low, high = most_useful_per_second(
        queue_of(lengths), oldest, max_rows=max_rows, max_padding=padding, cost=cost
    )
    assert low <= oldest < high
    assert high - low <= max_rows
    chosen = rate(lengths[low:high], cost)
    for first in range(oldest + 1):
        for last in range(oldest + 1, len(lengths) + 1):
            run = lengths[first:last]
            fits = len(run) <= max_rows and sum(run) >= (1 - padding) * len(run) * run[-1]
            assert not fits or rate(run, cost) <= chosen * (1 + 1e-9), (run, lengths[low:high])


@given(lengths=LENGTHS, at=st.integers(0, 11), max_rows=st.integers(1, 6))
def test_a_policy_blind_to_length_fills_the_batch(
    lengths: list[int], at: int, max_rows: int
) -> None:
    oldest = at % len(lengths)
    low, high = everything_near(
        queue_of(lengths), oldest, max_rows=max_rows, max_padding=0, cost=Cost(1, 1)
    )
    assert low <= oldest < high
    assert high - low == min(max_rows, len(lengths))


def test_off_means_exactly_one() -> None:
    assert alone(queue_of([1, 1, 1]), 1, max_rows=9, max_padding=0, cost=Cost(1, 1)) == (1, 2)
