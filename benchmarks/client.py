"""Is our load client fast and punctual enough to measure servers, and does it agree with wrk?

The client is pinned to one core, the server to another. First against a server that does nothing:
closed loop, and an open loop at 8,000 requests a second, every attempt recorded. Then closed loop
against a slow server, in turn with wrk, A B A B. What is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console
from stage import CLIENT_CPU, SERVER_CPU, machine_line, median_of, pinned_server

from palio.bench.adapters import Oip, prepare
from palio.bench.calibrate import null_questions, null_server
from palio.bench.drive import drive_alone
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.questions import Questions
from palio.bench.target import Target, read_target
from palio.bench.workloads import toy

CALLERS, RATE = 32, 8000.0
MUST_CLOSED, MUST_LAG_MS, MUST_AGREE = 25_000.0, 0.25, 0.03
WARMUP_S = 0.5
PER_S = re.compile(r"Requests/sec:\s+([\d.]+)")
# 8 callers and 8 rows a batch of 8 ms: about 500 requests a second.
SLOW = ("models.toy.options.base_ms=8",)
SLOW_CALLERS = 8
LOCUSTFILE = """
from locust import FastHttpUser, constant, task
class Asker(FastHttpUser):
    wait_time = constant(0)
    @task
    def ask(self):
        self.client.post({path!r}, data={body!r}, headers={{"Content-Type": "application/json"}})
"""


def closed(target: Target, questions: Questions, callers: int, seconds: float) -> float:
    """Good answers a second after the warm-up."""
    load = ClosedLoad(concurrency=callers, duration_s=seconds, warmup_s=WARMUP_S)
    driven = drive_alone(target, questions, load, cpus={CLIENT_CPU})
    attempts = driven.attempts
    assert attempts.is_good.all(), np.bincount(attempts.fault)
    # Answers that came within the time; those awaited afterwards would count time without load.
    ended = attempts.last_byte - driven.warmup_ns
    return float(np.count_nonzero((ended >= 0) & (ended < seconds * 1e9)) / seconds)


def split(request: bytes) -> tuple[str, str]:
    """The path and the body of a request."""
    head, _, body = request.partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode(), body.decode()


def wrk(target: Target, questions: Questions, callers: int, seconds: float) -> float:
    """What wrk says: one thread, one request over and over."""
    path, body = split(questions.requests[0])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n"
            "wrk.headers['Content-Type'] = 'application/json'\n"
        )
        command = ["wrk", "-t1", f"-c{callers}", f"-d{max(round(seconds), 1)}s"]
        out = output_of([*command, "-s", str(script), target.name + path])
    found = PER_S.search(out)
    assert found is not None, out
    assert "Non-2xx" not in out, out
    return float(found[1])


def locust(target: Target, questions: Questions, callers: int, seconds: float) -> float:
    """Locust's figure with its faster client, in one process."""
    path, body = split(questions.requests[0])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "locustfile.py"
        script.write_text(LOCUSTFILE.format(path=path, body=body))
        command = ["locust", "-f", str(script), "--headless", "--json", "--only-summary"]
        users = ["-u", str(callers), "-r", str(callers), "-t", f"{max(round(seconds), 2)}s"]
        out = output_of([*command, *users, "--host", target.name])
    entry = orjson.loads(out[out.index("[") :])[0]
    took_s = entry["last_request_timestamp"] - entry["start_time"]
    return float(entry["num_requests"] / took_s)


def output_of(command: Sequence[str]) -> str:
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CPU}),
    ).stdout


def against_null(console: Console, runs: int, seconds: float) -> bool:
    with null_server(cpus={SERVER_CPU}) as target:
        questions = null_questions(target)
        others = [each for each in (wrk, locust) if shutil.which(each.__name__)]
        speeds: dict[str, list[float]] = {"palio": [], **{each.__name__: [] for each in others}}
        lags: list[list[float]] = []
        for run in range(runs):
            speeds["palio"].append(closed(target, questions, CALLERS, seconds))
            for other in others:
                speeds[other.__name__].append(other(target, questions, CALLERS, seconds))
            lags.append(punctuality(target, questions, seconds, run))
    console.print(f"closed loop, {CALLERS} callers, requests a second (must: {MUST_CLOSED:.0f}):")
    for name in ("palio", "wrk", "locust"):
        figures = speeds.get(name)
        console.print(f"  {name:8} {median_of(figures) if figures else 'not installed, left out'}")
    console.print(f"open loop, Poisson, {RATE:.0f} requests a second, lateness in ms:")
    for at, name in enumerate(("p50", "p99", "p99.9", "max")):
        must = f"  (must: {MUST_LAG_MS})" if name == "p99" else ""
        console.print(f"  {name:8} {median_of([each[at] for each in lags])}{must}")
    console.print(f"  {'of core':8} {median_of([each[4] for each in lags])}")
    # A client that others push off its core is late through no fault of its own.
    console.print(f"  pushed off its core {statistics.median(each[5] for each in lags):.0f} times")
    return (
        statistics.median(speeds["palio"]) >= MUST_CLOSED
        and statistics.median(each[1] for each in lags) <= MUST_LAG_MS
    )


def punctuality(target: Target, questions: Questions, seconds: float, seed: int) -> list[float]:
    """How late requests left at the rate of the claim: p50, p99, p99.9, max; and the core used."""
    load = OpenLoad(
        rate_per_s=RATE, duration_s=seconds, warmup_s=WARMUP_S, seed=seed, connections=1024
    )
    driven = drive_alone(target, questions, load, cpus={CLIENT_CPU})
    attempts = driven.attempts.where(driven.attempts.intended >= driven.warmup_ns)
    assert attempts.is_good.all(), np.bincount(attempts.fault)
    late = np.percentile(attempts.lag_ms, (50, 99, 99.9, 100))
    return [*map(float, late), driven.client_cpu_share, float(driven.preempted)]


def against_slow(console: Console, runs: int, seconds: float) -> bool:
    """The same slow server, closed loop, by us and by wrk: throughput within 3 %."""
    if not shutil.which("wrk"):
        console.print("agreement with wrk: wrk is not installed, left out")
        return True
    with serving_slowly() as port:
        target = read_target(f"http://127.0.0.1:{port}")
        questions = prepare(Oip("toy", "x"), toy(), target)
        ways: tuple[Callable[..., float], ...] = (closed, wrk)
        wrk(target, questions, SLOW_CALLERS, 1.0)
        figures = [
            [way(target, questions, SLOW_CALLERS, seconds) for way in ways] for _ in range(runs)
        ]
    ratios = [ours / theirs for ours, theirs in figures]
    console.print(
        f"a server of {statistics.median(pair[1] for pair in figures):.0f} requests a second, "
        f"{SLOW_CALLERS} callers: palio / wrk {median_of(ratios)}  (must: within 3 %)"
    )
    return abs(statistics.median(ratios) - 1) <= MUST_AGREE


def serving_slowly() -> AbstractContextManager[int]:
    return pinned_server("zoo:toy", *SLOW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if not {SERVER_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
        raise SystemExit("cores 0 and 1 are needed: one for the server, one for the client")
    console = Console(width=110, highlight=False)
    console.print(machine_line())
    held = [
        against_null(console, options.runs, options.seconds),
        against_slow(console, options.runs, options.seconds),
    ]
    if not all(held):
        console.print("not what was promised")
        sys.exit(1)


if __name__ == "__main__":
    main()
