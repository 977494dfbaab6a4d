"""Which waiting requests run together, and when.

This module decides; it does not act. It knows no clock, no event loop and no
model: time comes in as an integer of nanoseconds, decisions go out as values.
`palio.engine.batcher` is the hand that acts on them, `palio.core.simulate` a
second one that has no hands at all.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from palio.core.costs import UNKNOWN, Cost
from palio.core.errors import Overloaded
from palio.core.policies import Policy, most_useful_per_second

T = TypeVar("T")
K = TypeVar("K", bound="Ticket[Any]")

_MS: Final = 1_000_000
# Below this many entries nobody minds the dead among them.
_TIDY_FROM: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """How large a batch may grow, how long its first member may wait, how many may queue.

    `max_padding` is the largest share of a batch's places that may be padding. A priority level
    counts as arriving `ageing_ns` later, so the low ones wait longer but never for ever.
    """

    max_rows: int = 32
    max_wait_ns: int = 0
    capacity_rows: int = 1024
    capacity_bytes: int = 256_000_000
    max_padding: float = 0.25
    ageing_ns: int = 500 * _MS

    def __post_init__(self) -> None:
        if (
            self.max_rows < 1
            or self.capacity_rows < 1
            or self.capacity_bytes < 1
            or self.max_wait_ns < 0
            or self.ageing_ns < 0
            or not 0 <= self.max_padding < 1
        ):
            raise ValueError(f"not a usable rule: {self}")


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One place in the queue: rows of one call that must run together.

    `shape` is whatever must be equal for two tickets to share a batch; `length` is what may
    differ and be padded. Lower `priority` numbers go first; 0 is the usual.
    """

    payload: T
    rows: int
    arrived_ns: int
    deadline_ns: int | None = None
    length: int = 1
    shape: Hashable = None
    size_bytes: int = 0
    priority: int = 0
    is_waiting: bool = field(default=False, init=False)
    order: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Cut(Generic[K]):
    """What one cut took off the queue: those to run, and those whose time ran out."""

    batch: tuple[K, ...]
    expired: tuple[K, ...]


_length_then_order: Final = attrgetter("length", "order")


class _Shelf(Generic[K]):
    """The waiting tickets of one shape in order of length, then arrival; some may be dead."""

    __slots__ = ("dead", "tickets")

    def __init__(self) -> None:
        self.tickets: list[K] = []
        self.dead = 0

    def add(self, ticket: K) -> None:
        tickets = self.tickets
        if not tickets or tickets[-1].length <= ticket.length:
            tickets.append(ticket)
        else:
            insort(tickets, ticket, key=_length_then_order)

    def living(self) -> list[K]:
        if self.dead:
            self.tickets = [ticket for ticket in self.tickets if ticket.is_waiting]
            self.dead = 0
        return self.tickets

    def bury(self) -> None:
        """One more has left; sweep once the dead outnumber the living."""
        self.dead += 1
        if self.dead > _TIDY_FROM and 2 * self.dead > len(self.tickets):
            self.living()


