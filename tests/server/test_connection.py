"""One connection's life: order, bounds, patience, leaving and the end of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import anyio
import numpy as np
import pytest

from palio.core.requests import InferRequest
from palio.core.tensors import Tensor
from palio.server.connection import Connection
from palio.server.record import ExchangeRecord
from tests.server.house import EMBED, GOOD, GOOD_TEXT, INFER, ROW, Caller, get, post, serving

pytestmark = [pytest.mark.anyio, pytest.mark.net]


def numbered(number: int) -> bytes:
    body = {"id": str(number), "inputs": [{**ROW, "data": [number] * 4}]}
    return post(INFER, json.dumps(body).encode())


async def test_twenty_pipelined_questions_are_answered_in_order() -> None:
    async with serving(max_pipelined=8) as house:
        house.inference.is_held = True
        caller = await house.call()
        await caller.send(b"".join(numbered(number) for number in range(20)))
        await house.until(lambda: len(house.inference.calls) == 8)
        # The youngest are done first, and the rest only begin as places become free.
        while len(house.records) < 20:
            for call in reversed(house.inference.calls):
                house.inference._finish(call)
            await anyio.lowlevel.checkpoint()
        answers = [await caller.read() for _ in range(20)]
        assert len(house.inference.calls) == 20
    assert [answer.json["id"] for answer in answers] == [str(number) for number in range(20)]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving() as house:
        caller = await house.call()
        for byte in post(INFER, GOOD, "X-Correlation-ID: slow"):
            await caller.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        answer = await caller.read()
        assert (answer.status, answer.headers["x-correlation-id"]) == (200, "slow")


async def test_chunks_make_a_body() -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(GOOD[i : i + 7]), GOOD[i : i + 7]) for i in
                      range(0, len(GOOD), 7))  # fmt: skip
    head = get(INFER, "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    async with serving() as house:
        caller = await house.call()
        for _ in range(2):
            answer = await caller.ask(head + chunks + b"0\r\nTrailer: x\r\n\r\n")
            assert answer.json["outputs"][0]["data"] == [2, 4, 6, 8]


async def test_http_1_0_closes_unless_it_asks_otherwise() -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(get("/health", version="1.0"))
        assert answer.headers["connection"] == "close"
        assert await caller.is_hung_up()
        other = await house.call()
        kept = get("/health", "Connection: keep-alive", version="1.0")
        for _ in range(2):
            assert (await other.ask(kept)).headers["connection"] == "keep-alive"


async def test_connection_close_is_honoured() -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(get("/health", "Connection: close") + get("/health"))
        assert answer.headers["connection"] == "close"
        assert await caller.is_hung_up()
        assert len(house.records) == 1


async def test_an_upgrade_is_declined_by_an_ordinary_answer() -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(get("/health", "Connection: Upgrade", "Upgrade: h2c") + b"junk")
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await caller.is_hung_up()


async def test_continue_is_said_only_where_there_is_a_point() -> None:
    head = ("Content-Type: application/json", "Expect: 100-continue")
    length = f"Content-Length: {len(GOOD)}"
    async with serving(max_body_bytes=1000) as house:
        caller = await house.call()
        first = await caller.ask(get(INFER, *head, length, method="POST"))
        assert first.status == 100
        assert (await caller.ask(GOOD)).status == 200
        large = get(INFER, *head, "Content-Length: 1001", method="POST")
        assert (await caller.ask(large)).status == 413
        lost = await house.call()
        assert (await lost.ask(get("/none", *head, length, method="POST"))).status == 404


async def test_continue_waits_for_the_answers_before_it() -> None:
    head = get(INFER, "Expect: 100-continue", f"Content-Length: {len(GOOD)}", method="POST")
    async with serving() as house:
        house.inference.is_held = True
        caller = await house.call()
        await caller.send(numbered(1) + head)
        await house.until(lambda: house.inference.calls)
        house.inference.release()
        assert [(await caller.read()).status for _ in range(2)] == [200, 100]


@pytest.mark.parametrize("path", [INFER, EMBED])
async def test_a_body_over_the_limit_is_refused_before_it_is_sent(path: str) -> None:
    async with serving(max_body_bytes=1000) as house:
        caller = await house.call()
        answer = await caller.ask(get(path, "Content-Length: 1001", method="POST"))
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        # The refusal survives what was already on its way.
        await caller.send(b"x" * 1001)
        assert await caller.is_hung_up()
        assert house.records[0].route == (EMBED if path == EMBED else "/v2/models/{model}/infer")


async def test_chunks_are_counted() -> None:
    head = get(INFER, "Transfer-Encoding: chunked", method="POST")
    async with serving(max_body_bytes=1000) as house:
        caller = await house.call()
        answer = await caller.ask(head + b"3e9\r\n" + b"x" * 1001)
        assert (answer.status, answer.json["limit"]) == (413, 1000)


@pytest.mark.parametrize(
    "data",
    [
        get("/health", f"X-Long: {'x' * 2000}"),
        get("/" + "a" * 2000),
        get("/health", *[f"X-{number}: y" for number in range(200)]),
        b"GET /health HTTP/1.1\r\nX-Endless: " + b"x" * 3000,
    ],
    ids=["one", "path", "many", "endless"],
)
async def test_headers_over_the_limit(data: bytes) -> None:
    async with serving(max_header_bytes=1024) as house:
        caller = await house.call()
        for at in range(0, len(data), 500):
            await caller.send(data[at : at + 500])
        answer = await caller.read()
        assert (answer.status, answer.json["code"]) == (431, "HEADERS_TOO_LARGE")
        assert await house.answers_well()


@pytest.mark.parametrize("data", [b"GET /hea", post(INFER, GOOD)[:-1]], ids=["head", "body"])
async def test_one_who_is_too_slow_is_told_and_let_go(data: bytes) -> None:
    async with serving(read_timeout_s=10, idle_timeout_s=100) as house:
        caller = await house.call()
        await caller.send(get("/health"))
        await caller.read()
        await caller.send(data)
        await house.until(lambda: any(c.is_busy for c in house.door._desk.connections))
        house.hand.move(9.99)
        house.door.sweep()
        assert house.door.connections == 1
        house.hand.move(0.02)
        house.door.sweep()
        answer = await caller.read()
        assert (answer.status, answer.json["code"]) == (408, "REQUEST_TIMEOUT")
        assert house.records[-1].status == 408
        # Somebody who keeps dripping is not listened to for ever either.
        house.hand.move(3)
        house.door.sweep()
        assert await caller.is_hung_up()
        await house.until(lambda: house.door.connections == 0)


async def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    async with serving(idle_timeout_s=5, read_timeout_s=100) as house:
        house.inference.is_held = True
        idle, busy = await house.call(), await house.call()
        await idle.ask(get("/health"))
        await busy.send(numbered(1))
        await house.until(lambda: house.inference.calls)
        house.hand.move(6)
        house.door.sweep()
        assert await idle.is_hung_up()
        house.inference.release()
        assert (await busy.read()).status == 200


async def test_one_who_does_not_read_is_cut_off_after_a_while() -> None:
    def large(_request: InferRequest) -> Tensor:
        return Tensor("y", "FP32", np.zeros(200_000, np.float32))

    async with serving(read_timeout_s=10, max_pipelined=4) as house:
        house.inference.answer = large
        caller = await house.call()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a reader too
        choked = lambda: any(cast(Connection, c)._is_choked for c in house.door._desk.connections)  # noqa: E731
        caller.writer.write(b"".join(numbered(number) for number in range(50)))
        await house.until(choked)
        # What it has not taken is bounded, and nothing more is begun for it.
        assert len(house.inference.calls) < 30
        house.hand.move(11)
        house.door.sweep()
        await house.until(lambda: house.door.connections == 0)
        house.inference.answer = None
        assert await house.answers_well()


async def test_one_who_leaves_is_cancelled_and_costs_nobody_an_answer() -> None:
    async with serving() as house:
        house.inference.is_held = True
        leaver, stayer = await house.call(), await house.call()
        await leaver.send(numbered(1) + numbered(2))
        await house.until(lambda: len(house.inference.calls) == 2)
        await stayer.send(numbered(3))
        await house.until(lambda: len(house.inference.calls) == 3)
        await leaver.leave()
        await house.until(lambda: house.door.connections == 1)
        assert [call.is_cancelled for call in house.inference.calls] == [True, True, False]
        # Even if the engine answers all the same.
        for call in house.inference.calls:
            call.is_cancelled = False
        house.inference.release()
        assert (await stayer.read()).json["id"] == "3"
        gone = [record for record in house.records if record.status == 499]
        assert [record.code for record in gone] == ["CANCELLED", "CANCELLED"]


async def test_half_closing_while_the_model_works_counts_as_leaving() -> None:
    async with serving() as house:
        house.inference.is_held = True
        caller = await house.call()
        await caller.send(numbered(1))
        await house.until(lambda: house.inference.calls)
        caller.writer.write_eof()
        await house.until(lambda: house.inference.calls[0].is_cancelled)
        assert await caller.is_hung_up()


async def test_half_closing_after_a_whole_question_still_gets_its_answer() -> None:
    async with serving() as house:
        caller = await house.call()
        caller.writer.write(numbered(1))
        caller.writer.write_eof()
        assert (await caller.read()).status == 200
        assert await caller.is_hung_up()
        torn = await house.call()
        torn.writer.write(numbered(1)[:-3])
        torn.writer.write_eof()
        assert (await torn.read()).status == 400


async def test_connections_over_the_limit_are_refused_by_name() -> None:
    async with serving(max_connections=1) as house:
        first = await house.call()
        await first.ask(get("/health"))
        answer = await (await house.call()).ask(get("/health"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await first.ask(get("/health"))).status == 200


async def test_draining_answers_what_is_under_way_and_closes() -> None:
    async with serving() as house:
        house.inference.is_held = True
        idle, busy = await house.call(), await house.call()
        await idle.ask(get("/health"))
        await busy.send(numbered(1) + numbered(2))
        await house.until(lambda: len(house.inference.calls) == 2)
        house.door.stop_accepting()
        left: list[int] = []

        async def drain() -> None:
            left.append(await house.door.drain(5))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await house.until(lambda: house.door._desk.is_draining)
            assert (await idle.ask(get("/health"))).headers["connection"] == "close"
            house.inference.release()
            first, second = await busy.read(), await busy.read()
        assert "connection" not in first.headers
        assert second.headers["connection"] == "close"
        assert left == [0]
        assert await busy.is_hung_up()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await house.call()


async def test_draining_has_an_end() -> None:
    async with serving() as house:
        house.inference.is_held = True
        caller = await house.call()
        await caller.send(numbered(1))
        await house.until(lambda: house.inference.calls)
        assert await house.door.drain(0) == 1
        await house.door.close()
        await house.until(lambda: house.inference.calls[0].is_cancelled)


async def test_a_broken_log_costs_no_answer() -> None:
    def broken(_record: ExchangeRecord) -> None:
        raise OSError("disk full")

    async with serving() as house:
        house.door._desk.on_exchange = broken
        assert await house.answers_well()
        assert [str(fault) for fault in house.faults] == ["disk full"]


async def test_a_unix_socket_is_a_door_as_well(tmp_path: Path) -> None:
    path = tmp_path / "door"
    async with serving() as house:
        await house.door.start_unix(str(path))
        caller = Caller(*await asyncio.open_unix_connection(path))
        assert (await caller.ask(post(EMBED, GOOD_TEXT))).status == 200
        await caller.leave()
        assert house.records[0].peer == "unix"
    assert not path.exists()
