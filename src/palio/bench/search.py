"""Looking for the highest rate at which a server keeps its promise.

First a closed loop says what the server can do at all. Around that, rates are tried in rounds, in
random order within each, so that the machine's drift does not look like an effect of the rate; a
second set of rates then looks closer at where the promise broke. What was saturated or not
reached counts as never answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from palio.bench.isotonic import Capacity, Edge, RatePoint, capacity
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.percentiles import percentile
from palio.bench.slo import Slo
from palio.bench.trial import Order, Outcome, run_trial
from palio.bench.verdict import State

ROUNDS: Final = 3
_WIDE: Final = (0.4, 0.6, 0.75, 0.9, 1.0, 1.15)
_CLOSER: Final = 3
_PROBE_CALLERS: Final = 32


@dataclass(frozen=True, slots=True)
class Found:
    """The capacity and every trial it rests on; `invalid` of them measured the client."""

    capacity: Capacity
    closed_per_s: float
    points: tuple[RatePoint, ...]
    trials: int
    invalid: int


Heard = Callable[[float, Outcome], None]
Run = Callable[[Order], Outcome]


class NoCapacity(Exception):
    """There is none to tell; the sentence says why."""


def find_capacity(
    order: Order, load: OpenLoad, slo: Slo, *, heard: Heard, run: Run = run_trial
) -> Found:
    """Try rates around what a closed loop reaches; `heard` gets every trial as it ends.

    `load` says everything about a trial but its rate; `run` runs one.

    Raises:
        NoCapacity: the closed loop was not answered well, or no rate gave a trial that counts.
        KeyboardInterrupt: a trial was stopped.
    """
    load = replace(load, timeout_s=min(load.timeout_s, max(10 * slo.limit_ms / 1e3, 2.0)))
    probe = replace(
        order,
        load=ClosedLoad(
            concurrency=_PROBE_CALLERS,
            duration_s=load.duration_s,
            seed=load.seed,
            timeout_s=10.0,
            warmup_s=load.warmup_s,
        ),
    )
    outcome = run(probe)
    heard(math.inf, outcome)
    reached = _reached(outcome)
    search = _Search(order, load, slo, heard, run)
    search.rounds([share * reached for share in _WIDE])
    first = search.capacity()
    if first.edge is not Edge.NOT_BRACKETED:
        search.rounds(_between(search.points(), first.rate_per_s))
    return Found(search.capacity(), reached, search.points(), search.trials, search.invalid)


def _reached(outcome: Outcome) -> float:
    """What the closed loop was answered a second."""
    if outcome.verdict is None:
        raise KeyboardInterrupt
    if outcome.verdict.state in (State.FAILED, State.NOT_PARITY):
        raise NoCapacity(f"in a closed loop: {outcome.verdict.line()}")
    if outcome.summary is None or not outcome.summary.answered_per_s:
        raise NoCapacity("the server answered nothing in a closed loop")
    return outcome.summary.answered_per_s


def _between(points: Sequence[RatePoint], rate: float) -> list[float]:
    """Rates that look closer, between the neighbours of where the promise broke."""
    below = max((p.rate_per_s for p in points if p.rate_per_s <= rate), default=rate * 0.8)
    above = min((p.rate_per_s for p in points if p.rate_per_s > rate), default=rate * 1.2)
    steps = np.linspace(below, above, _CLOSER + 2)[1:-1]
    return [float(step) for step in steps]


class _Search:
    def __init__(self, order: Order, load: OpenLoad, slo: Slo, heard: Heard, run: Run) -> None:
        self._order = order
        self._load = load
        self._slo = slo
        self._heard = heard
        self._run = run
        self._rng = np.random.default_rng(load.seed)
        self._latencies: dict[float, list[float]] = {}
        self.trials = 0
        self.invalid = 0

    def rounds(self, rates: Sequence[float]) -> None:
        """Each rate once a round, in an order drawn for it; arrivals are the same within one."""
        for number in range(ROUNDS):
            for rate in self._rng.permutation(list(rates)):
                self._try(float(rate), number)

    def points(self) -> tuple[RatePoint, ...]:
        return tuple(
            RatePoint(rate, tuple(latencies)) for rate, latencies in sorted(self._latencies.items())
        )

    def capacity(self) -> Capacity:
        if not self._latencies:
            raise NoCapacity(
                f"none of {self.trials} trials counts: the client could not keep its own times"
            )
        return capacity(self.points(), self._slo.limit_ms, seed=self._load.seed)

    def _try(self, rate: float, number: int) -> None:
        load = replace(self._load, rate_per_s=rate, seed=self._load.seed + number)
        outcome = self._run(replace(self._order, load=load))
        self.trials += 1
        self._heard(rate, outcome)
        if outcome.verdict is None:
            raise KeyboardInterrupt
        if outcome.verdict.state is State.INVALID_CLIENT:
            self.invalid += 1
            return
        self._latencies.setdefault(rate, []).append(self._latency(outcome))

    def _latency(self, outcome: Outcome) -> float:
        """The percentile that was promised; +inf where the server did not keep up or failed."""
        assert outcome.verdict is not None  # noqa: S101  (the caller has looked)
        if outcome.verdict.state not in (State.OK, State.UNSTEADY):
            return math.inf
        rows = outcome.driven.attempts
        rows = rows.where(rows.intended >= outcome.driven.warmup_ns)
        if self._slo.error_ratio(rows) > self._slo.max_error_ratio:
            return math.inf
        return percentile(rows.latency_ms, self._slo.percent)
