"""The HTTP door: listens, sweeps, drains and closes. What is said is `connection`'s business."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from palio.core.ports import Inference
from palio.server.connection import Connection
from palio.server.desk import Desk
from palio.server.limits import DoorLimits
from palio.server.record import ExchangeRecord, OnExchange, OnFault
from palio.server.routes import RouteTable

_BACKLOG: Final = 2048
_SLOWEST_SWEEP_S: Final = 1.0


class HttpDoor:
    """Takes questions over HTTP/1.1 and puts them to `inference`.

    `clock_now` must be the engine's clock. `on_exchange` is called once for every finished
    exchange, on the event loop; `on_fault` for every mistake of our own, with the id of the
    exchange it struck.
    """

    def __init__(
        self,
        inference: Inference,
        *,
        routes: Mapping[str, str],
        limits: DoorLimits,
        clock_now: Callable[[], int],
        metrics: Callable[[], tuple[bytes, str]],
        on_exchange: OnExchange,
        on_fault: OnFault | None = None,
        version: str = "",
    ) -> None:
        self._desk = Desk(
            inference,
            RouteTable(routes, inference.models),
            limits,
            clock_now,
            metrics,
            on_exchange,
            on_fault or _tell_the_loop,
            version,
        )
        shortest_s = min(limits.read_timeout_s, limits.idle_timeout_s)
        self._sweep_s = min(_SLOWEST_SWEEP_S, shortest_s / 4)
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Path] = []
        self._next_sweep: asyncio.TimerHandle | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port is the one really bound. May be called for several addresses."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connect, host, port, backlog=_BACKLOG)
        self._begin(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def start_unix(self, path: str) -> None:
        """Listen on a Unix socket, which `close` removes."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._connect, path, backlog=_BACKLOG)
        self._sockets.append(Path(path))
        self._begin(server)

    def stop_accepting(self) -> None:
        """No new connections from here on; those that are open go on."""
        for server in self._servers:
            server.close()

    async def drain(self, seconds: float) -> int:
        """Let what is under way be answered, then close idle connections.

        Every answer meanwhile asks its client to close. Returns how many questions were still
        unanswered when the time was up; `close` cuts those off.
        """
        desk = self._desk
        desk.is_draining = True
        desk.note_end()
        try:
            async with asyncio.timeout(seconds):
                await desk.quiet.wait()
        except TimeoutError:
            pass
        for connection in tuple(desk.connections):
            if not connection.is_busy:
                connection.close()
        return sum(connection.unanswered for connection in desk.connections)

    async def close(self) -> None:
        """Stop listening and cut every connection; whoever still waits is cancelled."""
        self.stop_accepting()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        for connection in tuple(self._desk.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        while self._sockets:
            _remove(self._sockets.pop())

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._desk.connections)

    def sweep(self) -> None:
        """Look at every connection once: who is too slow, who has been idle for too long."""
        desk = self._desk
        desk.stamp_date()
        now_ns = desk.clock_now()
        for connection in tuple(desk.connections):
            connection.sweep(now_ns)

    def _connect(self) -> Connection:
        return Connection(self._desk)

    def _begin(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        if self._next_sweep is None:
            self._schedule()

    def _schedule(self) -> None:
        self._next_sweep = asyncio.get_running_loop().call_later(self._sweep_s, self._tick)

    def _tick(self) -> None:
        try:
            self.sweep()
        finally:
            self._schedule()


def _tell_the_loop(error: BaseException, correlation_id: str) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"a fault of our own in exchange {correlation_id}", "exception": error}
    )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


__all__ = ["DoorLimits", "ExchangeRecord", "HttpDoor"]
