"""What one trial says, as values: computed from its attempts whenever somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from palio.bench.attempts import STAGES, Attempts, Fault
from palio.bench.intervals import Interval, interval
from palio.bench.load import Load, OpenLoad
from palio.bench.percentiles import SHOWN, percentile, supports


@dataclass(frozen=True, slots=True)
class Quantile:
    """One percentile in ms, its 95 % interval if any, and whether the sample carries it."""

    percent: float
    latency_ms: float
    within: Interval | None
    is_supported: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The measured part of a trial; rates are a second, times in ms.

    offered_per_s: what the schedule asked for; None for a closed loop, which offers nothing.
    rows_per_s counts the rows of good answers. latency counts from the intended time, service
    from the last byte sent. lag is the client's own lateness (p50, p99, largest).
    errors: how many attempts ended in each way that is no good answer, "STATUS 429" for a status.
    stages: the server's own account, medians by stage; unexplained_ms is the median of what the
    client saw beyond it. mean_batch: rows in a server batch, over batches.
    """

    attempts: int
    seconds: float
    offered_per_s: float | None
    answered_per_s: float
    rows_per_s: float
    latency: tuple[Quantile, ...]
    service: tuple[Quantile, ...]
    lag_ms: tuple[float, float, float]
    errors: Mapping[str, int]
    stages: Mapping[str, float]
    unexplained_ms: float | None
    mean_batch: float | None


def summarise(attempts: Attempts, load: Load, from_ns: int, until_ns: int) -> Summary:
    """What the attempts with an intended time from `from_ns` until `until_ns` say.

    Raises:
        ValueError: there are none.
    """
    measured = attempts.where((attempts.intended >= from_ns) & (attempts.intended < until_ns))
    if not len(measured):
        raise ValueError("nothing was attempted after the warm-up")
    seconds = (until_ns - from_ns) / 1e9
    answered = _answered(attempts, measured, load, from_ns, until_ns)
    return Summary(
        attempts=len(measured),
        seconds=seconds,
        offered_per_s=len(measured) / seconds if isinstance(load, OpenLoad) else None,
        answered_per_s=len(answered) / seconds,
        rows_per_s=int(answered.rows.sum()) / seconds,
        latency=_quantiles(measured.latency_ms),
        service=_quantiles(measured.service_ms),
        lag_ms=_lag(measured),
        errors=_errors(measured),
        stages=_stages(measured),
        unexplained_ms=_unexplained(measured),
        mean_batch=_mean_batch(measured),
    )


def _answered(
    attempts: Attempts, measured: Attempts, load: Load, from_ns: int, until_ns: int
) -> Attempts:
    """What counts for the rate: of an open load all that was meant for the window and answered.

    A closed loop is counted by when answers came: those still under way at the end of the window
    would otherwise count without the time they took.
    """
    if isinstance(load, OpenLoad) or not load.duration_s:
        return measured.where(measured.is_good)
    ended = attempts.last_byte
    return attempts.where(attempts.is_good & (ended >= from_ns) & (ended < until_ns))


def _quantiles(latencies: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[Quantile, ...]:
    return tuple(
        Quantile(p, percentile(latencies, p), interval(latencies, p), supports(latencies, p))
        for p in SHOWN
    )


def _lag(measured: Attempts) -> tuple[float, float, float]:
    lags = measured.lag_ms[~np.isnan(measured.lag_ms)]
    if not len(lags):
        return (float("nan"),) * 3
    return percentile(lags, 50), percentile(lags, 99), float(lags.max())


def _errors(measured: Attempts) -> dict[str, int]:
    errors: dict[str, int] = {}
    for fault in Fault:
        if fault in (Fault.NONE, Fault.STATUS):
            continue
        if count := int((measured.fault == fault).sum()):
            errors[fault.name] = count
    refused = measured.status[measured.fault == Fault.STATUS]
    for status, count in zip(*np.unique(refused, return_counts=True), strict=True):
        errors[f"STATUS {status}"] = int(count)
    return errors


def _stages(measured: Attempts) -> dict[str, float]:
    stages = measured.stages[measured.is_good]
    told = ~np.isnan(stages)
    return {
        name: float(np.median(stages[told[:, at], at]))
        for at, name in enumerate(STAGES)
        if told[:, at].any()
    }


def _unexplained(measured: Attempts) -> float | None:
    """Service time less the server's own account: the network, both kernels, and our client."""
    told = measured.is_good & ~np.isnan(measured.stages).all(axis=1)
    if not told.any():
        return None
    server = np.nansum(measured.stages[told], axis=1)
    return float(np.median(measured.service_ms[told] - server))


def _mean_batch(measured: Attempts) -> float | None:
    """Each answer names its batch's rows, so a batch of n rows is named by all its answers."""
    told = measured.is_good & (measured.batch > 0)
    if not told.any():
        return None
    rows = measured.rows[told].astype(np.float64)
    return float(rows.sum() / (rows / measured.batch[told]).sum())
