"""Runs what `palio.core.batching` decides.

Calls join a queue on the event loop's thread; each worker, a thread of its own, takes its next
batch from that queue itself, at the moment it is free. So a batch is prepared early (rows arrive
tokenised) and sealed late (it grows until the worker takes it), and no round trip through the
loop stands between two runs. The loop hears of each finished batch in one wake-up.

The promises:

1. who leaves while waiting never reaches the model;
2. who leaves mid-batch disturbs nobody;
3. a raising model fails its batch, with the cause chained, and the worker lives on;
4. a full queue refuses at once;
5. when it stops, everyone running and waiting is told; a worker that dies tells its callers,
   and the last one to die tells everybody;
6. one bad row does not fail its neighbours, where the backend can tell that it was the row.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from palio.core.batching import BatchQueue, BatchRule, rows_of
from palio.core.costs import CostLearner
from palio.core.errors import (
    BackendFailed,
    DeadlineExceeded,
    NotReady,
    PalioError,
    RowRejected,
)
from palio.core.isolation import Allowance, isolate
from palio.core.policies import Policy, most_useful_per_second
from palio.core.ports import Alarm, Clock
from palio.core.requests import Timings
from palio.engine.calls import Call, Piece, Place
from palio.engine.clock import post

In = TypeVar("In")
Out = TypeVar("Out")

Run = Callable[[Sequence[In]], Sequence[Out]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One batch that ran, for metrics and logs."""

    batch_id: int
    worker: int
    calls: int
    rows: int
    length: int
    useful: int
    began_ns: int
    took_ns: int
    predicted_ns: int
    waiting_rows: int
    isolation_runs: int
    error: str
    tags: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Worker(Generic[In, Out]):
    number: int
    run: Run[In, Out]
    allowance: Allowance = field(default_factory=Allowance)
    running: tuple[Place[In], ...] = ()
    thread: threading.Thread | None = None
    is_idle: bool = False


@dataclass(slots=True)
class _Finished(Generic[In, Out]):
    """What a worker hands to the loop after a batch."""

    worker: _Worker[In, Out]
    batch: tuple[Place[In], ...]
    outcomes: Sequence[Out | Exception]
    record: BatchRecord


