"""The batcher's third life: the same queue and policy, run on paper.

Given arrivals, a rule and what runs cost, this says when each call would have been answered.
Nothing happens and no time passes; a hundred thousand requests take about a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal

from palio.core.batching import BatchQueue, BatchRule, Ticket, rows_of
from palio.core.costs import Cost
from palio.core.errors import Overloaded
from palio.core.policies import Policy, most_useful_per_second

Fate = Literal["answered", "expired", "refused"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call that will come: when, how large, and how long it is willing to wait."""

    at_ns: int
    rows: int = 1
    length: int = 1
    timeout_ns: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Fated:
    """What became of one arrival, and when; `batch_rows` is 0 unless it was answered."""

    arrival: Arrival
    fate: Fate
    done_ns: int
    batch_rows: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One batch that ran on paper."""

    began_ns: int
    ended_ns: int
    rows: int
    length: int
    useful: int


@dataclass(frozen=True, slots=True)
class Story:
    """The whole simulation: every arrival's fate in the order they came, and every run."""

    fates: tuple[Fated, ...]
    runs: tuple[Run, ...]


def simulate(
    arrivals: Iterable[Arrival],
    rule: BatchRule,
    cost: Cost,
    *,
    workers: int = 1,
    believed: Cost | None = None,
    policy: Policy = most_useful_per_second,
) -> Story:
    """Play `arrivals` (in order of time) through a queue with `workers` identical workers.

    `cost` is what a run really takes; `believed` what the policy thinks it takes, the same if
    not given. Deadlines are looked at whenever something happens, as the engine's alarm would.
    """
    belief = cost if believed is None else believed
    queue: BatchQueue[Ticket[int]] = BatchQueue(rule, policy)
    calls: list[Arrival] = []
    fates: dict[int, Fated] = {}
    runs: list[Run] = []
    idle_from = [0] * workers
    heapify(idle_from)

    def work_until(until_ns: int | None) -> None:
        """Let the workers cut whatever they would before `until_ns`."""
        while (due := queue.due_ns()) is not None:
            begins = max(due, idle_from[0])
            deadline = queue.next_deadline_ns()
            if deadline is not None and deadline < begins:
                begins = deadline
            if until_ns is not None and begins >= until_ns:
                return
            if begins < idle_from[0]:
                _expire(queue.expire(begins), calls, fates, begins)
                continue
            cut = queue.cut(begins, belief)
            _expire(cut.expired, calls, fates, begins)
            if cut.batch:
                run = _run(cut.batch, begins, cost)
                runs.append(run)
                heappop(idle_from)
                heappush(idle_from, run.ended_ns)
                for ticket in cut.batch:
                    call = calls[ticket.payload]
                    fates[ticket.payload] = Fated(call, "answered", run.ended_ns, run.rows)

    for index, call in enumerate(arrivals):
        work_until(call.at_ns)
        calls.append(call)
        deadline = None if call.timeout_ns is None else call.at_ns + call.timeout_ns
        ticket = Ticket(
            index, call.rows, call.at_ns, deadline, length=call.length, priority=call.priority
        )
        try:
            queue.offer(ticket)
        except Overloaded:
            fates[index] = Fated(call, "refused", call.at_ns)
    work_until(None)
    return Story(tuple(fates[index] for index in range(len(calls))), tuple(runs))


def _run(batch: Sequence[Ticket[int]], begins_ns: int, cost: Cost) -> Run:
    rows = rows_of(batch)
    length = max(ticket.length for ticket in batch)
    ended = begins_ns + max(1, round(cost.predict_ns(rows, length)))
    return Run(begins_ns, ended, rows, length, sum(t.rows * t.length for t in batch))


def _expire(
    expired: Iterable[Ticket[int]], calls: Sequence[Arrival], fates: dict[int, Fated], at_ns: int
) -> None:
    for ticket in expired:
        fates[ticket.payload] = Fated(calls[ticket.payload], "expired", at_ns)
