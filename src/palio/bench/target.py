"""Where to send: a URL read once, its host looked up once, connections opened from then on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from palio.core.errors import SettingsError

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server: host and port, or a unix socket; `base_path` stands before every path."""

    host: str = "localhost"
    port: int = 80
    unix_path: str = ""
    base_path: str = ""

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.unix_path or self.port == 80 else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The target as people write it."""
        where = f"unix:{self.unix_path}" if self.unix_path else f"http://{self.authority}"
        return where + self.base_path


def read_target(url: str) -> Target:
    """A target from `http://host:port/base`, `host:port` or `unix:/path/to.sock`.

    Raises:
        SettingsError: it is none of these.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.strip("/"):
            raise SettingsError(f"{url!r} names no socket; write unix:/path/to.sock")
        return Target(unix_path="/" + path.lstrip("/") if path.startswith("/") else path)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme == "https":
        raise SettingsError(
            f"{url!r}: the load client speaks plain HTTP; measure behind what ends TLS"
        )
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError(f"{url!r} is not a target; write http://host:port or unix:/path")
    return Target(
        host=parts.hostname,
        port=80 if port is None else port,
        base_path=parts.path.rstrip("/"),
    )


class Dialler:
    """Opens connections to one target; the name is looked up once, so that no run waits for it."""

    def __init__(self, target: Target, address: str, family: int) -> None:
        self._target = target
        self._address = address
        self._family = family

    @classmethod
    async def of(cls, target: Target) -> Dialler:
        """Look the name up; raises `SettingsError` if there is no such host."""
        if target.unix_path:
            return cls(target, "", 0)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise SettingsError(f"{target.name}: {error.strerror or error}") from None
        # "localhost" is two addresses, and most servers listen at the older one.
        found.sort(key=lambda each: each[0] != socket.AF_INET)
        return cls(target, str(found[0][4][0]), found[0][0])

    async def dial(self, make: Callable[[], P]) -> P:
        """One more connection; raises `OSError` if it is refused."""
        loop = asyncio.get_running_loop()
        if self._target.unix_path:
            return (await loop.create_unix_connection(make, self._target.unix_path))[1]
        port = self._target.port
        return (await loop.create_connection(make, self._address, port, family=self._family))[1]
