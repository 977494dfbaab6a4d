"""What `palio bench` does, without its flags: one trial, a search, a ramp, or a scenario."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from palio.bench.adapters import prepare
from palio.bench.asking import Asking, Unreachable, adapter_for
from palio.bench.calibrate import Point, calibrate, load_calibration, save_calibration
from palio.bench.drive import Progress
from palio.bench.intervals import Interval
from palio.bench.isotonic import Edge
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.search import Found, NoCapacity, find_capacity
from palio.bench.show import milliseconds, page
from palio.bench.slo import Slo, read_slo
from palio.bench.target import read_target
from palio.bench.trial import Order, Outcome, run_trial
from palio.bench.verdict import Reason, State, Verdict
from palio.bench.workloads import read_workload
from palio.core.errors import SettingsError

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
_STREAM_ROWS: Final = 8
_OFFLINE_CALLERS: Final = 64
_STOPPED: Final = "stopped before its end: no verdict, no numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for, as it was written; times in seconds."""

    url: str
    workload: str = "text-embed"
    asking: Asking = field(default_factory=Asking)
    rate: float | None = None
    arrivals: Literal["poisson", "constant", "gamma", "burst"] = "poisson"
    shape: float = 1.0
    trace: str = ""
    concurrency: int | None = None
    requests: int = 0
    duration_s: float = 10.0
    warmup_s: float = 2.0
    timeout_s: float = 10.0
    rows: int = 1
    seed: int = 0
    slo: str = ""
    out: Path | None = None
    pids: tuple[int, ...] = ()


def run(
    wish: Wish,
    cache: Path,
    console: Console,
    *,
    scenario: Scenario | None = None,
    capacity: bool = False,
    ramp: bool = False,
) -> int:
    """What was asked for; the exit status."""
    if (scenario is not None) + capacity + ramp > 1:
        raise SettingsError("give one of --scenario, --find-capacity and --ramp")
    try:
        if scenario is not None:
            return bench_scenario(wish, scenario, cache, console)
        if capacity:
            return bench_capacity(wish, cache, console)
        if ramp:
            return bench_ramp(wish, cache, console)
        return bench(wish, cache, console)
    except Unreachable as error:
        verdict = Verdict(State.FAILED, (Reason("answered", str(error)),))
        console.print(page(verdict, None, None, None), crop=False)
        return 1


def bench(wish: Wish, cache: Path, console: Console) -> int:
    """One trial; the exit status is 0 for a verdict that has numbers and, if asked, a kept SLO."""
    order = _order(wish, _load(wish), cache)
    outcome = run_trial(order, _live(order.load))
    return _report(order, outcome, console)


def bench_capacity(wish: Wish, cache: Path, console: Console) -> int:
    """The highest rate within the SLO."""
    if not wish.slo:
        raise SettingsError("a capacity is looked for within --slo, as in p99<50ms")
    if wish.rate is not None or wish.trace or wish.concurrency is not None or wish.requests:
        raise SettingsError(
            "the search chooses its own rates: leave out --rate, --trace, --concurrency, --requests"
        )
    slo, load = read_slo(wish.slo), replace(_open(wish), rate_per_s=1.0)
    order = _order(wish, load, cache)
    try:
        found = find_capacity(order, load, slo, heard=_heard(console, slo))
    except NoCapacity as error:
        console.print(f"no capacity: {error}", style="bold red", highlight=False, soft_wrap=True)
        return 1
    console.print(_capacity_line(found, slo), highlight=False, soft_wrap=True)
    return 0 if found.capacity.rate_per_s else 1


def bench_ramp(wish: Wish, cache: Path, console: Console, *, steps: int = 8) -> int:
    """Rates up to `wish.rate` in equal steps, one after the other, as one table."""
    if not wish.rate or wish.rate <= 0:
        raise SettingsError("a ramp needs --rate, the highest it goes to")
    if wish.concurrency is not None or wish.requests:
        raise SettingsError("a ramp is an open loop: leave out --concurrency and --requests")
    load = _open(wish)
    table = Table(box=None, pad_edge=False)
    for title in ("offered/s", "answered/s", "p50 ms", "p99 ms", "client p99 ms", "verdict"):
        table.add_column(title, justify="left" if title == "verdict" else "right")
    why: list[str] = []
    has_numbers = False
    for step in range(1, steps + 1):
        rate = wish.rate * step / steps
        order = _order(wish, replace(load, rate_per_s=rate), cache)
        outcome = run_trial(order, _live(order.load))
        _clear_live()
        if outcome.verdict is None:
            console.print(_STOPPED, style="bold red")
            return 130
        table.add_row(*_ramp_row(rate, outcome), str(outcome.verdict.state))
        has_numbers |= outcome.verdict.has_numbers
        if outcome.verdict.reasons:
            why.append(f"{rate:,.1f}/s {outcome.verdict.line()}")
    console.print(table)
    for line in why:
        console.print(line, highlight=False, soft_wrap=True)
    return 0 if has_numbers else 1


