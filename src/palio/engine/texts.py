"""Texts become token ids without holding up anybody else.

A short request is tokenised where it arrives, which costs some tens of microseconds. A long one
goes to a thread of its own where the CPU plan has one to spare; where it has not, it is done in
slices of about a millisecond between which the event loop serves everyone else.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from palio.engine.clock import post

Ids = Sequence[int]
WhenEncoded = Callable[[Sequence[Ids]], None]
WhenFailed = Callable[[Exception], None]

# Measured: about 0.3 µs a character and 20 µs a text, so this much takes half a millisecond.
INLINE_CHARS: Final = 1_500
_SLICE_NS: Final = 1_000_000


class Encoder(Protocol):
    """Turns text into token ids; `palio.wire.tokenisers` has the real one."""

    @property
    def truncated(self) -> int:
        """How many texts were cut to the model's limit so far."""
        ...

    def encode(self, text: str) -> Ids: ...
    def encode_many(self, texts: Sequence[str]) -> Sequence[Ids]: ...


class TextPreparer:
    """Tokenises one model's texts, each request in the way that disturbs others least."""

    def __init__(
        self, encoder: Encoder, now_ns: Callable[[], int], *, thread: TokeniseThread | None = None
    ) -> None:
        self._encoder = encoder
        self._now_ns = now_ns
        self._thread = thread

    @property
    def truncated(self) -> int:
        """How many texts were cut to the model's limit so far."""
        return self._encoder.truncated

    def prepare(
        self, texts: Sequence[str], when_encoded: WhenEncoded, when_failed: WhenFailed
    ) -> None:
        """Encode every text and call `when_encoded`, at once for a short request.

        A tokeniser that raises does so from here for a short request; for a long one
        `when_failed` hears of it.
        """
        if sum(map(len, texts)) <= INLINE_CHARS:
            if len(texts) == 1:
                when_encoded([self._encoder.encode(texts[0])])
            else:
                when_encoded(self._encoder.encode_many(texts))
        elif self._thread is not None:
            self._thread.encode(self._encoder, texts, when_encoded, when_failed)
        else:
            self._slice(texts, [], when_encoded, when_failed)

    def _slice(
        self,
        texts: Sequence[str],
        done: list[Ids],
        when_encoded: WhenEncoded,
        when_failed: WhenFailed,
    ) -> None:
        until = self._now_ns() + _SLICE_NS
        while len(done) < len(texts) and self._now_ns() < until:
            try:
                done.append(self._encoder.encode(texts[len(done)]))
            except Exception as error:
                when_failed(error)
                return
        if len(done) == len(texts):
            when_encoded(done)
        else:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._slice, texts, done, when_encoded, when_failed)


class TokeniseThread:
    """One thread that tokenises long requests, for machines with a CPU to spare.

    Its queue needs no bound of its own: what may wait there is bounded by the door's limits on
    connections and bodies.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[
            tuple[Encoder, Sequence[str], WhenEncoded, WhenFailed] | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="tokenise")
        self._thread.start()

    def encode(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        when_encoded: WhenEncoded,
        when_failed: WhenFailed,
    ) -> None:
        """Encode there; one of the two callbacks is called on the event loop."""
        self._work.put((encoder, texts, when_encoded, when_failed))

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            encoder, texts, when_encoded, when_failed = item
            try:
                ids = encoder.encode_many(texts)
            except Exception as error:
                # This thread serves every model; one request's trouble must not end it.
                post(self._loop, when_failed, error)
            else:
                post(self._loop, when_encoded, ids)
