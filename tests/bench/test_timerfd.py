from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from palio.bench.timerfd import Alarm

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that trials run on."""
    return "asyncio", {"use_uvloop": True}


class Bell:
    """Remembers when it was rung; switches its alarm off, or sets it to what comes next."""

    def __init__(self, *later_ns: int) -> None:
        self.rung_ns: list[int] = []
        self.has_rung = asyncio.Event()
        self._later = list(later_ns)
        self.alarm: Alarm | None = None

    def ring(self) -> None:
        assert self.alarm is not None
        self.rung_ns.append(time.monotonic_ns())
        if self._later:
            self.alarm.set_at(self._later.pop(0))
        else:
            self.alarm.switch_off()
            self.has_rung.set()


@contextmanager
def alarm_for(bell: Bell) -> Iterator[Alarm]:
    bell.alarm = Alarm(asyncio.get_running_loop(), bell.ring)
    try:
        yield bell.alarm
    finally:
        bell.alarm.close()


async def test_it_rings_never_early_and_once() -> None:
    bell, due = Bell(), time.monotonic_ns() + 1_500_000
    with alarm_for(bell) as alarm:
        alarm.set_at(due)
        await bell.has_rung.wait()
    assert len(bell.rung_ns) == 1
    assert bell.rung_ns[0] >= due


async def test_a_time_gone_by_rings_at_once() -> None:
    bell = Bell()
    with alarm_for(bell) as alarm:
        alarm.set_at(-5)
        await bell.has_rung.wait()
    assert len(bell.rung_ns) == 1


async def test_it_is_set_anew_from_its_own_ring() -> None:
    start = time.monotonic_ns()
    due = [start + 300_000, start + 700_000, start + 1_100_000]
    bell = Bell(*due[1:])
    with alarm_for(bell) as alarm:
        alarm.set_at(due[0])
        await bell.has_rung.wait()
    assert len(bell.rung_ns) == 3
    assert all(rung >= at for rung, at in zip(bell.rung_ns, due, strict=True))


async def test_a_later_setting_replaces_the_earlier() -> None:
    first, second = Bell(), Bell()
    start = time.monotonic_ns()
    with alarm_for(first) as one, alarm_for(second) as other:
        one.set_at(start + 300_000)
        one.set_at(start + 60_000_000_000)
        other.set_at(start + 2_000_000)
        await second.has_rung.wait()
    assert not first.rung_ns


async def test_switched_off_it_is_silent_and_closes_twice() -> None:
    first, second = Bell(), Bell()
    with alarm_for(first) as one, alarm_for(second) as other:
        one.set_at(1)
        one.switch_off()
        other.set_at(time.monotonic_ns() + 500_000)
        await second.has_rung.wait()
        one.close()
    assert not first.rung_ns
