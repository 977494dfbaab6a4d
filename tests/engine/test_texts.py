from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from palio.engine.texts import INLINE_CHARS, Ids, TextPreparer, TokeniseThread
from tests.kit.served import nobody

pytestmark = pytest.mark.anyio


class Letters:
    """One id for each letter; each text takes a moment by the clock it is given."""

    truncated = 0

    def __init__(self, takes_ns: int = 0) -> None:
        self.now = 0
        self.takes_ns = takes_ns

    def now_ns(self) -> int:
        return self.now

    def encode(self, text: str) -> Ids:
        self.now += self.takes_ns
        if text.startswith("!"):
            raise RuntimeError("cannot spell")
        return [ord(letter) for letter in text]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]


LONG = "a" * INLINE_CHARS


async def prepared(preparer: TextPreparer, texts: list[str]) -> Sequence[Ids] | Exception:
    answer: asyncio.Future[Sequence[Ids] | Exception] = asyncio.get_running_loop().create_future()
    preparer.prepare(texts, answer.set_result, answer.set_result)
    with anyio.fail_after(5):
        return await answer


async def test_a_short_request_is_ready_at_once() -> None:
    letters = Letters()
    heard: list[Sequence[Ids]] = []
    TextPreparer(letters, letters.now_ns).prepare(["ab", "c"], heard.append, nobody)
    TextPreparer(letters, letters.now_ns).prepare(["d"], heard.append, nobody)
    assert heard == [[[97, 98], [99]], [[100]]]


async def test_a_long_request_lets_others_in_between_its_slices() -> None:
    """Each text takes half a slice: the loop must get a turn after every second one."""
    letters = Letters(takes_ns=500_000)
    loop = asyncio.get_running_loop()
    turns = 0
    is_done = False

    def count_turns() -> None:
        nonlocal turns
        turns += 1
        if not is_done:
            loop.call_soon(count_turns)

    loop.call_soon(count_turns)
    texts = [LONG, *"abcdefghi"]
    answer = await prepared(TextPreparer(letters, letters.now_ns), texts)
    is_done = True
    assert answer == [[ord(letter) for letter in text] for text in texts]
    assert turns >= 4


async def test_with_a_cpu_to_spare_a_thread_does_it() -> None:
    letters = Letters()
    thread = TokeniseThread(asyncio.get_running_loop())
    preparer = TextPreparer(letters, letters.now_ns, thread=thread)
    texts = [LONG, "b"]
    assert await prepared(preparer, texts) == [[97] * INLINE_CHARS, [98]]
    thread.stop()


@pytest.mark.parametrize("with_thread", [True, False])
async def test_a_tokeniser_that_raises_is_heard_and_serves_on(with_thread: bool) -> None:
    letters = Letters()
    thread = TokeniseThread(asyncio.get_running_loop()) if with_thread else None
    preparer = TextPreparer(letters, letters.now_ns, thread=thread)
    assert isinstance(await prepared(preparer, [LONG, "!"]), RuntimeError)
    assert await prepared(preparer, [LONG, "b"]) == [[97] * INLINE_CHARS, [98]]
    if thread is not None:
        thread.stop()