def bench_scenario(wish: Wish, scenario: Scenario, cache: Path, console: Console) -> int:
    """One of four scenarios in the style of MLPerf Inference; not an MLPerf result.

    Source of the definitions: MLCommons, "MLPerf Inference Rules", scenarios. single-stream is one
    caller, p90; multi-stream one caller with 8 rows a request, p99; server is the highest Poisson
    rate within the SLO; offline is everything at once, rows a second.
    """
    console.print(f"{scenario}, MLPerf-style, not an MLPerf result", style="dim")
    if scenario == "server":
        return bench_capacity(wish, cache, console)
    if wish.rate is not None or wish.trace or wish.concurrency is not None:
        raise SettingsError(
            "a scenario has its own load: leave out --rate, --trace and --concurrency"
        )
    if scenario == "multi-stream":
        wish = replace(wish, rows=_STREAM_ROWS)
    callers = _OFFLINE_CALLERS if scenario == "offline" else 1
    load = ClosedLoad(
        concurrency=callers,
        duration_s=wish.duration_s,
        requests=wish.requests,
        seed=wish.seed,
        timeout_s=wish.timeout_s,
        warmup_s=wish.warmup_s,
    )
    order = _order(wish, load, cache)
    return _report(order, run_trial(order, _live(load)), console)


def bench_self(cache: Path, console: Console) -> int:
    """What this client can do on this machine, kept for the checks to come."""
    cpus = sorted(os.sched_getaffinity(0))
    apart = len(cpus) > 1
    calibration = calibrate(
        server_cpus={cpus[0]} if apart else None,
        client_cpus={cpus[1]} if apart else None,
        progress=lambda point: console.print(_point_line(point), highlight=False),
    )
    path = save_calibration(calibration, cache)
    console.print(f"clean up to {calibration.clean_per_s:,.0f} requests/s; kept in {path}")
    return 0


def _order(wish: Wish, load: Load, cache: Path) -> Order:
    target = read_target(wish.url)
    workload = read_workload(wish.workload, seed=wish.seed, rows=wish.rows)
    calibration = load_calibration(cache)
    return Order(
        target=target,
        questions=prepare(adapter_for(wish.asking, workload, target), workload, target),
        load=load,
        slo=read_slo(wish.slo) if wish.slo else None,
        out=wish.out,
        pids=wish.pids,
        client={} if calibration is None else msgspec.to_builtins(calibration),
    )


def _load(wish: Wish) -> Load:
    """An open load for a rate or a trace, a closed one for callers; one of them, not both."""
    if wish.concurrency is not None and (wish.rate is not None or wish.trace):
        raise SettingsError("give --rate (open loop) or --concurrency (closed loop), not both")
    if wish.requests and wish.concurrency is None:
        raise SettingsError("--requests goes with --concurrency")
    if wish.rate is not None or wish.trace:
        return _open(wish)
    return ClosedLoad(
        concurrency=1 if wish.concurrency is None else wish.concurrency,
        duration_s=0.0 if wish.requests else wish.duration_s,
        requests=wish.requests,
        seed=wish.seed,
        timeout_s=wish.timeout_s,
        warmup_s=0.0 if wish.requests else wish.warmup_s,
    )


def _open(wish: Wish) -> OpenLoad:
    return OpenLoad(
        rate_per_s=wish.rate or 0.0,
        duration_s=wish.duration_s,
        arrivals="trace" if wish.trace else wish.arrivals,
        shape=wish.shape,
        trace=wish.trace,
        seed=wish.seed,
        timeout_s=wish.timeout_s,
        warmup_s=wish.warmup_s,
    )


def _live(load: Load) -> Callable[[Progress], None] | None:
    """One line over and over on a terminal's standard error; drawing more would make us late."""
    if not sys.stderr.isatty():
        return None
    total = load.duration_s + load.warmup_s

    def tell(now: Progress) -> None:
        share = f"{min(now.elapsed_s, total):5.1f}/{total:.0f} s" if total else ""
        sys.stderr.write(
            f"\r{share} asked {now.asked:,} good {now.good:,} failed {now.failed:,} "
            f"open {now.open:,} \x1b[K"
        )
        sys.stderr.flush()

    return tell


