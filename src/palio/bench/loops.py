"""The two ways of asking: on a schedule whatever happens, or again whenever answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Final, Protocol

from palio.bench.answers import Answers
from palio.bench.attempts import Fault
from palio.bench.flight import FOREVER, Flight
from palio.bench.ledger import Ledger
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.schedule import I32, Schedule
from palio.bench.target import Dialler
from palio.bench.timerfd import Alarm
from palio.bench.wire_client import Line

_now: Final = time.monotonic_ns
# So many requests leave in one turn of the loop, then answers are read: a late client that only
# sent would take its own silence for the server's.
_MOST_AT_ONCE: Final = 32
# Connections made before an open loop begins; more are opened when they are needed.
_AT_FIRST: Final = 64
# A caller who is refused does not hammer at the door.
_PAUSE_S: Final = 0.02
# Between the start of the trial and its first moment, so that the first request is not late.
_LEAD_NS: Final = 2_000_000


class Run(Protocol):
    """One run of either kind."""

    ledger: Ledger
    answers: Answers
    flight: Flight
    origin_ns: int
    count: int
    connects: int
    over: asyncio.Event

    async def open_first(self) -> None:
        """Make the connections to begin with; those that fail are tried again in the run."""

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin the trial; further connections are made in `group`."""

    def sweep(self) -> None:
        """Give up what has waited for too long."""

    def end(self) -> None:
        """Close everything; what is under way stays unfinished."""


class _Lines:
    """The connections of a run, and what is being done to get more."""

    def __init__(self, dialler: Dialler, timeout_s: float, flight: Flight) -> None:
        self.flight = flight
        self.origin_ns = 0
        self.connects = 0
        self.over = asyncio.Event()
        self._dialler = dialler
        self._timeout_s = timeout_s
        self._timeout_ns = round(timeout_s * 1e9)
        self._lines: set[Line] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        if self._group is None:
            work.close()
            return
        task = self._group.create_task(work)
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def _took_in(self, line: Line) -> bool:
        """Count a connection in, unless it is closed already.

        Not before its dial has ended: one that is given up may have closed it without a word.
        """
        self.connects += 1
        if line.is_open:
            self._lines.add(line)
        return line.is_open

    def _give_up_slow(self, intended: memoryview) -> None:
        expired = _now() - self.origin_ns - self._timeout_ns
        for line in [each for each in self._lines if each.attempt >= 0]:
            if intended[line.attempt] <= expired:
                line.fail(Fault.TIMEOUT)

    def _close_all(self) -> None:
        self._group = None
        for dial in self._dials:
            dial.cancel()
        for line in self._lines:
            line.drop()
        self._lines.clear()


class OpenRun(_Lines):
    """Releases every request at its intended time, over a pool of connections.

    The pool grows up to so many connections; what then finds none free is dropped, and counted.
    """

    def __init__(
        self,
        dialler: Dialler,
        requests: Sequence[bytes],
        load: OpenLoad,
        schedule: Schedule,
        input_ids: I32,
    ) -> None:
        super().__init__(
            dialler, load.timeout_s, Flight(schedule.warmup_ns, schedule.end_ns or FOREVER)
        )
        self.ledger = Ledger(len(schedule.offsets))
        self.ledger.write("intended", schedule.offsets)
        self.ledger.write("input_id", input_ids)
        self.answers = Answers(len(requests))
        self.count = 0
        self._requests = requests
        self._due: list[int] = schedule.offsets.tolist()
        self._input_ids: list[int] = input_ids.tolist()
        self._most_lines = load.connections
        self._free: list[Line] = []
        # Released, each with a connection on its way. The oldest takes whichever is free first.
        self._waiting: deque[int] = deque()
        self._dialling = 0
        self._unsettled = 0
        self._alarm: Alarm | None = None

    async def open_first(self) -> None:
        self._dialling = min(self._most_lines, _AT_FIRST)
        await asyncio.gather(*(self._dial() for _ in range(self._dialling)))

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.origin_ns = _now() + _LEAD_NS
        self._alarm = Alarm(asyncio.get_running_loop(), self._release)
        self._alarm.set_at(self.origin_ns + self._due[0] if self._due else 1)

    def sweep(self) -> None:
        self._give_up_slow(self.ledger.intended)
        expired = _now() - self.origin_ns - self._timeout_ns
        waiting = self._waiting
        while waiting and self._due[waiting[0]] <= expired:
            self._fail(waiting.popleft(), Fault.TIMEOUT)

    def end(self) -> None:
        if self._alarm is not None:
            self._alarm.close()
        self._close_all()

    # The lines' side.

    def freed(self, line: Line, now_ns: int) -> None:  # noqa: ARG002  (an Owner's)
        self._employ(line)
        self._settle_one()

    def lost(self, line: Line, now_ns: int, *, settled: bool) -> None:  # noqa: ARG002  (an Owner's)
        self._lines.discard(line)
        if settled:
            self._settle_one()

    # Steps.

    def _release(self) -> None:
        due, ids, requests = self._due, self._input_ids, self._requests
        released, free = self.ledger.released, self._free
        at, most = self.count, min(len(due), self.count + _MOST_AT_ONCE)
        now = _now() - self.origin_ns
        while at < most and due[at] <= now:
            released[at] = now
            self._unsettled += 1
            while free:
                line = free.pop()
                if line.is_open:
                    now = line.ask(at, ids[at], requests[ids[at]])
                    break
            else:
                self._await_line(at)
            at += 1
        self.count = at
        if self._alarm is None:
            return
        if at < len(due):
            self._alarm.set_at(self.origin_ns + due[at])
        else:
            self._alarm.switch_off()
            self._check_over()

    def _await_line(self, attempt: int) -> None:
        if len(self._lines) + self._dialling < self._most_lines:
            self._dialling += 1
            self._waiting.append(attempt)
            self._beside(self._dial())
        elif len(self._waiting) < self._dialling:
            self._waiting.append(attempt)
        else:
            self._fail(attempt, Fault.DROPPED)

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await self._dialler.dial(lambda: Line(self))
        except TimeoutError:
            # Who waits for it is given up by the sweep, at a time that is its own.
            return
        except OSError:
            if self._waiting:
                self._fail(self._waiting.popleft(), Fault.REFUSED)
        else:
            if self._took_in(line):
                self._employ(line)
            elif self._waiting:
                self._fail(self._waiting.popleft(), Fault.RESET)
        finally:
            self._dialling -= 1

    def _employ(self, line: Line) -> None:
        if self._waiting:
            attempt = self._waiting.popleft()
            input_id = self._input_ids[attempt]
            line.ask(attempt, input_id, self._requests[input_id])
        else:
            self._free.append(line)

    def _fail(self, attempt: int, fault: Fault) -> None:
        self.ledger.fault[attempt] = fault
        self._settle_one()

    def _settle_one(self) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self._check_over()

    def _check_over(self) -> None:
        if self.count == len(self._due) and not self._unsettled:
            self.over.set()


