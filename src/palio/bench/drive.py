"""Runs one trial: asks a server a workload's questions under a load, and notes every attempt.

The clock decides what is sent when; the server decides nothing. Whatever the server does, from
refusing to silence, becomes a `Fault` in a row. What the rows mean is judged elsewhere.

While it runs nothing else should run in the same process: a progress display that takes 3 ms to
draw makes 3 ms of requests late. `progress` is called twice a second and must return at once.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import threading
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
import uvloop

from palio.bench.attempts import Attempts, Fault
from palio.bench.calm import no_collections, on_cpus
from palio.bench.load import Load, OpenLoad
from palio.bench.loops import ClosedRun, OpenRun, Run
from palio.bench.questions import Questions
from palio.bench.schedule import Schedule, draw, draw_inputs
from palio.bench.target import Dialler, Target
from palio.core.errors import SettingsError

_TELL_S: Final = 0.5
# A closed loop goes round and round in an order of this many inputs.
_ORDER: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a trial is: `asked` so far, of them answered well, failed, and still open."""

    elapsed_s: float
    asked: int
    good: int
    failed: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """What came of a trial.

    attempts: every attempt, warm-up included: it has `intended` before `warmup_ns`.
    started_unix: when the trial's clock stood at 0, in seconds since 1970; zero_ns: the same
    moment on `CLOCK_MONOTONIC`.
    schedule: what was to be sent when, for an open load.
    took_ns: until the last answer, or until it was given up.
    is_finished: False if it was stopped; attempts under way are then UNFINISHED.
    client_cpu_share: of one core, over the whole trial.
    in_flight_mean: requests sent and unanswered on average, counted while it ran, from the end of
    the warm-up for the load's duration; None without one, or if the run was cut short.
    preempted: how often this process had to leave its core to another.
    connects: connections made. unchecked: answers that were not kept to be checked.
    """

    attempts: Attempts
    started_unix: float
    zero_ns: int
    schedule: Schedule | None
    warmup_ns: int
    took_ns: int
    is_finished: bool
    client_cpu_share: float
    in_flight_mean: float | None
    preempted: int
    connects: int
    unchecked: int


Tell = Callable[[Progress], None]
Keep = Callable[[Attempts], None]


async def drive(
    target: Target,
    questions: Questions,
    load: Load,
    *,
    progress: Tell | None = None,
    keep: Keep | None = None,
    stop: asyncio.Event | None = None,
    cpus: Set[int] | None = None,
) -> Driven:
    """One trial, on the running loop, which should be uvloop's and have nothing else to do.

    `stop` ends it at once, with what there is. `cpus` are the cores to stay on. `keep` is given
    the attempts that are over, in order, twice a second, so that they outlive a kill; answers are
    looked at only when the run is over, so what was wrong is not known there yet.

    Raises:
        SettingsError: a load that cannot be driven, or a host that is not known.
    """
    _check(load)
    dialler = await Dialler.of(target)
    schedule: Schedule | None = None
    run: Run
    if isinstance(load, OpenLoad):
        schedule = draw(load)
        if schedule.sizes is None:
            ids = draw_inputs(load.seed, len(schedule.offsets), len(questions.requests))
        else:
            ids = questions.nearest(schedule.sizes)
        run = OpenRun(dialler, questions.requests, load, schedule, ids)
    else:
        ids = draw_inputs(load.seed, _ORDER, len(questions.requests))
        run = ClosedRun(dialler, questions.requests, load, ids)
    kept = None if keep is None else _Kept(run, questions, load.timeout_s, keep)
    with on_cpus(cpus), no_collections():
        await _open_first(run, stop)
        clocks = _Clocks()
        is_finished = await _until_over(run, load.timeout_s, _Beside(progress, kept), stop)
        spent = clocks.stop()
        run.flight.step(time.monotonic_ns() - run.origin_ns, 0)
    attempts = run.ledger.finish(
        run.count, questions.requests, questions.rows, timeout_ns=round(load.timeout_s * 1e9)
    )
    return Driven(
        attempts=_with_wrong(attempts, run, questions),
        started_unix=clocks.started_unix,
        zero_ns=run.origin_ns,
        schedule=schedule,
        warmup_ns=round(load.warmup_s * 1e9),
        took_ns=spent.wall_ns,
        is_finished=is_finished,
        client_cpu_share=spent.cpu_ns / max(spent.wall_ns, 1),
        in_flight_mean=run.flight.mean(),
        preempted=spent.preempted,
        connects=run.connects,
        unchecked=run.answers.unchecked,
    )


