from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from palio.core.errors import InternalError
from palio.wire.tokenisers import TextTokeniser

THREADS = """
import sys
from pathlib import Path
from palio.wire.tokenisers import TextTokeniser

def threads(): return len(list(Path("/proc/self/task").iterdir()))

tokeniser = TextTokeniser(Path(sys.argv[1]), max_tokens=64)
before = threads()
tokeniser.encode_many(["one two three"] * 1000)
print(threads() - before)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tokenizer.json that, like MiniLM's, comes with a cut and a padding of its own."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(
        WordLevel(
            vocabulary,
            unk_token="[UNK]",  # noqa: S106  (no password)
        )
    )
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_ids_are_framed_and_neither_padded_nor_cut_by_the_files_own_rules(path: Path) -> None:
    tokeniser = TextTokeniser(path, max_tokens=6)
    assert tokeniser.encode("one  two\tthree four") == [2, 4, 5, 6, 1, 3]
    assert tokeniser.truncated == 0


def test_a_long_text_is_cut_and_counted(path: Path) -> None:
    tokeniser = TextTokeniser(path, max_tokens=4)
    assert tokeniser.encode("one two three") == [2, 4, 5, 3]
    assert tokeniser.encode_many(["one two", "one two three", "one"]) == [
        [2, 4, 5, 3],
        [2, 4, 5, 3],
        [2, 4, 3],
    ]
    assert tokeniser.truncated == 2


def test_many_are_as_each_alone(path: Path) -> None:
    tokeniser = TextTokeniser(path, max_tokens=8)
    texts = ["one", "", "two three", "\N{ROCKET}", "one\ntwo"]
    assert tokeniser.encode_many(texts) == [tokeniser.encode(text) for text in texts]
    assert tokeniser.encode_many([]) == []


def test_no_thread_is_started_behind_our_back(path: Path) -> None:
    command = [sys.executable, "-c", THREADS, str(path)]
    told = subprocess.run(  # noqa: S603  (our own words, no shell)
        command, capture_output=True, text=True, check=True
    )
    assert told.stdout == "0\n"


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InternalError, match=r"tokenizer\.json is not a usable tokenizer"):
        TextTokeniser(tmp_path / "tokenizer.json", max_tokens=8)
