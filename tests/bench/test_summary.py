from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from palio.bench.attempts import NEVER, STAGES, Attempts, Fault
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.summary import summarise
from palio.bench.virtual import Server, play

MS = 1_000_000
OPEN = OpenLoad(rate_per_s=1000, duration_s=1)
CLOSED = ClosedLoad(concurrency=1, duration_s=1)


def rows(n: int = 1000, latency_ms: float = 5.0, late_ms: float = 0.0) -> Attempts:
    """One request a millisecond, all answered alike, from time 0 on."""
    intended = np.arange(n, dtype=np.int64) * MS
    sent = intended + round(late_ms * MS)
    done = intended + round(latency_ms * MS)
    return Attempts(
        intended=intended,
        released=sent,
        sent=sent,
        first_byte=done,
        last_byte=done,
        status=np.full(n, 200, np.int16),
        fault=np.zeros(n, np.uint8),
        bytes_out=np.full(n, 100, np.int32),
        bytes_in=np.full(n, 100, np.int32),
        input_id=np.zeros(n, np.int32),
        rows=np.full(n, 3, np.int32),
        stages=np.full((n, len(STAGES)), np.nan, np.float32),
        batch=np.zeros(n, np.int16),
    )


def with_faults(attempts: Attempts, *faults: tuple[Fault, int, int]) -> Attempts:
    """The first so many end in that way, with that status, and so on."""
    fault, status = attempts.fault.copy(), attempts.status.copy()
    at = 0
    for kind, count, code in faults:
        fault[at : at + count], status[at : at + count] = kind, code
        at += count
    return replace(attempts, fault=fault, status=status)


def test_rates_are_counts_over_the_window_that_was_asked_for() -> None:
    summary = summarise(rows(), OPEN, 200 * MS, 700 * MS)
    assert summary.attempts == 500
    assert summary.seconds == pytest.approx(0.5)
    assert summary.offered_per_s == pytest.approx(1000)
    assert summary.answered_per_s == pytest.approx(1000)
    assert summary.rows_per_s == pytest.approx(3000)


def test_a_closed_loop_offers_nothing() -> None:
    assert summarise(rows(), CLOSED, 0, 1000 * MS).offered_per_s is None


def test_latency_counts_from_the_intended_time_and_service_from_the_send() -> None:
    summary = summarise(rows(latency_ms=5, late_ms=2), OPEN, 0, 1000 * MS)
    assert summary.latency[0].latency_ms == pytest.approx(5)
    assert summary.service[0].latency_ms == pytest.approx(3)
    assert summary.lag_ms == pytest.approx((2, 2, 2))


def test_what_was_never_answered_is_in_the_percentiles_and_not_in_the_rate() -> None:
    lost = with_faults(rows(), (Fault.TIMEOUT, 150, 0))
    summary = summarise(lost, OPEN, 0, 1000 * MS)
    assert [np.isinf(each.latency_ms) for each in summary.latency] == [False, True, True, True]
    assert summary.answered_per_s == pytest.approx(850)
    assert summary.offered_per_s == pytest.approx(1000)


def test_errors_are_counted_by_kind_and_statuses_one_by_one() -> None:
    failed = with_faults(
        rows(),
        (Fault.RESET, 3, 0),
        (Fault.STATUS, 2, 429),
        (Fault.STATUS, 1, 500),
        (Fault.WRONG, 4, 200),
    )
    summary = summarise(failed, OPEN, 0, 1000 * MS)
    assert summary.errors == {"RESET": 3, "WRONG": 4, "STATUS 429": 2, "STATUS 500": 1}


def test_lag_is_of_what_was_sent() -> None:
    kept = rows(late_ms=1)
    sent = np.where(np.arange(len(kept)) < 10, NEVER, kept.sent)
    assert summarise(replace(kept, sent=sent), OPEN, 0, 1000 * MS).lag_ms[2] == pytest.approx(1)
    none = replace(kept, sent=np.full(len(kept), NEVER, np.int64))
    assert np.isnan(summarise(none, OPEN, 0, 1000 * MS).lag_ms).all()


def test_stages_are_medians_of_what_was_told_and_the_rest_is_unexplained() -> None:
    kept = rows(latency_ms=5)
    stages = kept.stages.copy()
    stages[::2, STAGES.index("queue")] = 1
    stages[::2, STAGES.index("compute")] = 3
    summary = summarise(replace(kept, stages=stages), OPEN, 0, 1000 * MS)
    assert summary.stages == {"queue": 1, "compute": 3}
    assert summary.unexplained_ms == pytest.approx(1)


def test_a_server_that_tells_nothing_has_no_stages() -> None:
    summary = summarise(rows(), OPEN, 0, 1000 * MS)
    assert summary.stages == {}
    assert summary.unexplained_ms is None
    assert summary.mean_batch is None


def test_the_mean_batch_is_over_batches_and_not_over_answers() -> None:
    # Of three rows each: one batch of 3 and two of 6, so five answers name 3 + 6 + 6 rows.
    kept = rows(5)
    batch = np.array([3, 6, 6, 6, 6], np.int16)
    summary = summarise(replace(kept, batch=batch), OPEN, 0, 5 * MS)
    assert summary.mean_batch == pytest.approx((3 + 6 + 6) / 3)


def test_a_percentile_that_the_sample_does_not_carry_is_marked() -> None:
    facts = play(replace(OPEN, rate_per_s=300, duration_s=2), Server(), seed=1)
    summary = summarise(facts.attempts, OPEN, facts.from_ns, facts.until_ns)
    assert summary.latency[0].is_supported
    assert summary.latency[0].within is not None
    assert not summary.latency[-1].is_supported
    assert summary.latency[-1].within is None


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(ValueError, match="nothing was attempted"):
        summarise(rows(10), OPEN, 500 * MS, 600 * MS)