def _clear_live() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _report(order: Order, outcome: Outcome, console: Console) -> int:
    _clear_live()
    if outcome.verdict is None:
        console.print(_STOPPED, style="bold red")
    else:
        # Only the verdict may be wider than the terminal: it is one line.
        shown = page(outcome.verdict, outcome.summary, order.slo, outcome.is_slo_met)
        console.print(shown, crop=False)
        if outcome.usage is not None and outcome.verdict.has_numbers:
            console.print(_usage_line(outcome), highlight=False, soft_wrap=True)
    if outcome.folder is not None:
        console.print(f"every attempt: {outcome.folder}", highlight=False, soft_wrap=True)
    if outcome.verdict is None:
        return 130
    if not outcome.verdict.has_numbers:
        return 1
    return 0 if order.slo is None or outcome.is_slo_met else 1


def _usage_line(outcome: Outcome) -> str:
    usage, summary = outcome.usage, outcome.summary
    parts = []
    if usage is not None and summary is not None and usage.cpu_ms is not None:
        answered = summary.answered_per_s * usage.seconds
        parts.append(f"{usage.cpu_ms / max(answered, 1):.3f} CPU-ms an answer")
    if usage is not None and usage.pss_peak_bytes is not None:
        parts.append(f"PSS at most {usage.pss_peak_bytes / 1e6:.0f} MB")
    if usage is not None and usage.steal_ratio is not None:
        parts.append(f"{usage.steal_ratio * 100:.1f} % stolen from this machine")
    return "server: " + ", ".join(parts or ["nothing could be watched"])


def _heard(console: Console, slo: Slo) -> Callable[[float, Outcome], None]:
    """A line for each trial: of its percentiles the promised one, or p99 if that is another."""

    def heard(rate: float, outcome: Outcome) -> None:
        if outcome.verdict is None or outcome.summary is None:
            return
        name = "closed loop" if rate == float("inf") else f"{rate:,.1f}/s"
        has_numbers = outcome.verdict.has_numbers or outcome.verdict.state is State.UNSTEADY
        latency = {each.percent: each for each in outcome.summary.latency}
        asked = latency.get(slo.percent, latency[99.0])
        figures = f"p{asked.percent:g} {milliseconds(asked)}" if has_numbers else ""
        console.print(f"  {name:>12} {outcome.verdict.state} {figures}", highlight=False)

    return heard


def _capacity_line(found: Found, slo: Slo) -> str:
    capacity = found.capacity
    within = ""
    if capacity.low is not None and capacity.high is not None:
        within = f" ({_rate(Interval(capacity.low, capacity.high))})"
    where = {
        Edge.CLIFF: "beyond it a cliff",
        Edge.SMOOTH: "beyond it a slope",
        Edge.NOT_BRACKETED: "at least: no rate that was tried broke it"
        if capacity.rate_per_s
        else "no rate that was tried kept it",
    }[capacity.edge]
    return (
        f"capacity within {slo}: {capacity.rate_per_s:,.1f}/s{within}, {where}; "
        f"the closed loop reached {found.closed_per_s:,.1f}/s; {found.trials} trials, "
        f"{found.invalid} invalid"
    )


def _rate(within: Interval) -> str:
    return f"{within.low:,.1f} to {within.high:,.1f}"


def _ramp_row(rate: float, outcome: Outcome) -> tuple[str, ...]:
    summary = outcome.summary
    if summary is None or outcome.verdict is None or not outcome.verdict.has_numbers:
        return (f"{rate:,.1f}", "", "", "", "")
    p50, _, p99, _ = summary.latency
    return (
        f"{rate:,.1f}",
        f"{summary.answered_per_s:,.1f}",
        milliseconds(p50),
        milliseconds(p99),
        f"{summary.lag_ms[1]:.3f}",
    )


def _point_line(point: Point) -> str:
    clean = "clean" if point.is_clean else "not clean"
    return (
        f"{point.rate_per_s:>9,.0f}/s  lag p50 {point.lag_p50_ms:.3f} ms  "
        f"p99 {point.lag_p99_ms:.3f} ms  most {point.lag_max_ms:.2f} ms  "
        f"CPU {point.cpu_share * 100:.0f} %  {clean}"
    )
