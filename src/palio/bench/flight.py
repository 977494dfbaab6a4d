"""How many requests were under way on average, counted while it happens.

The rows of a trial cannot contradict themselves; this count can contradict them.
"""

from __future__ import annotations

FOREVER: int = 1 << 62


class Flight:
    """Adds up open requests times nanoseconds between two moments of the trial."""

    __slots__ = ("_area", "_from_ns", "_last_ns", "_open", "_until_ns")

    def __init__(self, from_ns: int = 0, until_ns: int = FOREVER) -> None:
        self._from_ns = from_ns
        self._until_ns = until_ns
        self._area = 0
        self._last_ns = 0
        self._open = 0

    def step(self, now_ns: int, by: int) -> None:
        """One more request is under way (`by` 1), or one less (-1); times never go back."""
        low = max(self._from_ns, self._last_ns)
        high = min(self._until_ns, now_ns)
        if high > low:
            self._area += (high - low) * self._open
        self._last_ns = now_ns
        self._open += by

    def mean(self) -> float | None:
        """Requests under way on average; None while the window is not over."""
        if self._until_ns == FOREVER or self._last_ns < self._until_ns:
            return None
        return self._area / (self._until_ns - self._from_ns)
