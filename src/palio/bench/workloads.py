"""What is asked: seeded inputs, always more than one, for no server answers one question all day.

`text-embed` imitates searches: the counts of words follow those of MS MARCO's queries (mean about
six), the words are our own list's. `mixed` has 8 to 128 tokens, log-normal. `toy` is four floats
for `zoo:toy`, whose right answers are known; `tensor` any shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from palio.bench.schedule import I32, Sizes
from palio.core.errors import SettingsError
from palio.core.tensors import Array

# Of a hundred queries, how many have so many words, from two on.
_WORDS: Final = (2.5, 9, 16.5, 19.5, 17.5, 13, 9, 5.5, 3.3, 1.9, 1.1, 0.6, 0.3, 0.2, 0.1)
_FEWEST: Final = 2
_OPENERS: Final = (
    "what is", "how to", "how long does", "how much does", "what does", "where is", "who is", "",
    "when did", "what are", "is", "why do", "how many", "which", "can you", "define", "cost of",
    "average", "meaning of", "types of", "what causes", "best",
)  # fmt: skip
_LINKS: Final = ("of", "in", "for", "the", "a", "to", "and", "with", "on", "from", "at", "by")
_LINK_SHARE: Final = 0.35
# Most of the words above are one token each, and the model adds two of its own.
_OWN_TOKENS: Final = 2
_MIXED_MEDIAN, _MIXED_SIGMA = 32.0, 0.75
_SHORTEST, _LONGEST = 8, 128

_COUNT: Final = 2000
_TOYS: Final = 256
# Distinct tensors are few where they are large: all of them are held as finished requests.
_TENSOR_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The inputs, texts or tensors, one entry for each input and in it one for each row.

    `lengths`: characters of text, or elements. `expected`: the right outputs where known.
    """

    name: str
    texts: tuple[tuple[str, ...], ...] = ()
    tensors: tuple[Array, ...] = ()
    expected: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.texts) == bool(self.tensors):
            raise ValueError("a workload is of texts or of tensors")

    def __len__(self) -> int:
        return len(self.texts) or len(self.tensors)

    @property
    def rows(self) -> I32:
        """How many rows each input has."""
        return np.array([len(each) for each in self.texts or self.tensors], np.int32)

    @property
    def lengths(self) -> I32:
        """How large each input is: characters, or elements."""
        sizes = [sum(map(len, rows)) for rows in self.texts] or [t.size for t in self.tensors]
        return np.array(sizes, np.int32)

    @property
    def sha256(self) -> str:
        """Which inputs these are."""
        digest = sha256()
        for rows in self.texts:
            for text in rows:
                digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
            digest.update(b"/")
        for tensor in self.tensors:
            digest.update(f"{tensor.dtype.str}{tensor.shape}".encode() + tensor.tobytes())
        return digest.hexdigest()


def read_workload(spec: str, *, seed: int = 0, rows: int = 1) -> Workload:
    """A workload from its name: `text-embed`, `text-embed:mixed`, `text-embed:FILE`, `toy` or
    `tensor:3x224x224`; each request carries so many rows.

    Raises:
        SettingsError: there is no such workload, or its file or shape cannot be used.
    """  # noqa: D205  (the names do not fit on one line)
    if rows < 1:
        raise SettingsError(f"rows: {rows} is below 1")
    kind, _, detail = spec.partition(":")
    if kind == "text-embed" and detail in ("", "mixed"):
        return text_embed(seed, rows=rows, is_mixed=bool(detail))
    if kind == "text-embed":
        return text_file(Path(detail), seed, rows=rows)
    if kind == "toy" and not detail:
        return toy(seed, rows=rows)
    if kind == "tensor":
        return tensor(_read_shape(detail), seed, rows=rows)
    raise SettingsError(
        f"there is no workload {spec!r}; known are text-embed, text-embed:mixed, text-embed:FILE, "
        "toy and tensor:SHAPE"
    )


