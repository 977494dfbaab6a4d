"""What is known of one finished exchange: the single source of its log line and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from palio.core.requests import Timings


class ExchangeRecord(NamedTuple):
    """One question and what became of it.

    A named tuple, not a dataclass, because one is made for every answer and this is four times
    as quick. `route` is the route's template, never the path as sent, so it may become a label;
    `length` is how much was asked in all, in characters of text or elements of tensors.
    `"-"` stands for a request that never got that far. `code` is `"OK"` or the problem's code.
    """

    method: str
    route: str
    model: str
    version: str
    status: int
    code: str
    correlation_id: str
    bytes_in: int
    bytes_out: int
    timings: Timings | None
    items: int
    length: int
    tokens: int
    peer: str


OnExchange: TypeAlias = Callable[[ExchangeRecord], None]
OnFault: TypeAlias = Callable[[BaseException, str], None]
