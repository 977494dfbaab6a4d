"""Who shares the next batch with the oldest call: the rules a queue can be given.

A policy sees the waiting tickets of one shape in order of length, and the one that must go. It
names the others. Whatever it answers, the oldest goes: nobody starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from palio.core.costs import Cost


class Sized(Protocol):
    """What a policy may know of a ticket."""

    rows: int
    length: int


class Policy(Protocol):
    """Chooses a run of neighbours: `waiting[low:high]`, with `low <= oldest < high`."""

    def __call__(
        self,
        waiting: Sequence[Any],
        oldest: int,
        *,
        max_rows: int,
        max_padding: float,
        cost: Cost,
    ) -> tuple[int, int]:
        """Choose; more than `max_rows` rows only when the oldest alone has more."""
        ...


def most_useful_per_second(
    waiting: Sequence[Sized],
    oldest: int,
    *,
    max_rows: int,
    max_padding: float,
    cost: Cost,
) -> tuple[int, int]:
    """Of the runs that contain the oldest, the one with the most useful places per second.

    A place is one row at one position; a useful one is not padding. Runs that would be padded by
    more than `max_padding` of their places are not considered. Time is `Cost.predict_ns`.

    For a fixed longest member the gain from going on towards shorter ones only falls, so each
    such walk stops at its first loss: the work grows with the answer, not with the queue.
    """
    first = waiting[oldest]
    if waiting[-1].length == waiting[0].length:
        return _one_length(waiting, oldest, max_rows)
    base, unit, square = cost.base_ns, cost.unit_ns, cost.square_ns
    fill = 1.0 - max_padding
    best_rate = -1.0
    best = (oldest, oldest + 1)
    rows_right = useful_right = 0
    count = len(waiting)
    for high in range(oldest, count):
        last = waiting[high]
        rows_right += last.rows
        if rows_right > max_rows and high > oldest:
            break
        useful_right += last.rows * last.length
        length = last.length
        per_row = length * (unit + square * length)
        # Not even a full batch without padding at this length would beat what we have.
        room = max(max_rows, rows_right)
        if high > oldest and room * length <= best_rate * (base + room * per_row):
            continue
        rows, useful = rows_right, useful_right
        if useful < fill * rows * length:
            continue
        rate = useful / (base + rows * per_row)
        low = oldest
        while low > 0:
            nearest = waiting[low - 1]
            more_rows = rows + nearest.rows
            more_useful = useful + nearest.rows * nearest.length
            if more_rows > max_rows or more_useful < fill * more_rows * length:
                break
            more_rate = more_useful / (base + more_rows * per_row)
            if more_rate < rate:
                break
            low, rows, useful, rate = low - 1, more_rows, more_useful, more_rate
        if rate > best_rate:
            best_rate = rate
            best = (low, high + 1)
    return best if first.rows <= max_rows else (oldest, oldest + 1)


def _one_length(waiting: Sequence[Sized], oldest: int, max_rows: int) -> tuple[int, int]:
    """Everybody is of one length: more rows never lower the rate, so take those next in line."""
    rows = waiting[oldest].rows
    high = oldest + 1
    while high < len(waiting) and rows + waiting[high].rows <= max_rows:
        rows += waiting[high].rows
        high += 1
    low = oldest
    while low > 0 and rows + waiting[low - 1].rows <= max_rows:
        rows += waiting[low - 1].rows
        low -= 1
    return low, high


def everything_near(
    waiting: Sequence[Sized],
    oldest: int,
    *,
    max_rows: int,
    max_padding: float,
    cost: Cost,
) -> tuple[int, int]:
    """As many neighbours as fit, whatever the padding: what a batcher blind to length does."""
    del max_padding, cost
    return _one_length(waiting, oldest, max_rows)


def alone(
    waiting: Sequence[Sized],
    oldest: int,
    *,
    max_rows: int,
    max_padding: float,
    cost: Cost,
) -> tuple[int, int]:
    """Nobody: batching is off."""
    del waiting, max_rows, max_padding, cost
    return oldest, oldest + 1
