"""What a user wants of a server: a percentile of latency under a bound, and few errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from palio.bench.attempts import Attempts
from palio.bench.percentiles import percentile
from palio.core.errors import SettingsError

_TERM: Final = re.compile(r"p(?P<p>\d+(\.\d+)?)\s*<=?\s*(?P<limit>\d+(\.\d+)?)\s*(?P<unit>ms|s)")
_ERRORS: Final = re.compile(r"errors\s*<=?\s*(?P<share>\d+(\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Slo:
    """`percent` of answers within `limit_ms`, and at most `max_error_ratio` without a good one."""

    percent: float
    limit_ms: float
    max_error_ratio: float = 0.001

    def __str__(self) -> str:
        return f"p{self.percent:g}<{self.limit_ms:g}ms,errors<{self.max_error_ratio * 100:g}%"

    def error_ratio(self, attempts: Attempts) -> float:
        """The share of attempts without a good answer."""
        return 1.0 - float(attempts.is_good.mean()) if len(attempts) else 1.0

    def is_met(self, attempts: Attempts) -> bool:
        """Whether these attempts kept to it; one without a good answer counts as never answered."""
        if not len(attempts) or self.error_ratio(attempts) > self.max_error_ratio:
            return False
        return percentile(attempts.latency_ms, self.percent) <= self.limit_ms


def read_slo(text: str) -> Slo:
    """An objective from `p99<50ms`, or `p99<50ms,errors<0.5%`.

    Raises:
        SettingsError: it says something else, or the same twice.
    """
    percent = limit = None
    errors = 0.001
    for term in filter(None, (each.strip() for each in text.split(","))):
        if found := _TERM.fullmatch(term):
            if percent is not None:
                raise SettingsError(f"{text!r} bounds two percentiles; give one")
            percent = float(found["p"])
            limit = float(found["limit"]) * (1e3 if found["unit"] == "s" else 1.0)
        elif found := _ERRORS.fullmatch(term):
            errors = float(found["share"]) / 100
        else:
            raise SettingsError(f"{term!r} is no objective; write p99<50ms or errors<0.1%")
    if percent is None or limit is None:
        raise SettingsError(f"{text!r} bounds no latency; write p99<50ms")
    if not 0 < percent < 100 or not 0 <= errors < 1:
        raise SettingsError(f"{text!r} asks for a share that is none")
    return Slo(percent, limit, errors)
