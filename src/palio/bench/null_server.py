"""A server that does nothing, as fast as Python can: what a client reaches here is the client's.

`python -m palio.bench.null_server PORT` answers every request with the same small JSON. Port 0
takes any; the line `null server at 127.0.0.1:PORT` says which.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Final, cast

import httptools
import uvloop

ANSWER: Final = (
    b'{"model_name":"null","model_version":"1","outputs":[{"name":"y","datatype":"FP32",'
    b'"shape":[1,4],"data":[2.0,4.0,6.0,8.0]}]}'
)
_TIMING: Final = (
    b"read;dur=0.010, tokenise;dur=0.000, queue;dur=0.020, compute;dur=0.030, write;dur=0.040, "
    b'batch;desc="1"'
)
READY: Final = "null server at 127.0.0.1:"


def answer_of(size: int) -> bytes:
    """A JSON answer of at least `size` bytes."""
    if size <= len(ANSWER):
        return ANSWER
    return ANSWER[:-1] + b',"filler":"' + b"x" * max(size - len(ANSWER) - 12, 0) + b'"}'


class NullConnection(asyncio.Protocol):
    """Answers each request with the same bytes, whatever it asks."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._parser = httptools.HttpRequestParser(self)
        self._due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()
            return
        if self._due:
            self._transport.write(self._reply * self._due)
            self._due = 0

    def on_message_complete(self) -> None:
        self._due += 1


def reply_of(body: bytes) -> bytes:
    """The whole reply, head and body."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Server-Timing: %b\r\n\r\n"
    )
    return head % (len(body), _TIMING) + body


async def serve_null(port: int, answer_bytes: int) -> None:
    """Listen on loopback until told to stop."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, told.set)
    reply = reply_of(answer_of(answer_bytes))
    server = await loop.create_server(
        lambda: NullConnection(reply), "127.0.0.1", port, backlog=1024
    )
    found = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"{READY}{found}\n")
    sys.stdout.flush()
    await told.wait()
    server.close()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m palio.bench.null_server")
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--answer-bytes", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(serve_null(options.port, options.answer_bytes))


if __name__ == "__main__":
    main()
