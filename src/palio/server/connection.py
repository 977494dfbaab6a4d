"""One client's connection: bytes to exchanges, and answers back in the order of the questions."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

import httptools

from palio.core.errors import (
    BadRequest,
    HeadersTooLarge,
    InternalError,
    NotReady,
    PalioError,
    RequestTimeout,
    TooLarge,
)
from palio.core.requests import Timings
from palio.server.desk import Desk
from palio.server.endpoints import begin
from palio.server.exchange import Exchange
from palio.server.heads import CLOSE, CONTINUE, KEEP_ALIVE, head
from palio.server.intake import READ_HEADERS, bad_framing, framing_fault, refusal_of, size_fault
from palio.server.routes import UNROUTED, UNROUTED_OPENAI
from palio.wire.ids import read_id
from palio.wire.server_timing import server_timing

# Joining copies; above this the copy costs more than a second buffer does.
_JOIN_BYTES: Final = 65_536
# How long a refused client may go on sending before it is cut off; closing at once would let the
# kernel throw the refusal away together with what it had not read.
_LINGER_NS: Final = 2_000_000_000


class Connection(asyncio.Protocol):
    """Reads requests ahead, within bounds, and writes each answer when its turn has come.

    A question is *current* while it is being read, *waiting* while too many are under way before
    it, *open* until its answer is on the wire.
    """

    __slots__ = (
        "_body_bytes",
        "_chunk_ns",
        "_current",
        "_desk",
        "_give_up_ns",
        "_has_completed",
        "_has_eof",
        "_head_bytes",
        "_headers",
        "_hosts",
        "_idle_since_ns",
        "_in_head",
        "_is_advancing",
        "_is_choked",
        "_is_ending",
        "_is_last",
        "_is_reading",
        "_is_refused",
        "_open",
        "_owes_continue",
        "_parser",
        "_peer",
        "_slow_since_ns",
        "_target",
        "_transport",
        "_unread_head_bytes",
        "_waiting",
    )

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._peer = ""
        self._open: deque[Exchange] = deque()
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._hosts = 0
        self._head_bytes = 0
        self._unread_head_bytes = 0
        self._body_bytes = 0
        self._in_head = False
        self._chunk_ns = 0
        self._slow_since_ns = 0
        self._idle_since_ns = 0
        self._give_up_ns = 0
        self._owes_continue = False
        self._has_completed = False
        self._has_eof = False
        self._is_reading = True
        self._is_choked = False
        self._is_last = False
        self._is_refused = False
        self._is_ending = False
        self._is_advancing = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody is owed an answer, or is in the middle of asking."""
        return bool(self._open or self._waiting or self._slow_since_ns)

    @property
    def unanswered(self) -> int:
        """How many questions are still owed an answer."""
        return len(self._open) + len(self._waiting)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        desk = self._desk
        # A stream's transport, though uvloop's does not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._peer = _name_of(transport.get_extra_info("peername"))
        self._parser = httptools.HttpRequestParser(self)
        self._idle_since_ns = self._chunk_ns = desk.clock_now()
        desk.connections.add(self)
        if len(desk.connections) > desk.limits.max_connections:
            self._refuse(NotReady("too many connections are open"))

    def data_received(self, data: bytes) -> None:
        if self._is_last or self._parser is None:
            return
        self._chunk_ns = self._desk.clock_now()
        self._has_completed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Its question has been answered without the upgrade, and was marked as the last one.
            return
        except httptools.HttpParserCallbackError as error:
            self.report(error.__context__ or error, "")
            self._refuse(InternalError("unexpected"))
        except httptools.HttpParserError as error:
            self._refuse(bad_framing(str(error)))
        if self._in_head and not self._has_completed:
            # All of it belongs to one unfinished head, of which the parser has not told us yet.
            self._unread_head_bytes += len(data)
            self._check_head_bytes(self._unread_head_bytes)

    def eof_received(self) -> bool:
        """The client will send no more: an answer it is owed is still tried, work is dropped.

        Somebody who closes and somebody who only stops sending look the same from here. Like
        other servers' ours takes both as leaving once the model has been asked.
        """
        self._has_eof = True
        if self._slow_since_ns and not self._is_last:
            self._refuse(BadRequest("the request ended before it was complete"))
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        desk = self._desk
        desk.connections.discard(self)
        self._transport = None
        self._parser = None
        self._is_last = True
        self._slow_since_ns = 0
        for exchange in (*self._open, *self._waiting):
            exchange.abandon()
            self._tell(exchange, 0)
        self._open.clear()
        self._waiting.clear()
        self._current = None
        if desk.is_draining:
            desk.note_end()

    def pause_writing(self) -> None:
        """The client reads slower than we answer: hold everything, and for so long only."""
        self._is_choked = True
        self._give_up_ns = self._desk.clock_now() + self._desk.read_timeout_ns
        self._mind_reading()

    def resume_writing(self) -> None:
        self._is_choked = False
        if not self._is_ending:
            self._give_up_ns = 0
        self.advance()

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._is_last:
            return
        self._slow_since_ns = self._chunk_ns
        self._in_head = True
        self._head_bytes = self._unread_head_bytes = self._body_bytes = self._hosts = 0
        self._target = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if not self._in_head:
            # A trailer: counted, so that there is an end to them, and forgotten.
            self._check_head_bytes(self._head_bytes)
            return
        name = name.lower()
        if name in READ_HEADERS:
            if name == b"host":
                self._hosts += 1
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self._is_last or parser is None:
            return
        self._in_head = False
        exchange = self._current = self._read_head(parser)
        version = parser.get_http_version()
        exchange.is_http10 = version == "1.0"
        limits = self._desk.limits
        if self._head_bytes > limits.max_header_bytes:
            self._refuse(HeadersTooLarge(limits.max_header_bytes))
        elif fault := framing_fault(version, self._headers, self._hosts):
            self._refuse(bad_framing(fault))
        elif too_large := size_fault(self._headers, limits):
            self._refuse(too_large)
        elif b"expect" in self._headers and not exchange.is_http10:
            self._expect(exchange)

    def on_body(self, part: bytes) -> None:
        exchange = self._current
        if self._is_last or exchange is None:
            return
        self._body_bytes += len(part)
        limit = self._desk.limits.max_body_bytes
        if self._body_bytes > limit:
            self._refuse(TooLarge("the body", size=self._body_bytes, limit=limit, unit="bytes"))
        elif exchange.refusal is None:
            exchange.parts.append(part)

    def on_message_complete(self) -> None:
        exchange, parser = self._current, self._parser
        if self._is_last or exchange is None or parser is None:
            return
        self._current = None
        self._slow_since_ns = 0
        self._has_completed = True
        exchange.bytes_in = self._head_bytes + self._body_bytes
        exchange.read_ns = self._chunk_ns
        exchange.keep_alive = parser.should_keep_alive() and b"upgrade" not in self._headers
        if not exchange.keep_alive or exchange.method == "CONNECT":
            exchange.keep_alive = False
            self._is_last = True
        self._waiting.append(exchange)
        self.advance()

    # Forward.

    def advance(self) -> None:
        """Begin what may begin and write what may be written; safe to call at any moment."""
        transport = self._transport
        if self._is_advancing or transport is None:
            return
        self._is_advancing = True
        try:
            desk, waiting, opened = self._desk, self._waiting, self._open
            most = desk.limits.max_pipelined
            # A transport that is closing takes nothing; `connection_lost` will settle the rest.
            while not (self._is_choked or transport.is_closing()):
                if waiting and len(opened) < most:
                    exchange = waiting.popleft()
                    opened.append(exchange)
                    begin(desk, exchange)
                elif opened and opened[0].is_answered:
                    self._write_ready(transport)
                else:
                    break
        finally:
            self._is_advancing = False
        if self._owes_continue and not (opened or waiting or transport.is_closing()):
            self._owes_continue = False
            transport.write(CONTINUE)
        if waiting or self._is_choked or not self._is_reading:
            self._mind_reading()

    def report(self, error: BaseException, correlation_id: str) -> None:
        """Tell whoever keeps the log of a mistake of our own."""
        self._desk.on_fault(error, correlation_id)

    def sweep(self, now_ns: int) -> None:
        """Look whether this client has kept us waiting for too long."""
        desk = self._desk
        if self._give_up_ns:
            if now_ns >= self._give_up_ns:
                self.abort()
        elif self._slow_since_ns:
            # While we do not read, the client is not the slow one.
            if self._is_reading and now_ns - self._slow_since_ns >= desk.read_timeout_ns:
                self._chunk_ns = now_ns
                self._refuse(RequestTimeout("the request was not complete in time"))
        elif not self.is_busy and now_ns - self._idle_since_ns >= desk.idle_timeout_ns:
            self.close()

    def close(self) -> None:
        """Close once what is written has been taken; a client that never takes it is cut off."""
        self._is_last = self._is_ending = True
        if self._transport is not None and not self._transport.is_closing():
            self._give_up_ns = self._desk.clock_now() + self._desk.read_timeout_ns
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._is_last = True
        if self._transport is not None:
            self._transport.abort()

    # Steps of the above.

    def _read_head(self, parser: httptools.HttpRequestParser) -> Exchange:
        desk, headers, target = self._desk, self._headers, self._target
        method = parser.get_method().decode()
        refusal: PalioError | None
        try:
            match = desk.routes.find(target)
            refusal = refusal_of(match.route, method, headers)
        except PalioError as error:
            match = UNROUTED_OPENAI if desk.routes.is_openai(target) else UNROUTED
            refusal = error
        exchange = Exchange(
            self, method, match, read_id(headers) or desk.mint.make(), self._slow_since_ns
        )
        exchange.refusal = refusal
        return exchange

    def _expect(self, exchange: Exchange) -> None:
        """Answer `Expect: 100-continue`: go on, or why there is no point in it."""
        if self._headers[b"expect"].lower() != b"100-continue":
            return
        if exchange.refusal is not None:
            self._refuse(exchange.refusal)
            return
        self._owes_continue = True
        self.advance()

    def _refuse(self, error: PalioError) -> None:
        """Answer the current question with `error`, after those before it, and close."""
        if self._is_last:
            return
        self._is_last = self._is_refused = True
        exchange = self._current
        if exchange is None:
            is_openai = self._in_head and self._desk.routes.is_openai(self._target)
            match = UNROUTED_OPENAI if is_openai else UNROUTED
            known = read_id(self._headers) if self._in_head else None
            exchange = Exchange(
                self, "-", match, known or self._desk.mint.make(), self._slow_since_ns
            )
        self._current = None
        self._slow_since_ns = 0
        self._owes_continue = False
        exchange.first_read_ns = exchange.first_read_ns or self._chunk_ns
        exchange.read_ns = self._chunk_ns
        exchange.bytes_in = self._head_bytes + self._body_bytes
        exchange.keep_alive = False
        exchange.refusal = error
        exchange.parts = []
        self._waiting.append(exchange)
        self.advance()

    def _write_ready(self, transport: asyncio.Transport) -> None:
        """Write every answer whose turn has come, in one go."""
        opened = self._open
        done: list[tuple[Exchange, int]] = []
        out: list[bytes] = []
        exchange = opened[0]
        while exchange.is_answered:
            opened.popleft()
            top = self._head_of(exchange)
            out.append(top)
            body = b"" if exchange.method == "HEAD" else exchange.body
            if body:
                out.append(body)
            done.append((exchange, len(top) + len(body)))
            if not opened or not exchange.keep_alive:
                break
            exchange = opened[0]
        if len(exchange.body) > _JOIN_BYTES:
            transport.writelines(out)
        else:
            transport.write(b"".join(out))
        for finished, size in done:
            finished.connection = None
            finished.body = b""
            self._tell(finished, size)
        if not exchange.keep_alive:
            self._end(transport)
        elif not opened:
            self._idle_since_ns = self._desk.clock_now()
        if self._desk.is_draining:
            self._desk.note_end()

    def _head_of(self, exchange: Exchange) -> bytes:
        desk = self._desk
        timings = exchange.timings
        if timings is None:
            timings = Timings(exchange.first_read_ns, exchange.read_ns)
        if exchange.status == 200:
            # A failure's last stage is the one it failed in.
            timings.written_ns = desk.clock_now()
        rest = exchange.headers
        if desk.is_draining and not self.is_busy:
            exchange.keep_alive = False
        if not exchange.keep_alive:
            rest += CLOSE
        elif exchange.is_http10:
            rest += KEEP_ALIVE
        return head(
            exchange.start,
            len(exchange.body),
            desk.date,
            exchange.correlation_id,
            server_timing(timings),
            rest,
        )

    def _tell(self, exchange: Exchange, bytes_out: int) -> None:
        try:
            self._desk.on_exchange(exchange.record(bytes_out, self._peer))
        except Exception as error:  # noqa: BLE001  (a lost log line must not cost an answer)
            self.report(error, exchange.correlation_id)

    def _end(self, transport: asyncio.Transport) -> None:
        """The last answer is written."""
        self._is_ending = True
        if not self._is_refused or self._has_eof or not transport.can_write_eof():
            self.close()
            return
        self._give_up_ns = self._desk.clock_now() + _LINGER_NS
        transport.write_eof()

    def _check_head_bytes(self, size: int) -> None:
        limit = self._desk.limits.max_header_bytes
        if size > limit:
            self._refuse(HeadersTooLarge(limit))

    def _mind_reading(self) -> None:
        """Read on only while there is room for what would come."""
        transport = self._transport
        should_read = not (self._is_choked or self._waiting) or self._is_last
        if transport is None or should_read is self._is_reading or transport.is_closing():
            return
        self._is_reading = should_read
        if should_read:
            if self._slow_since_ns:
                self._slow_since_ns = self._desk.clock_now()
            transport.resume_reading()
        else:
            transport.pause_reading()


def _name_of(peername: object) -> str:
    """A peer's address as one word; a Unix socket's client has none."""
    if isinstance(peername, tuple) and len(peername) >= 2:
        return f"{peername[0]}:{peername[1]}"
    return "unix"
