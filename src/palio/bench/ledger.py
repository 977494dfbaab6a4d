"""Where a run writes down what happens, in columns made beforehand, for little time a line.

Memory views take a number in a third of the time that numpy's arrays need. What need not be known
during the run (sizes of requests, the server's own account) is added when it is over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from palio.bench.attempts import NEVER, STAGES, Attempts, Fault
from palio.bench.schedule import I32

_KINDS: Final[dict[str, tuple[type[np.generic], int]]] = {
    "intended": (np.int64, NEVER),
    "released": (np.int64, NEVER),
    "sent": (np.int64, NEVER),
    "first_byte": (np.int64, NEVER),
    "last_byte": (np.int64, NEVER),
    "status": (np.int16, 0),
    # Whatever nobody settles was cut off.
    "fault": (np.uint8, Fault.UNFINISHED),
    "bytes_in": (np.int32, 0),
    "input_id": (np.int32, 0),
}

_account: Final = re.compile(rb'([a-z]+);(?:dur=|desc=")([0-9]+(?:\.[0-9]+)?)').findall
_COLUMN: Final = {name.encode(): at for at, name in enumerate(STAGES)}


class Ledger:
    """One line for each attempt; the columns are views to write into by its number."""

    intended: memoryview
    released: memoryview
    sent: memoryview
    first_byte: memoryview
    last_byte: memoryview
    status: memoryview
    fault: memoryview
    bytes_in: memoryview
    input_id: memoryview

    def __init__(self, capacity: int) -> None:
        self.capacity = max(capacity, 1)
        self.timings: dict[int, bytes] = {}
        self._columns: dict[str, np.ndarray[Any, Any]] = {
            name: np.full(self.capacity, empty, kind) for name, (kind, empty) in _KINDS.items()
        }
        self._open_views()

    def write(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """A whole column, where it is known beforehand."""
        self._columns[name][: len(values)] = values

    def good(self, count: int) -> int:
        """How many of the first `count` are answered well so far."""
        return int(np.count_nonzero(self._columns["fault"][:count] == Fault.NONE))

    def under_way(self, count: int) -> int:
        """How many of the first `count` are not settled yet."""
        return int(np.count_nonzero(self._columns["fault"][:count] == Fault.UNFINISHED))

    def grow(self) -> None:
        """Twice the room; views taken before are stale, so take none."""
        self.capacity *= 2
        for name, (kind, empty) in _KINDS.items():
            wider = np.full(self.capacity, empty, kind)
            wider[: self.capacity // 2] = self._columns[name]
            self._columns[name] = wider
        self._open_views()

    def finish(
        self, count: int, requests: Sequence[bytes], rows: I32, *, timeout_ns: int
    ) -> Attempts:
        """The first `count` lines as they are kept for good.

        The sweep that ends slow attempts comes by now and then; the limit itself is kept here.
        """
        return self.part(0, count, requests, rows, timeout_ns=timeout_ns)

    def settled(self, low: int, count: int) -> int:
        """Up to where, from `low` on, every line is over; `count` if all are."""
        open_ones = np.flatnonzero(self._columns["fault"][low:count] == Fault.UNFINISHED)
        return low + int(open_ones[0]) if len(open_ones) else count

    def part(
        self, low: int, high: int, requests: Sequence[bytes], rows: I32, *, timeout_ns: int
    ) -> Attempts:
        """The lines from `low` to before `high`, as `finish` gives them."""
        columns = {name: column[low:high] for name, column in self._columns.items()}
        fault = columns["fault"]
        is_late = columns["last_byte"] - columns["intended"] > timeout_ns
        fault[is_late & (columns["last_byte"] != NEVER)] = Fault.TIMEOUT
        input_id = columns["input_id"]
        sizes = np.array([len(request) for request in requests], np.int32)
        stages, batch = self._accounts(low, high)
        return Attempts(
            **columns,
            bytes_out=np.where(columns["sent"] == NEVER, 0, sizes[input_id]).astype(np.int32),
            rows=rows[input_id],
            stages=stages,
            batch=batch,
        )

    def _accounts(self, low: int, high: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        stages = np.full((high - low, len(STAGES)), np.nan, np.float32)
        batch = np.zeros(high - low, np.int16)
        for at_line in range(low, high):
            line = self.timings.get(at_line)
            if line is None:
                continue
            index = at_line - low
            for name, figure in _account(line):
                if name == b"batch":
                    batch[index] = min(int(float(figure)), 32_767)
                elif (at := _COLUMN.get(name)) is not None:
                    stages[index, at] = float(figure)
        return stages, batch

    def _open_views(self) -> None:
        for name, column in self._columns.items():
            setattr(self, name, column.data)