class Batcher(Generic[In, Out]):
    """Gathers calls into batches for one model's workers and hands each caller its own answer."""

    def __init__(
        self,
        rule: BatchRule,
        runs: Sequence[Run[In, Out]],
        clock: Clock,
        *,
        policy: Policy = most_useful_per_second,
        learner: CostLearner | None = None,
        on_batch: Callable[[BatchRecord], None] = lambda _: None,
        name: str = "model",
    ) -> None:
        """`runs` has one callable per worker, each called on that worker's thread only.

        A run takes the payloads of a batch and gives one output for each, in the same order.
        """
        self._queue: BatchQueue[Place[In]] = BatchQueue(rule, policy)
        self._clock = clock
        self._learner = learner or CostLearner()
        self._on_batch = on_batch
        self._name = name
        self._lock = threading.Lock()
        self._bell = clock.bell(self._lock)
        self._workers = [_Worker[In, Out](number, run) for number, run in enumerate(runs)]
        self._alive = 0
        self._batches = 0
        self._live_calls = 0
        self._closing: str | None = "the batcher has not started"
        self._is_over = False
        self._alarm: Alarm | None = None
        self._alarm_ns = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._emptied: asyncio.Event | None = None
        self._over: asyncio.Event | None = None

    # --- the callers' side: event loop thread only ------------------------------------------

    @property
    def waiting_rows(self) -> int:
        """How many rows are in the queue."""
        return self._queue.rows

    @property
    def running_batches(self) -> int:
        """How many workers are running a batch."""
        return sum(1 for worker in self._workers if worker.running)

    @property
    def is_working(self) -> bool:
        """It takes calls and somebody is there to run them."""
        return self._closing is None and self._alive > 0

    def start(self) -> None:
        """Start the workers; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._emptied = asyncio.Event()
        self._over = asyncio.Event()
        self._closing = None
        self._alive = len(self._workers)
        for worker in self._workers:
            worker.thread = threading.Thread(
                target=self._work, args=(worker,), daemon=True, name=f"{self._name}-{worker.number}"
            )
            worker.thread.start()

    def submit(
        self,
        pieces: Sequence[Piece[In]],
        when_done: Callable[[Call[In, Out]], None],
        *,
        timings: Timings | None = None,
        deadline_ns: int | None = None,
        priority: int = 0,
        tag: str = "",
    ) -> Call[In, Out]:
        """Queue a call of one or more pieces; `when_done` gets it back settled, on this thread.

        Raises:
            Overloaded: the queue is full; nothing was queued.
            NotReady: not started, stopping, or no worker is left.
        """
        if self._closing is not None:
            raise NotReady(self._closing)
        now = self._clock.now_ns()
        if not pieces:
            raise ValueError("a call has at least one piece")
        call: Call[In, Out] = Call(when_done, timings or Timings(), deadline_ns, tag)
        call.timings.prepared_ns = now
        call.seat(pieces, now, priority)
        with self._lock:
            self._queue.offer(*call.places)
            self._bell.ring()
        self._live_calls += 1
        if deadline_ns is not None:
            self._arm(deadline_ns)
        return call

    async def ask(
        self, *pieces: Piece[In], deadline_ns: int | None = None, priority: int = 0
    ) -> list[Out]:
        """Submit and wait for the outputs; leaving (cancellation) disturbs nobody."""
        answer: asyncio.Future[list[Out]] = asyncio.get_running_loop().create_future()

        def when_done(call: Call[In, Out]) -> None:
            if answer.done():
                return
            if call.error is not None:
                answer.set_exception(call.error)
            else:
                answer.set_result(call.results())

        call = self.submit(pieces, when_done, deadline_ns=deadline_ns, priority=priority)
        try:
            return await answer
        finally:
            self.cancel(call)

    def cancel(self, call: Call[In, Out]) -> None:
        """The caller has left: what is waiting is withdrawn, what runs is not delivered."""
        if call.is_done:
            return
        call.leave()
        self._settled(call)

    async def drain(self, until_ns: int) -> bool:
        """Refuse new calls and wait until those here are settled; False if time ran out first."""
        if self._emptied is None:
            return True
        self._closing = self._closing or "the model is draining"
        if self._live_calls == 0:
            return True
        self._emptied.clear()
        alarm = self._clock.alarm(until_ns, self._emptied.set)
        await self._emptied.wait()
        alarm.cancel()
        return self._live_calls == 0

    async def stop(self, until_ns: int) -> bool:
        """Tell everybody still here `NotReady`, and wait for the workers to come home.

        False if a worker is still inside its model at `until_ns`: it is left behind, a daemon
        thread that will find nothing to do.
        """
        self._end("the model has stopped")
        if self._over is None or self._alive == 0:
            return True
        alarm = self._clock.alarm(until_ns, self._over.set)
        await self._over.wait()
        alarm.cancel()
        return self._alive == 0

    def _end(self, reason: str) -> None:
        self._closing = reason
        with self._lock:
            self._is_over = True
            left = self._queue.drain()
            running = [place for worker in self._workers for place in worker.running]
            for _ in self._workers:
                self._bell.ring()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for place in (*running, *left):
            self._fail(place.call, NotReady(reason))

    def _settled(self, call: Call[In, Out]) -> None:
        """Bookkeeping once a call is over: nothing of it stays in the queue."""
        if len(call.places) > 1 or call.places[0].is_waiting:
            with self._lock:
                for place in call.places:
                    self._queue.withdraw(place)
        # Places point back at their call; a circle would stay until a collection.
        call.places = ()
        self._live_calls -= 1
        if self._live_calls == 0 and self._emptied is not None:
            self._emptied.set()

    def _fail(self, call: Call[In, Out], error: PalioError) -> None:
        if not call.is_done:
            try:
                call.fail(error)
            finally:
                self._settled(call)

    # --- deadlines --------------------------------------------------------------------------

    def _arm(self, deadline_ns: int) -> None:
        """See to it that somebody looks at the clock no later than `deadline_ns`."""
        if self._alarm is not None:
            if self._alarm_ns <= deadline_ns:
                return
            self._alarm.cancel()
        self._alarm_ns = deadline_ns
        self._alarm = self._clock.alarm(deadline_ns, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """Answer everyone whose time ran out, waiting or running, and set the next alarm."""
        self._alarm = None
        now = self._clock.now_ns()
        with self._lock:
            expired = self._queue.expire(now)
            running = [
                place
                for worker in self._workers
                for place in worker.running
                if place.deadline_ns is not None and not place.call.is_done
            ]
            nearest = self._queue.next_deadline_ns()
        self._tell_expired(expired)
        for place in running:
            if place.deadline_ns is not None and place.deadline_ns <= now:
                self._fail(place.call, DeadlineExceeded("its time ran out while the model ran"))
            elif place.deadline_ns is not None:
                nearest = min(nearest or place.deadline_ns, place.deadline_ns)
        if nearest is not None:
            self._arm(nearest)

    def _tell_expired(self, expired: Sequence[Place[In]]) -> None:
        for place in expired:
            self._fail(place.call, DeadlineExceeded("its time ran out before a worker was free"))

    # --- the workers' side: one thread each -------------------------------------------------

    def _work(self, worker: _Worker[In, Out]) -> None:
        died: BaseException | None = None
        try:
            while batch := self._take(worker):
                finished = self._run(worker, batch)
                self._post(self._deliver, finished)
        except BaseException as error:  # reported by _worker_left, never lost
            died = error
        finally:
            # Whatever ended this thread, those who wait for it are told.
            self._post(self._worker_left, worker, died)

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            post(self._loop, callback, *args)

    def _take(self, worker: _Worker[In, Out]) -> tuple[Place[In], ...]:
        """The next batch for this worker; waits for one; empty when it is all over."""
        with self._lock:
            worker.running = ()
            while not self._is_over:
                cut = self._queue.cut(self._clock.now_ns(), self._learner.cost)
                if cut.expired:
                    self._post(self._tell_expired, cut.expired)
                if cut.batch:
                    worker.running = cut.batch
                    if self._queue.rows:
                        self._bell.ring()  # what is left may be for another idle worker
                    return worker.running
                self._bell.wait(self._queue.batch_due_ns())
        return ()

    def _run(self, worker: _Worker[In, Out], batch: tuple[Place[In], ...]) -> _Finished[In, Out]:
        began = self._clock.now_ns()
        rows = rows_of(batch)
        length = max(place.length for place in batch)
        predicted = self._learner.cost.predict_ns(rows, length)
        payloads = [place.payload for place in batch]
        isolation_runs = 0
        error_name = ""
        outcomes: Sequence[Out | Exception]
        try:
            outcomes = worker.run(payloads)
            if len(outcomes) != len(batch):
                raise ValueError(f"{len(batch)} inputs went in, {len(outcomes)} came out")
        except RowRejected as error:
            error_name = type(error).__name__
            outcomes, isolation_runs = self._isolate(worker, payloads, error, began)
        except Exception as error:
            error_name = type(error).__name__
            outcomes = [error] * len(batch)
        ended = self._clock.now_ns()
        with self._lock:
            self._batches += 1
            batch_id = self._batches
            waiting = self._queue.rows
            if not error_name:
                self._learner.observe(rows, length, ended - began)
        record = BatchRecord(
            batch_id=batch_id,
            worker=worker.number,
            calls=len(batch),
            rows=rows,
            length=length,
            useful=sum(place.rows * place.length for place in batch),
            began_ns=began,
            took_ns=ended - began,
            predicted_ns=round(predicted),
            waiting_rows=waiting,
            isolation_runs=isolation_runs,
            error=error_name,
            tags=tuple(place.call.tag for place in batch),
        )
        return _Finished(worker, batch, outcomes, record)

    def _isolate(
        self,
        worker: _Worker[In, Out],
        payloads: list[In],
        rejected: RowRejected,
        began_ns: int,
    ) -> tuple[Sequence[Out | Exception], int]:
        """Find the bad row if there is time to spare; otherwise the whole batch fails."""
        if len(payloads) == 1:
            return [rejected], 0
        if not worker.allowance.allows(began_ns):
            failed = BackendFailed("a row in this batch failed it; there was no time to find which")
            failed.__cause__ = rejected
            return [failed] * len(payloads), 0
        before = self._clock.now_ns()
        found = isolate(payloads, worker.run, rejected)
        worker.allowance.spend(self._clock.now_ns() - before)
        for index in found.unresolved:
            failed = BackendFailed("a row in this batch failed it; the search for it was cut short")
            failed.__cause__ = rejected
            found.outcomes[index] = failed
        return found.outcomes, found.runs

    # --- back on the event loop -------------------------------------------------------------

    def _deliver(self, finished: _Finished[In, Out]) -> None:
        record = finished.record
        for place, outcome in zip(finished.batch, finished.outcomes, strict=True):
            try:
                self._hand_over(place, outcome, record)
            except Exception as error:
                # One caller's trouble with its answer is not its neighbours'.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a caller failed to take its answer", "exception": error}
                )
        self._on_batch(record)

    def _hand_over(self, place: Place[In], outcome: Out | Exception, record: BatchRecord) -> None:
        call = place.call
        if call.is_done:
            return
        timings = call.timings
        timings.taken_ns = record.began_ns
        timings.computed_ns = record.began_ns + record.took_ns
        timings.batch_rows = record.rows
        timings.batch_id = record.batch_id
        if isinstance(outcome, Exception):
            self._fail(call, _own_copy(outcome))
            return
        try:
            call.take(place.index, outcome)
        finally:
            if not call.missing:
                self._settled(call)

    def _worker_left(self, worker: _Worker[In, Out], died: BaseException | None) -> None:
        self._alive -= 1
        for place in worker.running:
            failure = BackendFailed("the worker running this batch died")
            failure.__cause__ = died
            self._fail(place.call, failure)
        worker.running = ()
        if self._alive == 0:
            if died is not None:
                self._end(f"the last worker died: {type(died).__name__}: {died}")
            if self._over is not None:
                self._over.set()


def _own_copy(error: Exception) -> PalioError:
    """One exception object per caller: a shared one would grow its traceback with each."""
    if isinstance(error, RowRejected):
        copy: PalioError = RowRejected(str(error), field=error.field)
    elif isinstance(error, BackendFailed):
        copy = BackendFailed(str(error))
    else:
        copy = BackendFailed(f"the model raised {type(error).__name__}: {error}")
    copy.__cause__ = error
    return copy
