"""Servers that misbehave: each kind is a fault in a row and a result, never a traceback or a hang.

Every case runs in both loops. Silence is waited for as long as the load's own short time limit.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from palio.bench.attempts import NEVER, Fault
from palio.bench.drive import Driven, drive
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.target import Target
from tests.bench.shady import Host, Visit, faults, nobody_home, questions, reply

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that trials run on."""
    return "asyncio", {"use_uvloop": True}


OPEN = OpenLoad(rate_per_s=400, duration_s=0.04, warmup_s=0, timeout_s=0.06, arrivals="constant")
CLOSED = ClosedLoad(concurrency=2, requests=6, warmup_s=0, timeout_s=0.06)
COUNTS = {OPEN: 16, CLOSED: 6}

both = pytest.mark.parametrize("load", [OPEN, CLOSED], ids=["open", "closed"])


async def drive_gently(target: Target, load: Load) -> Driven:
    async with asyncio.timeout(10):
        return await drive(target, questions(), load)


def silent(visit: Visit) -> None:
    """Says nothing."""


def unlengthed(visit: Visit) -> None:
    visit.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall there is")
    visit.transport.close()


def abandoned(visit: Visit) -> None:
    visit.say(reply(b"a hundred bytes were promised")[:-10])
    visit.transport.close()


def one_at_a_time(visit: Visit) -> None:
    visit.say(reply())
    visit.transport.close()


CASES: dict[str, tuple[Callable[[Visit], None], Fault]] = {
    "resets": (lambda visit: visit.reset(), Fault.RESET),
    "closes instead": (lambda visit: visit.transport.close(), Fault.RESET),
    "stops halfway": (abandoned, Fault.RESET),
    "talks tls": (lambda visit: visit.say(b"\x15\x03\x01\x00\x02\x02\x50"), Fault.GARBAGE),
    "talks smtp": (lambda visit: visit.say(b"220 mail.example.org\r\n"), Fault.GARBAGE),
    "answers twice": (lambda visit: visit.say(reply() * 2), Fault.GARBAGE),
    "bad length": (
        lambda visit: visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        Fault.GARBAGE,
    ),
    "upgrades": (
        lambda visit: visit.say(
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nabc"
        ),
        Fault.GARBAGE,
    ),
    "never answers": (silent, Fault.TIMEOUT),
    "one byte, then long nothing": (lambda visit: visit.say(b"H"), Fault.TIMEOUT),
    "a head without its body": (lambda visit: visit.say(reply(b"1234")[:-1]), Fault.TIMEOUT),
    "only hints": (lambda visit: visit.say(b"HTTP/1.1 103 Early Hints\r\n\r\n"), Fault.TIMEOUT),
    "refuses politely": (
        lambda visit: visit.say(reply(status="503 Service Unavailable")),
        Fault.STATUS,
    ),
    "redirects": (lambda visit: visit.say(reply(status="307 Elsewhere")), Fault.STATUS),
    "closes after each": (
        lambda visit: visit.say(reply(extra="Connection: close\r\n")),
        Fault.NONE,
    ),
    "answers without a length": (unlengthed, Fault.NONE),
    "hints first": (
        lambda visit: visit.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" + reply()),
        Fault.NONE,
    ),
    "no content": (lambda visit: visit.say(b"HTTP/1.1 204 None\r\n\r\n"), Fault.NONE),
    "in chunks": (
        lambda visit: visit.say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        ),
        Fault.NONE,
    ),
}


@both
@pytest.mark.parametrize(("answer", "fault"), CASES.values(), ids=CASES.keys())
async def test_what_a_server_does_becomes_a_fault(
    answer: Callable[[Visit], None], fault: Fault, load: Load
) -> None:
    async with Host(answer).at_home() as target:
        driven = await drive_gently(target, load)
    assert faults(driven.attempts) == {fault}
    assert len(driven.attempts) == COUNTS[load]
    assert driven.is_finished


@both
async def test_nobody_at_home_is_refused(load: Load) -> None:
    driven = await drive_gently(nobody_home(), load)
    assert faults(driven.attempts) == {Fault.REFUSED}
    assert len(driven.attempts) == COUNTS[load]
    assert np.all(driven.attempts.sent == NEVER)
    assert driven.connects == 0


@both
async def test_a_door_at_which_nobody_lets_in_is_a_timeout(load: Load) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as door:
        target = Target(host="127.0.0.1", port=door.getsockname()[1])
        driven = await drive_gently(target, load)
    assert faults(driven.attempts) == {Fault.TIMEOUT}
    assert len(driven.attempts) == COUNTS[load]


@both
async def test_no_socket_is_refused(load: Load, tmp_path: object) -> None:
    driven = await drive_gently(Target(unix_path=f"{tmp_path}/none.sock"), load)
    assert faults(driven.attempts) == {Fault.REFUSED}


@both
async def test_keep_alive_broken_without_a_word_ends_no_run(load: Load) -> None:
    async with Host(one_at_a_time).at_home() as target:
        driven = await drive_gently(target, load)
    assert faults(driven.attempts) <= {Fault.NONE, Fault.RESET}
    assert Fault.NONE in faults(driven.attempts)


@both
async def test_a_greeting_nobody_asked_for_loses_the_connection_only(load: Load) -> None:
    host = Host(lambda visit: visit.say(reply()), greet=lambda visit: visit.say(b"hello\r\n"))
    async with host.at_home() as target:
        driven = await drive_gently(target, load)
    assert len(driven.attempts) == COUNTS[load]
    assert faults(driven.attempts) <= {Fault.GARBAGE, Fault.RESET}


@both
async def test_a_door_that_shuts_at_once_is_a_reset(load: Load) -> None:
    async with Host(silent, greet=lambda visit: visit.reset()).at_home() as target:
        driven = await drive_gently(target, load)
    assert faults(driven.attempts) <= {Fault.RESET, Fault.REFUSED}
    assert len(driven.attempts) == COUNTS[load]


async def test_the_first_byte_of_a_slow_answer_is_noted() -> None:
    async with Host(lambda visit: visit.say(b"H")).at_home() as target:
        attempts = (await drive_gently(target, OPEN)).attempts
    assert np.all(attempts.first_byte > attempts.sent)
    assert np.all(attempts.last_byte == NEVER)
    assert np.all(np.isinf(attempts.latency_ms))
