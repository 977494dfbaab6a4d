"""A small closed loop: so many connections, each asking again as soon as it is answered.

Closed loops understate latency under overload, because a slow server slows its own load; they are
right for "what do N patient callers get". Every attempt is kept; percentiles are computed when
asked. Failures are failures: they have no latency and are counted apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as the client saw it; `batch_rows` is what the server said, 0 if nothing."""

    sent_ns: int
    done_ns: int
    status: int
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Period:
    """All attempts of one measured period, in the order they ended."""

    attempts: tuple[Attempt, ...]
    took_ns: int

    @property
    def answered(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.status == 200]

    @property
    def failed(self) -> int:
        """How many were not answered with 200."""
        return len(self.attempts) - len(self.answered)

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.answered) / (self.took_ns / 1e9)

    def latency_ms(self, share: float) -> float:
        """The latency that `share` of the answers stayed at or below; NaN without answers."""
        taken = sorted(attempt.done_ns - attempt.sent_ns for attempt in self.answered)
        if not taken:
            return float("nan")
        return taken[min(len(taken) - 1, int(share * len(taken)))] / 1e6

    @property
    def mean_batch(self) -> float:
        """Rows per batch on the server; 0 if it never said.

        Each answer names its batch's size, so a batch of n is named n times: the number of
        batches is the sum of 1/n.
        """
        sizes = [attempt.batch_rows for attempt in self.answered if attempt.batch_rows]
        return len(sizes) / sum(1 / size for size in sizes) if sizes else 0.0


class _Asker(asyncio.Protocol):
    """One connection that asks, waits for the answer, and asks again."""

    def __init__(self, next_request: Callable[[], bytes | None], keep: list[Attempt]) -> None:
        self._next_request = next_request
        self._keep = keep
        self._sent_ns = 0
        self._batch_rows = 0
        self._is_asking = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport but are not of that class.
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server-timing":
            _, _, after = value.partition(b'batch;desc="')
            self._batch_rows = int(after.partition(b'"')[0] or 0)

    def on_message_complete(self) -> None:
        self._note(self._parser.get_status_code())
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the protocol's)
        if self._is_asking:
            self._note(0)
        if not self.over.done():
            self.over.set_result(None)

    def _ask(self) -> None:
        request = self._next_request()
        if request is None:
            self._transport.close()
            return
        self._batch_rows = 0
        self._is_asking = True
        self._sent_ns = time.monotonic_ns()
        self._transport.write(request)

    def _note(self, status: int) -> None:
        self._is_asking = False
        now = time.monotonic_ns()
        self._keep.append(Attempt(self._sent_ns, now, status, self._batch_rows))


async def closed_loop(
    host: str, port: int, requests: Sequence[bytes], *, concurrency: int, seconds: float
) -> Period:
    """Ask `requests`, round and round, over `concurrency` connections for about `seconds`.

    Requests in flight when the time is up are still waited for and counted.
    """
    loop = asyncio.get_running_loop()
    keep: list[Attempt] = []
    began = time.monotonic_ns()
    until = began + round(seconds * 1e9)
    asked = 0

    def next_request() -> bytes | None:
        nonlocal asked
        if time.monotonic_ns() >= until:
            return None
        asked += 1
        return requests[asked % len(requests)]

    askers = [
        (await loop.create_connection(lambda: _Asker(next_request, keep), host, port))[1]
        for _ in range(concurrency)
    ]
    await asyncio.gather(*(asker.over for asker in askers))
    ended = max((attempt.done_ns for attempt in keep), default=time.monotonic_ns())
    return Period(tuple(keep), ended - began)


def post_json(path: str, body: bytes, *, host: str = "localhost") -> bytes:
    """The bytes of one HTTP/1.1 POST with a JSON body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
