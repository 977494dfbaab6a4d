"""Fetches a page of the server that is measured, before and beside the measuring."""

from __future__ import annotations

import http.client
import socket
from typing import Final

from palio.bench.target import Target

_PATIENCE_S: Final = 3.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self._path)


def page(target: Target, path: str) -> bytes | None:
    """The body of a page that is there; None for any other end."""
    connection = (
        _UnixConnection(target.unix_path)
        if target.unix_path
        else http.client.HTTPConnection(target.host, target.port, timeout=_PATIENCE_S)
    )
    try:
        connection.request("GET", target.base_path + path)
        answer = connection.getresponse()
        body = answer.read(1_000_000)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None
