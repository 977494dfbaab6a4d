"""How much one door takes from one caller, and how long it waits for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Bounds on a request, a connection and the door; everything over one is refused by name.

    `max_items` bounds the rows or texts of one request, `max_text_chars` each text.
    `read_timeout_s` is for a whole request to come in, and for a caller that does not read its
    answers; `max_pipelined` is how many answers one connection may have outstanding.
    """

    max_body_bytes: int = 64_000_000
    max_header_bytes: int = 16_384
    max_items: int = 256
    max_text_chars: int = 8192
    read_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    max_connections: int = 10_000
    max_pipelined: int = 32

    def __post_init__(self) -> None:
        if (
            min(
                self.max_body_bytes,
                self.max_header_bytes,
                self.max_items,
                self.max_text_chars,
                self.max_connections,
                self.max_pipelined,
            )
            < 1
            or self.read_timeout_s <= 0
            or self.idle_timeout_s <= 0
        ):
            raise ValueError(f"not usable limits: {self}")
