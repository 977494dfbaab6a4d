"""One trial from order to verdict: ask, keep, judge, compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from palio.bench.attempts import Attempts
from palio.bench.checks import TrialFacts, judge, measured, settling
from palio.bench.drive import Driven, Keep, Tell, drive_alone
from palio.bench.export import MissingExtra, export_parquet
from palio.bench.fetch import page
from palio.bench.fingerprint import fingerprint
from palio.bench.load import Load, OpenLoad
from palio.bench.manifest import Manifest, write_manifest
from palio.bench.percentiles import supports
from palio.bench.questions import Questions
from palio.bench.record import RESOURCES, Recorder
from palio.bench.resources import Usage, read_samples, usage
from palio.bench.sampler import sampling
from palio.bench.schedule import draw
from palio.bench.served import read_server
from palio.bench.slo import Slo
from palio.bench.summary import Summary, summarise
from palio.bench.target import Target
from palio.bench.verdict import Verdict

PARQUET: Final = "attempts.parquet"


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
    kept; `usage` where nobody watched; `is_slo_met` where there is no objective, or the sample is
    too small to tell.
    """

    driven: Driven
    verdict: Verdict | None
    summary: Summary | None
    is_slo_met: bool | None
    folder: Path | None
    usage: Usage | None


def run_trial(order: Order, progress: Tell | None = None) -> Outcome:
    """Ask the server, write down every attempt as it ends, and say what it is worth.

    Raises:
        SettingsError: a load or target that cannot be had.
        OSError: the folder cannot be written.
    """
    if order.out is None:
        with TemporaryDirectory(prefix="palio-bench-") as folder:
            resources = Path(folder) / RESOURCES
            return _outcome(order, _drive(order, progress, None, resources), resources)
    with _recorder(order, order.out) as recorder:
        driven = _drive(order, progress, recorder.add, recorder.resources)
        recorder.settle(driven.attempts)
        recorder.manifest = replace(recorder.manifest, zero_ns=driven.zero_ns)
        outcome = _outcome(order, driven, recorder.resources)
        if outcome.verdict is None:
            write_manifest(recorder.folder, recorder.manifest)
        else:
            recorder.finish(outcome.verdict)
        with suppress(MissingExtra):
            # For those who have the extra: the same rows in a form that other tools read.
            export_parquet(driven.attempts, recorder.folder / PARQUET)
        return replace(outcome, folder=recorder.folder)


def _drive(order: Order, progress: Tell | None, keep: Keep | None, resources: Path) -> Driven:
    with sampling(order.pids, resources) if order.pids else nullcontext():
        return drive_alone(
            order.target, order.questions, order.load, progress=progress, keep=keep, cpus=order.cpus
        )


def _outcome(order: Order, driven: Driven, resources: Path) -> Outcome:
    """What the rows say; nothing, if it was stopped."""
    begin, end = _window(order.load, driven)
    outcome = Outcome(
        driven=driven,
        verdict=None,
        summary=None,
        is_slo_met=None,
        folder=None,
        usage=_used(order, resources, driven.zero_ns + begin, driven.zero_ns + end),
    )
    if not driven.is_finished:
        return outcome
    facts = TrialFacts(
        attempts=driven.attempts,
        load=order.load,
        from_ns=begin,
        until_ns=end,
        slo_ms=None if order.slo is None else order.slo.limit_ms,
        client_cpu_share=driven.client_cpu_share,
        clean_per_s=order.client.get("clean_per_s"),
        in_flight_mean=driven.in_flight_mean,
    )
    outcome = replace(outcome, verdict=judge(facts))
    if not len(facts.judged):
        return outcome
    settled = settling(facts).begins_ns
    return replace(
        outcome,
        summary=summarise(driven.attempts, order.load, begin if settled is None else settled, end),
        is_slo_met=None if order.slo is None else is_kept(order.slo, measured(facts)),
    )


def _used(order: Order, resources: Path, begin_ns: int, end_ns: int) -> Usage | None:
    if not order.pids:
        return None
    return usage(read_samples(resources), begin_ns=begin_ns, end_ns=end_ns)


def is_kept(slo: Slo, rows: Attempts) -> bool | None:
    """Whether these rows keep to it; None where they are too few for such a percentile."""
    if slo.error_ratio(rows) > slo.max_error_ratio:
        return False
    return slo.is_met(rows) if supports(rows.latency_ms, slo.percent) else None


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
    return Recorder(_free(out, manifest.name), manifest, schedule=schedule)


def _free(out: Path, name: str) -> Path:
    """A folder of that name, or with a number behind it: the same may be asked twice a second."""
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next((out / each for each in names if not (out / each).exists()), out / name)


def _window(load: Load, driven: Driven) -> tuple[int, int]:
    """What is judged, by intended time: all of it but the warm-up."""
    begin = driven.warmup_ns
    if driven.schedule is not None:
        return begin, driven.schedule.end_ns
    if load.duration_s:
        return begin, begin + round(load.duration_s * 1e9)
    asked = driven.attempts.intended
    return begin, max(int(asked[-1]) + 1 if len(asked) else begin, begin + 1)
