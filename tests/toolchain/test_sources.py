from __future__ import annotations

from pathlib import Path

import pytest

from palio.toolchain.errors import UnknownReference
from palio.toolchain.sources import (
    FileSource,
    HttpsSource,
    Wanted,
    Wheel,
    WheelSource,
    read_source,
)

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("file:models/a.onnx", FileSource(Path("models/a.onnx"))),
        ("file:///models/a.onnx", FileSource(Path("/models/a.onnx"))),
        ("https://example.org/a.onnx", HttpsSource("https://example.org/a.onnx")),
        (
            f"pypi:some-model==1.0.post1#sha256={HEX}!some_model/a.onnx",
            WheelSource(Wheel("some-model", "1.0.post1", HEX), "some_model/a.onnx"),
        ),
    ],
)
def test_a_source_is_read_from_its_scheme(text: str, source: object) -> None:
    assert read_source(text) == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf:org/model", "known schemes are file:, https:, pypi:"),
        ("ftp://example.org/a", "known schemes"),
        ("http://example.org/a", "https only"),
        ("https://", "known schemes"),
        ("file:", "known schemes"),
        ("pypi:some-model==1.0!a", "of the form pypi:NAME==VERSION#sha256=HEX!"),
    ],
)
def test_what_is_no_source_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UnknownReference, match=says):
        read_source(text)


def test_a_wheel_is_asked_of_pip_by_its_hash() -> None:
    assert Wheel("a", "1", HEX).requirement == f"a==1 --hash=sha256:{HEX}"


def test_a_file_must_say_its_content_and_a_source() -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        Wanted(name="a", sha256="AB" * 32, sources=(FileSource(Path("a")),))
    with pytest.raises(ValueError, match="no source"):
        Wanted(name="a", sha256=HEX, sources=())