def text_embed(
    seed: int = 0, *, count: int = _COUNT, rows: int = 1, is_mixed: bool = False
) -> Workload:
    """Made-up searches, or texts of mixed lengths."""
    rng = np.random.default_rng((seed, 1))
    total = count * rows
    if is_mixed:
        tokens = _MIXED_MEDIAN * np.exp(rng.normal(0.0, _MIXED_SIGMA, total))
        words = np.clip(np.round(tokens), _SHORTEST, _LONGEST).astype(int) - _OWN_TOKENS
    else:
        words = _FEWEST + rng.choice(len(_WORDS), total, p=np.array(_WORDS) / sum(_WORDS))
    texts = [_text(rng, int(each)) for each in words]
    name = "text-embed:mixed" if is_mixed else "text-embed"
    return Workload(name=name, texts=_in_rows(texts, rows))


def text_file(path: Path, seed: int = 0, *, rows: int = 1) -> Workload:
    """Real texts, one a line, of a tab-separated file the last column; in the seed's order."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"texts {path}: {error}") from None
    texts = [text for line in lines if (text := line.rsplit("\t", 1)[-1].strip())]
    if len(texts) < 2 * rows:
        raise SettingsError(f"texts {path}: {len(texts)} are too few for more than one request")
    order = np.random.default_rng((seed, 2)).permutation(len(texts))
    return Workload(
        name=f"text-embed:{path.name}", texts=_in_rows([texts[at] for at in order], rows)
    )


def sized_texts(sizes: Sizes, seed: int = 0) -> Workload:
    """Made-up texts as large as a trace's: one input for each size that occurs in it."""
    rng = np.random.default_rng((seed, 3))
    distinct = np.unique(np.stack([sizes.rows, sizes.lengths], axis=1), axis=0)
    texts = tuple(
        tuple(_text_of_length(rng, length) for length in _shares(int(total), int(rows)))
        for rows, total in distinct
    )
    # Never one input alone: a trace of one size gets several texts of it.
    while len(texts) < 2:
        texts += tuple(tuple(_text_of_length(rng, len(text)) for text in row) for row in texts)
    return Workload(name="text-embed:trace", texts=texts)


def toy(seed: int = 0, *, count: int = _TOYS, rows: int = 1) -> Workload:
    """Four floats a row for the toy model, which doubles them."""
    rng = np.random.default_rng((seed, 4))
    # Quarters survive any way of writing numbers.
    inputs = tuple(
        rng.integers(-4000, 4000, (rows, 4)).astype(np.float32) / 4 for _ in range(count)
    )
    return Workload(name="toy", tensors=inputs, expected=tuple(each * 2 for each in inputs))


def tensor(shape: tuple[int, ...], seed: int = 0, *, rows: int = 1) -> Workload:
    """Standard normal float32 of the shape, rows before it."""
    rng = np.random.default_rng((seed, 5))
    each_bytes = 4 * rows * int(np.prod(shape))
    count = max(2, min(_TOYS, _TENSOR_BYTES // each_bytes))
    inputs = tuple(rng.standard_normal((rows, *shape), np.float32) for _ in range(count))
    return Workload(name=f"tensor:{'x'.join(map(str, shape))}", tensors=inputs)


@cache
def _words() -> tuple[str, ...]:
    return tuple((Path(__file__).parent / "words.txt").read_text("utf-8").split())


def _text(rng: np.random.Generator, words: int) -> str:
    opener = _OPENERS[rng.integers(len(_OPENERS))].split()
    # An opener is no question without something to ask about.
    said = opener if len(opener) < words else []
    known, is_link = _words(), True
    while len(said) < words:
        is_link = not is_link and len(said) + 1 < words and rng.random() < _LINK_SHARE
        among = _LINKS if is_link else known
        said.append(among[rng.integers(len(among))])
    return " ".join(said)


def _text_of_length(rng: np.random.Generator, length: int) -> str:
    words = max(length // 4, 1)
    text = _text(rng, words)[: max(length, 1)]
    return text.rstrip().ljust(length, "s")


def _shares(total: int, rows: int) -> list[int]:
    each, rest = divmod(max(total, rows), rows)
    return [each + (at < rest) for at in range(rows)]


def _in_rows(texts: list[str], rows: int) -> tuple[tuple[str, ...], ...]:
    whole = len(texts) // rows * rows
    return tuple(tuple(texts[at : at + rows]) for at in range(0, whole, rows))


def _read_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or np.prod(shape, dtype=float) > 2**28:
        raise SettingsError(f"tensor:{text} is not a shape; write one like tensor:3x224x224")
    return shape