def drive_alone(
    target: Target,
    questions: Questions,
    load: Load,
    *,
    progress: Tell | None = None,
    keep: Keep | None = None,
    cpus: Set[int] | None = None,
) -> Driven:
    """`drive` from outside any loop; SIGINT and SIGTERM end the trial with what there is."""

    async def main() -> Driven:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, stop.set)
        return await drive(
            target, questions, load, progress=progress, keep=keep, stop=stop, cpus=cpus
        )

    return uvloop.run(main())


async def _open_first(run: Run, stop: asyncio.Event | None) -> None:
    """The first connections, as long as nobody says stop."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(run.open_first())}
        if stop is not None:
            tasks.add(group.create_task(_wait(stop)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _until_over(
    run: Run, timeout_s: float, watchers: _Beside, stop: asyncio.Event | None
) -> bool:
    """Run it; whether it came to its own end."""
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(_sweep(run, timeout_s))]
        if watchers.tell is not None or watchers.kept is not None:
            beside.append(group.create_task(_tell(run, watchers)))
        if stop is not None:
            beside.append(group.create_task(_stop(run, stop)))
        try:
            if stop is None or not stop.is_set():
                run.start(group)
                await run.over.wait()
        finally:
            is_finished = not run.ledger.under_way(run.count) and not (stop and stop.is_set())
            run.end()
            for task in beside:
                task.cancel()
    # Closed connections are gone only after a turn of the loop.
    await asyncio.sleep(0)
    return is_finished


async def _sweep(run: Run, timeout_s: float) -> None:
    period_s = min(max(timeout_s / 20, 0.002), 0.25)
    while True:
        await asyncio.sleep(period_s)
        run.sweep()


async def _tell(run: Run, watchers: _Beside) -> None:
    while True:
        await asyncio.sleep(_TELL_S)
        count = run.count
        if watchers.kept is not None:
            watchers.kept.catch_up()
        if watchers.tell is not None:
            good, under_way = run.ledger.good(count), run.ledger.under_way(count)
            elapsed_s = (time.monotonic_ns() - run.origin_ns) / 1e9
            watchers.tell(Progress(elapsed_s, count, good, count - good - under_way, under_way))


class _Kept:
    """Hands on what is over, from the front of the ledger."""

    def __init__(self, run: Run, questions: Questions, timeout_s: float, keep: Keep) -> None:
        self._run = run
        self._questions = questions
        self._timeout_ns = round(timeout_s * 1e9)
        self._keep = keep
        self._until = 0

    def catch_up(self) -> None:
        run = self._run
        until = run.ledger.settled(self._until, run.count)
        if until > self._until:
            self._keep(
                run.ledger.part(
                    self._until,
                    until,
                    self._questions.requests,
                    self._questions.rows,
                    timeout_ns=self._timeout_ns,
                )
            )
            self._until = until


@dataclass(frozen=True, slots=True)
class _Beside:
    """Who looks on while it runs."""

    tell: Tell | None
    kept: _Kept | None


async def _stop(run: Run, stop: asyncio.Event) -> None:
    await stop.wait()
    run.over.set()


@dataclass(frozen=True, slots=True)
class _Spent:
    wall_ns: int
    cpu_ns: int
    preempted: int


class _Clocks:
    """What the run takes of time and of the processor, from here to `stop`."""

    def __init__(self) -> None:
        self.started_unix = datetime.now(UTC).timestamp()
        self._wall = time.monotonic_ns()
        self._cpu = time.process_time_ns()
        self._preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

    def stop(self) -> _Spent:
        return _Spent(
            time.monotonic_ns() - self._wall,
            time.process_time_ns() - self._cpu,
            resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - self._preempted,
        )


def _with_wrong(attempts: Attempts, run: Run, questions: Questions) -> Attempts:
    wrong = run.answers.wrong(questions.check, attempts.input_id, attempts.is_good)
    if not wrong.any():
        return attempts
    return replace(attempts, fault=np.where(wrong, Fault.WRONG, attempts.fault).astype(np.uint8))


def _check(load: Load) -> None:
    if not load.timeout_s > 0:
        raise SettingsError(f"timeout: {load.timeout_s} is not above 0")
    if isinstance(load, OpenLoad):
        if load.connections < 1:
            raise SettingsError("connections: at least 1 is needed")
        return
    if load.concurrency < 1:
        raise SettingsError("concurrency: at least 1 is needed")
    if load.duration_s < 0 or load.requests < 0 or load.warmup_s < 0 or load.seed < 0:
        raise SettingsError("duration, requests, warm-up and seed cannot be negative")
    if not (load.duration_s or load.requests):
        raise SettingsError("a closed load needs a duration or a number of requests")
