"""The queue's laws, held against a slow and simple model of it.

Times, lengths and priorities are drawn from a handful of small integers on purpose: ties are
where the bugs are.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from palio.core.batching import BatchQueue, BatchRule, Ticket
from palio.core.costs import Cost
from palio.core.errors import Overloaded
from palio.core.policies import Policy, alone, everything_near, most_useful_per_second

POLICIES: list[Policy] = [most_useful_per_second, everything_near, alone]


class QueueLaws(RuleBasedStateMachine):
    @initialize(
        max_rows=st.integers(1, 8),
        wait=st.integers(0, 4),
        capacity=st.integers(1, 12),
        capacity_bytes=st.integers(1, 30),
        padding=st.sampled_from([0.0, 0.25, 0.9]),
        ageing=st.integers(0, 3),
        policy=st.sampled_from(POLICIES),
        cost=st.builds(Cost, st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)),
    )
    def open(
        self,
        max_rows: int,
        wait: int,
        capacity: int,
        capacity_bytes: int,
        padding: float,
        ageing: int,
        policy: Policy,
        cost: Cost,
    ) -> None:
        self.limits = BatchRule(
            max_rows=max_rows,
            max_wait_ns=wait,
            capacity_rows=capacity,
            capacity_bytes=capacity_bytes,
            max_padding=padding,
            ageing_ns=ageing,
        )
        self.policy = policy
        self.cost = cost
        self.queue: BatchQueue[Ticket[int]] = BatchQueue(self.limits, policy)
        self.now = 0
        self.waiting: list[Ticket[int]] = []
        self.born = 0

    @rule(
        parts=st.lists(
            st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9)),
            min_size=1,
            max_size=3,
        ),
        shape=st.integers(0, 2),
        ttl=st.none() | st.integers(0, 6),
        priority=st.integers(0, 2),
    )
    def arrive(
        self, parts: list[tuple[int, int, int]], shape: int, ttl: int | None, priority: int
    ) -> None:
        deadline = None if ttl is None else self.now + ttl
        tickets = []
        for rows, length, size in parts:
            tickets.append(
                Ticket(
                    self.born,
                    rows,
                    self.now,
                    deadline,
                    length=length,
                    shape=shape,
                    size_bytes=size,
                    priority=priority,
                )
            )
            self.born += 1
        rows = sum(t.rows for t in (*self.waiting, *tickets))
        size = sum(t.size_bytes for t in (*self.waiting, *tickets))
        too_many = rows > self.limits.capacity_rows or size > self.limits.capacity_bytes
        if self.waiting and too_many:
            with pytest.raises(Overloaded):
                self.queue.offer(*tickets)
            assert not any(t.is_waiting for t in tickets)
        else:
            self.queue.offer(*tickets)
            self.waiting += tickets

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.waiting:
            ticket = data.draw(st.sampled_from(self.waiting))
            assert self.queue.withdraw(ticket)
            assert not self.queue.withdraw(ticket)
            self.waiting.remove(ticket)

    @rule(step=st.integers(0, 5))
    def time_passes_and_a_worker_is_free(self, step: int) -> None:
        self.now += step
        due = self.due_by_hand()
        batch_due = self.batch_due_by_hand_after_expiry()
        cut = self.queue.cut(self.now, self.cost)
        assert bool(cut.batch or cut.expired) == (due is not None and due <= self.now), (
            "cut before it was due, or did nothing though it was"
        )
        late = [t for t in self.waiting if t.deadline_ns is not None and t.deadline_ns <= self.now]
        assert sorted(t.payload for t in cut.expired) == sorted(t.payload for t in late)
        self.waiting = [t for t in self.waiting if t not in late]
        assert bool(cut.batch) == (batch_due is not None and batch_due <= self.now)
        if not cut.batch:
            return
        oldest = min(self.waiting, key=self.rank)
        assert oldest in cut.batch, "the oldest was left behind"
        assert {t.shape for t in cut.batch} == {oldest.shape}, "two shapes in one batch"
        assert len(set(map(id, cut.batch))) == len(cut.batch)
        rows = sum(t.rows for t in cut.batch)
        assert rows <= self.limits.max_rows or cut.batch == (oldest,)
        if self.policy is alone:
            assert cut.batch == (oldest,)
        if self.policy is most_useful_per_second:
            places = rows * max(t.length for t in cut.batch)
            useful = sum(t.rows * t.length for t in cut.batch)
            assert useful >= (1 - self.limits.max_padding) * places or cut.batch == (oldest,)
        for ticket in cut.batch:
            assert ticket in self.waiting, "served twice, or never offered"
            self.waiting.remove(ticket)

    @rule(step=st.integers(0, 5))
    def time_passes_while_all_workers_are_busy(self, step: int) -> None:
        self.now += step
        late = [t for t in self.waiting if t.deadline_ns is not None and t.deadline_ns <= self.now]
        expired = self.queue.expire(self.now)
        assert sorted(t.payload for t in expired) == sorted(t.payload for t in late)
        self.waiting = [t for t in self.waiting if t not in late]

    @rule()
    def stop(self) -> None:
        assert [t.payload for t in self.queue.drain()] == [t.payload for t in self.waiting]
        self.waiting = []

    def rank(self, ticket: Ticket[int]) -> tuple[int, int]:
        return ticket.arrived_ns + ticket.priority * self.limits.ageing_ns, ticket.payload

    def batch_due_of(self, waiting: list[Ticket[int]]) -> int | None:
        """The rule once more, said the slow way."""
        if not waiting:
            return None
        head = min(waiting, key=self.rank)
        full = sum(t.rows for t in waiting) >= self.limits.max_rows
        return head.arrived_ns + (0 if full else self.limits.max_wait_ns)

    def batch_due_by_hand_after_expiry(self) -> int | None:
        return self.batch_due_of(
            [t for t in self.waiting if t.deadline_ns is None or t.deadline_ns > self.now]
        )

    def due_by_hand(self) -> int | None:
        batch = self.batch_due_of(self.waiting)
        deadlines = [t.deadline_ns for t in self.waiting if t.deadline_ns is not None]
        if batch is None:
            return None
        return min([batch, *deadlines])

    @invariant()
    def the_books_are_right(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.waiting)
            assert self.queue.rows == sum(t.rows for t in self.waiting)
            assert self.queue.size_bytes == sum(t.size_bytes for t in self.waiting)
            assert self.queue.shapes == len({t.shape for t in self.waiting})
            assert self.queue.due_ns() == self.due_by_hand()


TestQueueLaws = QueueLaws.TestCase


def test_everyone_who_waits_is_served_if_workers_keep_coming() -> None:
    """Liveness: low priority and odd shapes too, while newcomers of high priority keep arriving."""
    queue: BatchQueue[Ticket[int]] = BatchQueue(BatchRule(max_rows=1, ageing_ns=10))
    low = Ticket(-1, 1, 0, priority=2, shape="odd")
    queue.offer(low)
    for now in range(100):
        queue.offer(Ticket(now, 1, now))
        queue.cut(now)
        if not low.is_waiting:
            break
    assert now == 20, "two levels of ten each, and not one cut longer"


def test_ten_thousand_leaving_cost_little_each() -> None:
    """Counted, not timed: the structures behind the queue shrink with it."""
    queue: BatchQueue[Ticket[int]] = BatchQueue(BatchRule(capacity_rows=20_000))
    tickets = [Ticket(i, 1, i, deadline_ns=10**9 + i, length=i % 97 + 1) for i in range(10_000)]
    for ticket in tickets:
        queue.offer(ticket)
    for ticket in tickets[:9_990]:
        assert queue.withdraw(ticket)
    shelves = [shelf.tickets for shelf in queue._shelves.values()]
    assert max(len(queue._by_rank), len(queue._by_deadline), *map(len, shelves)) <= 100
    assert queue.rows == 10


@pytest.mark.parametrize(
    "rule", [BatchRule(capacity_rows=4), BatchRule(capacity_bytes=4)], ids=["rows", "bytes"]
)
def test_a_queue_holds_exactly_its_capacity(rule: BatchRule) -> None:
    queue: BatchQueue[Ticket[int]] = BatchQueue(rule)
    for n in range(4):
        queue.offer(Ticket(n, 1, 0, size_bytes=1))
    with pytest.raises(Overloaded):
        queue.offer(Ticket(4, 1, 0, size_bytes=1))
    assert len(queue) == 4


@pytest.mark.parametrize(
    "broken",
    [
        {"max_rows": 0},
        {"capacity_rows": 0},
        {"capacity_bytes": 0},
        {"max_wait_ns": -1},
        {"max_padding": 1.0},
        {"ageing_ns": -1},
    ],
)
def test_an_unusable_rule_is_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not a usable rule"):
        BatchRule(**broken)


def test_a_policy_that_forgets_the_oldest_is_caught() -> None:
    queue: BatchQueue[Ticket[int]] = BatchQueue(BatchRule(), lambda *_a, **_k: (1, 2))
    queue.offer(Ticket(0, 1, 0), Ticket(1, 1, 0))
    with pytest.raises(ValueError, match="left out the oldest"):
        queue.cut(0)
