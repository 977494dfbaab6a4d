"""`palio bench` below its flags: what is printed, and the exit status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from palio.bench.asking import Asking
from palio.bench.calibrate import null_server
from palio.bench.command import Scenario, Wish, bench_ramp, run
from palio.bench.record import read_trial
from palio.core.errors import SettingsError
from tests.app.process import run_palio, serving
from tests.bench.shady import nobody_home

pytestmark = [pytest.mark.net, pytest.mark.wire]

# Any JSON is right for a template, so the null server's answers are.
TEMPLATE = Asking(template='{"rows": {data}}')
# So loose that no lateness of a busy machine's client spoils it.
LOOSE = "p50<10s,errors<1%"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("toy"), "zoo:toy") as served:
        yield served.url


@pytest.fixture(scope="module")
def null() -> Iterator[str]:
    with null_server() as target:
        yield target.name


def wish(url: str, **changes: Any) -> Wish:
    short = Wish(url=url, workload="toy", duration_s=0.4, warmup_s=0.1)
    return replace(short, **changes)


def said(folder: Path, asked: Wish, **how: Any) -> tuple[int, str]:
    """The exit status, and what was printed."""
    out = StringIO()
    status = run(asked, folder, Console(file=out, width=100), **how)
    return status, out.getvalue()


def test_a_good_trial_shows_its_figures_and_ends_with_0(toy: str, tmp_path: Path) -> None:
    # Ab's form: as few requests as show no trend.
    status, page = said(tmp_path, wish(toy, concurrency=2, requests=150))
    assert status == 0
    assert page.startswith("OK\n")
    assert "attempts        150 in" in page
    for line in ("answered", "latency", "service", "client lag", "no good answer", "server batch"):
        assert f"\n{line}" in page
    assert "offered" not in page


def test_an_open_loop_says_what_was_offered(toy: str, tmp_path: Path) -> None:
    status, page = said(tmp_path, wish(toy, rate=200, arrivals="constant", slo="p99.9<10s"))
    assert "offered         200.0/s" in page
    assert "attempts        80 in 0.4 s" in page
    # The verdict is good, but 80 answers cannot carry the objective.
    assert "SLO p99.9<10000ms,errors<0.1%: too few answers to tell" in page
    assert status == 1


@pytest.mark.parametrize(("slo", "word", "status"), [(LOOSE, "met", 0), ("p50<0s", "missed", 1)])
def test_the_exit_status_tells_whether_an_objective_was_met(
    toy: str, tmp_path: Path, slo: str, word: str, status: int
) -> None:
    # A busy machine makes answers come in clusters, which say less.
    asked = wish(toy, concurrency=1, requests=199, slo=slo)
    found, page = said(tmp_path, asked)
    if "too few answers to tell" in page:
        assert found == 1
    else:
        assert page.rstrip().endswith(word)
        assert found == status


def test_what_was_kept_is_named_and_readable(toy: str, tmp_path: Path) -> None:
    status, page = said(tmp_path, wish(toy, concurrency=1, requests=20, out=tmp_path / "out"))
    assert status == 0
    (line,) = (line for line in page.splitlines() if line.startswith("every attempt: "))
    kept = read_trial(Path(line.removeprefix("every attempt: ")))
    assert kept.is_finished
    assert len(kept.attempts) == 20


class Page(BaseHTTPRequestHandler):
    """Answers every question with a page for people, which is no answer to any."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