class BatchQueue(Generic[K]):
    """Waiting requests, bounded in rows and bytes, cut into batches by a rule and a policy.

    The oldest call decides the shape and is always in the batch; the policy chooses its company.
    "Oldest" counts priorities in: see `BatchRule.ageing_ns`. Leaving is lazy: a ticket is marked
    and swept later, so that ten thousand leaving at once stay cheap.
    """

    def __init__(self, rule: BatchRule, policy: Policy = most_useful_per_second) -> None:
        self._rule = rule
        self._policy = policy
        self._shelves: dict[Hashable, _Shelf[K]] = {}
        self._by_rank: list[tuple[int, int, K]] = []
        self._by_deadline: list[tuple[int, int, K]] = []
        self._born = 0
        self._count = 0
        self._rows = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> int:
        """How many rows are waiting."""
        return self._rows

    @property
    def size_bytes(self) -> int:
        """How many bytes are waiting."""
        return self._bytes

    @property
    def shapes(self) -> int:
        """How many different shapes are waiting."""
        return len(self._shelves)

    def offer(self, *tickets: K) -> None:
        """Join the queue, all or none; raises `Overloaded` and changes nothing when it is full.

        A call larger than the whole capacity joins an empty queue: refusing it for its size is
        the front door's business.
        """
        rows = self._rows + sum(ticket.rows for ticket in tickets)
        size = self._bytes + sum(ticket.size_bytes for ticket in tickets)
        rule = self._rule
        if self._count:
            if rows > rule.capacity_rows:
                raise Overloaded(self._rows, rule.capacity_rows)
            if size > rule.capacity_bytes:
                raise Overloaded(self._bytes, rule.capacity_bytes, "bytes")
        self._rows, self._bytes = rows, size
        for ticket in tickets:
            self._add(ticket)

    def withdraw(self, ticket: K) -> bool:
        """Leave the queue; False if the ticket was not waiting (any more)."""
        if not ticket.is_waiting:
            return False
        self._drop(ticket)
        shelf = self._shelves[ticket.shape]
        shelf.bury()
        if not shelf.tickets or shelf.dead == len(shelf.tickets):
            del self._shelves[ticket.shape]
        self._tidy()
        return True

    def batch_due_ns(self) -> int | None:
        """When the next batch may be cut if a worker is free; None while nobody waits."""
        head = self._head()
        if head is None:
            return None
        if self._rows >= self._rule.max_rows:
            return head.arrived_ns
        return head.arrived_ns + self._rule.max_wait_ns

    def next_deadline_ns(self) -> int | None:
        """When the next waiting ticket's time runs out; None if none ever does."""
        heap = self._by_deadline
        while heap and not heap[0][2].is_waiting:
            heappop(heap)
        return heap[0][0] if heap else None

    def due_ns(self) -> int | None:
        """When `cut` will next do something; None while nobody waits."""
        batch, deadline = self.batch_due_ns(), self.next_deadline_ns()
        if batch is None or deadline is None:
            return batch
        return min(batch, deadline)

    def expire(self, now_ns: int) -> tuple[K, ...]:
        """Take off the queue everybody whose deadline has come."""
        expired: list[K] = []
        while (deadline := self.next_deadline_ns()) is not None and deadline <= now_ns:
            ticket = heappop(self._by_deadline)[2]
            self.withdraw(ticket)
            expired.append(ticket)
        return tuple(expired)

    def cut(self, now_ns: int, cost: Cost = UNKNOWN) -> Cut[K]:
        """Take the next batch off the queue for an idle worker; both sides empty if none is due.

        `cost` is what the worker's runs are expected to take.
        """
        expired = self.expire(now_ns)
        due = self.batch_due_ns()
        if due is None or now_ns < due:
            return Cut((), expired)
        head = self._head()
        assert head is not None  # noqa: S101  (a batch is due, so somebody waits)
        shelf = self._shelves[head.shape]
        waiting = shelf.living()
        oldest = waiting.index(head) if waiting[0] is not head else 0
        low, high = self._policy(
            waiting,
            oldest,
            max_rows=self._rule.max_rows,
            max_padding=self._rule.max_padding,
            cost=cost,
        )
        if not low <= oldest < high:
            raise ValueError(f"the policy left out the oldest: {low}:{high} without {oldest}")
        batch = tuple(waiting[low:high])
        for ticket in batch:
            self._drop(ticket)
        if len(batch) == len(waiting):
            del self._shelves[head.shape]
        else:
            del waiting[low:high]
        self._tidy()
        return Cut(batch, expired)

    def drain(self) -> tuple[K, ...]:
        """Empty the queue, at shutdown; oldest first."""
        left = [t for shelf in self._shelves.values() for t in shelf.tickets if t.is_waiting]
        left.sort(key=attrgetter("order"))
        for ticket in left:
            self._drop(ticket)
        self._shelves.clear()
        self._by_rank.clear()
        self._by_deadline.clear()
        return tuple(left)

    def _add(self, ticket: K) -> None:
        self._born += 1
        ticket.order = self._born
        ticket.is_waiting = True
        self._count += 1
        shelf = self._shelves.get(ticket.shape)
        if shelf is None:
            shelf = self._shelves[ticket.shape] = _Shelf()
        shelf.add(ticket)
        rank = ticket.arrived_ns + ticket.priority * self._rule.ageing_ns
        heappush(self._by_rank, (rank, ticket.order, ticket))
        if ticket.deadline_ns is not None:
            heappush(self._by_deadline, (ticket.deadline_ns, ticket.order, ticket))

    def _drop(self, ticket: K) -> None:
        ticket.is_waiting = False
        self._count -= 1
        self._rows -= ticket.rows
        self._bytes -= ticket.size_bytes

    def _head(self) -> K | None:
        heap = self._by_rank
        while heap and not heap[0][2].is_waiting:
            heappop(heap)
        return heap[0][2] if heap else None

    def _tidy(self) -> None:
        """Sweep the heaps once the dead outnumber the living: constant work per ticket."""
        bound = max(_TIDY_FROM, 2 * self._count)
        for heap in (self._by_rank, self._by_deadline):
            if len(heap) > bound:
                heap[:] = [entry for entry in heap if entry[2].is_waiting]
                heapify(heap)


def rows_of(tickets: Sequence[Ticket[Any]]) -> int:
    """How many rows these tickets have together."""
    return sum(ticket.rows for ticket in tickets)
