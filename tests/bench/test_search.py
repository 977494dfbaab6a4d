"""The search on paper: trials of a server whose service law is known, in no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from palio.bench.attempts import Fault
from palio.bench.checks import TrialFacts, judge
from palio.bench.drive import Driven
from palio.bench.isotonic import Edge
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.search import ROUNDS, NoCapacity, find_capacity
from palio.bench.slo import Slo
from palio.bench.summary import summarise
from palio.bench.trial import Order, Outcome
from palio.bench.verdict import State
from palio.bench.virtual import Client, Server, play
from tests.bench.shady import nobody_home, questions

LOAD = OpenLoad(rate_per_s=1, duration_s=10, warmup_s=1, seed=5)
SLO = Slo(99, 40)
# Two workers of 4 ms: 500 a second at the most.
SERVER = Server()
Play = Callable[[Load], TrialFacts]


def on_paper(server: Server = SERVER, client: Client | None = None) -> Play:
    return lambda load: play(load, server, client, seed=load.seed, slo_ms=SLO.limit_ms)


class Paper:
    """`run_trial` without a server; remembers the loads."""

    def __init__(self, play_one: Play) -> None:
        self.loads: list[Load] = []
        self._play = play_one

    def __call__(self, order: Order) -> Outcome:
        self.loads.append(order.load)
        facts = self._play(order.load)
        return Outcome(
            driven=driven(facts),
            verdict=judge(facts),
            summary=summarise(facts.attempts, order.load, facts.from_ns, facts.until_ns),
            is_slo_met=None,
            folder=None,
            usage=None,
        )

    @property
    def rates(self) -> list[float]:
        return [each.rate_per_s for each in self.loads if isinstance(each, OpenLoad)]


def driven(facts: TrialFacts) -> Driven:
    return Driven(
        attempts=facts.attempts,
        started_unix=0.0,
        zero_ns=0,
        schedule=None,
        warmup_ns=facts.from_ns,
        took_ns=facts.until_ns,
        is_finished=True,
        client_cpu_share=0.3,
        in_flight_mean=None,
        preempted=0,
        connects=1,
        unchecked=0,
    )


ORDER = Order(target=nobody_home(), questions=questions(), load=LOAD)


def p99_at(rate: float, slo: Slo = SLO) -> bool:
    """Whether a long trial at that rate keeps the promise: what a capacity is."""
    load = OpenLoad(rate_per_s=rate, duration_s=300, warmup_s=5, timeout_s=60, seed=77)
    facts = play(load, SERVER, seed=77)
    return slo.is_met(facts.judged)


def true_capacity() -> float:
    low, high = 50.0, 500.0
    while high - low > 2:
        middle = (low + high) / 2
        low, high = (middle, high) if p99_at(middle) else (low, middle)
    return low


def test_the_capacity_of_a_known_server_is_found_within_a_tenth() -> None:
    paper = Paper(on_paper())
    heard: list[tuple[float, State]] = []

    def hear(rate: float, outcome: Outcome) -> None:
        assert outcome.verdict is not None
        heard.append((rate, outcome.verdict.state))

    found = find_capacity(ORDER, LOAD, SLO, heard=hear, run=paper)
    assert found.closed_per_s == pytest.approx(500, rel=0.05)
    assert found.capacity.rate_per_s == pytest.approx(true_capacity(), rel=0.1)
    assert found.capacity.edge is not Edge.NOT_BRACKETED
    assert found.capacity.low is not None
    assert found.capacity.high is not None
    assert found.capacity.low <= found.capacity.rate_per_s <= found.capacity.high
    assert heard[0][0] == inf
    assert [rate for rate, _ in heard[1:]] == paper.rates
    assert found.trials == len(paper.rates)
    assert found.invalid == 0


def test_every_rate_is_tried_in_every_round_and_the_rounds_are_shuffled() -> None:
    paper = Paper(on_paper())
    find_capacity(ORDER, LOAD, SLO, heard=lambda *_: None, run=paper)
    rounds = [tuple(paper.rates[at * 6 : at * 6 + 6]) for at in range(ROUNDS)]
    assert len({frozenset(each) for each in rounds}) == 1
    assert len(set(rounds)) > 1
    assert all(list(each) != sorted(each) for each in rounds)
    # Within a round all arrivals are of one seed; each round has its own.
    seeds = [each.seed for each in paper.loads if isinstance(each, OpenLoad)]
    assert [set(seeds[at * 6 : at * 6 + 6]) for at in range(ROUNDS)] == [{5}, {6}, {7}]


def test_the_load_is_as_it_was_asked_for_but_for_its_rate() -> None:
    asked = replace(LOAD, arrivals="constant", timeout_s=1.5)
    paper = Paper(on_paper())
    find_capacity(ORDER, asked, SLO, heard=lambda *_: None, run=paper)
    probe, *tried = paper.loads
    assert isinstance(probe, ClosedLoad)
    assert (probe.duration_s, probe.warmup_s) == (10, 1)
    for load in tried:
        assert isinstance(load, OpenLoad)
        assert replace(load, rate_per_s=1, seed=5) == asked


def test_a_loose_promise_is_kept_up_to_what_the_server_can_do() -> None:
    paper = Paper(on_paper(replace(SERVER, service_ms=0.4)))
    loose = Slo(50, 60_000)
    found = find_capacity(
        ORDER, replace(LOAD, duration_s=2), loose, heard=lambda *_: None, run=paper
    )
    # Beyond what it can do it is saturated, whatever was promised.
    assert found.capacity.rate_per_s >= 0.9 * found.closed_per_s


def test_a_promise_that_no_rate_keeps_gives_no_capacity() -> None:
    found = find_capacity(ORDER, LOAD, Slo(99, 1), heard=lambda *_: None, run=Paper(on_paper()))
    assert found.capacity.rate_per_s == 0
    assert found.capacity.edge is Edge.NOT_BRACKETED


def test_errors_beyond_the_promise_are_never_within_it() -> None:
    def fails_in_open_loops(load: Load) -> TrialFacts:
        facts = on_paper()(load)
        if isinstance(load, ClosedLoad):
            return facts
        fault = facts.attempts.fault.copy()
        fault[::50] = Fault.RESET
        return replace(facts, attempts=replace(facts.attempts, fault=fault))

    found = find_capacity(
        ORDER, LOAD, Slo(90, 400), heard=lambda *_: None, run=Paper(fails_in_open_loops)
    )
    assert found.capacity.rate_per_s == 0


def test_trials_that_measured_the_client_do_not_count() -> None:
    late = on_paper(client=Client(starved_ms=40))
    with pytest.raises(NoCapacity, match="none of 18 trials counts"):
        find_capacity(ORDER, LOAD, SLO, heard=lambda *_: None, run=Paper(late))


@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.REFUSED])
def test_a_server_that_answers_badly_in_a_closed_loop_is_not_searched(fault: Fault) -> None:
    def broken(load: Load) -> TrialFacts:
        facts = on_paper()(load)
        faults = np.full(len(facts.attempts), fault, np.uint8)
        return replace(facts, attempts=replace(facts.attempts, fault=faults))

    paper = Paper(broken)
    with pytest.raises(NoCapacity, match="in a closed loop: "):
        find_capacity(ORDER, LOAD, SLO, heard=lambda *_: None, run=paper)
    assert len(paper.loads) == 1


@pytest.mark.parametrize("stopped", [0, 3])
def test_a_trial_that_was_stopped_ends_the_search(stopped: int) -> None:
    paper = Paper(on_paper())

    def run(order: Order) -> Outcome:
        outcome = paper(order)
        return outcome if len(paper.loads) <= stopped else replace(outcome, verdict=None)

    with pytest.raises(KeyboardInterrupt):
        find_capacity(ORDER, LOAD, SLO, heard=lambda *_: None, run=run)
    assert len(paper.loads) == stopped + 1
