"""The six promises of the batcher, and the clock it keeps them by."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from palio.core.batching import BatchRule
from palio.core.errors import BackendFailed, DeadlineExceeded, NotReady, Overloaded, RowRejected
from palio.engine.batcher import Batcher, BatchRecord
from tests.kit.clock import MS, HandClock
from tests.kit.squarer import RULE, Squarer, piece, serving

pytestmark = pytest.mark.anyio


async def test_an_idle_worker_does_not_wait_for_company(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model) as batcher:
        assert await batcher.ask(piece(3)) == [9]
    assert model.ran_at_ns == [0]


async def test_a_lone_request_waits_exactly_the_window_it_was_given(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        call = asyncio.create_task(batcher.ask(piece(3)))
        await clock.move(5 * MS - 1)
        assert model.batches == []
        await clock.move(1)
        assert await call == [9]
    assert model.ran_at_ns == [5 * MS]


async def test_a_full_batch_does_not_wait(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in range(4)]
        assert await asyncio.gather(*calls) == [[0], [1], [4], [9]]
    assert sorted(model.batches[0]) == [0, 1, 2, 3]


async def test_the_next_batch_grows_until_the_worker_takes_it(clock: HandClock) -> None:
    """Sealed late: all that came while the worker was busy runs together, at once."""
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        first = asyncio.create_task(batcher.ask(piece(1)))
        await clock.settle()
        later = []
        for x in (2, 3, 4):
            later.append(asyncio.create_task(batcher.ask(piece(x))))
            await clock.move(MS)
        model.gate.open()
        assert await asyncio.gather(first, *later) == [[1], [4], [9], [16]]
    assert model.batches == [[1], [2, 3, 4]]
    assert model.ran_at_ns == [0, 3 * MS]


async def test_two_workers_run_at_the_same_time(clock: HandClock) -> None:
    models = Squarer(clock), Squarer(clock)
    for model in models:
        model.gate.close()
    async with serving(clock, *models) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x, rows=4))) for x in (1, 2)]
        await clock.settle()
        assert [model.gate.held for model in models] == [1, 1]
        assert batcher.running_batches == 2
        for model in models:
            model.gate.open()
        assert await asyncio.gather(*calls) == [[1], [4]]


@pytest.mark.parametrize("leaver", range(4))
async def test_one_who_leaves_mid_batch_disturbs_nobody(clock: HandClock, leaver: int) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model, rule=RULE) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in range(4)]
        await clock.settle()
        assert model.gate.held == 1
        calls[leaver].cancel()
        await clock.settle()
        model.gate.open()
        with anyio.fail_after(1):
            answers = await asyncio.gather(*calls, return_exceptions=True)
    kept = [answer for i, answer in enumerate(answers) if i != leaver]
    assert kept == [[x * x] for x in range(4) if x != leaver]


async def test_one_who_leaves_while_waiting_never_reaches_the_model(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        stays = asyncio.create_task(batcher.ask(piece(2)))
        leaves = asyncio.create_task(batcher.ask(piece(3)))
        await clock.settle()
        leaves.cancel()
        await clock.move(5 * MS)
        assert await stays == [4]
    assert model.batches == [[2]]


async def test_a_raising_model_fails_the_batch_and_the_worker_lives_on(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in (-1, 1, 2, 3)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [BackendFailed] * 4
        assert len({id(failure) for failure in failures}) == 4, "one exception object per caller"
        for failure in failures:
            assert isinstance(failure, BackendFailed)
            assert isinstance(failure.__cause__, RuntimeError)
        assert await batcher.ask(piece(2, rows=4)) == [4]


async def test_a_model_that_answers_too_few_fails_its_batch(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in (13, 1, 2, 3)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [BackendFailed] * 4
    assert "4 inputs went in, 1 came out" in str(failures[0])


async def test_a_full_queue_refuses_at_once(clock: HandClock) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model, rule=RULE) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(0))) for _ in range(4)]
        await clock.settle()
        calls += [asyncio.create_task(batcher.ask(piece(0))) for _ in range(8)]
        await clock.settle()
        with pytest.raises(Overloaded) as caught:
            await batcher.ask(piece(0))
        assert (caught.value.waiting, caught.value.capacity) == (8, 8)
        model.gate.open()
        await asyncio.gather(*calls)


async def test_stopping_answers_everyone_running_and_waiting(clock: HandClock) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model, rule=RULE) as batcher:
        running = [asyncio.create_task(batcher.ask(piece(x))) for x in range(4)]
        await clock.settle()
        waiting = [asyncio.create_task(batcher.ask(piece(x))) for x in range(3)]
        await clock.settle()
        stopping = asyncio.create_task(batcher.stop(10 * MS))
        with anyio.fail_after(1):
            answers = await asyncio.gather(*running, *waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotReady] * 7
        with pytest.raises(NotReady):
            await batcher.ask(piece(1))
        await clock.move(10 * MS)
        assert await stopping is False, "a worker stuck in its model is reported, not waited for"


async def test_draining_answers_those_inside_and_refuses_the_rest(clock: HandClock) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        inside = [asyncio.create_task(batcher.ask(piece(x))) for x in range(6)]
        await clock.settle()
        draining = asyncio.create_task(batcher.drain(10 * MS))
        await clock.settle()
        with pytest.raises(NotReady):
            await batcher.ask(piece(1))
        model.gate.open()
        assert await draining is True
        assert await asyncio.gather(*inside) == [[x * x] for x in range(6)]


async def test_draining_is_bounded(clock: HandClock) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        call = asyncio.create_task(batcher.ask(piece(1)))
        draining = asyncio.create_task(batcher.drain(10 * MS))
        await clock.move(10 * MS)
        assert await draining is False
        model.gate.open()
        assert await call == [1]


async def test_the_death_of_a_worker_is_told_to_those_it_ran_for(clock: HandClock) -> None:
    models = Squarer(clock), Squarer(clock)
    async with serving(clock, *models) as batcher:
        with pytest.raises(BackendFailed, match="died"):
            await batcher.ask(piece(666))
        assert batcher.is_working, "the other worker is still there"
        assert await batcher.ask(piece(2)) == [4]


async def test_the_death_of_the_last_worker_is_told_to_everybody(clock: HandClock) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        running = asyncio.create_task(batcher.ask(piece(666)))
        await clock.settle()
        waiting = asyncio.create_task(batcher.ask(piece(1)))
        await clock.settle()
        model.gate.open()
        with pytest.raises(BackendFailed, match="died"):
            await running
        with pytest.raises(NotReady, match="Death"):
            await waiting
        assert not batcher.is_working
        with pytest.raises(NotReady):
            await batcher.ask(piece(1))


async def test_one_bad_row_does_not_fail_its_neighbours(clock: HandClock) -> None:
    model = Squarer(clock)
    records: list[BatchRecord] = []
    async with serving(clock, model, rule=RULE, records=records) as batcher:
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in (1, -2, 3, 4)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answers[0], *answers[2:]] == [[1], [9], [16]]
    assert isinstance(answers[1], RowRejected)
    assert 1 <= records[0].isolation_runs <= 4


async def test_poison_gets_no_more_than_its_share_of_the_worker(clock: HandClock) -> None:
    """Once the allowance is spent, a poisoned batch fails whole, and says so."""
    model = Squarer(clock)

    def slow(xs: list[int]) -> list[int]:
        clock._now += 600 * MS
        return model(xs)

    batcher: Batcher[int, int] = Batcher(RULE, [slow], clock)  # type: ignore[list-item]
    batcher.start()
    verdicts = []
    for _ in range(4):
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in (1, -2, 3, 4)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        verdicts.append([type(answer).__name__ for answer in answers])
    await batcher.stop(clock.now_ns() + MS)
    found = ["list", "RowRejected", "list", "list"]
    assert verdicts[0] == found
    assert ["BackendFailed"] * 4 in verdicts[1:]


async def test_a_deadline_that_passes_in_the_queue_is_said_so(clock: HandClock) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=RULE) as batcher:
        late = asyncio.create_task(batcher.ask(piece(2), deadline_ns=4 * MS))
        await clock.move(4 * MS)
        assert late.done()
        with pytest.raises(DeadlineExceeded):
            await late
        await clock.move(5 * MS)
    assert model.batches == []


async def test_deadlines_pass_while_a_batch_runs_too(clock: HandClock) -> None:
    """The one inside the model and the one in the queue both hear at their time, not after it."""
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        inside = asyncio.create_task(batcher.ask(piece(1), deadline_ns=3 * MS))
        await clock.settle()
        queued = asyncio.create_task(batcher.ask(piece(2), deadline_ns=2 * MS))
        patient = asyncio.create_task(batcher.ask(piece(3), deadline_ns=9 * MS))
        await clock.move(2 * MS)
        assert (queued.done(), inside.done()) == (True, False)
        await clock.move(1 * MS)
        assert inside.done()
        for call in (queued, inside):
            with pytest.raises(DeadlineExceeded):
                await call
        model.gate.open()
        assert await patient == [9]
    assert model.batches == [[1], [3]], "expired work never reached the model"


async def test_a_call_of_many_pieces_is_answered_in_order_over_several_batches(
    clock: HandClock,
) -> None:
    model = Squarer(clock)
    async with serving(clock, model, rule=BatchRule(max_rows=4)) as batcher:
        pieces = [piece(x, length=11 - x) for x in range(10)]
        assert await batcher.ask(*pieces) == [x * x for x in range(10)]
    assert max(len(batch) for batch in model.batches) <= 4


async def test_a_failing_piece_fails_the_call_and_takes_the_rest_off_the_queue(
    clock: HandClock,
) -> None:
    model = Squarer(clock)
    model.gate.close()
    async with serving(clock, model) as batcher:
        call = asyncio.create_task(
            batcher.ask(piece(-1, rows=4), piece(1, rows=2), piece(2, rows=2))
        )
        await clock.settle()
        assert batcher.waiting_rows == 4
        model.gate.open()
        with pytest.raises(BackendFailed):
            await call
        assert batcher.waiting_rows == 0 or model.batches[1:] == [[1, 2]]


async def test_a_caller_that_chokes_on_its_answer_costs_nobody_else(clock: HandClock) -> None:
    model = Squarer(clock)
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: heard.append(context["message"]))

    def choke(_call: object) -> None:
        raise OSError("the pipe is gone")

    async with serving(clock, model, rule=RULE) as batcher:
        batcher.submit([piece(1)], choke)
        calls = [asyncio.create_task(batcher.ask(piece(x))) for x in (2, 3, 4)]
        assert await asyncio.gather(*calls) == [[4], [9], [16]]
    assert heard == ["a caller failed to take its answer"]


async def test_two_thousand_callers_one_in_ten_leaving_each_get_their_own(
    clock: HandClock,
) -> None:
    rng = random.Random(5)  # noqa: S311  (a test's own numbers)
    model = Squarer(clock)
    rule = BatchRule(max_rows=32, capacity_rows=2_000)
    async with serving(clock, model, rule=rule) as batcher:
        calls = [
            asyncio.create_task(batcher.ask(piece(x + 1000, length=rng.randint(1, 99))))
            for x in range(2_000)
        ]
        leavers = set(rng.sample(range(2_000), 200))
        for index in leavers:
            await asyncio.sleep(0)
            calls[index].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for x, answer in enumerate(answers):
        if x not in leavers:
            assert answer == [(x + 1000) ** 2]
        else:
            assert isinstance(answer, asyncio.CancelledError) or answer == [(x + 1000) ** 2]
