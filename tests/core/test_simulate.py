from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from palio.core.batching import BatchRule
from palio.core.costs import Cost
from palio.core.policies import alone, everything_near, most_useful_per_second
from palio.core.simulate import Arrival, simulate

MINILM = Cost(1.4e6, 2.1e5, 60.0)

ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 30),
        st.integers(1, 3),
        st.integers(1, 3),
        st.none() | st.integers(1, 20),
        st.integers(0, 1),
    ),
    max_size=25,
).map(lambda arrivals: sorted(arrivals, key=lambda arrival: arrival.at_ns))


@given(
    arrivals=ARRIVALS,
    workers=st.integers(1, 3),
    wait=st.integers(0, 5),
    capacity=st.integers(1, 20),
)
def test_everybody_has_one_fate_and_no_worker_is_in_two_places(
    arrivals: list[Arrival], workers: int, wait: int, capacity: int
) -> None:
    rule = BatchRule(max_rows=4, max_wait_ns=wait, capacity_rows=capacity)
    story = simulate(arrivals, rule, Cost(3, 1), workers=workers)
    assert [fated.arrival for fated in story.fates] == arrivals
    for fated in story.fates:
        timeout = fated.arrival.timeout_ns
        assert fated.done_ns >= fated.arrival.at_ns
        if fated.fate == "expired":
            assert timeout is not None
            assert fated.done_ns >= fated.arrival.at_ns + timeout
    edges = [(run.began_ns, 1) for run in story.runs] + [(run.ended_ns, -1) for run in story.runs]
    busy = 0
    for _, step in sorted(edges):
        busy += step
        assert busy <= workers
    answered = sum(f.arrival.rows for f in story.fates if f.fate == "answered")
    assert answered == sum(run.rows for run in story.runs)


def test_a_lone_call_on_an_idle_worker_takes_just_its_run() -> None:
    (fated,) = simulate([Arrival(5)], BatchRule(), Cost(100, 10)).fates
    assert (fated.fate, fated.done_ns) == ("answered", 115)


def test_mixed_lengths_want_the_length_aware_cut() -> None:
    """As measured on the real model: length and cost, then no batching, then arrival order."""
    rng = random.Random(3)  # noqa: S311  (a test's own numbers)
    lengths = [min(128, max(8, round(rng.lognormvariate(3.2, 0.7)))) for _ in range(2_000)]
    arrivals = [Arrival(0, 1, length) for length in lengths]
    rule = BatchRule(capacity_rows=10_000)

    def rows_per_s(**changes: object) -> float:
        story = simulate(arrivals, rule, MINILM, **changes)  # type: ignore[arg-type]
        return len(arrivals) / (story.runs[-1].ended_ns / 1e9)

    aware = rows_per_s(policy=most_useful_per_second)
    off = rows_per_s(policy=alone)
    assert aware > 1.1 * off
    assert aware >= rows_per_s(policy=everything_near)
