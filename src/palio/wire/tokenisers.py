"""Text to token ids, by the `tokenizer.json` that came with a model; padding is the batcher's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeAlias

from tokenizers import Tokenizer

from palio.core.errors import InternalError

Ids: TypeAlias = Sequence[int]


class TextTokeniser:
    """Ids for texts: special tokens added, cut at `max_tokens`, never padded, always the same.

    It works on the caller's thread, starts none, and may be called from several at once.
    `encode_many` lets go of the interpreter lock while it works and `encode` does not; each takes
    some 15 µs for ten words, also of thirty-two texts at once. So `encode` suits one short text
    on the event loop, and `encode_many` whatever is long and has a thread of its own.

    Raises:
        InternalError: the file cannot be read as a tokenizer; the cause is chained.
    """

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        # The library asks the environment, and nothing else, whether it may start a thread for
        # each CPU. It may not: the CPU plan must add up.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise InternalError(f"{path} is not a usable tokenizer: {error}") from error
        # What the file itself says of cutting and padding is overruled, as sentence-transformers
        # does: MiniLM's says 128 tokens and padded to them, where the model is meant to read 256.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._tokenizer = tokenizer
        self.max_tokens: Final = max_tokens
        self._truncated = 0
        self._counting = Lock()

    @property
    def truncated(self) -> int:
        """How many texts have been cut so far."""
        return self._truncated

    def encode(self, text: str) -> Ids:
        """The ids of one text."""
        return self._ids(self._tokenizer.encode(text))

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, in their order."""
        return [self._ids(one) for one in self._tokenizer.encode_batch_fast(list(texts))]

    def _ids(self, encoding: Any) -> Ids:
        ids: list[int] = encoding.ids
        if len(ids) == self.max_tokens and encoding.overflowing:
            with self._counting:
                self._truncated += 1
        return ids
