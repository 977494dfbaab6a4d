"""A model for tests of the batcher: it squares, remembers, waits at a gate, and fails on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from palio.core.batching import BatchRule
from palio.core.errors import RowRejected
from palio.engine.batcher import Batcher, BatchRecord
from palio.engine.calls import Piece
from tests.kit.clock import MS, HandClock

RULE = BatchRule(max_rows=4, max_wait_ns=5 * MS, capacity_rows=8)
NOW = BatchRule(max_rows=4, max_wait_ns=0, capacity_rows=8)


class Death(BaseException):
    """Not an Exception: ends the thread that meets it."""


class Squarer:
    """x → x². -1 fails the batch, below that is row-caused, 666 kills the worker."""

    def __init__(self, clock: HandClock) -> None:
        self.batches: list[list[int]] = []
        self.ran_at_ns: list[int] = []
        self.gate = clock.gate()
        self._clock = clock

    def __call__(self, xs: Sequence[int]) -> list[int]:
        self.batches.append(list(xs))
        self.ran_at_ns.append(self._clock.now_ns())
        self.gate.pass_through()
        if -1 in xs:
            raise RuntimeError("no square today")
        if any(x < -1 for x in xs):
            raise RowRejected("not below zero")
        if 666 in xs:
            raise Death
        if 13 in xs:
            return [0]
        return [x * x for x in xs]


@asynccontextmanager
async def serving(
    clock: HandClock,
    *models: Squarer,
    rule: BatchRule = NOW,
    records: list[BatchRecord] | None = None,
) -> AsyncIterator[Batcher[int, int]]:
    """A running batcher with one worker for each model; stopped, gates open, at the end."""
    batcher: Batcher[int, int] = Batcher(
        rule, models, clock, on_batch=(records if records is not None else []).append
    )
    batcher.start()
    try:
        yield batcher
    finally:
        for model in models:
            model.gate.open()
        await batcher.stop(clock.now_ns() + 10 * MS)


def piece(x: int, rows: int = 1, length: int = 1) -> Piece[int]:
    return Piece(x, rows, length)
