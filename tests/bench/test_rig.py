"""The mutation rig: whole trials on a virtual clock, with what ails them known.

Two hundred seeded trials of each kind, twenty seconds each at 200 requests a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from palio.bench.attempts import NEVER
from palio.bench.checks import TrialFacts, judge
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.percentiles import percentile, supported
from palio.bench.repeats import repeats
from palio.bench.verdict import State
from palio.bench.virtual import Client, Server, play

pytestmark = pytest.mark.slow

_TRIALS = 200
_OPEN = OpenLoad(rate_per_s=200, duration_s=20, warmup_s=2)
_CLOSED = ClosedLoad(concurrency=1, duration_s=20, warmup_s=2)
_FREEZE = Server(freeze_at_s=11, freeze_s=1)
_SPARE = Server(workers=8)  # so many that a stalled one holds nobody else up
_STALLS = Server(workers=8, stall_share=0.01, stall_ms=200)


@cache
def trials(
    server: Server, client: Client | None = None, load: OpenLoad | ClosedLoad = _OPEN
) -> Sequence[TrialFacts]:
    return [play(load, server, client, seed=seed) for seed in range(_TRIALS)]


def share(facts: Sequence[TrialFacts], state: State) -> float:
    states = Counter(judge(each).state for each in facts)
    return states[state] / len(facts)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(Server(), id="40 % busy"),
        pytest.param(Server(service_ms=8), id="80 % busy"),
        pytest.param(Server(slower=0.2), id="slower, all along"),
        pytest.param(Server(settles_s=1.5), id="a warm-up longer than allowed for"),
        pytest.param(_STALLS, id="stalls"),
        pytest.param(_FREEZE, id="frozen for a second"),
    ],
)
def test_clean_trials_are_called_ok(server: Server) -> None:
    assert share(trials(server), State.OK) >= 0.95


def test_a_closed_loop_of_a_clean_server_is_ok() -> None:
    facts = [play(_CLOSED, Server(), seed=seed) for seed in range(40)]
    assert share(facts, State.OK) >= 0.95


def test_a_closed_loop_cannot_saturate() -> None:
    load = ClosedLoad(concurrency=64, duration_s=5)
    facts = [play(load, Server(service_ms=30), seed=seed) for seed in range(40)]
    assert share(facts, State.OK) >= 0.95


@pytest.mark.parametrize(
    ("server", "client", "state"),
    [
        (Server(wrong_share=0.002), None, State.NOT_PARITY),
        (Server(drift=0.6), None, State.UNSTEADY),
        (Server(service_ms=11), None, State.SATURATED),  # can do 182 a second
        (Server(service_ms=30), None, State.SATURATED),  # can do 67
        (Server(), Client(starved_ms=5), State.INVALID_CLIENT),
        (Server(), Client(drops=0.005), State.INVALID_CLIENT),
        (Server(), Client(loses=0.05), State.INVALID_CLIENT),
        (Server(), Client(cpu_share=0.75), State.INVALID_CLIENT),
        (Server(service_ms=11, wrong_share=0.002), Client(starved_ms=5), State.INVALID_CLIENT),
    ],
)
def test_what_ails_a_trial_is_named(server: Server, client: Client | None, state: State) -> None:
    assert share(trials(server, client), state) >= 0.95


@pytest.mark.parametrize("client", [Client(starved_ms=5), Client(drops=0.005)])
def test_a_client_that_failed_has_no_numbers(client: Client) -> None:
    assert not any(judge(each).has_numbers for each in trials(Server(), client))


def test_a_frozen_second_shows_in_p99_and_its_size_is_right() -> None:
    shown = right = 0
    for frozen, clean in zip(trials(_FREEZE), trials(Server()), strict=True):
        latencies = frozen.judged.latency_ms
        # 1 % of twenty seconds came in the first fifth of the frozen one and waited for the rest.
        shown += percentile(latencies, 99) > 700 > 30 > percentile(clean.judged.latency_ms, 99)
        size_ms = float(latencies.max()) - percentile(latencies, 50)
        right += abs(size_ms - 1000) <= 50
    assert shown >= 0.95 * _TRIALS
    assert right >= 0.95 * _TRIALS


def test_the_tool_does_not_pretend_to_know_p99_from_one_freeze() -> None:
    assert not any(99.0 in supported(each.judged.latency_ms) for each in trials(_FREEZE))
    assert all(99.0 in supported(each.judged.latency_ms) for each in trials(_SPARE))


def test_a_closed_loop_does_not_see_the_frozen_second() -> None:
    for seed in range(20):
        facts = play(_CLOSED, _FREEZE, seed=seed)
        assert percentile(facts.judged.latency_ms, 99) < 15
        assert int(np.count_nonzero(facts.judged.latency_ms > 500)) == 1


def test_one_stall_in_a_hundred_moves_what_lies_beyond_p99_by_its_size() -> None:
    right = 0
    for stalled, clean in zip(trials(_STALLS), trials(_SPARE), strict=True):
        beyond = percentile(stalled.judged.latency_ms, 99.5)
        moved = beyond - percentile(clean.judged.latency_ms, 99.5)
        right += abs(moved - 200) <= 0.05 * 200
    assert right >= 0.95 * _TRIALS
    stalls = [float(np.mean(each.judged.latency_ms > 200)) for each in trials(_STALLS)]
    assert np.mean(stalls) == pytest.approx(0.01, rel=0.05)


def test_slower_by_a_fifth_is_seen_as_slower_by_a_fifth() -> None:
    slow = [
        percentile(each.judged.service_ms, 50) for each in trials(Server(workers=8, slower=0.2))
    ]
    usual = [percentile(each.judged.service_ms, 50) for each in trials(_SPARE)]
    assert np.median(slow) / np.median(usual) == pytest.approx(1.2, rel=0.02)


def test_a_cache_shows_as_repeats_that_are_faster_and_is_no_verdict() -> None:
    cached = [repeats(each.attempts) for each in trials(Server(caches=True))]
    honest = [repeats(each.attempts) for each in trials(Server())]
    assert all(each is not None and each.looks_cached for each in cached)
    wrongly = sum(each is not None and each.looks_cached for each in honest)
    assert wrongly <= 0.05 * _TRIALS


def test_time_outs_are_overload_too() -> None:
    load = OpenLoad(rate_per_s=200, duration_s=20, timeout_s=1)
    found = judge(play(load, Server(service_ms=11), seed=1))
    assert found.state is State.SATURATED
    assert "were not answered in 1 s" in found.line()


def test_a_trial_repeats_to_the_nanosecond() -> None:
    once, again = (play(_OPEN, _STALLS, seed=3).attempts for _ in range(2))
    assert (once.last_byte == again.last_byte).all()
    assert (once.intended == again.intended).all()


def test_the_servers_service_law_is_what_was_asked_for() -> None:
    facts = play(
        OpenLoad(rate_per_s=20, duration_s=2000, warmup_s=0), Server(workers=8, cv=0.5), seed=1
    )
    service_ms = facts.judged.service_ms
    assert service_ms.mean() == pytest.approx(4.05, rel=0.02)
    assert service_ms.std() == pytest.approx(2, rel=0.03)


def test_a_closed_loop_keeps_to_its_callers_and_its_count() -> None:
    attempts = play(ClosedLoad(concurrency=3, requests=500), Server(), seed=1).attempts
    assert len(attempts) == 500
    assert (attempts.last_byte != NEVER).all()
    in_flight = [
        int(np.count_nonzero((attempts.sent <= at) & (attempts.last_byte > at)))
        for at in attempts.sent
    ]
    assert max(in_flight) == 3


def table() -> str:
    """Markdown: what each kind of load says of a server that froze for a second."""
    lines = [
        "| load | server | p50 | p99 | worst | waited over 0.5 s |",
        "|---|---|---|---|---|---|",
    ]
    for name, load in (("open, 200 a second", _OPEN), ("closed, one caller", _CLOSED)):
        for state, server in (("well", Server()), ("froze for 1 s", _FREEZE)):
            runs = [play(load, server, seed=seed).judged.latency_ms for seed in range(20)]
            ms = [float(np.median([percentile(each, p) for each in runs])) for p in (50, 99, 100)]
            waited = np.median([np.count_nonzero(each > 500) for each in runs])
            figures = " | ".join(f"{each:.1f} ms" for each in ms)
            lines.append(f"| {name} | {state} | {figures} | {waited:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(table() + "\n")
