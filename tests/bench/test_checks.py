"""Each check at its limit, on rows made by hand; test_rig has whole trials."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from palio.bench.attempts import NEVER, STAGES, Attempts, Fault
from palio.bench.checks import TrialFacts, judge, measured
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.repeats import repeats
from palio.bench.verdict import State, Verdict

_MS = 1_000_000
_OPEN = OpenLoad(rate_per_s=100, duration_s=10, warmup_s=0, connections=50)
_CLOSED = ClosedLoad(concurrency=1, duration_s=10, warmup_s=0)


def rows(n: int = 1000, **columns: Any) -> Attempts:
    """A hundred a second, each sent at once and answered after 5 ms, but for what is given."""
    intended = np.arange(n, dtype=np.int64) * 10 * _MS
    usual: dict[str, Any] = {
        "intended": intended,
        "released": intended,
        "sent": intended,
        "first_byte": intended + 5 * _MS,
        "last_byte": intended + 5 * _MS,
        "status": np.full(n, 200, np.int16),
        "fault": np.zeros(n, np.uint8),
        "bytes_out": np.zeros(n, np.int32),
        "bytes_in": np.zeros(n, np.int32),
        "input_id": np.zeros(n, np.int32),
        "rows": np.ones(n, np.int32),
        "stages": np.full((n, len(STAGES)), np.nan, np.float32),
        "batch": np.zeros(n, np.int16),
    }
    return Attempts(**usual | columns)


def unanswered(attempts: Attempts, which: slice, fault: Fault, status: int = 0) -> Attempts:
    columns = {name: getattr(attempts, name).copy() for name in ("fault", "last_byte", "status")}
    columns["fault"][which] = fault
    columns["last_byte"][which] = NEVER
    columns["status"][which] = status
    if fault in (Fault.DROPPED, Fault.REFUSED):
        columns["sent"] = attempts.sent.copy()
        columns["sent"][which] = NEVER
    return replace(attempts, **columns)


def verdict(attempts: Attempts, load: Load = _OPEN, **known: Any) -> Verdict:
    facts = TrialFacts(attempts=attempts, load=load, from_ns=0, until_ns=10_000 * _MS, **known)
    return judge(facts)


def checks(found: Verdict) -> list[str]:
    return [reason.check for reason in found.reasons]


@pytest.mark.parametrize("load", [_OPEN, _CLOSED])
def test_nothing_wrong_is_ok(load: Load) -> None:
    known = {"client_cpu_share": 0.7, "in_flight_mean": 0.5, "clock_jump_ms": 1.0}
    assert verdict(rows(), load, slo_ms=50.0, **known) == Verdict(State.OK)


def late(ms: float, share: float) -> Attempts:
    base = rows()
    sent = base.sent + (np.arange(1000) < share * 1000) * round(ms * _MS)
    return rows(sent=sent, released=sent)


@pytest.mark.parametrize(
    ("ms", "share", "slo_ms", "passes"),
    [
        (0.5, 1, None, True),
        (0.6, 0.011, None, False),
        (0.6, 0.01, None, True),
        (0.6, 1, 25.0, False),
        (0.6, 1, 30.0, True),
    ],
)
def test_lag_has_a_limit_that_a_generous_promise_widens(
    ms: float, share: float, slo_ms: float | None, passes: bool
) -> None:
    found = verdict(late(ms, share), slo_ms=slo_ms)
    assert found.has_numbers == passes
    assert checks(found) == ([] if passes else ["lag"])


def test_more_than_the_client_was_calibrated_for_is_not_believed() -> None:
    offered = len(rows()) / 10
    assert verdict(rows(), clean_per_s=offered).state is State.OK
    found = verdict(rows(), clean_per_s=offered - 1)
    assert (found.state, checks(found)) == (State.INVALID_CLIENT, ["ceiling"])
    assert verdict(rows(), _CLOSED, clean_per_s=1.0).state is State.OK


def test_lag_is_said_in_figures() -> None:
    assert verdict(late(2, 1)).line() == (
        "INVALID(client): the client sent late: p99 2.00 ms after it meant to, allowed are 0.5 ms"
    )


def test_what_is_sent_after_the_end_does_not_count_as_sent() -> None:
    sent = rows().sent.copy()
    sent[-6:] = 10_001 * _MS
    last = np.maximum(rows().last_byte, sent + _MS)
    found = verdict(rows(sent=sent, released=sent, last_byte=last))
    assert checks(found) == ["rate"]
    assert "994 of 1000" in found.line()


def test_a_refused_connection_is_not_a_send_that_the_client_owes() -> None:
    assert verdict(unanswered(rows(), slice(0, 300), Fault.REFUSED)).state is State.OK


def test_a_drop_is_the_clients() -> None:
    found = verdict(unanswered(rows(), slice(5, 6), Fault.DROPPED))
    assert (found.state, checks(found)) == (State.INVALID_CLIENT, ["drops"])


def test_a_drop_with_every_connection_busy_is_the_servers() -> None:
    # Fifty in flight since the first half second, and none is ever answered in time.
    attempts = unanswered(rows(), slice(0, 50), Fault.TIMEOUT)
    found = verdict(unanswered(attempts, slice(50, 900), Fault.DROPPED))
    assert found.state is State.SATURATED
    assert "850 of 1000 requests found all 50 connections busy" in found.line()


def test_a_busy_client_measures_itself() -> None:
    assert checks(verdict(rows(), client_cpu_share=0.71)) == ["cpu"]
    assert checks(verdict(rows(), _CLOSED, client_cpu_share=0.71)) == ["cpu"]


def test_clocks_that_come_apart() -> None:
    assert checks(verdict(rows(), clock_jump_ms=-30.0)) == ["clock"]


@pytest.mark.parametrize("column", ["sent", "last_byte"])
def test_time_does_not_run_backwards(column: str) -> None:
    stamps = getattr(rows(), column).copy()
    stamps[7] -= 6 * _MS
    assert checks(verdict(rows(**{column: stamps}))) == ["clock"]


@pytest.mark.parametrize(("counted", "passes"), [(0.5, True), (0.514, True), (0.52, False)])
def test_the_rows_must_add_up_to_what_was_in_flight(counted: float, passes: bool) -> None:
    # A hundred a second for 5 ms each: half a request in flight.
    assert (checks(verdict(rows(), in_flight_mean=counted)) == []) == passes


def test_a_timed_out_request_was_in_flight_until_it_was_given_up() -> None:
    attempts = unanswered(rows(), slice(0, 5), Fault.TIMEOUT)
    expected = (995 * 5 + 5 * 10_000 - 10 * (0 + 1 + 2 + 3 + 4)) / 10_000
    assert checks(verdict(attempts, in_flight_mean=expected)) == []


def test_little_says_nothing_when_the_rows_cannot_know() -> None:
    attempts = unanswered(rows(), slice(0, 300), Fault.RESET)
    assert checks(verdict(attempts, in_flight_mean=5.0)) == []


def test_one_wrong_answer_is_enough() -> None:
    fault = np.zeros(1000, np.uint8)
    fault[3] = Fault.WRONG
    found = verdict(rows(fault=fault))
    assert found == verdict(rows(fault=fault), _CLOSED)
    assert found.line() == "NOT-PARITY: 1 of 1000 answers were wrong"
    assert not found.has_numbers


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.RESET, Fault.GARBAGE, Fault.STATUS])
def test_most_of_it_broken_is_failed(fault: Fault) -> None:
    assert verdict(unanswered(rows(), slice(0, 501), fault, 500)).state is State.FAILED
    assert verdict(unanswered(rows(), slice(0, 500), fault, 500)).state is not State.FAILED


@pytest.mark.parametrize("load", [_OPEN, _CLOSED])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.REFUSED])
def test_nothing_answered_is_failed(fault: Fault, load: Load) -> None:
    found = verdict(unanswered(rows(), slice(None), fault), load)
    assert found.state is State.FAILED
    assert "0 of 1000 requests were answered" in found.line()


def test_nothing_asked_is_failed() -> None:
    assert verdict(rows(0)).state is State.FAILED


@pytest.mark.parametrize(("lost", "state"), [(10, State.OK), (11, State.SATURATED)])
def test_more_than_one_in_a_hundred_turned_away_is_overload(lost: int, state: State) -> None:
    attempts = unanswered(rows(), slice(0, lost), Fault.STATUS, 503)
    assert verdict(attempts).state is state
    assert verdict(attempts, _CLOSED).state is State.OK


def test_the_client_is_asked_first_and_gives_every_reason() -> None:
    fault = np.full(1000, Fault.WRONG, np.uint8)
    sent = rows().sent + 2 * _MS
    found = verdict(rows(fault=fault, sent=sent, released=sent), client_cpu_share=0.9)
    assert found.state is State.INVALID_CLIENT
    assert checks(found) == ["cpu", "lag"]


def test_under_overload_waiting_for_a_connection_is_not_lag_but_a_late_timer_is() -> None:
    attempts = unanswered(rows(), slice(0, 50), Fault.TIMEOUT)
    waits = replace(attempts, sent=attempts.sent + 2 * _MS)
    assert verdict(waits).state is State.SATURATED
    assert verdict(replace(waits, released=waits.sent)).state is State.INVALID_CLIENT


def test_a_closed_loop_is_never_late() -> None:
    assert verdict(late(2, 1), _CLOSED).state is State.OK


def test_numbers_are_made_of_what_is_steady() -> None:
    warm = (5 + 45 * np.exp(-np.arange(1000) / 50)) * _MS
    noise = np.random.default_rng(1).lognormal(0, 0.1, 1000)
    attempts = rows(last_byte=rows().sent + (warm * noise).astype(np.int64))
    facts = TrialFacts(attempts=attempts, load=_CLOSED, from_ns=0, until_ns=10_000 * _MS)
    assert judge(facts).state is State.OK
    assert len(measured(facts)) < 1000
    assert measured(facts).latency_ms.max() < 15


def test_repeats_are_compared_only_where_there_are_enough_of_both() -> None:
    assert repeats(rows(0)) is None
    assert repeats(rows()) is None
    assert repeats(rows(input_id=np.arange(1000, dtype=np.int32))) is None
