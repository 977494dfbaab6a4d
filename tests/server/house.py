"""A door with a fake engine behind it, and a client that sends exactly the bytes it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

from palio.server.http import HttpDoor
from palio.server.limits import DoorLimits
from palio.server.record import ExchangeRecord
from tests.kit.answers import Answer
from tests.kit.fake_inference import FakeInference

PATIENCE_S = 5
SECOND = 1_000_000_000

ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
GOOD = json.dumps({"inputs": [ROW]}).encode()
GOOD_TEXT = b'{"input": "a b", "model": "text"}'


class Hand:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = SECOND

    def __call__(self) -> int:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@dataclass(slots=True)
class Caller:
    """One connection; everything it waits for must come soon."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, *, has_body: bool = True) -> Answer:
        with anyio.fail_after(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head[1:] if line)
            }
            length = int(headers.get("content-length", "0")) if has_body else 0
            return Answer(int(head[0].split()[1]), headers, await self.reader.readexactly(length))

    async def ask(self, data: bytes, *, has_body: bool = True) -> Answer:
        await self.send(data)
        return await self.read(has_body=has_body)

    async def is_hung_up(self) -> bool:
        """Wait for the other side to close, and say whether anything was still to be read."""
        with anyio.fail_after(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    async def leave(self) -> None:
        self.writer.transport.abort()
        with anyio.fail_after(PATIENCE_S):
            with suppress(ConnectionError):
                await self.writer.wait_closed()


@dataclass(slots=True)
class House:
    door: HttpDoor
    inference: FakeInference
    hand: Hand
    port: int = 0
    records: list[ExchangeRecord] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    async def call(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        return caller

    async def get(self, path: str) -> Answer:
        return await (await self.call()).ask(get(path))

    async def post(self, path: str, body: bytes, *headers: str) -> Answer:
        return await (await self.call()).ask(post(path, body, *headers))

    async def until(self, condition: Any) -> None:
        """Let the loop turn until something has happened."""
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await anyio.lowlevel.checkpoint()

    async def answers_well(self) -> bool:
        """Whether a good question on a new connection gets its answer."""
        self.inference.is_held = False
        answer = await self.post("/v2/models/toy/infer", GOOD)
        return answer.status == 200 and answer.json["outputs"][0]["data"] == [2, 4, 6, 8]


@asynccontextmanager
async def serving(
    *,
    routes: Mapping[str, str] | None = None,
    inference: FakeInference | None = None,
    **limits: Any,
) -> AsyncIterator[House]:
    hand = Hand()
    engine = inference or FakeInference(hand)
    records: list[ExchangeRecord] = []
    faults: list[BaseException] = []
    door = HttpDoor(
        engine,
        routes={"/v1/embeddings": "text"} if routes is None else routes,
        limits=DoorLimits(**limits),
        clock_now=engine.clock_now,
        metrics=lambda: (b"up 1\n", "text/plain; version=0.0.4"),
        on_exchange=records.append,
        on_fault=lambda error, _id: faults.append(error),
        version="0.0.0",
    )
    house = House(door, engine, hand, records=records, faults=faults)
    house.port = await door.start()
    try:
        yield house
    finally:
        await door.close()
        for caller in house.callers:
            await caller.leave()


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: palio", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(path: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    own = (f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    return get(path, *own, *headers, method="POST") + body


INFER = "/v2/models/toy/infer"
EMBED = "/v1/embeddings"
