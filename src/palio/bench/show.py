"""A trial for people: one verdict line, and a table if there are numbers to show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palio.bench.intervals import Interval
from palio.bench.slo import Slo
from palio.bench.summary import Quantile, Summary
from palio.bench.verdict import State, Verdict

_MET = {True: "met", False: "missed", None: "too few answers to tell"}
_STYLE = {State.OK: "bold green", State.SATURATED: "bold yellow"}


def page(
    verdict: Verdict, summary: Summary | None, slo: Slo | None, met: bool | None
) -> RenderableType:
    """The verdict in one line; below it the figures, where the verdict lets them be shown."""
    lines: list[RenderableType] = [
        Text(
            verdict.line(),
            style=_STYLE.get(verdict.state, "bold red"),
            no_wrap=True,
            overflow="ignore",
        )
    ]
    if summary is not None and verdict.has_numbers:
        lines.append(_table(summary))
        if slo is not None:
            lines.append(Text(f"SLO {slo}: {_MET[met]}", style="bold"))
    elif summary is not None and summary.errors:
        lines.append(Text("ended badly: " + _counts(summary)))
    return Group(*lines)


def _table(summary: Summary) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    if summary.offered_per_s is not None:
        table.add_row("offered", f"{summary.offered_per_s:,.1f}/s")
    rows = summary.rows_per_s
    same = math.isclose(rows, summary.answered_per_s)
    table.add_row(
        "answered", f"{summary.answered_per_s:,.1f}/s" + ("" if same else f", {rows:,.1f} rows/s")
    )
    table.add_row("attempts", f"{summary.attempts:,} in {summary.seconds:.1f} s")
    for name, quantiles in (("latency", summary.latency), ("service", summary.service)):
        table.add_row(name, _quantiles(quantiles))
    median, p99, most = summary.lag_ms
    table.add_row("client lag", f"p50 {median:.3f} ms  p99 {p99:.3f} ms  most {most:.3f} ms")
    table.add_row("no good answer", _counts(summary) or "none")
    if summary.stages:
        stages = "  ".join(f"{name} {ms:.3f}" for name, ms in summary.stages.items())
        table.add_row("server, ms", f"{stages}  beyond it {summary.unexplained_ms or 0:.3f}")
    if summary.mean_batch is not None:
        table.add_row("server batch", f"{summary.mean_batch:.2f} rows")
    return table


def _quantiles(quantiles: Sequence[Quantile]) -> str:
    lines = [_quantile(each) for each in quantiles if each.is_supported]
    declined = [f"p{each.percent:g}" for each in quantiles if not each.is_supported]
    return "\n".join([*lines, *([f"{', '.join(declined)}: too few"] if declined else [])])


def _quantile(quantile: Quantile) -> str:
    name = f"{f'p{quantile.percent:g}':<5}"
    within = "" if quantile.within is None else f" {_interval(quantile.within)}"
    return f"{name} {_ms(quantile.latency_ms)}{within}"


def milliseconds(quantile: Quantile) -> str:
    """The figure without its unit, or why there is none."""
    if not quantile.is_supported:
        return "too few"
    return "not reached" if math.isinf(quantile.latency_ms) else f"{quantile.latency_ms:.2f}"


def _interval(within: Interval) -> str:
    low = f"{within.low:.2f}" if math.isfinite(within.high) else _ms(within.low)
    return f"({low} to {_ms(within.high)})"


def _ms(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:.2f} ms"


def _counts(summary: Summary) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in summary.errors.items())
