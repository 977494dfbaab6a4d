"""Keeps what the server said so that every answer can be checked once the run is over.

Checking costs more than asking does, so it waits. The same input mostly gets the same bytes back:
those are compared at once, which is cheap, and one check speaks for all of them. What differs is
kept as it is, up to a budget; beyond it every second one is let go, then three in four, and so on,
so that what is checked is spread over the whole run. How many were let go is said.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final

import numpy as np

from palio.bench.attempts import Bools
from palio.bench.schedule import I32

Check = Callable[[bytes, int], bool]

_BUDGET_BYTES: Final = 128 * 2**20


class Answers:
    """Bodies by attempt and input."""

    def __init__(self, inputs: int, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._first: list[bytes | None] = [None] * inputs
        self._first_bytes = 0
        self._others: list[tuple[int, int, bytes]] = []
        self._other_bytes = 0
        self._budget = budget_bytes // 2
        self._mask = 0
        self._let_go = array("q")

    @property
    def unchecked(self) -> int:
        """How many answers are not kept, and so cannot be checked."""
        return len(self._let_go)

    def keep(self, attempt: int, input_id: int, body: bytes) -> None:
        """Remember what that attempt got."""
        first = self._first[input_id]
        if body == first:
            return
        if first is None and self._first_bytes < self._budget:
            self._first[input_id] = body
            self._first_bytes += len(body)
        elif attempt & self._mask:
            self._let_go.append(attempt)
        else:
            self._others.append((attempt, input_id, body))
            self._other_bytes += len(body)
            if self._other_bytes > self._budget:
                self._thin()

    def wrong(self, check: Check, input_ids: I32, is_answered: Bools) -> Bools:
        """Which of the answered attempts were answered wrongly, as far as was kept."""
        is_bad = np.array(
            [first is not None and not check(first, at) for at, first in enumerate(self._first)],
            np.bool_,
        )
        wrong: Bools = is_bad[input_ids]
        wrong[np.array(self._let_go, np.int64)] = False
        for attempt, input_id, body in self._others:
            wrong[attempt] = not check(body, input_id)
        return wrong & is_answered

    def _thin(self) -> None:
        self._mask = 2 * self._mask + 1
        others, self._others = self._others, []
        self._other_bytes = 0
        for each in others:
            if each[0] & self._mask:
                self._let_go.append(each[0])
            else:
                self._others.append(each)
                self._other_bytes += len(each[2])
