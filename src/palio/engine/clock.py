"""Time, as the engine sees it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from palio.core.ports import Alarm, Bell, Lock

_MS = 1_000_000


class LoopClock:
    """The real clock, for one running event loop.

    Alarms come up to a whole millisecond late: that is the resolution of epoll as asyncio and
    uvloop use it. Bells wake a thread within tens of microseconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def alarm(self, at_ns: int, ring: Callable[[], None]) -> Alarm:
        # uvloop rounds to the nearest millisecond, which may be too early; asyncio rounds up.
        left_ms = -(-max(0, at_ns - self.now_ns()) // _MS)
        return self._loop.call_later(left_ms / 1e3, ring)

    def bell(self, lock: Lock) -> Bell:
        return ThreadBell(lock)


class ThreadBell:
    """A bell on a condition variable, timed by the monotonic clock."""

    def __init__(self, lock: Lock) -> None:
        # Any lock of `threading` will do; its stubs have no name for that.
        self._condition = threading.Condition(lock)  # type: ignore[arg-type]

    def ring(self) -> None:
        self._condition.notify()

    def wait(self, until_ns: int | None) -> None:
        if until_ns is None:
            self._condition.wait()
        elif (left := until_ns - time.monotonic_ns()) > 0:
            self._condition.wait(left / 1e9)


class Posts(Protocol):
    """Anything that can take a call from another thread: an event loop."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object: ...


def post(loop: Posts, callback: Callable[..., object], *args: object) -> None:
    """Have `callback` run on the loop; a loop that is gone has nobody left to tell."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)
