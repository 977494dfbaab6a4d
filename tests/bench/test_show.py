from __future__ import annotations

from dataclasses import replace
from io import StringIO
from math import inf

import pytest
from rich.console import Console

from palio.bench.intervals import Interval
from palio.bench.show import milliseconds, page
from palio.bench.slo import Slo
from palio.bench.summary import Quantile, Summary
from palio.bench.verdict import Reason, State, Verdict

LATENCY = (
    Quantile(50.0, 4.0, Interval(3.5, 4.5), True),
    Quantile(90.0, 7.0, None, True),
    Quantile(99.0, inf, Interval(80.0, inf), True),
    Quantile(99.9, 123.0, None, False),
)
SUMMARY = Summary(
    attempts=12_345,
    seconds=10.0,
    offered_per_s=1_234.5,
    answered_per_s=1_200.0,
    rows_per_s=2_400.0,
    latency=LATENCY,
    service=LATENCY,
    lag_ms=(0.02, 0.1, 2.0),
    errors={"TIMEOUT": 1_300, "STATUS 429": 2},
    stages={"queue": 1.0, "compute": 2.5},
    unexplained_ms=0.25,
    mean_batch=3.5,
)
OK = Verdict(State.OK)
LONG = Reason("lag", "the client sent late: " + "so very late " * 20)


def shown(
    verdict: Verdict,
    summary: Summary | None = SUMMARY,
    slo: Slo | None = None,
    met: bool | None = None,
) -> str:
    out = StringIO()
    Console(file=out, width=80).print(page(verdict, summary, slo, met), crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_figures_come_below_the_verdict() -> None:
    verdict, *rest = shown(OK).splitlines()
    assert verdict == "OK"
    said = "\n".join(rest)
    for figure in (
        "1,234.5/s",
        "1,200.0/s, 2,400.0 rows/s",
        "12,345 in 10.0 s",
        "p50   4.00 ms (3.50 to 4.50 ms)",
        "p90   7.00 ms\n",
        "p99   not reached (80.00 ms to not reached)",
        "p99.9: too few",
        "most 2.000 ms",
        "TIMEOUT 1,300, STATUS 429 2",
        "queue 1.000  compute 2.500  beyond it 0.250",
        "3.50 rows",
    ):
        assert figure in said


def test_a_percentile_that_is_declined_shows_no_figure() -> None:
    assert "123" not in shown(OK)
    assert milliseconds(LATENCY[0]) == "4.00"
    assert milliseconds(LATENCY[2]) == "not reached"
    assert milliseconds(LATENCY[3]) == "too few"


@pytest.mark.parametrize(
    "state", [each for each in State if each not in (State.OK, State.SATURATED)]
)
def test_a_verdict_without_numbers_shows_none(state: State) -> None:
    said = shown(Verdict(state, (Reason("why", "because"),)), slo=Slo(99, 50), met=True)
    assert said.splitlines() == [
        f"{state}: because",
        "ended badly: TIMEOUT 1,300, STATUS 429 2",
    ]


def test_the_verdict_is_one_line_however_narrow_the_terminal() -> None:
    (line,) = shown(Verdict(State.INVALID_CLIENT, (LONG,)), None).splitlines()
    assert line == f"INVALID(client): {LONG.sentence}".rstrip()


@pytest.mark.parametrize(
    ("met", "word"), [(True, "met"), (False, "missed"), (None, "too few answers to tell")]
)
def test_an_objective_is_met_missed_or_cannot_be_told(met: bool | None, word: str) -> None:
    assert shown(OK, slo=Slo(99, 50), met=met).splitlines()[-1].endswith(f"errors<0.1%: {word}")


def test_what_the_server_did_not_tell_has_no_line() -> None:
    silent = replace(
        SUMMARY, offered_per_s=None, stages={}, unexplained_ms=None, mean_batch=None, errors={}
    )
    said = shown(OK, silent)
    assert "offered" not in said
    assert "server" not in said
    assert "none" in said
