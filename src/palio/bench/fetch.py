"""Fetches a page of the server that is measured, before and beside the measuring."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from palio.bench.target import Target

_PATIENCE_S: Final = 3.0
_MOST_BYTES: Final = 1_000_000


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def page(target: Target, path: str, *, patience_s: float = _PATIENCE_S) -> bytes | None:
    """The body of a page that is there, whole, in so many seconds; None for any other end."""
    connection = _connection(target, patience_s)
    try:
        connection.connect()
        with _ended_after(patience_s, connection.sock) as is_late:
            connection.request("GET", target.base_path + path)
            answer = connection.getresponse()
            body = answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException, UnicodeError):
        return None
    finally:
        connection.close()
    is_whole = not answer.length and not is_late.is_set()
    return body if answer.status == 200 and is_whole else None


def unreachable(target: Target) -> str | None:
    """Why no connection can be made; None if one can."""
    connection = _connection(target, _PATIENCE_S)
    try:
        connection.connect()
    except (OSError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    finally:
        connection.close()
    return None


def _connection(target: Target, patience_s: float) -> http.client.HTTPConnection:
    if target.unix_path:
        return _UnixConnection(target.unix_path, patience_s)
    return http.client.HTTPConnection(target.host, target.port, timeout=patience_s)


@contextmanager
def _ended_after(seconds: float, connected: socket.socket) -> Iterator[threading.Event]:
    """End the connection when the time is up: its own limit is for each read, not for the page."""
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()
