"""The head of an answer: status line and headers, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final

JSON: Final = "application/json"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"Connection: close\r\n"
# Said to HTTP/1.0 callers only, who would otherwise close.
KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"

_CLIENT_LEFT: Final = 499
_NOT_IN_A_VALUE: Final = str.maketrans("", "", "\r\n\0")


@lru_cache(maxsize=256)
def start_of(status: int, content_type: str) -> bytes:
    """Everything up to the value of Content-Length."""
    reason = "Client Closed Request" if status == _CLIENT_LEFT else HTTPStatus(status).phrase
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: "
    ).encode()


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers ready for the wire; nothing in a value can end its line."""
    return "".join(
        f"{name}: {value.translate(_NOT_IN_A_VALUE)}\r\n" for name, value in headers.items()
    ).encode("latin-1", "replace")


def head(
    start: bytes, length: int, date: bytes, correlation_id: str, timing: bytes, rest: bytes
) -> bytes:
    """A whole head; `rest` is lines, each with its end."""
    if timing:
        return b"%b%d\r\n%bX-Correlation-ID: %b\r\nServer-Timing: %b\r\n%b\r\n" % (
            start,
            length,
            date,
            correlation_id.encode(),
            timing,
            rest,
        )
    return b"%b%d\r\n%bX-Correlation-ID: %b\r\n%b\r\n" % (
        start,
        length,
        date,
        correlation_id.encode(),
        rest,
    )
