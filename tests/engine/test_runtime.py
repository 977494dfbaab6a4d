"""`infer`, behind every door: what it takes, what it refuses, and how it comes and goes."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from palio.core.batching import BatchRule
from palio.core.errors import (
    BackendFailed,
    BadRequest,
    DeadlineExceeded,
    InternalError,
    NotFound,
    NotReady,
    Overloaded,
    PalioError,
    RowRejected,
    ValidationFailed,
)
from palio.core.requests import InferRequest, Outcome
from palio.core.tensors import Array, Tensor, TensorSpec
from palio.engine.model import ModelSpec, ServedModel
from palio.engine.runtime import Runtime
from tests.kit.clock import MS, HandClock
from tests.kit.served import (
    DOUBLER,
    LETTERS,
    FakeBackend,
    LetterEncoder,
    ask,
    count_letters,
    double,
    nobody,
    spec_of,
    tensors,
    texts,
)

pytestmark = pytest.mark.anyio

WARM_UPS = 3  # runs each of these models makes before it is asked anything
ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture
def clock() -> HandClock:
    return HandClock("doubler-", "letters-")


@asynccontextmanager
async def running(clock: HandClock, *specs: ModelSpec) -> AsyncIterator[Runtime]:
    runtime = Runtime([ServedModel(spec, clock) for spec in specs], clock)
    await runtime.load()
    try:
        yield runtime
    finally:
        await runtime.stop(clock.now_ns())


def request(*inputs: Tensor, **changes: object) -> InferRequest:
    base = InferRequest(model="doubler", inputs=inputs or (tensors([ROW]),))
    return replace(base, **changes)  # type: ignore[arg-type]


async def test_an_answer_says_what_ran_and_where_the_time_went(clock: HandClock) -> None:
    backend = FakeBackend(DOUBLER, double)
    async with running(clock, spec_of(DOUBLER, backend)) as runtime:
        answer = await ask(runtime, request(id="mine", first_read_ns=0, read_ns=0))
    assert (answer.model, answer.version, answer.id) == ("doubler", "1", "mine")
    (y,) = answer.outputs
    np.testing.assert_array_equal(y.data, [[2, 4, 6, 8]])
    assert answer.timings.batch_rows == 1
    assert backend.is_closed


async def test_rows_of_different_callers_share_a_batch_and_part_again(clock: HandClock) -> None:
    gate = clock.gate()
    backend = FakeBackend(DOUBLER, double, gate)
    async with running(clock, spec_of(DOUBLER, backend)) as runtime:
        gate.close()
        first = asyncio.create_task(ask(runtime, request()))
        await clock.settle()
        others = [
            asyncio.create_task(ask(runtime, request(tensors([[n, 0, 0, 0]] * n)))) for n in (1, 2)
        ]
        await clock.settle()
        gate.open()
        await first
        for n, answer in zip((1, 2), await asyncio.gather(*others), strict=True):
            np.testing.assert_array_equal(answer.outputs[0].data, [[2 * n, 0, 0, 0]] * n)
            assert answer.timings.batch_rows == 3
    assert [len(feeds["x"]) for feeds in backend.feeds[WARM_UPS:]] == [1, 3]


async def test_a_request_larger_than_a_batch_is_cut_and_put_together_again(
    clock: HandClock,
) -> None:
    rows = [[float(n), 0, 0, 0] for n in range(10)]
    backend = FakeBackend(DOUBLER, double)
    async with running(clock, spec_of(DOUBLER, backend)) as runtime:
        answer = await ask(runtime, request(tensors(rows)))
    np.testing.assert_array_equal(answer.outputs[0].data, np.array(rows) * 2)
    assert max(len(feeds["x"]) for feeds in backend.feeds) == 4


async def test_texts_are_padded_together_and_answered_as_if_alone(clock: HandClock) -> None:
    backend = FakeBackend(LETTERS, count_letters)
    words = ["a", "bb", "cccc", "ddd", "bb"]
    async with running(clock, spec_of(LETTERS, backend)) as runtime:
        answer = await ask(runtime, request(texts(*words), model="letters"))
    expected = [[len(word), sum(map(ord, word))] for word in words]
    np.testing.assert_array_equal(answer.outputs[0].data, expected)
    assert answer.tokens == sum(map(len, words))
    for feeds in backend.feeds[6:]:
        assert (feeds["input_ids"][feeds["attention_mask"] == 0] == 7).all()


async def test_with_batching_off_every_row_runs_alone(clock: HandClock) -> None:
    backend = FakeBackend(LETTERS, count_letters)
    async with running(clock, spec_of(LETTERS, backend, is_batching=False)) as runtime:
        await ask(runtime, request(texts(*"abcdef"), model="letters"))
    assert [len(feeds["input_ids"]) for feeds in backend.feeds[6:]] == [1] * 6


async def test_a_model_without_a_batch_axis_gets_each_request_whole(clock: HandClock) -> None:
    spec = TensorSpec("x", "FP32", (1, 4)), TensorSpec("y", "FP32", (1, 4))
    manifest = replace(
        DOUBLER,
        inputs=spec[:1],
        outputs=spec[1:],
        graph_inputs=spec[:1],
        graph_outputs=spec[1:],
    )
    backend = FakeBackend(manifest, double)
    async with running(clock, spec_of(manifest, backend)) as runtime:
        answers = await asyncio.gather(*(ask(runtime, request()) for _ in range(3)))
    assert all(answer.outputs[0].shape == (1, 4) for answer in answers)
    assert {feeds["x"].shape for feeds in backend.feeds} == {(1, 4)}


@pytest.mark.parametrize(
    ("changes", "inputs", "field"),
    [
        ({}, [Tensor("z", "FP32", np.zeros((1, 4), np.float32))], "inputs[0].name"),
        ({}, [Tensor("x", "FP64", np.zeros((1, 4)))], "inputs[0].datatype"),
        ({}, [tensors([[1, 2, 3]])], "inputs[0].shape"),
        ({}, [Tensor("x", "FP32", np.zeros((0, 4), np.float32))], "inputs[0].shape"),
        ({"outputs": ("nope",)}, [], "outputs[0].name"),
    ],
)
async def test_what_does_not_fit_the_model_is_named(
    clock: HandClock, changes: dict[str, object], inputs: list[Tensor], field: str
) -> None:
    async with running(clock, spec_of(DOUBLER, FakeBackend(DOUBLER, double))) as runtime:
        with pytest.raises(BadRequest) as caught:
            await ask(runtime, request(*inputs, **changes))
    assert caught.value.field == field


async def test_unknown_models_and_versions_are_not_found(clock: HandClock) -> None:
    async with running(clock, spec_of(DOUBLER, FakeBackend(DOUBLER, double))) as runtime:
        with pytest.raises(NotFound, match="did you mean 'doubler'"):
            await ask(runtime, request(model="dubler"))
        with pytest.raises(NotFound, match="no version '7'"):
            await ask(runtime, request(version="7"))
        assert (await ask(runtime, request(version="1"))).version == "1"


async def test_blank_text_is_refused_before_it_costs_anything(clock: HandClock) -> None:
    backend = FakeBackend(LETTERS, count_letters)
    async with running(clock, spec_of(LETTERS, backend)) as runtime:
        with pytest.raises(ValidationFailed) as caught:
            await ask(runtime, request(texts("a", " "), model="letters"))
    assert caught.value.field == "inputs[0].data[1]"


async def test_a_full_queue_is_said_at_once_also_when_tokenising_took_its_time(
    clock: HandClock,
) -> None:
    gate = clock.gate()
    backend = FakeBackend(LETTERS, count_letters, gate)
    async with running(clock, spec_of(LETTERS, backend)) as runtime:
        gate.close()
        full = asyncio.create_task(
            ask(runtime, request(texts(*"abcdefghijklmnop"), model="letters"))
        )
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(runtime, request(texts(*"abcdefghijklmnop"), model="letters"))
        long = texts("a" * 1_000, "b" * 1_000, *"abcdefghijklmnop")
        with pytest.raises(Overloaded):
            await ask(runtime, request(long, model="letters"))
        gate.open()
        await full


async def test_one_who_leaves_hears_nothing_and_costs_nothing(clock: HandClock) -> None:
    gate = clock.gate()
    backend = FakeBackend(DOUBLER, double, gate)
    heard: list[Outcome] = []
    async with running(clock, spec_of(DOUBLER, backend)) as runtime:
        gate.close()
        running_call = runtime.infer(request(), heard.append)
        await clock.settle()
        waiting = runtime.infer(request(), heard.append)
        running_call.cancel()
        waiting.cancel()
        waiting.cancel()
        gate.open()
        await clock.settle()
        assert runtime.queues() == {"doubler": (0, 0)}
    assert heard == []
    assert len(backend.feeds) == WARM_UPS + 1


async def test_the_callers_own_deadline_counts_from_the_first_byte(clock: HandClock) -> None:
    gate = clock.gate()
    async with running(clock, spec_of(DOUBLER, FakeBackend(DOUBLER, double, gate))) as runtime:
        await clock.move(2 * MS)
        gate.close()
        mine = asyncio.create_task(
            ask(runtime, request(timeout_ns=5 * MS, first_read_ns=1 * MS, read_ns=2 * MS))
        )
        await clock.move(4 * MS - 1)
        assert not mine.done()
        await clock.move(1)
        with pytest.raises(DeadlineExceeded):
            await mine
        gate.open()


async def test_a_model_that_answers_the_wrong_shape_failed(clock: HandClock) -> None:
    def wrong(feeds: Mapping[str, Array]) -> dict[str, Array]:
        asked = bool(feeds["x"].any())
        return {"y": feeds["x"][:-1] if asked else feeds["x"]}

    async with running(clock, spec_of(DOUBLER, FakeBackend(DOUBLER, wrong))) as runtime:
        with pytest.raises(BackendFailed, match="2 rows went in"):
            await ask(runtime, request(tensors([ROW, ROW])))


async def test_only_the_guilty_row_is_refused(clock: HandClock) -> None:
    def picky(feeds: Mapping[str, Array]) -> dict[str, Array]:
        if (feeds["x"] < 0).any():
            raise RowRejected("x is below zero")
        return double(feeds)

    gate = clock.gate()
    async with running(clock, spec_of(DOUBLER, FakeBackend(DOUBLER, picky, gate))) as runtime:
        gate.close()
        first = asyncio.create_task(ask(runtime, request()))
        await clock.settle()
        calls = [
            asyncio.create_task(ask(runtime, request(tensors([[n, 0, 0, 0]])))) for n in (1, -1, 2)
        ]
        await clock.settle()
        gate.open()
        await first
        one, bad, two = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(bad, RowRejected)
    assert not isinstance(one, BaseException)
    assert not isinstance(two, BaseException)
    np.testing.assert_array_equal(two.outputs[0].data, [[4, 0, 0, 0]])


async def test_a_tokeniser_that_breaks_is_our_own_fault_not_a_hang(clock: HandClock) -> None:
    class Broken(LetterEncoder):
        def encode(self, text: str) -> list[int]:
            raise RuntimeError("no ids today")

    spec = spec_of(LETTERS, FakeBackend(LETTERS, count_letters), open_encoder=Broken)
    async with running(clock, spec) as runtime:
        with pytest.raises(InternalError):
            await ask(runtime, request(texts("a" * 2_000), model="letters"))


async def test_nothing_is_ready_before_it_is_loaded_or_after_it_stops(clock: HandClock) -> None:
    runtime = Runtime([ServedModel(spec_of(DOUBLER, FakeBackend(DOUBLER, double)), clock)], clock)
    assert not runtime.is_ready()
    assert runtime.models()["doubler"].reason == "the model is loading"
    with pytest.raises(NotReady, match="loading"):
        runtime.infer(request(), nobody)
    await runtime.load()
    assert runtime.is_ready()
    runtime.begin_stop()
    assert not runtime.is_ready()
    with pytest.raises(NotReady, match="stopping"):
        runtime.infer(request(), nobody)
    await runtime.stop(clock.now_ns())
    assert runtime.models()["doubler"].reason == "the model has stopped"


async def test_a_model_that_cannot_load_says_why(clock: HandClock) -> None:
    def broken(feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise OSError("the weights are gone")

    runtime = Runtime([ServedModel(spec_of(DOUBLER, FakeBackend(DOUBLER, broken)), clock)], clock)
    with pytest.raises(OSError, match="weights are gone"):
        await runtime.load()
    assert "weights are gone" in runtime.models()["doubler"].reason
    assert not runtime.is_ready()
    await runtime.stop(clock.now_ns())


async def test_stopping_answers_those_inside_first(clock: HandClock) -> None:
    gate = clock.gate()
    backend = FakeBackend(DOUBLER, double, gate)
    runtime = Runtime([ServedModel(spec_of(DOUBLER, backend), clock)], clock)
    await runtime.load()
    gate.close()
    calls = [asyncio.create_task(ask(runtime, request())) for _ in range(6)]
    await clock.settle()
    stopping = asyncio.create_task(runtime.stop(10 * MS))
    await clock.settle()
    gate.open()
    await stopping
    assert [answer.outputs[0].shape for answer in await asyncio.gather(*calls)] == [(1, 4)] * 6
    assert backend.is_closed


async def test_a_model_that_hangs_is_left_behind_and_its_callers_told(clock: HandClock) -> None:
    gate = clock.gate()
    backend = FakeBackend(DOUBLER, double, gate)
    runtime = Runtime([ServedModel(spec_of(DOUBLER, backend), clock)], clock)
    await runtime.load()
    gate.close()
    call = asyncio.create_task(ask(runtime, request(timeout_ns=10**12)))
    await clock.settle()
    stopping = asyncio.create_task(runtime.stop(10 * MS))
    await clock.move(10 * MS)
    with pytest.raises(PalioError):
        await call
    await clock.move(1_000 * MS)
    await stopping
    assert not backend.is_closed, "closing under a running model would crash the process"
    gate.open()


async def test_many_letters_each_get_their_own(clock: HandClock) -> None:
    """Cancelled or not, mixed lengths or not: nobody gets a neighbour's answer."""
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefgh"), size)) for size in rng.integers(1, 60, 400)]
    backends = [FakeBackend(LETTERS, count_letters) for _ in range(2)]
    spec = spec_of(LETTERS, *backends, rule=BatchRule(max_rows=8, capacity_rows=400))
    async with running(clock, spec) as runtime:
        calls = [
            asyncio.create_task(ask(runtime, request(texts(word), model="letters")))
            for word in words
        ]
        for index in rng.choice(400, 40, replace=False):
            await asyncio.sleep(0)
            calls[index].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for word, answer in zip(words, answers, strict=True):
        if not isinstance(answer, BaseException):
            expected = [[len(word), sum(map(ord, word))]]
            np.testing.assert_array_equal(answer.outputs[0].data, expected)
    assert sum(isinstance(answer, BaseException) for answer in answers) <= 40


async def test_what_is_settled_leaves_no_circles_behind(clock: HandClock) -> None:
    """Circles wait for a collection, and collections stop the loop: 2 to 7 ms, every second."""
    backend = FakeBackend(LETTERS, count_letters)
    heard: list[Outcome] = []
    async with running(clock, spec_of(LETTERS, backend)) as runtime:
        await ask(runtime, request(texts("warm"), model="letters"))
        gc.collect()
        gc.disable()
        try:
            for n in range(20):
                pending = runtime.infer(request(texts(*"ab"), model="letters"), heard.append)
                if n % 2:
                    pending.cancel()
                del pending
                await clock.settle()
            heard.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(thing).__name__ for thing in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left.keys() & {"Call", "Place", "Question", "InferRequest", "Timings"}, left
