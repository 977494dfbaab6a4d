"""When each request is to leave, drawn entirely before the run from a seed and a load.

Nothing a server does can move these times, so a slow server cannot slow the load that shows it to
be slow. The warm-up is part of the schedule, at the same load; who analyses leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from palio.bench.attempts import F64, I64
from palio.bench.load import OpenLoad
from palio.core.errors import SettingsError

I32 = npt.NDArray[np.int32]

# Gaps are drawn so many at a time. A constant, so that a longer run begins with the shorter one.
_CHUNK: Final = 8192
# Streams of one seed that must not be the same numbers.
_TIMES, _WARMUP, _INPUTS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each recorded request was: rows, and characters of text or elements of tensor."""

    rows: I32
    lengths: I32


@dataclass(frozen=True, slots=True)
class Schedule:
    """Intended times in ns from the trial's start, in order; those before `warmup_ns` warm up.

    `end_ns` is when the load ends. `sizes` comes with a trace that has them.
    """

    offsets: I64
    warmup_ns: int
    end_ns: int
    sizes: Sizes | None = None

    @property
    def sha256(self) -> str:
        """Which schedule this was."""
        return sha256(self.offsets.astype("<i8").tobytes()).hexdigest()


class _Arrival(msgspec.Struct):
    at_ms: float
    rows: int = 1
    length: int = -1


_decoder: Final = msgspec.json.Decoder(_Arrival)


def draw(load: OpenLoad) -> Schedule:
    """The whole schedule; the same load gives the same bytes.

    Raises:
        SettingsError: a rate, shape, duration or trace that cannot be used.
    """
    _check(load)
    warmup_ns = round(load.warmup_s * 1e9)
    if load.arrivals == "trace":
        return _replay(load, warmup_ns)
    end_ns = warmup_ns + round(load.duration_s * 1e9)
    gap_ns = 1e9 / load.rate_per_s
    rng = _stream(load.seed, _TIMES)
    if load.arrivals == "constant":
        offsets = np.round(np.arange(np.ceil(end_ns / gap_ns)) * gap_ns).astype(np.int64)
    elif load.arrivals == "burst":
        at_once = round(load.shape)
        offsets = np.repeat(_renewals(rng, 1.0, gap_ns * at_once, end_ns), at_once)
    else:
        shape = 1.0 if load.arrivals == "poisson" else load.shape
        offsets = _renewals(rng, shape, gap_ns, end_ns)
    return Schedule(offsets[offsets < end_ns], warmup_ns, end_ns)


def draw_inputs(seed: int, count: int, inputs: int) -> I32:
    """Which input each request carries: every input equally often, in rounds of random order."""
    rng = _stream(seed, _INPUTS)
    rounds = [rng.permutation(inputs) for _ in range(-(-count // inputs))]
    return np.concatenate([*rounds, np.empty(0)]).astype(np.int32)[:count]


def read_trace(path: Path) -> tuple[F64, Sizes | None]:
    """Arrivals in ms from the first, and their sizes if every line has one.

    JSON lines, as `palio serve --record-arrivals` writes them: `at_ms`, and maybe `rows`, `length`.

    Raises:
        SettingsError: the file is missing, empty, or a line is not an arrival.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"trace {path}: {error.strerror}") from error
    arrivals = [
        _arrival(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not arrivals:
        raise SettingsError(f"trace {path}: there are no arrivals in it")
    arrivals.sort(key=lambda arrival: arrival.at_ms)
    at_ms = np.array([arrival.at_ms for arrival in arrivals])
    sizes = Sizes(
        np.array([arrival.rows for arrival in arrivals], np.int32),
        np.array([arrival.length for arrival in arrivals], np.int32),
    )
    return at_ms - at_ms[0], sizes if sizes.lengths.min() >= 0 else None


def _arrival(line: bytes, place: str) -> _Arrival:
    try:
        arrival = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{place}: {error}") from None
    if not np.isfinite(arrival.at_ms) or arrival.rows < 1:
        raise SettingsError(f"{place}: not a usable arrival")
    return arrival


def _replay(load: OpenLoad, warmup_ns: int) -> Schedule:
    """The recorded times after a warm-up at their mean rate.

    With a rate, time is stretched or squeezed to reach it; 0 keeps the pace. A duration cuts.
    """
    at_ms, sizes = read_trace(Path(load.trace))
    mean_ms = float(at_ms[-1]) / max(len(at_ms) - 1, 1)
    if load.rate_per_s and mean_ms:
        at_ms = at_ms * (1e3 / load.rate_per_s / mean_ms)
        mean_ms = 1e3 / load.rate_per_s
    length_ns = round(load.duration_s * 1e9) or round((at_ms[-1] + mean_ms) * 1e6)
    times = np.round(at_ms * 1e6).astype(np.int64)
    kept = times < max(length_ns, 1)
    before = np.empty(0, np.int64)
    if mean_ms:
        before = _renewals(_stream(load.seed, _WARMUP), 1.0, mean_ms * 1e6, warmup_ns)
    offsets = np.concatenate([before, warmup_ns + times[kept]])
    if sizes is not None:
        # The warm-up carries the sizes that will come, from the first on.
        first = np.resize(np.arange(len(times)), len(before))
        order = np.concatenate([first, np.flatnonzero(kept)])
        sizes = Sizes(sizes.rows[order], sizes.lengths[order])
    return Schedule(offsets, warmup_ns, warmup_ns + length_ns, sizes)


def _renewals(rng: np.random.Generator, shape: float, gap_ns: float, end_ns: int) -> I64:
    """Times before `end_ns` whose gaps are gamma with that shape and mean."""
    chunks = [np.empty(0, np.int64)]
    for times in _running(rng, shape, gap_ns):
        chunks.append(np.round(times).astype(np.int64))
        if times[-1] >= end_ns:
            break
    offsets = np.concatenate(chunks)
    kept: I64 = offsets[offsets < end_ns]
    return kept


def _running(rng: np.random.Generator, shape: float, gap_ns: float) -> Iterator[F64]:
    last = 0.0
    while True:
        times = last + np.cumsum(rng.standard_gamma(shape, _CHUNK)) * (gap_ns / shape)
        last = float(times[-1])
        yield times


def _stream(seed: int, which: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, which))))


def _check(load: OpenLoad) -> None:
    is_trace = load.arrivals == "trace"
    if not np.isfinite(load.rate_per_s) or load.rate_per_s < 0:
        raise SettingsError(f"rate: {load.rate_per_s} is not a usable rate")
    if not is_trace and not load.rate_per_s:
        raise SettingsError("rate: an open load needs one above 0")
    if load.duration_s < 0 or load.warmup_s < 0 or load.seed < 0:
        raise SettingsError("duration, warm-up and seed cannot be negative")
    if not is_trace and not load.duration_s:
        raise SettingsError("duration: an open load needs one above 0")
    if is_trace and not load.trace:
        raise SettingsError("trace: name the file of arrivals")
    if load.arrivals == "gamma" and not 0.01 <= load.shape <= 1000:
        raise SettingsError(f"shape: gamma takes 0.01 to 1000, not {load.shape}")
    if load.arrivals == "burst" and (load.shape < 1 or load.shape != round(load.shape)):
        raise SettingsError(f"shape: a burst is a whole number of requests, not {load.shape}")
