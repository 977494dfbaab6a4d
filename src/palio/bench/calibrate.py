"""How fast this client is on this machine: rising rates against a server that does nothing.

Above the rate that it calls clean, a measurement would be of ourselves. The figures are kept with
what they depend on (processor, Python, our own libraries) and forgotten when that changes.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import uvloop

from palio.bench.adapters import Oip, prepare
from palio.bench.calm import on_cpus
from palio.bench.drive import Driven, drive
from palio.bench.load import OpenLoad
from palio.bench.null_server import READY
from palio.bench.questions import Questions
from palio.bench.target import Target
from palio.bench.workloads import Workload, tensor
from palio.core.errors import SettingsError

RATES: Final = (500, 1000, 2000, 4000, 6000, 8000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000)
_SECONDS: Final = 2.0
_WARMUP_S: Final = 0.5
# What the checks of a trial ask of the client, asked of it here alone.
_MAX_LAG_P99_MS: Final = 0.5
_MIN_ACHIEVED: Final = 0.995
_MAX_CPU: Final = 0.7
# One bad rate may be the neighbours' doing; after so many in a row nothing better will come.
_GIVE_UP_AFTER: Final = 2


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The client at one rate: how late it was, in ms, and what it took of its core."""

    rate_per_s: float
    achieved: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    cpu_share: float
    is_clean: bool


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The curve, and the highest clean rate, 0 if none was.

    `machine` is what the figures depend on.
    """

    machine: str
    measured: str
    clean_per_s: float
    points: list[Point]


def calibrate(
    *,
    rates: Sequence[float] = RATES,
    seconds: float = _SECONDS,
    server_cpus: Set[int] | None = None,
    client_cpus: Set[int] | None = None,
    progress: Callable[[Point], None] | None = None,
) -> Calibration:
    """Measure this client, from outside any loop; each rate is tried twice before it is unclean."""
    points: list[Point] = []
    with null_server(cpus=server_cpus) as target:
        questions = null_questions(target)
        for rate in sorted(rates):
            point = _better(
                _point(target, questions, rate, seconds, client_cpus, seed) for seed in range(2)
            )
            points.append(point)
            if progress is not None:
                progress(point)
            if not any(each.is_clean for each in points[-_GIVE_UP_AFTER:]) and len(points) > 1:
                break
    return Calibration(
        machine=machine(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        clean_per_s=_ceiling(points),
        points=points,
    )


def save_calibration(calibration: Calibration, cache_root: Path) -> Path:
    """Keep it under the cache root; where it is."""
    path = _place(cache_root)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)))
    fresh.replace(path)
    return path


def load_calibration(cache_root: Path) -> Calibration | None:
    """What was kept, if it is of this machine as it is now."""
    try:
        kept = msgspec.json.decode(_place(cache_root).read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError):
        return None
    return kept if kept.machine == machine() else None


def machine() -> str:
    """What a client's speed depends on, in one line."""
    model = platform.machine()
    with Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, uvloop {version('uvloop')}, "
        f"httptools {version('httptools')}"
    )


@contextmanager
def null_server(*, cpus: Set[int] | None = None, answer_bytes: int = 0) -> Iterator[Target]:
    """The null server in another process, on these cores."""
    command = [sys.executable, "-m", "palio.bench.null_server", "--answer-bytes", str(answer_bytes)]
    with on_cpus(cpus):
        process = subprocess.Popen(  # noqa: S603  (our own program)
            [*command, "0"], stdout=subprocess.PIPE, text=True
        )
    assert process.stdout is not None  # noqa: S101  (a pipe was asked for)
    try:
        line = process.stdout.readline()
        if not line.startswith(READY):
            raise SettingsError(f"the null server did not start: {' '.join(command)}")
        yield Target(host="127.0.0.1", port=int(line.removeprefix(READY)))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def null_questions(target: Target, workload: Workload | None = None) -> Questions:
    """What the null server is asked unless told otherwise: small tensors in JSON."""
    return prepare(Oip("null", "x"), workload or tensor((4,)), target)


def _point(
    target: Target,
    questions: Questions,
    rate: float,
    seconds: float,
    cpus: Set[int] | None,
    seed: int,
) -> Point:
    load = OpenLoad(
        rate_per_s=rate, duration_s=seconds, warmup_s=_WARMUP_S, timeout_s=2.0, seed=seed
    )

    async def run() -> Driven:
        return await drive(target, questions, load, cpus=cpus)

    # A fresh loop each time: nothing is carried over from the rate before.
    driven = uvloop.run(run())
    return _judge(driven, rate)


def _judge(driven: Driven, rate: float) -> Point:
    attempts = driven.attempts
    measured = attempts.where(attempts.intended >= driven.warmup_ns)
    good = int(np.count_nonzero(measured.is_good))
    lags = measured.lag_ms[measured.sent >= 0]
    if not good:
        raise SettingsError(f"the null server did not answer at {rate:g} requests a second")
    p50, p99, most = np.percentile(lags, (50, 99, 100))
    achieved = good / len(measured)
    return Point(
        rate_per_s=rate,
        achieved=achieved,
        lag_p50_ms=float(p50),
        lag_p99_ms=float(p99),
        lag_max_ms=float(most),
        cpu_share=driven.client_cpu_share,
        is_clean=bool(
            p99 <= _MAX_LAG_P99_MS
            and achieved >= _MIN_ACHIEVED
            and driven.client_cpu_share <= _MAX_CPU
        ),
    )


def _better(tries: Iterator[Point]) -> Point:
    """The first clean one, else the least late."""
    seen: list[Point] = []
    for point in tries:
        if point.is_clean:
            return point
        seen.append(point)
    return min(seen, key=lambda point: point.lag_p99_ms)


def _ceiling(points: Sequence[Point]) -> float:
    # A lower rate that was not clean, below one that was, was disturbed from outside.
    return max((point.rate_per_s for point in points if point.is_clean), default=0.0)


def _place(cache_root: Path) -> Path:
    return cache_root / "bench" / "client.json"
