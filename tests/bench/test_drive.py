from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palio.bench.answers import Answers
from palio.bench.attempts import NEVER, Fault
from palio.bench.calibrate import null_questions, null_server
from palio.bench.drive import Progress, drive, drive_alone
from palio.bench.flight import Flight
from palio.bench.ledger import Ledger
from palio.bench.load import ClosedLoad, OpenLoad
from palio.bench.questions import Questions
from palio.bench.schedule import Sizes, draw
from palio.bench.target import Dialler, Target, read_target
from palio.bench.wire_client import Line
from palio.core.errors import SettingsError
from tests.bench.shady import Host, Visit, faults, questions, reply

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that trials run on."""
    return "asyncio", {"use_uvloop": True}


OPEN = OpenLoad(rate_per_s=2000, duration_s=0.05, warmup_s=0.01, timeout_s=5)
CLOSED = ClosedLoad(concurrency=3, requests=50, warmup_s=0, timeout_s=5)

TIMED = reply(
    extra="Server-Timing: read;dur=0.5, tokenise;dur=0.25, queue;dur=2.000, compute;dur=3, "
    'write;dur=0.125, total;dur=9, batch;desc="7"\r\n'
)


def echo(visit: Visit) -> None:
    visit.say(reply(visit.host.asked[-1]))


async def test_an_open_loop_sends_the_whole_schedule_in_order() -> None:
    host = Host(echo)
    async with host.at_home() as target:
        driven = await drive(target, questions(), OPEN)
    attempts = driven.attempts
    assert faults(attempts) == {Fault.NONE}
    assert driven.schedule is not None
    assert np.array_equal(attempts.intended, draw(OPEN).offsets)
    assert np.array_equal(attempts.intended, driven.schedule.offsets)
    stamps = [attempts.intended, attempts.released, attempts.sent, attempts.first_byte]
    for earlier, later in zip(stamps, [*stamps[1:], attempts.last_byte], strict=True):
        assert np.all(earlier <= later)
    assert sorted(host.asked) == sorted(b"%d" % each for each in attempts.input_id)
    assert driven.is_finished
    assert driven.warmup_ns == 10_000_000


async def test_sizes_and_statuses_are_those_on_the_wire() -> None:
    async with Host(lambda visit: visit.say(reply(b"no", "429 Later"))).at_home() as target:
        attempts = (await drive(target, questions(), CLOSED)).attempts
    assert faults(attempts) == {Fault.STATUS}
    assert set(attempts.status) == {429}
    assert set(attempts.bytes_in) == {len(reply(b"no", "429 Later"))}
    assert set(attempts.bytes_out) == {len(questions().requests[0])}


async def test_a_silent_server_does_not_hold_back_the_schedule() -> None:
    held: list[Visit] = []
    wanted = len(draw(OPEN).offsets)

    def hold(visit: Visit) -> None:
        held.append(visit)
        if len(held) == wanted:
            for each in held:
                each.say(reply())

    async with Host(hold).at_home() as target:
        driven = await drive(target, questions(), OPEN)
    attempts = driven.attempts
    # Nothing was answered before all was asked, and the first one waited longest.
    assert attempts.sent.max() < attempts.first_byte.min()
    assert attempts.latency_ms[0] > attempts.latency_ms[-1]
    assert driven.connects == wanted


async def test_what_finds_no_connection_is_dropped_and_counted() -> None:
    load = replace(OPEN, connections=5, timeout_s=0.08)
    async with Host(lambda _: None).at_home() as target:
        attempts = (await drive(target, questions(), load)).attempts
    assert len(attempts) == len(draw(load).offsets)
    assert np.count_nonzero(attempts.fault == Fault.TIMEOUT) == 5
    assert np.count_nonzero(attempts.fault == Fault.DROPPED) == len(attempts) - 5
    assert np.all(np.isnan(attempts.lag_ms[attempts.fault == Fault.DROPPED]))
    assert np.all(np.isinf(attempts.latency_ms))


async def test_an_answer_after_the_time_limit_is_a_timeout_however_late_the_sweep() -> None:
    async with Host(echo).at_home() as target:
        driven = await drive(target, questions(), replace(CLOSED, timeout_s=1e-9))
    assert faults(driven.attempts) == {Fault.TIMEOUT}


async def test_a_closed_loop_by_count_asks_that_often() -> None:
    host = Host(echo)
    async with host.at_home() as target:
        driven = await drive(target, questions(), CLOSED)
    assert len(driven.attempts) == len(host.asked) == 50
    assert driven.connects == 3
    assert driven.schedule is None


async def test_a_closed_loop_counts_from_the_end_of_its_warmup() -> None:
    async with Host(echo).at_home() as target:
        driven = await drive(target, questions(), replace(CLOSED, warmup_s=0.02))
    assert np.count_nonzero(driven.attempts.intended >= driven.warmup_ns) == 50
    assert len(driven.attempts) > 50


async def test_a_closed_loop_by_time_stops_asking_then_and_awaits_the_last() -> None:
    load = ClosedLoad(concurrency=4, duration_s=0.03, warmup_s=0.01, timeout_s=5)
    async with Host(echo).at_home() as target:
        driven = await drive(target, questions(), load)
    attempts = driven.attempts
    assert attempts.intended.max() < 40_000_000
    assert np.all(np.diff(attempts.intended) >= 0)
    assert attempts.is_good.all()


async def test_more_attempts_than_there_was_room_for_are_all_kept() -> None:
    async with Host(echo).at_home() as target:
        driven = await drive(target, questions(), replace(CLOSED, requests=3, warmup_s=0.05))
    attempts = driven.attempts
    assert len(attempts) > 12
    assert attempts.is_good.all()
    assert attempts.sent.min() >= 0


async def test_no_caller_of_a_closed_loop_asks_twice_at_once() -> None:
    async with Host(echo).at_home() as target:
        attempts = (await drive(target, questions(), CLOSED)).attempts
    began, ended = np.sort(attempts.sent), np.sort(attempts.last_byte)
    under_way = np.arange(1, 51) - np.searchsorted(ended, began, side="right")
    assert under_way.max() <= 3


async def test_the_servers_own_account_is_read() -> None:
    async with Host(lambda visit: visit.say(TIMED)).at_home() as target:
        attempts = (await drive(target, questions(), CLOSED)).attempts
    assert np.all(attempts.stages == np.array([0.5, 0.25, 2.0, 3.0, 0.125], np.float32))
    assert np.all(attempts.batch == 7)


async def test_an_account_that_makes_no_sense_is_none() -> None:
    odd = reply(extra='Server-Timing: cache;desc="hit", queue;dur=, batch;desc="x", cpu;dur=2\r\n')
    async with Host(lambda visit: visit.say(odd)).at_home() as target:
        attempts = (await drive(target, questions(), CLOSED)).attempts
    assert np.all(np.isnan(attempts.stages))
    assert np.all(attempts.batch == 0)


async def test_each_wrong_answer_is_found() -> None:
    def lie_at_times(visit: Visit) -> None:
        count = len(visit.host.asked)
        visit.say(reply(b"a lie" if count % 10 == 0 else visit.host.asked[-1]))

    async with Host(lie_at_times).at_home() as target:
        driven = await drive(target, numbers_checked(), CLOSED)
    assert np.count_nonzero(driven.attempts.fault == Fault.WRONG) == 5
    assert driven.unchecked == 0


async def test_an_answer_given_for_another_question_is_wrong() -> None:
    async with Host(lambda visit: visit.say(reply(b"1"))).at_home() as target:
        attempts = (await drive(target, numbers_checked(), CLOSED)).attempts
    assert np.array_equal(attempts.fault == Fault.WRONG, attempts.input_id != 1)


def numbers_checked() -> Questions:
    return questions(check=lambda body, input_id: body == b"%d" % input_id)


@pytest.mark.parametrize("load", [OPEN, CLOSED], ids=["open", "closed"])
async def test_stopped_at_any_moment_it_says_what_there_is(load: OpenLoad | ClosedLoad) -> None:
    stop = asyncio.Event()

    def answer(visit: Visit) -> None:
        if len(visit.host.asked) < 10:
            echo(visit)
        elif len(visit.host.asked) == 12:
            stop.set()

    async with Host(answer).at_home() as target:
        driven = await drive(target, questions(), load, stop=stop)
    attempts = driven.attempts
    assert not driven.is_finished
    assert faults(attempts) == {Fault.NONE, Fault.UNFINISHED}
    assert np.count_nonzero(attempts.is_good) == 9
    assert len(attempts) >= 12
    assert np.all(attempts.last_byte[attempts.fault == Fault.UNFINISHED] == NEVER)


@pytest.mark.parametrize("load", [OPEN, CLOSED], ids=["open", "closed"])
async def test_stopped_before_it_began_there_is_nothing(load: OpenLoad | ClosedLoad) -> None:
    stop = asyncio.Event()
    stop.set()
    async with Host(echo).at_home() as target:
        driven = await drive(target, questions(), load, stop=stop)
    assert len(driven.attempts) == 0
    assert not driven.is_finished


async def test_a_trial_leaves_the_process_as_it_was() -> None:
    before = os.sched_getaffinity(0)
    seen: list[tuple[bool, int]] = []

    def look(visit: Visit) -> None:
        seen.append((gc.isenabled(), len(os.sched_getaffinity(0))))
        echo(visit)

    async with Host(look).at_home() as target:
        await drive(target, questions(), CLOSED, cpus={min(before)})
    assert set(seen) == {(False, 1)}
    assert gc.isenabled()
    assert os.sched_getaffinity(0) == before


async def test_over_a_unix_socket_it_is_the_same(tmp_path: Path) -> None:
    async with Host(echo).at_home(f"{tmp_path}/s") as target:
        for load in (OPEN, CLOSED):
            assert (await drive(target, questions(), load)).attempts.is_good.all()


async def test_a_request_larger_than_the_kernel_takes_is_sent_when_its_last_byte_is() -> None:
    asked = questions(2)
    body = b"x" * 6_000_000
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body)
    large = replace(asked, requests=(head + body, head + body))
    host = Host(lambda visit: visit.say(reply()))
    async with host.at_home() as target:
        attempts = (await drive(target, large, replace(CLOSED, concurrency=1, requests=2))).attempts
    assert attempts.is_good.all()
    assert [len(each) for each in host.asked] == [len(body)] * 2
    assert np.all(attempts.sent - attempts.released > 0)
    assert np.all(attempts.sent <= attempts.first_byte)


class Keeper:
    """An owner that hands out nothing by itself."""

    def __init__(self) -> None:
        self.ledger = Ledger(4)
        self.answers = Answers(1)
        self.flight = Flight()
        self.origin_ns = 0

    def freed(self, line: Line, now_ns: int) -> None:
        pass

    def lost(self, line: Line, now_ns: int, *, settled: bool) -> None:
        pass


async def test_what_is_stamped_as_sent_is_with_the_kernel() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        dialler = await Dialler.of(Target(host="127.0.0.1", port=door.getsockname()[1]))
        keeper = Keeper()
        line = await dialler.dial(lambda: Line(keeper))
        with closing(door.accept()[0]) as peer:
            peer.setblocking(False)
            line.ask(0, 0, b"the question")
            # The loop has not turned since.
            assert peer.recv(100) == b"the question"
        assert keeper.ledger.sent[0] > 0
        line.drop()


async def test_a_traces_sizes_choose_the_inputs(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at_ms": {at}, "length": {at % 3}}}\n' for at in range(9)))
    load = OpenLoad(
        rate_per_s=0, duration_s=0, warmup_s=0, arrivals="trace", trace=str(trace), timeout_s=5
    )
    async with Host(echo).at_home() as target:
        attempts = (await drive(target, questions(3), load)).attempts
    assert attempts.input_id.tolist() == [0, 1, 2] * 3


def test_the_nearest_input_is_near_in_rows_first() -> None:
    asked = replace(
        questions(3), rows=np.array([1, 1, 4], np.int32), lengths=np.array([5, 50, 7], np.int32)
    )
    sizes = Sizes(np.array([1, 1, 3, 9], np.int32), np.array([9, 40, 50, 1], np.int32))
    assert asked.nearest(sizes).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "load",
    [
        replace(OPEN, connections=0),
        replace(OPEN, timeout_s=0),
        replace(CLOSED, concurrency=0),
        replace(CLOSED, requests=0),
        replace(CLOSED, warmup_s=-1),
    ],
)
async def test_a_load_that_cannot_be_driven_is_refused(load: OpenLoad | ClosedLoad) -> None:
    with pytest.raises(SettingsError):
        await drive(Target(), questions(), load)


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.invalid"):
        await drive(read_target("http://nowhere.invalid:1"), questions(), OPEN)


@pytest.mark.parametrize(
    ("url", "name", "authority"),
    [
        ("http://localhost:8000", "http://localhost:8000", "localhost:8000"),
        ("localhost:8000/", "http://localhost:8000", "localhost:8000"),
        ("http://a.example/base/", "http://a.example/base", "a.example"),
        ("http://[::1]:80", "http://[::1]", "[::1]"),
        ("unix:/run/palio.sock", "unix:/run/palio.sock", "localhost"),
    ],
)
def test_targets_are_read(url: str, name: str, authority: str) -> None:
    target = read_target(url)
    assert (target.name, target.authority) == (name, authority)


@pytest.mark.parametrize(
    "url",
    ["https://a", "ftp://a", "http://", "http://a:b", "unix:", "http://a/?q=1", "http://a:0x"],
)
def test_what_is_no_target_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        read_target(url)


def test_answers_beyond_the_budget_are_thinned_evenly_and_counted() -> None:
    answers = Answers(2, budget_bytes=2000)
    for attempt in range(1000):
        answers.keep(attempt, 0, b"%010d" % attempt)
    checked: list[bytes] = []

    def check(body: bytes, _input_id: int) -> bool:
        checked.append(body)
        return False

    wrong = answers.wrong(check, np.zeros(1000, np.int32), np.ones(1000, np.bool_))
    assert np.count_nonzero(wrong) == len(checked) == 1000 - answers.unchecked
    gaps = np.diff(np.flatnonzero(wrong)[1:])
    assert len(checked) > 40
    assert len(set(gaps)) == 1


@pytest.mark.wire
def test_told_to_stop_by_a_signal_it_hands_over_what_it_has() -> None:
    told: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress)
        os.kill(os.getpid(), signal.SIGINT)

    load = OpenLoad(rate_per_s=200, duration_s=600, warmup_s=0)
    with null_server() as target:
        driven = drive_alone(target, null_questions(target), load, progress=interrupt)
    assert not driven.is_finished
    assert 50 < len(driven.attempts) < 1000
    assert told[0].asked >= told[0].good > 0
    assert told[0].failed == 0
