"""One question on one connection: from its head being read to its answer being ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from palio.core.errors import Cancelled, InternalError, PalioError
from palio.core.requests import InferResponse, Outcome, Pending, Timings
from palio.server.heads import JSON, header_lines, start_of
from palio.server.record import ExchangeRecord
from palio.server.routes import Match
from palio.wire.oip_json import write_infer
from palio.wire.problems import (
    openai_problem_body,
    problem_body,
    problem_headers,
    status_of,
)


class Line(Protocol):
    """What an exchange asks of the connection it came on."""

    def advance(self) -> None: ...
    def report(self, error: BaseException, correlation_id: str) -> None: ...
    def abort(self) -> None: ...


class Exchange:
    """Keeps what the answer needs; the answer itself waits here for its turn on the wire.

    `finish` is what the engine calls, for many exchanges in a row: it never raises, so that
    nobody's answer costs a neighbour theirs.
    """

    __slots__ = (
        "body",
        "bytes_in",
        "code",
        "connection",
        "correlation_id",
        "encode",
        "first_read_ns",
        "headers",
        "is_answered",
        "is_http10",
        "items",
        "keep_alive",
        "length",
        "match",
        "method",
        "model",
        "parts",
        "pending",
        "read_ns",
        "refusal",
        "start",
        "status",
        "timings",
        "tokens",
        "version",
    )

    def __init__(
        self,
        connection: Line,
        method: str,
        match: Match,
        correlation_id: str,
        first_read_ns: int,
    ) -> None:
        self.connection: Line | None = connection
        self.method = method
        self.match = match
        self.correlation_id = correlation_id
        self.first_read_ns = first_read_ns
        self.read_ns = 0
        self.model = match.model
        self.version = match.version
        self.keep_alive = True
        self.is_http10 = False
        self.refusal: PalioError | None = None
        self.parts: list[bytes] = []
        self.bytes_in = 0
        self.encode: Callable[[InferResponse], bytes] = write_infer
        self.items = 0
        self.length = 0
        self.pending: Pending | None = None
        self.is_answered = False
        self.status = 0
        self.code = "OK"
        self.start = b""
        self.headers = b""
        self.body = b""
        self.timings: Timings | None = None
        self.tokens = 0

    def answer(self, content_type: str, body: bytes) -> None:
        """A page: nothing was inferred."""
        self.status = 200
        self.start = start_of(200, content_type)
        self.body = body
        self.is_answered = True

    def fail(self, error: BaseException) -> None:
        """A problem, in the form this route's clients read."""
        status = status_of(error)
        write = openai_problem_body if self.match.route.is_openai else problem_body
        self.body = write(error, self.correlation_id)
        self.headers = header_lines(problem_headers(error))
        self.status = status.http
        self.code = status.code
        self.start = start_of(status.http, JSON)
        if self.pending is not None:
            self.timings = self.pending.timings
            self.pending = None
        self.is_answered = True

    def fault(self, error: BaseException, report: Callable[[BaseException, str], None]) -> None:
        """Our own mistake: the caller gets an internal error, `report` gets the cause."""
        ours = InternalError("unexpected")
        ours.__cause__ = error
        self.fail(ours)
        report(error, self.correlation_id)

    def finish(self, outcome: Outcome) -> None:
        """Take the engine's answer and put it on the wire if it is its turn."""
        connection = self.connection
        if connection is None or self.is_answered:
            return
        try:
            if isinstance(outcome, InferResponse):
                self._take(outcome)
            else:
                self.fail(outcome)
        except PalioError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001  (whatever it is, the neighbours come next)
            self.fault(error, connection.report)
        try:
            connection.advance()
        except Exception as error:  # noqa: BLE001  (as above: this connection only)
            connection.report(error, self.correlation_id)
            connection.abort()

    def abandon(self) -> None:
        """The caller has left: whoever works on this need not."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None
        if self.pending is not None and not self.is_answered:
            self.timings = self.pending.timings
            try:
                self.pending.cancel()
            except Exception as error:  # noqa: BLE001  (the other calls must be told as well)
                connection.report(error, self.correlation_id)
        self.pending = None
        gone = status_of(Cancelled())
        self.status, self.code = gone.http, gone.code

    def record(self, bytes_out: int, peer: str) -> ExchangeRecord:
        """This exchange as the logs and metrics will know it."""
        return ExchangeRecord(
            self.method,
            self.match.route.name,
            self.model,
            self.version,
            self.status,
            self.code,
            self.correlation_id,
            self.bytes_in,
            bytes_out,
            self.timings,
            self.items,
            self.length,
            self.tokens,
            peer,
        )

    def _take(self, response: InferResponse) -> None:
        self.body = self.encode(response)
        self.timings = response.timings
        self.tokens = response.tokens
        self.model = response.model
        self.version = response.version
        # The engine's side points back here; what points in a circle stays until a collection,
        # and collections stop the loop.
        self.pending = None
        self.status = 200
        self.start = start_of(200, JSON)
        self.is_answered = True
