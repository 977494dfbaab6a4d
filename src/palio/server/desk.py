"""What all connections of one door share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, Protocol

from palio.core.ports import Inference
from palio.server.limits import DoorLimits
from palio.server.record import OnExchange, OnFault
from palio.server.routes import RouteTable
from palio.wire.ids import IdMint

_NS: Final = 1_000_000_000


class Guest(Protocol):
    """What the door asks of a connection."""

    @property
    def is_busy(self) -> bool: ...
    @property
    def unanswered(self) -> int: ...
    def sweep(self, now_ns: int) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Desk:
    """The door's one set of tools and rules, and the connections that use it."""

    __slots__ = (
        "clock_now",
        "connections",
        "date",
        "idle_timeout_ns",
        "inference",
        "is_draining",
        "limits",
        "metrics",
        "mint",
        "on_exchange",
        "on_fault",
        "quiet",
        "read_timeout_ns",
        "routes",
        "version",
    )

    def __init__(
        self,
        inference: Inference,
        routes: RouteTable,
        limits: DoorLimits,
        clock_now: Callable[[], int],
        metrics: Callable[[], tuple[bytes, str]],
        on_exchange: OnExchange,
        on_fault: OnFault,
        version: str,
    ) -> None:
        self.inference = inference
        self.routes = routes
        self.limits = limits
        self.clock_now = clock_now
        self.metrics = metrics
        self.on_exchange = on_exchange
        self.on_fault = on_fault
        self.version = version
        self.mint = IdMint()
        self.read_timeout_ns = round(limits.read_timeout_s * _NS)
        self.idle_timeout_ns = round(limits.idle_timeout_s * _NS)
        self.connections: set[Guest] = set()
        self.is_draining = False
        self.quiet = asyncio.Event()
        self.date = b""
        self.stamp_date()

    def stamp_date(self) -> None:
        """Write the Date line anew; the sweep calls this, an answer only copies it."""
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()

    def note_end(self) -> None:
        """Somebody's last exchange ended while draining: perhaps it was everybody's."""
        if not any(connection.is_busy for connection in self.connections):
            self.quiet.set()
