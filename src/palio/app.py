"""All the wiring: settings become a running server here and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from palio.backends.registry import find_backend
from palio.core.batching import BatchRule
from palio.core.cpus import CpuPlan, CpuRequest, plan_cpus
from palio.core.errors import SettingsError
from palio.core.manifest import Manifest
from palio.engine.batcher import BatchRecord
from palio.engine.clock import LoopClock
from palio.engine.machine import read_machine
from palio.engine.model import ModelSpec, ServedModel
from palio.engine.runtime import Runtime
from palio.engine.texts import Encoder, TokeniseThread
from palio.server.http import DoorLimits, ExchangeRecord, HttpDoor
from palio.settings import ModelSettings, ServerSettings, Settings
from palio.telemetry.arrivals import ArrivalWriter
from palio.telemetry.logs import Log, LogWriter
from palio.telemetry.metrics import Metrics
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.manifests import read_manifest
from palio.toolchain.progress import Progress

_MS = 1_000_000
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything decided before anything is loaded: the CPU plan and each model's spec."""

    plan: CpuPlan
    models: tuple[ModelSpec, ...]
    routes: Mapping[str, str]


def prepare(settings: Settings, cache: Cache, progress: Progress) -> Prepared:
    """Fetch and build what is missing, share out the CPUs, and fix every model's terms.

    Raises:
        SettingsError: a setting cannot be had here.
        ToolchainError: a model cannot be fetched or built.
    """
    if not settings.models:
        raise SettingsError("there is no model to serve; name one, as in `palio serve zoo:toy`")
    requests = [
        CpuRequest(
            model=name,
            instances=model.told_instances,
            threads=model.computing_threads,
        )
        for name, model in settings.models.items()
    ]
    plan = plan_cpus(read_machine().cpus, requests, told=settings.told_cpus)
    specs = tuple(
        _spec(name, model, settings.server, plan, build(model.source, cache, progress))
        for name, model in settings.models.items()
    )
    return Prepared(plan, specs, _routes(settings, specs))


def _spec(
    name: str, model: ModelSettings, server: ServerSettings, plan: CpuPlan, folder: Path
) -> ModelSpec:
    manifest = read_manifest(folder)
    batch = model.batch
    return ModelSpec(
        name=name,
        folder=str(folder),
        manifest=manifest,
        load=find_backend(model.backend),
        wanted=model.placement,
        instances=plan.share(name).instances,
        rule=BatchRule(
            max_rows=batch.max_rows,
            max_wait_ns=batch.max_wait_ns,
            capacity_rows=batch.capacity_rows,
            capacity_bytes=batch.capacity_bytes,
            max_padding=batch.max_padding,
            ageing_ns=batch.ageing_ns,
        ),
        deadline_ns=model.deadline_ns,
        is_batching=batch.enabled,
        max_text_chars=server.max_text_chars,
        open_encoder=_encoder(folder, manifest),
    )


def _encoder(folder: Path, manifest: Manifest) -> Callable[[], Encoder] | None:
    """How to open the model's tokeniser, if it has one; it loads a native library."""
    tokenizer = manifest.tokenizer
    if tokenizer is None:
        return None

    def open_encoder() -> Encoder:
        from palio.wire.tokenisers import TextTokeniser

        return TextTokeniser(folder / tokenizer.file, max_tokens=tokenizer.max_tokens)

    return open_encoder


def _routes(settings: Settings, specs: tuple[ModelSpec, ...]) -> Mapping[str, str]:
    """The routes as written, or `/v1/embeddings` to the first model that embeds text."""
    if settings.routes:
        return settings.routes
    embedders = [spec.name for spec in specs if spec.manifest.task == "text-embedding"]
    return {"/v1/embeddings": embedders[0]} if embedders else {}


