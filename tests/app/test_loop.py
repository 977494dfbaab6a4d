"""The event loop is never held up: not by a model, and not by a large request."""

from __future__ import annotations

import asyncio
import gc
import io
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from palio.app import Server, prepare
from palio.settings import cache_root, load_settings
from palio.toolchain.cache import Cache
from palio.toolchain.progress import Silent
from tests.app.process import EMBED, PATIENCE_S, TOY_INFER, toy_rows
from tests.app.test_answers import json_bytes, read_answer, unique_texts
from tests.kit.answers import Answer
from tests.server.house import get, post

LONGEST_S = 0.05
TRIES = 3

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Heartbeat:
    """Beats every millisecond on the running loop; `longest_s` is the longest it had to wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.longest_s = 0.0

    def __enter__(self) -> Heartbeat:
        self._last = self._loop.time()
        self._next = self._loop.call_later(0.001, self._beat)
        return self

    def __exit__(self, *_: object) -> None:
        self._next.cancel()
        self._beat()
        self._next.cancel()

    def _beat(self) -> None:
        now = self._loop.time()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        self._next = self._loop.call_later(0.001, self._beat)


class Caller:
    """One connection to a server in this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> Answer:
        with anyio.fail_after(PATIENCE_S):
            self._writer.write(request)
            return await read_answer(self._reader)

    async def leave(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@contextmanager
def no_old_garbage() -> Iterator[None]:
    """As `palio serve` does: a full collection over all that tests imported holds the loop up."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def longest_gap(
    source: str, flags: Mapping[str, object], work: Callable[[Caller, Caller], Awaitable[None]]
) -> float:
    """The best of a few tries, in seconds: what holds the loop up does so in each of them."""
    settings = load_settings(source, {}, {"server.http_port": 0, **flags})
    gaps = []
    for _ in range(TRIES):
        how = prepare(settings, Cache(cache_root(os.environ)), Silent())
        async with Server(settings, how, log_stream=io.BytesIO()) as server:
            port = int(server.url.rsplit(":", 1)[1])
            callers = [
                Caller(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))
                for _ in range(2)
            ]
            with no_old_garbage(), Heartbeat() as heartbeat:
                await work(*callers)
            for caller in callers:
                await caller.leave()
        gaps.append(heartbeat.longest_s)
        if heartbeat.longest_s <= LONGEST_S:
            break
    return min(gaps)


async def test_a_model_that_stalls_for_a_second_holds_up_nobody() -> None:
    flags = {
        "models.toy.instances": 1,
        "models.toy.options.stall_when": 13,
        "models.toy.options.stall_ms": 1000,
        "models.toy.deadline_ms": 10_000,
    }

    async def work(caller: Caller, other: Caller) -> None:
        stalled = asyncio.create_task(caller.ask(post(TOY_INFER, json_bytes(toy_rows(13.0)))))
        asked = 0
        while not stalled.done():
            assert (await other.ask(get("/health"))).status == 200
            asked += 1
        assert (await stalled).status == 200
        assert asked > 20

    assert await longest_gap("zoo:toy", flags, work) <= LONGEST_S


async def test_a_model_that_computes_in_python_for_long_holds_up_nobody() -> None:
    flags = {
        "models.toy.instances": 1,
        "models.toy.options.base_ms": 300,
        "models.toy.options.busy": True,
    }

    async def work(caller: Caller, other: Caller) -> None:
        busy = asyncio.create_task(caller.ask(post(TOY_INFER, json_bytes(toy_rows(1.0)))))
        while not busy.done():
            assert (await other.ask(get("/health"))).status == 200
        assert (await busy).status == 200

    assert await longest_gap("zoo:toy", flags, work) <= LONGEST_S


@pytest.mark.model
@pytest.mark.parametrize("cpus", [1, 4], ids=["beside the worker", "on a thread of its own"])
async def test_tokenising_256_long_texts_holds_up_nobody(minilm: Path, cpus: int) -> None:
    flags = {
        "cpus": cpus,
        "models.minilm-l6.instances": 1,
        # Reading this much is what is looked at, so it may give up before it has computed it all.
        "models.minilm-l6.deadline_ms": 1500,
        "models.minilm-l6.batch.max_rows": 2,
    }
    words = " ".join(unique_texts(100, seed=8))
    texts = [f"{number} {words}"[:8_000] for number in range(256)]
    request = post(EMBED, json_bytes({"input": texts}))

    async def work(caller: Caller, other: Caller) -> None:
        large = asyncio.create_task(caller.ask(request))
        asked = 0
        while not large.done():
            assert (await other.ask(get("/health"))).status == 200
            asked += 1
        assert (await large).status == 504
        assert asked > 20

    assert await longest_gap("zoo:minilm-l6", flags, work) <= LONGEST_S


@pytest.mark.model
async def test_answering_256_texts_holds_up_nobody(minilm: Path) -> None:
    flags = {"models.minilm-l6.deadline_ms": 30_000}
    request = post(EMBED, json_bytes({"input": unique_texts(256, seed=9)}))

    async def work(caller: Caller, other: Caller) -> None:
        large = asyncio.create_task(caller.ask(request))
        while not large.done():
            assert (await other.ask(get("/health"))).status == 200
        assert (await large).status == 200

    assert await longest_gap("zoo:minilm-l6", flags, work) <= LONGEST_S
