"""Starting, being ready, and stopping."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from palio.app import Prepared, Server
from palio.core.cpus import CpuPlan, CpuShare
from palio.core.errors import BackendFailed, SettingsError
from palio.core.manifest import Manifest
from palio.core.ports import Backend, Placement
from palio.core.tensors import Array
from palio.settings import ServerSettings, Settings
from tests.app.process import (
    PALIO,
    PATIENCE_S,
    TOY_INFER,
    Served,
    ask_on,
    environment,
    metrics_of,
    serving,
    toy_rows,
)
from tests.app.test_answers import json_bytes, read_answer
from tests.kit.answers import Answer
from tests.kit.served import DOUBLER, FakeBackend, double, spec_of
from tests.server.house import get, post

ROW = json_bytes(toy_rows(1.0))


class Gate:
    """Holds whatever thread comes to it until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.held = threading.Event()

    def pass_through(self) -> None:
        self.held.set()
        assert self.opened.wait(PATIENCE_S)


def prepared(load: Callable[[], Backend]) -> Prepared:
    """One model called toy, loaded so."""

    def load_it(folder: str, manifest: Manifest, wanted: Placement) -> Backend:
        return load()

    spec = replace(spec_of(DOUBLER), name="toy", load=load_it, instances=1, deadline_ns=10**11)
    shares = (CpuShare(model="toy", instances=1, threads=1),)
    return Prepared(CpuPlan(cpus=1, machine_cpus=1, shares=shares), (spec,), {})


@asynccontextmanager
async def gated(gate: Gate, server: Server) -> AsyncIterator[None]:
    """Whatever happens, nobody is left standing at the gate."""
    try:
        with anyio.fail_after(PATIENCE_S):
            yield
    finally:
        gate.opened.set()


async def ask(server: Server, request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    writer.write(request)
    answer = await read_answer(reader)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def make_server(how: Prepared, log: io.BytesIO | None = None) -> Server:
    settings = Settings(server=ServerSettings(http_port=0))
    return Server(settings, how, log_stream=log or io.BytesIO())


@pytest.mark.anyio
async def test_it_is_alive_but_not_ready_until_the_model_is_loaded() -> None:
    gate = Gate()

    def load() -> Backend:
        gate.pass_through()
        return FakeBackend(DOUBLER, double)

    server = make_server(prepared(load))
    async with gated(gate, server):
        starting = asyncio.create_task(server.__aenter__())
        await asyncio.to_thread(gate.held.wait)
        for path in ("/ready", "/readiness", "/v2/health/ready", "/v2/models/toy/ready"):
            early = await ask(server, get(path))
            assert (early.status, early.json["code"]) == (503, "NOT_READY"), path
            assert "retry-after" in early.headers
        for path in ("/health", "/healthz", "/v2/health/live"):
            assert (await ask(server, get(path))).status == 200, path
        assert (await ask(server, post(TOY_INFER, ROW))).status == 503
        gate.opened.set()
        await starting
        assert (await ask(server, get("/ready"))).status == 200
        await server.stop(1.0)


@pytest.mark.anyio
async def test_while_it_drains_it_is_alive_and_no_longer_ready() -> None:
    gate = Gate()

    def double_slowly(feeds: Mapping[str, Array]) -> dict[str, Array]:
        # The runs that warm it up are all zeros.
        if feeds["x"].any():
            gate.pass_through()
        return double(feeds)

    server = make_server(prepared(lambda: FakeBackend(DOUBLER, double_slowly)))
    await server.__aenter__()
    async with gated(gate, server):
        port = int(server.url.rsplit(":", 1)[1])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        (asked, question), *watchers = opened
        for seen, watcher in watchers:
            watcher.write(get("/ready"))
            assert (await read_answer(seen)).status == 200
        question.write(post(TOY_INFER, ROW))
        await asyncio.to_thread(gate.held.wait)
        stopping = asyncio.create_task(server.stop(PATIENCE_S))
        await anyio.wait_all_tasks_blocked()
        for path, status, (seen, watcher) in zip(
            ("/health", "/ready"), (200, 503), watchers, strict=True
        ):
            watcher.write(get(path))
            assert (await read_answer(seen)).status == status, path
        gate.opened.set()
        answer = await read_answer(asked)
        assert (answer.status, answer.json["outputs"][0]["data"]) == (200, [2, 2, 4, 6])
        await stopping
        for _, writer in opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.anyio
async def test_a_model_that_does_not_load_stops_the_start_and_says_nothing_of_having_stopped() -> (
    None
):
    def load() -> Backend:
        raise BackendFailed("no such luck")

    log = io.BytesIO()
    server = make_server(prepared(load), log)
    with pytest.raises(BackendFailed, match="no such luck"):
        await server.__aenter__()
    assert log.getvalue() == b""


@pytest.mark.anyio
async def test_a_port_in_use_is_named_together_with_the_ways_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(server=ServerSettings(http_port=port))
        how = prepared(lambda: FakeBackend(DOUBLER, double))
        server = Server(settings, how, log_stream=io.BytesIO())
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}: .*--http-port"):
            await server.__aenter__()


