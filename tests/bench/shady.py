"""Servers that do as they are told, good and bad, on the test's own loop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import cast

import httptools
import numpy as np

from palio.bench.answers import Check
from palio.bench.attempts import Attempts, Fault
from palio.bench.questions import Questions, post
from palio.bench.target import Target


def reply(body: bytes = b"{}", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


class Visit(asyncio.Protocol):
    """One connection as the server sees it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.host.visits.append(self)
        if self.host.greet is not None:
            self.host.greet(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.host.asked.append(self.body)
        self.body = b""
        self.host.answer(self)

    def say(self, data: bytes) -> None:
        self.transport.write(data)

    def reset(self) -> None:
        """Close with RST, as a process that dies does."""
        found = self.transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Host:
    """Answers by calling `answer` with the visit; remembers visits and what was asked."""

    def __init__(
        self, answer: Callable[[Visit], None], greet: Callable[[Visit], None] | None = None
    ) -> None:
        self.answer = answer
        self.greet = greet
        self.visits: list[Visit] = []
        self.asked: list[bytes] = []

    @asynccontextmanager
    async def at_home(self, unix_path: str = "") -> AsyncIterator[Target]:
        loop = asyncio.get_running_loop()
        server: asyncio.Server
        if unix_path:
            server = await loop.create_unix_server(lambda: Visit(self), unix_path)
            target = Target(unix_path=unix_path)
        else:
            server = await loop.create_server(lambda: Visit(self), "127.0.0.1", 0)
            target = Target(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        try:
            yield target
        finally:
            server.close()
            for visit in self.visits:
                visit.transport.abort()
            await asyncio.sleep(0)
            await server.wait_closed()


def nobody_home() -> Target:
    """A port at which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return Target(host="127.0.0.1", port=found.getsockname()[1])


def questions(count: int = 4, check: Check = lambda _body, _input: True) -> Questions:
    """Small questions, each of its own body: the input's number."""
    return Questions(
        name="numbers",
        requests=tuple(post("test", "/", b"%d" % at, "application/json") for at in range(count)),
        rows=np.ones(count, np.int32),
        lengths=np.arange(count, dtype=np.int32),
        check=check,
        sha256="",
    )


def faults(attempts: Attempts) -> set[Fault]:
    return {Fault(int(each)) for each in attempts.fault}