def test_wrong_answers_show_no_numbers_and_end_with_1(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        asked = wish(f"127.0.0.1:{server.server_port}", asking=TEMPLATE, slo=LOOSE)
        status, page = said(tmp_path, replace(asked, concurrency=1, requests=50))
        server.shutdown()
        thread.join()
    assert status == 1
    assert page.splitlines() == [
        "NOT-PARITY: 50 of 50 answers were wrong",
        "ended badly: WRONG 50",
    ]


@pytest.mark.parametrize(
    "load", [{"rate": 100.0}, {"concurrency": 2}, {"concurrency": 2, "requests": 9}]
)
@pytest.mark.parametrize("asking", [Asking(), TEMPLATE])
def test_a_server_that_refuses_is_a_verdict_and_ends_with_1(
    tmp_path: Path, load: dict[str, Any], asking: Asking
) -> None:
    asked = wish(nobody_home().name, asking=asking, **load)
    status, page = said(tmp_path, asked)
    assert status == 1
    assert page.startswith("FAILED: ")
    assert "latency" not in page


def test_a_ramp_is_a_table_of_rates(null: str, tmp_path: Path) -> None:
    out = StringIO()
    asked = wish(null, asking=TEMPLATE, rate=300.0, arrivals="constant", slo=LOOSE, warmup_s=0)
    status = bench_ramp(asked, tmp_path, Console(file=out, width=100), steps=3)
    head, *rows = out.getvalue().splitlines()
    assert head.split()[:2] == ["offered/s", "answered/s"]
    assert [row.split()[0] for row in rows[:3]] == ["100.0", "200.0", "300.0"]
    assert status == 0


def test_a_ramp_without_any_number_ends_with_1(tmp_path: Path) -> None:
    out = StringIO()
    asked = wish(nobody_home().name, asking=TEMPLATE, rate=100.0, warmup_s=0)
    assert bench_ramp(asked, tmp_path, Console(file=out, width=100), steps=2) == 1
    assert "100.0/s FAILED: " in out.getvalue()


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_a_scenario_says_that_it_is_no_mlperf_result(
    toy: str, tmp_path: Path, scenario: Scenario
) -> None:
    # Too few for a trend.
    page = said(tmp_path, wish(toy, duration_s=0, warmup_s=0, requests=64), scenario=scenario)[1]
    first, verdict, *_ = page.splitlines()
    assert first == f"{scenario}, MLPerf-style, not an MLPerf result"
    assert verdict == "OK"
    rows_each = 8 if scenario == "multi-stream" else 1
    assert ("rows/s" in page) == (rows_each > 1)


def test_the_server_scenario_is_a_search(tmp_path: Path) -> None:
    asked = wish(nobody_home().name, asking=TEMPLATE, slo=LOOSE)
    status, page = said(tmp_path, asked, scenario="server")
    assert status == 1
    assert page.startswith("server, MLPerf-style, not an MLPerf result\n")
    assert "no capacity: in a closed loop: FAILED: 0 of" in page


def test_a_capacity_is_a_line_after_one_for_each_trial(null: str, tmp_path: Path) -> None:
    # Of trials this short nothing is learnt but that they are run and told; see test_search.
    asked = wish(null, asking=TEMPLATE, duration_s=0.02, warmup_s=0, timeout_s=1, slo=LOOSE)
    status, page = said(tmp_path, asked, capacity=True)
    first, *_, last = page.splitlines()
    assert first.split()[:2] == ["closed", "loop"]
    assert re.match(
        r"(capacity within p50<10000ms,errors<1%: [\d,.]+/s|no capacity: none of)", last
    )
    assert status == (0 if last.startswith("capacity") and ": 0.0/s" not in last else 1)


@pytest.mark.parametrize(
    ("changes", "how", "sentence"),
    [
        ({"rate": 9.0, "concurrency": 1}, {}, "--rate (open loop) or --concurrency"),
        ({"trace": "x", "concurrency": 1}, {}, "--rate (open loop) or --concurrency"),
        ({"requests": 9}, {}, "--requests goes with --concurrency"),
        ({"requests": 9, "rate": 9.0}, {}, "--requests goes with --concurrency"),
        ({}, {"capacity": True}, "within --slo"),
        ({}, {"scenario": "server"}, "within --slo"),
        ({"slo": LOOSE, "rate": 9.0}, {"capacity": True}, "chooses its own rates"),
        ({"slo": LOOSE, "concurrency": 9}, {"capacity": True}, "chooses its own rates"),
        ({}, {"ramp": True}, "a ramp needs --rate"),
        ({"rate": 9.0, "concurrency": 1}, {"ramp": True}, "leave out --concurrency"),
        ({"rate": 9.0}, {"scenario": "offline"}, "a scenario has its own load"),
        ({"slo": LOOSE}, {"scenario": "server", "ramp": True}, "give one of"),
        ({"workload": "txt"}, {}, "there is no workload"),
        ({"rows": 0}, {}, "below 1"),
        ({"concurrency": 0}, {}, "concurrency"),
        ({"rate": -1.0}, {}, "rate: "),
        ({"slo": "fast"}, {}, "is no objective"),
        ({"trace": "missing.jsonl"}, {}, "missing.jsonl"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    null: str, tmp_path: Path, changes: dict[str, Any], how: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        said(tmp_path, wish(null, asking=TEMPLATE, **changes), **how)


@pytest.mark.parametrize(
    "words",
    [
        "http://127.0.0.1:1 --rate 5 -c 3 --workload toy --template {data}",
        "http://127.0.0.1:1 --duration soon",
        "https://127.0.0.1:1",
        "",
    ],
)
def test_a_wish_that_cannot_be_had_ends_with_2_and_one_line(tmp_path: Path, words: str) -> None:
    ended = run_palio(tmp_path, "bench", *words.split())
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("palio: ")
