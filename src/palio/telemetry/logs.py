"""JSON lines, one object each, written by a thread of their own so that the loop never waits.

The rare lines go through structlog; the one line that every request gets skips it and joins the
same buffer. The buffer is bounded: when the reader of our output stalls, lines are dropped and
counted rather than kept in memory or waited for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Literal

import orjson
import structlog

Level = Literal["debug", "info", "warning", "error"]
Line = Mapping[str, Any]

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CAPACITY: Final = 50_000
_GATHER_S: Final = 0.05


class LogWriter:
    """Takes lines from any thread and writes them soon; `close` writes what is left."""

    def __init__(self, stream: BinaryIO, *, capacity: int = _CAPACITY) -> None:
        self._stream = stream
        self._lines: deque[Line] = deque()
        self._capacity = capacity
        self._has_lines = threading.Event()
        self._is_closing = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._write_on, daemon=True, name="log")
        self._thread.start()

    def put(self, line: Line) -> None:
        """Take one line; never blocks."""
        if len(self._lines) >= self._capacity:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._has_lines.is_set():
            self._has_lines.set()

    def close(self) -> None:
        """Write what is left and stop."""
        self._is_closing.set()
        self._has_lines.set()
        self._thread.join(timeout=5)

    def _write_on(self) -> None:
        while not self._is_closing.is_set():
            self._has_lines.wait()
            # Gather a little, so that a busy server makes few writes.
            self._is_closing.wait(_GATHER_S)
            self._has_lines.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        lines = self._lines
        gathered: list[bytes] = []
        while lines:
            gathered.append(_as_json(lines.popleft()))
            if len(gathered) >= 1_000:
                self._write(gathered)
        self._write(gathered)

    def _write(self, gathered: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(gathered))
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads our log any more; serving goes on and the loss is counted.
            self.dropped += len(gathered)
        gathered.clear()


def _as_json(line: Line) -> bytes:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except (TypeError, ValueError):
        safe = {str(key): ascii(value) for key, value in line.items()}
        return orjson.dumps(safe, option=orjson.OPT_APPEND_NEWLINE)


class Log:
    """This server's log: `say` for what happens rarely, `access` and `batch` for what does not."""

    def __init__(self, writer: LogWriter, *, level: Level = "info", service: str = "palio") -> None:
        self._writer = writer
        self._service = service
        self._rare: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            None,
            processors=[structlog.processors.format_exc_info, self._hand_over],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        )

    @property
    def dropped(self) -> int:
        """How many lines were thrown away."""
        return self._writer.dropped

    def say(self, level: Level, event: str, *, logger: str = "palio.server", **facts: Any) -> None:
        """One line about something rare."""
        self._rare.log(LEVELS[level], event, logger=logger, **facts)

    def line(self, logger: str, event: str, facts: Line) -> None:
        """One line of a kind there are thousands of."""
        self._writer.put(
            {
                "timestamp": datetime.now(UTC),
                "level": "info",
                "logger": logger,
                "event": event,
                "service": self._service,
                **facts,
            }
        )

    def close(self) -> None:
        """Write what is left and stop."""
        self._writer.close()

    def _hand_over(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        name = event.pop("event")
        logger = event.pop("logger", "palio.server")
        self._writer.put(
            {
                "timestamp": datetime.now(UTC),
                "level": method,
                "logger": logger,
                "event": name,
                "service": self._service,
                **event,
            }
        )
        raise structlog.DropEvent
