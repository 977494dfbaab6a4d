"""A clock the test moves by hand, for tasks and for threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio

from palio.core.ports import Lock

MS = 1_000_000


class HandAlarm:
    """An alarm that rings when the hand passes it."""

    def __init__(self, at_ns: int, ring: Callable[[], None]) -> None:
        self.at_ns = at_ns
        self.ring = ring
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class _Waiter:
    def __init__(self, until_ns: int | None) -> None:
        self.until_ns = until_ns
        self.is_rung = False
        self.thread = threading.get_ident()


class HandBell:
    """A bell whose waits end when rung or when the hand passes; the clock knows who sleeps."""

    def __init__(self, clock: HandClock, lock: Lock) -> None:
        self._clock = clock
        self.lock = lock
        self._condition = threading.Condition(lock)  # type: ignore[arg-type]
        self._waiters: list[_Waiter] = []

    def ring(self) -> None:
        for waiter in self._waiters:
            if not waiter.is_rung:
                self._wake(waiter)
                return

    def wait(self, until_ns: int | None) -> None:
        if until_ns is not None and until_ns <= self._clock.now_ns():
            return
        waiter = _Waiter(until_ns)
        self._waiters.append(waiter)
        self._clock.parked.add(waiter.thread)
        while not waiter.is_rung:
            self._condition.wait()
        self._waiters.remove(waiter)

    def wake_due(self) -> None:
        with self.lock:
            for waiter in self._waiters:
                if waiter.until_ns is not None and waiter.until_ns <= self._clock.now_ns():
                    self._wake(waiter)

    def _wake(self, waiter: _Waiter) -> None:
        waiter.is_rung = True
        self._clock.parked.discard(waiter.thread)
        self._condition.notify_all()


class ThreadGate:
    """Open to start with; closed, it holds the threads that come to it, as the clock knows."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._is_open = True
        self._held: set[int] = set()

    @property
    def held(self) -> int:
        """How many threads stand at the gate."""
        return len(self._held)

    def close(self) -> None:
        self._is_open = False

    def open(self) -> None:
        with self._condition:
            self._is_open = True
            self._clock.parked.difference_update(self._held)
            self._condition.notify_all()

    def pass_through(self) -> None:
        with self._condition:
            while not self._is_open:
                self._held.add(threading.get_ident())
                self._clock.parked.add(threading.get_ident())
                self._condition.wait()
            self._held.discard(threading.get_ident())


class HandClock:
    """Stands still until told to move.

    `prefixes` begin the names of the threads that count as blocked only while they wait at one
    of this clock's bells or gates.
    """

    def __init__(self, *prefixes: str) -> None:
        self._now = 0
        self._alarms: list[HandAlarm] = []
        self._bells: list[HandBell] = []
        self._prefixes = prefixes or ("model-",)
        self.parked: set[int] = set()

    def now_ns(self) -> int:
        return self._now

    def alarm(self, at_ns: int, ring: Callable[[], None]) -> HandAlarm:
        alarm = HandAlarm(at_ns, ring)
        self._alarms.append(alarm)
        return alarm

    def bell(self, lock: Lock) -> HandBell:
        bell = HandBell(self, lock)
        self._bells.append(bell)
        return bell

    def gate(self) -> ThreadGate:
        return ThreadGate(self)

    async def move(self, ns: int) -> None:
        """Go forward, ring what is due, and return when everything is blocked again."""
        await self.settle()
        self._now += ns
        due = [alarm for alarm in self._alarms if alarm.at_ns <= self._now]
        self._alarms = [alarm for alarm in self._alarms if alarm.at_ns > self._now]
        for alarm in sorted(due, key=lambda alarm: alarm.at_ns):
            if not alarm.is_cancelled:
                alarm.ring()
        for bell in self._bells:
            bell.wake_due()
        await self.settle()

    async def settle(self) -> None:
        """Return once every thread and every task waits for somebody else."""
        with anyio.fail_after(5):
            for _ in range(3):
                while not self._threads_are_parked():
                    await asyncio.sleep(0)
                await anyio.wait_all_tasks_blocked()

    def _threads_are_parked(self) -> bool:
        return all(
            thread.ident in self.parked
            for thread in threading.enumerate()
            if thread.name.startswith(self._prefixes)
        )
