"""What is asked of a server in one trial, as a frozen value with a hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "constant", "gamma", "burst", "trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """Requests at intended times drawn before the run; sent whatever the server does.

    `rate_per_s` is the mean rate. `shape` is the gamma's (1 is Poisson, below 1 burstier) or, for
    burst, how many arrive at once. `trace` names a file of arrivals for "trace".
    """

    rate_per_s: float
    duration_s: float
    arrivals: Arrivals = "poisson"
    shape: float = 1.0
    trace: str = ""
    seed: int = 0
    timeout_s: float = 10.0
    warmup_s: float = 2.0
    connections: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoad:
    """So many callers, each asking again when answered; by time, or by a count of requests.

    A closed loop slows down with its server and so flatters an overloaded one.
    """

    concurrency: int
    duration_s: float = 0.0
    requests: int = 0
    seed: int = 0
    timeout_s: float = 10.0
    warmup_s: float = 2.0


Load = OpenLoad | ClosedLoad
