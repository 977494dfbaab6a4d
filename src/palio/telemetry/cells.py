"""Counters and histograms cheap enough for every request: plain arrays, read only when scraped.

Written from the event loop's thread alone, so nothing here locks. `exposition` turns them into
Prometheus' text form through prometheus-client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

from palio.telemetry.names import Metric


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount


class Spread:
    """A histogram: how many observations fell at or below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Spread) -> None:
        """Add another spread over the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' form: for each upper bound, how many were at or below it."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(float, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((str(bound), running))
        return rows


Cell = TypeVar("Cell", Count, Spread)


class Family(Generic[Cell]):
    """One metric's cells, by the values of its labels."""

    __slots__ = ("_make", "cells", "metric")

    def __init__(self, metric: Metric, make: Callable[[], Cell]) -> None:
        self.metric = metric
        self._make: Callable[[], Cell] = make
        self.cells: dict[tuple[str, ...], Cell] = {}

    def at(self, *labels: str) -> Cell:
        """The cell of these label values, made on first use."""
        cell = self.cells.get(labels)
        if cell is None:
            cell = self.cells[labels] = self._make()
        return cell

    def items(self) -> Iterable[tuple[tuple[str, ...], Cell]]:
        return self.cells.items()


def counts(metric: Metric) -> Family[Count]:
    """A family of counters."""
    return Family(metric, Count)


def spreads(metric: Metric) -> Family[Spread]:
    """A family of histograms over the metric's buckets."""
    return Family(metric, partial(Spread, metric.buckets))
