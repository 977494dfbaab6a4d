"""One keep-alive HTTP/1.1 connection of the load client: one question at a time, all noted.

Everything on the path of a request is here and is kept short; what can wait until the run is over
(reading the server's own account, checking the answer) waits.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol, cast

import httptools

from palio.bench.answers import Answers
from palio.bench.attempts import Fault
from palio.bench.flight import Flight
from palio.bench.ledger import Ledger

_now: Final = time.monotonic_ns
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_NO_BODY: Final = frozenset((204, 304))


class Owner(Protocol):
    """Whoever hands out the questions; times are ns since the start of the trial."""

    ledger: Ledger
    answers: Answers
    flight: Flight
    origin_ns: int

    def freed(self, line: Line, now_ns: int) -> None:
        """The question on this line is settled, and the line can take another."""

    def lost(self, line: Line, now_ns: int, *, settled: bool) -> None:
        """The line is gone; `settled` if with it a question found its end, good or bad."""


class Line(asyncio.Protocol):
    """One connection; `attempt` is the number of the question under way, -1 without one."""

    __slots__ = (
        "_body",
        "_bytes_in",
        "_has_framing",
        "_has_head",
        "_input_id",
        "_is_choked",
        "_is_first",
        "_keeps_alive",
        "_messages",
        "_owner",
        "_parser",
        "_status",
        "_timing",
        "_transport",
        "attempt",
        "is_open",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._is_choked = False
        self.attempt = -1
        self.is_open = False
        self._start_anew()

    def ask(self, attempt: int, input_id: int, request: bytes) -> int:
        """Send a question; the time when its last byte was with the kernel, or now if that waits.

        Only for a line that is open and has no question.
        """
        owner = self._owner
        self.attempt = attempt
        self._input_id = input_id
        self._is_first = True
        # With a high-water mark of 0 the transport writes at once, or says that it could not.
        self._transport.write(request)
        now = _now() - owner.origin_ns
        owner.flight.step(now, 1)
        if not self._is_choked:
            owner.ledger.sent[attempt] = now
        return now

    def drop(self) -> None:
        """Close now, say nothing about a question under way."""
        self.attempt = -1
        self.is_open = False
        self._transport.abort()

    def fail(self, fault: Fault) -> None:
        """Settle the question under way, if any, as failed, and close."""
        owner = self._owner
        now = _now() - owner.origin_ns
        attempt, self.attempt = self.attempt, -1
        was_open, self.is_open = self.is_open, False
        self._transport.abort()
        if attempt >= 0:
            owner.ledger.fault[attempt] = fault
            owner.ledger.bytes_in[attempt] = self._bytes_in
            owner.flight.step(now, -1)
            owner.lost(self, now, settled=True)
        elif was_open:
            owner.lost(self, now, settled=False)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport but are not of that class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self.is_open = True

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        if self.attempt >= 0:
            owner = self._owner
            owner.ledger.sent[self.attempt] = _now() - owner.origin_ns

    def data_received(self, data: bytes) -> None:
        attempt = self.attempt
        if attempt < 0:
            # Bytes nobody asked for: what comes next on this line could not be trusted.
            self.fail(Fault.GARBAGE)
            return
        owner = self._owner
        now = _now() - owner.origin_ns
        if self._is_first:
            self._is_first = False
            owner.ledger.first_byte[attempt] = now
        self._bytes_in += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(Fault.GARBAGE)
            return
        if self._messages == 1:
            self._settle(attempt, now)
        elif self._messages:
            self.fail(Fault.GARBAGE)

    def eof_received(self) -> bool:
        """An answer without a length ends here; any other is cut short."""
        if self.attempt >= 0 and self._has_head and not self._has_framing:
            self._keeps_alive = False
            self._settle(self.attempt, _now() - self._owner.origin_ns)
        else:
            self.fail(Fault.RESET)
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the protocol's)
        self.fail(Fault.RESET)

    # The parser's side: nothing here may fail, for it would be taken for garbage.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"server-timing":
            self._timing = value
        elif name in _FRAMING:
            self._has_framing = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._has_head = self._status >= 200
        if self._status in _NO_BODY:
            self._has_framing = True

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        # Before the answer proper there may be others, such as 103 Early Hints.
        if self._has_head:
            self._messages += 1
            self._keeps_alive = self._parser.should_keep_alive()

    def _settle(self, attempt: int, now: int) -> None:
        owner = self._owner
        ledger = owner.ledger
        status = self._status
        ledger.last_byte[attempt] = now
        ledger.status[attempt] = status
        ledger.bytes_in[attempt] = self._bytes_in
        if 200 <= status < 300:
            ledger.fault[attempt] = 0
            body = self._body
            owner.answers.keep(
                attempt, self._input_id, body[0] if len(body) == 1 else b"".join(body)
            )
        else:
            ledger.fault[attempt] = 1
        if self._timing:
            ledger.timings[attempt] = self._timing
        owner.flight.step(now, -1)
        self.attempt = -1
        self._start_anew()
        if self._keeps_alive and not self._is_choked:
            owner.freed(self, now)
        else:
            self.is_open = False
            self._transport.close()
            owner.lost(self, now, settled=True)

    def _start_anew(self) -> None:
        self._bytes_in = 0
        self._messages = 0
        self._status = 0
        self._body: list[bytes] = []
        self._timing = b""
        self._has_head = False
        self._has_framing = False
