from __future__ import annotations

import numpy as np
import pytest

from palio.core.errors import BadRequest, ValidationFailed
from palio.core.tensors import Array
from palio.wire.texts import read_texts


def elements(*items: object) -> Array:
    data = np.empty(len(items), np.object_)
    data[:] = items
    return data


def test_texts_come_out_in_their_order() -> None:
    assert read_texts(elements("grüße".encode(), "x"), 5, "data") == ["grüße", "x"]


@pytest.mark.parametrize("blank", [b"", b" \n\t", "\u2003".encode()])
def test_a_blank_text_is_named(blank: bytes) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read_texts(elements(b"a", blank), 5, "data")
    assert caught.value.field == "data[1]"


def test_a_long_text_is_named_with_its_limit() -> None:
    with pytest.raises(ValidationFailed, match="6 characters, over the limit of 5"):
        read_texts(elements(b"abcdef"), 5, "data")


def test_bytes_that_are_no_text_are_malformed() -> None:
    with pytest.raises(BadRequest, match="not UTF-8"):
        read_texts(elements(b"\xff"), 5, "data")
