"""When requests came and how big they were, for replay: never what was in them.

One JSON object per line for every request that a served model was asked, refused ones included,
written when its answer is over and so not in the order of arrival. Texts and tensors are not here,
and neither are words that a caller chose.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

from palio.telemetry.logs import LogWriter

_NS_PER_MS: Final = 1e6
# At 10,000 requests a second, what a disk that stalls for ten seconds leaves unwritten.
_CAPACITY: Final = 100_000


class ArrivalWriter:
    """Takes arrivals on the loop and writes them on a thread; owns the stream it is given."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._writer = LogWriter(stream, capacity=_CAPACITY)
        self._first_ns: int | None = None

    @property
    def dropped(self) -> int:
        """How many arrivals were lost because the disk was too slow, or full."""
        return self._writer.dropped

    def put(
        self,
        arrived_ns: int,
        *,
        route: str,
        model: str,
        rows: int,
        length: int,
        tokens: int,
        bytes_in: int,
    ) -> None:
        """Take one request; never blocks.

        `at_ms` counts from the first that was put: one that came earlier and took longer is a
        little below 0. What was never counted of rows, length (characters, or elements) and
        tokens, as of a request that was refused, is left out.
        """
        if self._first_ns is None:
            self._first_ns = arrived_ns
        line: dict[str, Any] = {
            "at_ms": (arrived_ns - self._first_ns) / _NS_PER_MS,
            "route": route,
            "model": model,
            "bytes_in": bytes_in,
        }
        if rows:
            line["rows"] = rows
        if length:
            line["length"] = length
        if tokens:
            line["tokens"] = tokens
        self._writer.put(line)

    def close(self) -> None:
        """Write what is left and stop."""
        self._writer.close()
        self._stream.close()
