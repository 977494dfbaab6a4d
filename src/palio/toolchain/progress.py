"""How fetching and building say how far they are; drawing it is left to `progress_rich`."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about one stretch of work at a time."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """A stretch begins; None if nobody knows how long it is."""
        ...

    def advance(self, n_bytes: int) -> None:
        """So many bytes more are done."""
        ...

    def done(self) -> None:
        """The stretch is over, whether it came to its end or failed."""
        ...


class Silent:
    """A progress that nobody watches."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Nothing to show."""

    def advance(self, n_bytes: int) -> None:
        """Nothing to show."""

    def done(self) -> None:
        """Nothing to show."""
