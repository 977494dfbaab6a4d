"""Whole trials, against servers and clients in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palio.bench.adapters import Oip, prepare
from palio.bench.attempts import Fault
from palio.bench.calibrate import null_questions, null_server
from palio.bench.drive import Progress
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.questions import Questions
from palio.bench.record import Trial, read_trial
from palio.bench.schedule import draw
from palio.bench.slo import Slo, read_slo
from palio.bench.target import Target, read_target
from palio.bench.trial import Order, is_kept, run_trial
from palio.bench.verdict import State
from palio.bench.virtual import Server, play
from palio.bench.workloads import toy
from tests.app.process import PALIO, PATIENCE_S, environment, serving
from tests.bench.shady import nobody_home

pytestmark = [pytest.mark.net, pytest.mark.wire]

# So loose that a busy machine keeps it: what is late by less than 200 ms is not late for this.
LOOSE = Slo(99, 10_000)
# Too few for a trend, and enough for a median.
OPEN = OpenLoad(rate_per_s=300, duration_s=0.5, warmup_s=0.1, arrivals="constant")


@pytest.fixture(scope="module")
def null() -> Iterator[Target]:
    with null_server() as target:
        yield target


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with serving(tmp_path_factory.mktemp("toy"), "zoo:toy") as toy_server:
        yield read_target(toy_server.url)


def toys(target: Target) -> Questions:
    return prepare(Oip("toy", "x"), toy(), target)


def until(is_so: Callable[[], bool]) -> None:
    """Look again and again, for as long as anybody would wait."""
    patience = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < patience
        os.sched_yield()


def test_a_good_trial_is_ok_and_its_folder_says_the_same(served: Target, tmp_path: Path) -> None:
    order = Order(target=served, questions=toys(served), load=OPEN, slo=LOOSE, out=tmp_path / "out")
    outcome = run_trial(order)
    assert outcome.verdict is not None
    assert outcome.verdict.line() == "OK"
    assert outcome.summary is not None
    assert outcome.summary.attempts == 150
    assert outcome.summary.answered_per_s == pytest.approx(300)
    assert {"queue", "compute"} <= set(outcome.summary.stages)
    assert outcome.summary.mean_batch is not None
    assert outcome.folder is not None
    kept = read_trial(outcome.folder)
    assert kept.is_finished
    assert not kept.torn
    assert kept.manifest.verdict == outcome.verdict
    assert kept.manifest.zero_ns == outcome.driven.zero_ns > 0
    assert kept.manifest.load == OPEN
    assert kept.manifest.spec["slo"] == str(LOOSE)
    assert "toy" in kept.manifest.server["models"]
    assert np.array_equal(kept.attempts.last_byte, outcome.driven.attempts.last_byte)
    assert kept.unrecorded == 0


def test_the_same_trial_twice_in_a_second_is_two_folders(null: Target, tmp_path: Path) -> None:
    load = ClosedLoad(concurrency=1, requests=3, warmup_s=0)
    order = Order(target=null, questions=null_questions(null), load=load, out=tmp_path)
    folders = [run_trial(order).folder for _ in range(4)]
    assert len(set(folders)) == 4
    assert sorted(tmp_path.iterdir()) == folders


def test_a_trial_that_is_not_kept_leaves_nothing(
    null: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_trial(Order(target=null, questions=null_questions(null), load=OPEN, slo=LOOSE))
    assert outcome.verdict is not None
    assert outcome.folder is None
    assert not list(tmp_path.iterdir())


def test_the_servers_processes_are_watched_kept_or_not(null: Target, tmp_path: Path) -> None:
    order = Order(
        target=null,
        questions=null_questions(null),
        load=OPEN,
        slo=LOOSE,
        pids=(os.getpid(),),
    )
    unkept, kept = (run_trial(replace(order, out=out)) for out in (None, tmp_path))
    for outcome in (unkept, kept):
        assert outcome.usage is not None
        assert outcome.usage.rss_peak_bytes is not None
    assert kept.folder is not None
    assert read_trial(kept.folder).samples


@pytest.mark.parametrize(
    ("slo", "kept"),
    [
        ("p50<10s", True),
        ("p50<0.001ms", False),
        # What 600 answers say of one in a thousand is nothing.
        ("p99.9<10s", None),
        ("p99.9<0.001ms", None),
    ],
)
def test_an_objective_is_judged_where_the_sample_carries_it(slo: str, kept: bool | None) -> None:
    rows = play(replace(OPEN, duration_s=2, warmup_s=0), Server(), seed=1).judged
    assert is_kept(read_slo(slo), rows) is kept


def test_too_many_errors_miss_an_objective_however_small_the_sample() -> None:
    rows = play(replace(OPEN, duration_s=2, warmup_s=0), Server(wrong_share=0.2), seed=1).judged
    assert is_kept(read_slo("p99.9<10s"), rows) is False


def test_a_replay_is_judged_to_its_end(null: Target, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at_ms": {at * 5}}}\n' for at in range(100)))
    load = OpenLoad(rate_per_s=0, duration_s=0, arrivals="trace", trace=str(trace), warmup_s=0.1)
    outcome = run_trial(Order(target=null, questions=null_questions(null), load=load, slo=LOOSE))
    assert outcome.summary is not None
    assert outcome.summary.attempts == 100
    assert outcome.summary.offered_per_s == pytest.approx(200)


def test_wrong_answers_are_not_parity_and_no_objective_is_met(null: Target) -> None:
    # The null server gives every question the same answer.
    outcome = run_trial(Order(target=null, questions=_all_toys(null), load=OPEN, slo=LOOSE))
    assert outcome.verdict is not None
    assert outcome.verdict.state is State.NOT_PARITY
    assert not outcome.verdict.has_numbers
    assert outcome.is_slo_met is False


def _all_toys(target: Target) -> Questions:
    return prepare(Oip("null", "x"), toy(), target)


def test_nobody_at_home_is_a_failed_trial(tmp_path: Path) -> None:
    target = nobody_home()
    order = Order(target=target, questions=toys(target), load=OPEN, slo=LOOSE, out=tmp_path)
    outcome = run_trial(order)
    assert outcome.verdict is not None
    assert outcome.verdict.state is State.FAILED
    assert outcome.folder is not None
    kept = read_trial(outcome.folder)
    assert kept.is_finished
    assert set(kept.attempts.fault) == {Fault.REFUSED}
    assert kept.manifest.server["unanswered"] == ["/metrics", "/v2"]


def test_a_trial_that_was_stopped_has_no_verdict_and_says_so(null: Target, tmp_path: Path) -> None:
    load = replace(OPEN, duration_s=60)

    def stop(now: Progress) -> None:
        if now.good:
            os.kill(os.getpid(), signal.SIGINT)

    order = Order(target=null, questions=null_questions(null), load=load, out=tmp_path)
    outcome = run_trial(order, stop)
    assert outcome.verdict is None
    assert outcome.summary is None
    assert outcome.is_slo_met is None
    assert outcome.folder is not None
    kept = read_trial(outcome.folder)
    assert not kept.is_finished
    assert kept.attempts.is_good.any()
    assert kept.manifest.zero_ns > 0


@contextmanager
def bench(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`palio bench …` as a process, ended in any case."""
    process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [*PALIO, "bench", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def has_attempts(folder: Path) -> bool:
    """Whether whole attempts can be read; the file without any is 16 bytes."""
    files = list(folder.glob("out/*/attempts.bin"))
    return any(file.stat().st_size > 16 and len(read_trial(file.parent).attempts) for file in files)


def only_trial(folder: Path) -> Trial:
    (found,) = (folder / "out").iterdir()
    return read_trial(found)


LONG = ("--workload", "toy", "--duration", "60s", "--warmup", "0", "--out", "out")


@pytest.mark.parametrize("load", [("--rate", "500"), ("-c", "4")], ids=["open", "closed"])
def test_what_was_recorded_before_a_kill_is_readable_and_unfinished(
    served: Target, tmp_path: Path, load: tuple[str, str]
) -> None:
    with bench(tmp_path, served.name, *load, *LONG) as process:
        until(lambda: has_attempts(tmp_path))
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    kept = only_trial(tmp_path)
    assert not kept.is_finished
    assert kept.manifest.verdict is None
    assert len(kept.attempts)
    assert kept.attempts.is_good.all()
    if kept.schedule is not None:
        assert isinstance(kept.manifest.load, OpenLoad)
        assert np.array_equal(kept.schedule, draw(kept.manifest.load).offsets)
        assert kept.unrecorded


def test_an_interrupt_ends_a_trial_with_130_and_no_number(served: Target, tmp_path: Path) -> None:
    with bench(tmp_path, served.name, "--rate", "100", *LONG) as process:
        until(lambda: has_attempts(tmp_path))
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert not errors
    first, second = out.decode().splitlines()
    assert first == "stopped before its end: no verdict, no numbers"
    assert second.startswith("every attempt: out/")
    assert not only_trial(tmp_path).is_finished
