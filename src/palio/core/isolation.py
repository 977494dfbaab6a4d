"""Finding the one bad row: halving a batch that a backend says a row has spoilt.

Only errors a backend itself declares row-caused (`RowRejected`) are worth halving for; anything
else would only be tried again to fail again. The search is bounded twice: in runs per batch and,
by `Allowance`, in its share of the worker's time, so that poison cannot become the workload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Generic, TypeVar

from palio.core.errors import RowRejected

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(slots=True)
class Isolated(Generic[Out]):
    """What halving found: for each item its output or the reason it has none."""

    outcomes: list[Out | Exception]
    runs: int = 0
    unresolved: list[int] = field(default_factory=list)


def most_runs(items: int) -> int:
    """The bound on runs for one batch: 2 · log2 n, what a single bad row can need."""
    return 2 * ceil(log2(items)) if items > 1 else 0


def isolate(
    items: Sequence[In],
    run: Callable[[Sequence[In]], Sequence[Out]],
    rejected: RowRejected,
) -> Isolated[Out]:
    """Run the good part of a batch that failed with `rejected`, in at most 2 · log2 n runs.

    What is still undecided when the runs are used up is listed as `unresolved` and shares the
    error of its group. An error that is not row-caused fails its group and the search goes on.
    """
    found: Isolated[Out] = Isolated([rejected] * len(items))
    limit = most_runs(len(items))
    bad: list[tuple[int, int, Exception]] = [(0, len(items), rejected)]

    def attempt(low: int, high: int) -> Exception | None:
        found.runs += 1
        try:
            found.outcomes[low:high] = run(items[low:high])
        except Exception as error:  # foreign model code may raise anything
            found.outcomes[low:high] = [error] * (high - low)
            return error
        return None

    while bad:
        low, high, reason = bad.pop()
        if high - low == 1:
            found.outcomes[low] = reason
            continue
        if found.runs >= limit:
            found.outcomes[low:high] = [reason] * (high - low)
            found.unresolved += range(low, high)
            continue
        middle = (low + high) // 2
        failed = attempt(low, middle)
        if failed is None:
            # The bad row is not among the first half, so the second need not be tried to know.
            bad.append((middle, high, reason))
            continue
        if isinstance(failed, RowRejected):
            bad.append((low, middle, failed))
        if found.runs >= limit:
            found.outcomes[middle:high] = [reason] * (high - middle)
            found.unresolved += range(middle, high)
            continue
        failed = attempt(middle, high)
        if isinstance(failed, RowRejected):
            bad.append((middle, high, failed))
    return found


@dataclass(slots=True)
class Allowance:
    """A share of a worker's time that may go into halving, with a little saved up.

    Credit grows by `share` of the time that passes and never exceeds `most_ns`; it may be
    overdrawn by one search, which the next ones then wait for.
    """

    share: float = 0.1
    most_ns: int = 1_000_000_000
    credit_ns: float = 1_000_000_000.0
    seen_ns: int | None = None

    def allows(self, now_ns: int) -> bool:
        """Whether another search may start."""
        if self.seen_ns is not None:
            grown = self.credit_ns + self.share * (now_ns - self.seen_ns)
            self.credit_ns = min(float(self.most_ns), grown)
        self.seen_ns = now_ns
        return self.credit_ns > 0

    def spend(self, took_ns: int) -> None:
        """One search took this long."""
        self.credit_ns -= took_ns
