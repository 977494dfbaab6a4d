"""One trial from order to verdict: ask, keep, judge, compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from palio.bench.attempts import Attempts
from palio.bench.checks import TrialFacts, judge, settling
from palio.bench.drive import Driven, Keep, Tell, drive_alone
from palio.bench.fetch import page
from palio.bench.fingerprint import fingerprint
from palio.bench.load import Load, OpenLoad
from palio.bench.manifest import Manifest, write_manifest
from palio.bench.questions import Questions
from palio.bench.record import Recorder
from palio.bench.resources import Usage, read_samples, usage
from palio.bench.sampler import sampling
from palio.bench.schedule import draw
from palio.bench.served import read_server
from palio.bench.slo import Slo
from palio.bench.summary import Summary, summarise
from palio.bench.target import Target
from palio.bench.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything asked for in one trial.

    `out` is the folder that trials are kept under, None to keep nothing. `pids` are the server's
    processes, to be watched while it runs. `cpus` are the cores the client stays on. `client` is
    its calibration on this machine.
    """

    target: Target
    questions: Questions
    load: Load
    slo: Slo | None = None
    out: Path | None = None
    pids: Sequence[int] = ()
    cpus: Set[int] | None = None
    client: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. `verdict` is None for a trial that was stopped: it is worth nothing.

    `summary` is None where nothing was attempted after the warm-up; `folder` where nothing was
    kept; `usage` where nobody watched.
    """

    driven: Driven
    verdict: Verdict | None
    summary: Summary | None
    is_slo_met: bool
    folder: Path | None
    usage: Usage | None


def run_trial(order: Order, progress: Tell | None = None) -> Outcome:
    """Ask the server, write down every attempt as it ends, and say what it is worth.

    Raises:
        SettingsError: a load or target that cannot be had.
        OSError: the folder cannot be written.
    """
    if order.out is None:
        driven = _drive(order, progress, None)
        return _outcome(order, driven, None, None)
    with _recorder(order, order.out) as recorder:
        with sampling(order.pids, recorder.resources) if order.pids else nullcontext():
            driven = _drive(order, progress, recorder.add)
        recorder.settle(driven.attempts)
        recorder.manifest = replace(recorder.manifest, zero_ns=driven.zero_ns)
        verdict, _ = _judged(order, driven)
        if verdict is None:
            write_manifest(recorder.folder, recorder.manifest)
        else:
            recorder.finish(verdict)
        return _outcome(order, driven, recorder.folder, _used(order, driven, recorder))


def _drive(order: Order, progress: Tell | None, keep: Keep | None) -> Driven:
    return drive_alone(
        order.target, order.questions, order.load, progress=progress, keep=keep, cpus=order.cpus
    )


def _used(order: Order, driven: Driven, recorder: Recorder) -> Usage | None:
    if not order.pids:
        return None
    begin, end = _window(order.load, driven)
    zero = driven.zero_ns
    samples = read_samples(recorder.resources)
    return usage(samples, begin_ns=zero + begin, end_ns=zero + end)


def _outcome(order: Order, driven: Driven, folder: Path | None, used: Usage | None) -> Outcome:
    verdict, summary = _judged(order, driven)
    return Outcome(
        driven=driven,
        verdict=verdict,
        summary=summary,
        is_slo_met=_is_met(order, driven),
        folder=folder,
        usage=used,
    )


def _recorder(order: Order, out: Path) -> Recorder:
    manifest = Manifest(
        spec={
            "target": order.target.name,
            "questions": order.questions.name,
            "slo": None if order.slo is None else str(order.slo),
        },
        load=order.load,
        workload_sha256=order.questions.sha256,
        zero_ns=0,
        started=datetime.now(UTC),
        fingerprint=fingerprint(),
        server=read_server(lambda path: page(order.target, path)),
        client=order.client,
    )
    schedule = draw(order.load).offsets if isinstance(order.load, OpenLoad) else None
    return Recorder(out / manifest.name, manifest, schedule=schedule)


def _window(load: Load, driven: Driven) -> tuple[int, int]:
    """What is judged, by intended time: all of it but the warm-up."""
    begin = driven.warmup_ns
    if driven.schedule is not None:
        return begin, driven.schedule.end_ns
    if load.duration_s:
        return begin, begin + round(load.duration_s * 1e9)
    asked = driven.attempts.intended
    return begin, max(int(asked[-1]) + 1 if len(asked) else begin, begin + 1)


def _judged(order: Order, driven: Driven) -> tuple[Verdict | None, Summary | None]:
    if not driven.is_finished:
        return None, None
    begin, end = _window(order.load, driven)
    facts = TrialFacts(
        attempts=driven.attempts,
        load=order.load,
        from_ns=begin,
        until_ns=end,
        slo_ms=None if order.slo is None else order.slo.limit_ms,
        client_cpu_share=driven.client_cpu_share,
        in_flight_mean=driven.in_flight_mean,
    )
    verdict = judge(facts)
    if not len(facts.judged):
        return verdict, None
    steady_from = settling(facts).begins_ns
    return verdict, summarise(
        driven.attempts, order.load, begin if steady_from is None else steady_from, end
    )


def _is_met(order: Order, driven: Driven) -> bool:
    if order.slo is None or not driven.is_finished:
        return False
    begin, end = _window(order.load, driven)
    rows: Attempts = driven.attempts
    return order.slo.is_met(rows.where((rows.intended >= begin) & (rows.intended < end)))
