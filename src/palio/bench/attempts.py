"""What was measured: one row for every attempt, in columns, nothing averaged.

Times are `CLOCK_MONOTONIC` nanoseconds counted from the start of the trial; `NEVER` stands for
what did not happen. Percentiles are computed from these rows when somebody asks, and never kept.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

NEVER: Final = -1

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STAGES: Final = ("read", "tokenise", "queue", "compute", "write")


class Fault(IntEnum):
    """Why an attempt has no good answer; the numbers are what the files hold."""

    NONE = 0
    STATUS = 1  # answered, with a status that is no success
    WRONG = 2  # answered, and the answer is not the right one
    TIMEOUT = 3  # not answered in time
    REFUSED = 4  # no connection could be made
    RESET = 5  # the connection ended before the answer did
    GARBAGE = 6  # what came back is not HTTP
    DROPPED = 7  # never sent: the client had no connection left for it
    UNFINISHED = 8  # the run was cut off while it was under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Columns of equal length, in the order of intended time.

    intended, released, sent, first_byte, last_byte: int64 ns from the trial's start. `released` is
    when the client's timer let it go, `sent` when its last byte was handed to the kernel.
    status: int16, the protocol's, 0 without an answer. fault: uint8, a `Fault`.
    bytes_out, bytes_in: int32. input_id: int32, which of the workload's inputs it carried.
    rows: int32, how many rows that input has. stages: float32 [n, 5], the server's own account in
    ms by `STAGES`, NaN where it gave none. batch: int16, the server batch's rows, 0 unknown.
    """

    intended: I64
    released: I64
    sent: I64
    first_byte: I64
    last_byte: I64
    status: npt.NDArray[np.int16]
    fault: npt.NDArray[np.uint8]
    bytes_out: npt.NDArray[np.int32]
    bytes_in: npt.NDArray[np.int32]
    input_id: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    stages: npt.NDArray[np.float32]
    batch: npt.NDArray[np.int16]

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, field.name)) for field in fields(self)}
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.intended)

    @property
    def is_good(self) -> Bools:
        """Which attempts got a good answer."""
        good: Bools = self.fault == Fault.NONE
        return good

    @property
    def latency_ms(self) -> F64:
        """From intended to last byte, the official latency; +infinity without a good answer."""
        return self._since(self.intended)

    @property
    def service_ms(self) -> F64:
        """From sent to last byte, what a closed loop calls latency; +infinity likewise."""
        return self._since(self.sent)

    @property
    def lag_ms(self) -> F64:
        """From intended to sent, the client's own lateness; NaN for what was never sent."""
        return np.where(self.sent == NEVER, np.nan, (self.sent - self.intended) / 1e6)

    def where(self, chosen: Bools | slice) -> Attempts:
        """Only the chosen rows."""
        columns: dict[str, Any] = {
            field.name: getattr(self, field.name)[chosen] for field in fields(self)
        }
        return Attempts(**columns)

    def _since(self, start: I64) -> F64:
        return np.where(self.is_good, (self.last_byte - start) / 1e6, np.inf)
