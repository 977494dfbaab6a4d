from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from palio.bench.flight import Flight

SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: (min(pair), max(pair)))
)


@given(spans=SPANS, begin=st.integers(0, 10), length=st.integers(1, 10))
def test_the_mean_is_what_the_spans_cover_of_the_window(
    spans: list[tuple[int, int]], begin: int, length: int
) -> None:
    until = begin + length
    flight = Flight(begin, until)
    for at, by in sorted([(low, 1) for low, _ in spans] + [(high, -1) for _, high in spans]):
        flight.step(at, by)
    flight.step(30, 0)
    covered = sum(max(0, min(high, until) - max(low, begin)) for low, high in spans)
    assert flight.mean() == covered / length


def test_there_is_no_mean_before_the_window_is_over_or_without_one() -> None:
    flight = Flight(0, 10)
    flight.step(9, 1)
    assert flight.mean() is None
    assert Flight().mean() is None