def toy_at(folder: Path, **options: float) -> tuple[Path, str, list[str]]:
    """What `serving` takes for one instance of a toy with these options."""
    keys = [f"models.toy.options.{name}={value}" for name, value in options.items()]
    keys += ["models.toy.instances=1", "models.toy.deadline_ms=60000"]
    return folder, "zoo:toy", [part for key in keys for part in ("--set", key)]


def wait_until_running(served: Served) -> None:
    """Ask until the metrics say that a batch is being computed."""
    while metrics_of(served)['inf_inflight_batches{model="toy"}'] < 1:
        pass


def wait_until_refused(served: Served) -> None:
    """Connect until nobody listens any more."""
    while True:
        try:
            served.open_socket().close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            # In the queue of a socket that was closed just then.
            continue


@pytest.mark.wire
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_refuses_newcomers_answers_who_is_inside_and_exits_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder, source, settings = toy_at(tmp_path, stall_when=13, stall_ms=1000)
    with serving(folder, source, *settings) as served, served.open_socket() as caller:
        caller.sendall(post(TOY_INFER, json_bytes(toy_rows(13.0))))
        wait_until_running(served)
        watcher = served.connect()
        assert ask_on(watcher, "/ready").status == 200
        served.process.send_signal(number)
        wait_until_refused(served)
        assert ask_on(watcher, "/ready").status == 503
        watcher.close()
        assert caller.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert served.process.wait(10) == 0


@pytest.mark.wire
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    folder, source, settings = toy_at(tmp_path, stall_when=13)
    with (
        serving(folder, source, *settings, "--set", "server.drain_s=60") as served,
        served.open_socket() as caller,
    ):
        caller.sendall(post(TOY_INFER, json_bytes(toy_rows(13.0))))
        wait_until_running(served)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_line("palio is stopping")
        assert served.stop(signal.SIGTERM) == -signal.SIGTERM


@pytest.mark.wire
@pytest.mark.slow
def test_a_model_that_hangs_holds_up_the_stop_no_longer_than_the_drain(tmp_path: Path) -> None:
    folder, source, settings = toy_at(tmp_path, stall_when=13)
    with (
        serving(folder, source, *settings, "--set", "server.drain_s=0.2") as served,
        served.open_socket() as caller,
    ):
        caller.sendall(post(TOY_INFER, json_bytes(toy_rows(13.0))))
        wait_until_running(served)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 0
        assert caller.recv(65_536).startswith(b"HTTP/1.1 503 ")


@pytest.mark.wire
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_ends_a_start_that_is_still_fetching(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as source:
        port = source.getsockname()[1]
        process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
            [*PALIO, "serve", f"https://127.0.0.1:{port}/model.onnx#sha256={'0' * 64}"],
            env=environment(PALIO_CACHE=str(tmp_path)),
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        try:
            source.settimeout(PATIENCE_S)
            # It is let in and then never answered.
            with source.accept()[0]:
                process.send_signal(number)
                _, stderr = process.communicate(timeout=10)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == status
    assert stderr == ""


@pytest.mark.wire
@pytest.mark.model
def test_a_start_from_the_cache_neither_fetches_nor_builds(tmp_path: Path, minilm: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in minilm.iterdir()}
    # A proxy that nobody listens at: fetching anything would fail.
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    with serving(tmp_path, "zoo:minilm-l6", **proxies) as served:
        assert served.ask("/v1/embeddings", {"input": "hello"}).status == 200
        assert served.stop() == 0
    assert {path: path.stat().st_mtime_ns for path in minilm.iterdir()} == before
    # Whatever is fetched or built shows its progress here, beside the log.
    assert [line["event"] for line in served.log_lines()] == ["ready", "request", "stopped"]
    assert not any("etch" in line or "uild" in line for line in served.said)