class Server:
    """A runtime behind its doors, with its metrics and its log. Use as `async with`."""

    def __init__(
        self, settings: Settings, prepared: Prepared, *, log_stream: BinaryIO | None = None
    ) -> None:
        """Everything is made here and nothing is started; needs a running event loop."""
        loop = asyncio.get_running_loop()
        self._settings = settings
        self.clock = LoopClock(loop)
        telemetry = settings.telemetry
        self.log = Log(LogWriter(log_stream or sys.stderr.buffer), level=telemetry.log_level)
        self._tokenise = TokeniseThread(loop) if prepared.plan.tokenise_thread else None
        self.runtime = Runtime(
            [
                ServedModel(spec, self.clock, on_batch=self._batch, tokenise_thread=self._tokenise)
                for spec in prepared.models
            ],
            self.clock,
        )
        self.metrics = Metrics(
            self.runtime.queues,
            self._model_facts,
            self.runtime.truncated,
            lambda: self.log.dropped,
        )
        server = settings.server
        self.door = HttpDoor(
            self.runtime,
            routes=prepared.routes,
            limits=DoorLimits(
                max_body_bytes=server.max_body_bytes,
                max_header_bytes=server.max_header_bytes,
                max_items=server.max_items,
                max_text_chars=server.max_text_chars,
                read_timeout_s=server.read_timeout_s,
                idle_timeout_s=server.idle_timeout_s,
                max_connections=server.max_connections,
                max_pipelined=server.max_pipelined,
            ),
            clock_now=self.clock.now_ns,
            metrics=self.metrics.exposition,
            on_exchange=self._exchange,
            on_fault=self._fault,
            version=palio_version(),
        )
        self.url = ""
        self._was_ready = False
        self._names = frozenset(spec.name for spec in prepared.models)
        self._arrivals: ArrivalWriter | None = None

    async def __aenter__(self) -> Server:
        """Open the door, which says "not ready" until the models are loaded, then load them."""
        try:
            self._arrivals = _open_arrivals(self._settings.telemetry.record_arrivals)
            await self._open()
            await self.runtime.load()
        except BaseException:
            await self.stop(0.0)
            raise
        self._was_ready = True
        self.log.say("info", "ready", url=self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(self._settings.server.drain_s)

    async def stop(self, drain_s: float) -> None:
        """Say not ready, answer what is under way while there is time, then close everything."""
        self.runtime.begin_stop()
        self.door.stop_accepting()
        unanswered = await self.door.drain(drain_s)
        if unanswered:
            self.log.say("warning", "drain ran out of time", unanswered=unanswered)
        await self.runtime.stop(self.clock.now_ns())
        await self.door.close()
        if self._tokenise is not None:
            self._tokenise.stop()
        if self._was_ready:
            # What never started has not stopped: its one sentence is the error's.
            self.log.say("info", "stopped")
        self._close_arrivals()
        self.log.close()

    async def _open(self) -> None:
        server = self._settings.server
        try:
            if server.unix_socket is not None:
                await self.door.start_unix(server.unix_socket)
                self.url = f"unix:{server.unix_socket}"
            else:
                port = await self.door.start(server.host, server.http_port)
                host = f"[{server.host}]" if ":" in server.host else server.host
                self.url = f"http://{host}:{port}"
        except OSError as error:
            where = server.unix_socket or f"{server.host}:{server.http_port}"
            raise SettingsError(
                f"cannot listen on {where}: {_reason(error)}; "
                "another address: --host, --http-port or --unix-socket"
            ) from error

    def _close_arrivals(self) -> None:
        if self._arrivals is None:
            return
        self._arrivals.close()
        if dropped := self._arrivals.dropped:
            self.log.say(
                "warning", f"{dropped} arrivals were lost: they could not be written in time"
            )

    def _model_facts(self) -> list[tuple[dict[str, str], bool]]:
        facts = []
        for name, state in self.runtime.models().items():
            labels = {
                "model": name,
                "version": state.manifest.version,
                "sha256": state.manifest.artifact_sha256,
                "weights": state.manifest.weights,
            }
            if state.info is not None:
                effective = state.info.effective
                labels |= {
                    "backend": state.info.backend,
                    "device": effective.device,
                    "precision": effective.precision,
                    "threads": str(effective.threads),
                }
            facts.append((labels, state.is_ready))
        return facts

    def _exchange(self, record: ExchangeRecord) -> None:
        """One request is over: count it, and write its line."""
        self.metrics.request(
            door="http",
            route=record.route,
            model=record.model,
            code=record.code,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            timings=record.timings,
        )
        if self._settings.telemetry.access_log:
            self.log.line("palio.access", "request", _facts_of(record))
        # A name that is none of our models' is a caller's word, and stays out of the file.
        if self._arrivals is not None and record.method == "POST" and record.model in self._names:
            timings = record.timings
            self._arrivals.put(
                # What was refused at the door has no stamps: it came about now.
                timings.first_read_ns if timings is not None else self.clock.now_ns(),
                route=record.route,
                model=record.model,
                rows=record.items,
                length=record.length,
                tokens=record.tokens,
                bytes_in=record.bytes_in,
            )

    def _batch(self, model: str, record: BatchRecord) -> None:
        """One batch ran: count it, and list whose it was if asked to."""
        self.metrics.batch(
            model=model,
            rows=record.rows,
            length=record.length,
            useful=record.useful,
            took_ns=record.took_ns,
            isolation_runs=record.isolation_runs,
            error=record.error,
        )
        if self._settings.telemetry.batch_log:
            facts: dict[str, Any] = {
                "model": model,
                "batch_id": record.batch_id,
                "worker": record.worker,
                "rows": record.rows,
                "length": record.length,
                "took_ms": record.took_ns / _MS,
                "correlation_ids": record.tags,
            }
            if record.error:
                facts["error"] = record.error
            self.log.line("palio.batch", "batch", facts)

    def _fault(self, error: BaseException, correlation_id: str) -> None:
        """A mistake of our own; the caller got an INTERNAL_ERROR and its id."""
        self.log.say("error", "fault", exc_info=error, correlation_id=correlation_id)


def _open_arrivals(path: str | None) -> ArrivalWriter | None:
    """Where arrivals go, if they are to be recorded; what is there already is not written over."""
    if path is None:
        return None
    try:
        # Closed by the writer.
        return ArrivalWriter(Path(path).open("xb"))
    except OSError as error:
        raise SettingsError(
            f"telemetry.record_arrivals: cannot begin {path}: {_reason(error)}"
        ) from error


def _facts_of(record: ExchangeRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "correlation_id": record.correlation_id,
        "door": "http",
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "code": record.code,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "peer": record.peer,
    }
    if record.model:
        facts |= {"model": record.model, "version": record.version}
    timings = record.timings
    if timings is not None:
        facts |= {
            "items": record.items,
            "tokens": record.tokens,
            "batch_id": timings.batch_id,
            "batch_rows": timings.batch_rows,
            "total_ms": (timings.written_ns - timings.first_read_ns) / _MS,
            "stages_ms": {stage: ns / _MS for stage, ns in timings.stages_ns().items()},
        }
    return facts


async def serve(settings: Settings, prepared: Prepared, say: Say) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for the drain.

    Raises whatever stopped a model from loading, or the door from opening.
    """
    began = time.monotonic()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    for line in prepared.plan.lines():
        say(line)
    server = Server(settings, prepared)
    async with server:
        for name, state in server.runtime.models().items():
            say(_model_line(name, state.manifest, state.info.backend if state.info else ""))
        # What is here now stays to the end; a full collection over it would stop the loop for
        # tens of milliseconds.
        gc.collect()
        gc.freeze()
        say(f"palio is ready at {server.url} ({time.monotonic() - began:.2f} s)")
        await stopping.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        say("palio is stopping")


def _model_line(name: str, manifest: Manifest, backend: str) -> str:
    weights = f"{manifest.weights} weights {manifest.artifact_sha256[:12]}".rstrip()
    return (
        f"model {name} version {manifest.version}: {manifest.task} on {backend}, "
        f"{manifest.precision}, {weights}"
    )


def _reason(error: OSError) -> str:
    """Why the system refused, in its own words; a failed look-up of a name has no number."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)


def run(settings: Settings, cache: Cache, progress: Progress, say: Say) -> None:
    """Prepare, then `serve` on uvloop, to its end.

    Preparing may take minutes. It comes before the loop and on this thread, so that Ctrl-C and
    SIGTERM end it as they end any program.
    """
    prepared = prepare(settings, cache, progress)
    import uvloop

    uvloop.run(serve(settings, prepared, say))


def palio_version() -> str:
    """The version that is installed, or "0" in a checkout that never was."""
    try:
        return version("palio")
    except PackageNotFoundError:
        return "0"


__all__ = ["Prepared", "Server", "palio_version", "prepare", "run", "serve"]