class ClosedRun(_Lines):
    """So many callers, each with one connection, each asking again as soon as it is answered.

    A caller whose connection was lost makes another one; that is part of its next request's time.
    """

    def __init__(
        self, dialler: Dialler, requests: Sequence[bytes], load: ClosedLoad, input_ids: I32
    ) -> None:
        warmup_ns = round(load.warmup_s * 1e9)
        until_ns = warmup_ns + round(load.duration_s * 1e9) if load.duration_s else FOREVER
        super().__init__(dialler, load.timeout_s, Flight(warmup_ns, until_ns))
        self.ledger = Ledger(load.requests or 1 << 16)
        self.answers = Answers(len(requests))
        self.count = 0
        self._requests = requests
        self._input_ids: list[int] = input_ids.tolist()
        self._callers = load.concurrency
        self._warmup_ns = round(load.warmup_s * 1e9)
        self._end_ns = self._warmup_ns + round(load.duration_s * 1e9) if load.duration_s else None
        self._requests_wanted = load.requests
        # Known when the warm-up is over: requests are counted from there.
        self._most: int | None = None

    async def open_first(self) -> None:
        await asyncio.gather(*(self._try_dial() for _ in range(self._callers)))

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.origin_ns = _now()
        lines = [line for line in self._lines if line.is_open]
        for line in lines:
            self.freed(line, _now() - self.origin_ns)
        for _ in range(self._callers - len(lines)):
            self._beside(self._ask_anew(_now() - self.origin_ns))

    def sweep(self) -> None:
        self._give_up_slow(self.ledger.intended)

    def end(self) -> None:
        self._close_all()

    # The lines' side.

    def freed(self, line: Line, now_ns: int) -> None:
        attempt = self._claim(now_ns)
        if attempt >= 0:
            self._ask(line, attempt)
        else:
            self._lines.discard(line)
            line.drop()
            self._retire()

    def lost(self, line: Line, now_ns: int, *, settled: bool) -> None:
        self._lines.discard(line)
        if settled:
            self._beside(self._ask_anew(now_ns))

    # Steps.

    async def _try_dial(self) -> None:
        with suppress(OSError):
            async with asyncio.timeout(self._timeout_s):
                line = await self._dialler.dial(lambda: Line(self))
            self._took_in(line)

    def _claim(self, now: int) -> int:
        """The number of the next request, -1 if there is to be none."""
        attempt = self.count
        if self._requests_wanted and self._most is None and now >= self._warmup_ns:
            self._most = attempt + self._requests_wanted
        if attempt == self._most or (self._end_ns is not None and now >= self._end_ns):
            return -1
        self.count = attempt + 1
        ledger = self.ledger
        if attempt == ledger.capacity:
            ledger.grow()
        ledger.intended[attempt] = ledger.released[attempt] = now
        ledger.input_id[attempt] = self._input_ids[attempt % len(self._input_ids)]
        return attempt

    def _ask(self, line: Line, attempt: int) -> None:
        input_id = self._input_ids[attempt % len(self._input_ids)]
        line.ask(attempt, input_id, self._requests[input_id])

    async def _ask_anew(self, now: int) -> None:
        while (attempt := self._claim(now)) >= 0:
            fault = Fault.RESET
            try:
                async with asyncio.timeout(self._timeout_s):
                    line = await self._dialler.dial(lambda: Line(self))
                if self._took_in(line):
                    self._ask(line, attempt)
                    return
            except TimeoutError:
                fault = Fault.TIMEOUT
            except OSError:
                fault = Fault.REFUSED
                await asyncio.sleep(_PAUSE_S)
            self.ledger.fault[attempt] = fault
            now = _now() - self.origin_ns
        self._retire()

    def _retire(self) -> None:
        self._callers -= 1
        if not self._callers:
            self.over.set()
