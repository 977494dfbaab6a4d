from __future__ import annotations

import uuid

import pytest

from palio.wire.ids import IdMint, read_id

TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"


@pytest.mark.parametrize(
    ("headers", "want"),
    [
        ({b"x-correlation-id": b"a.B:9_-"}, "a.B:9_-"),
        ({b"x-correlation-id": b"a", b"x-request-id": b"b"}, "a"),
        ({b"x-correlation-id": b"no spaces", b"x-request-id": b"b"}, "b"),
        ({b"x-request-id": b"x" * 128}, "x" * 128),
        ({b"x-request-id": b"x" * 129}, None),
        ({b"x-request-id": b""}, None),
        ({b"x-request-id": b"a\n"}, None),
        ({b"x-request-id": "é".encode()}, None),
        ({b"traceparent": b"00-%b-%b-01" % (TRACE, PARENT)}, TRACE.decode()),
        ({b"traceparent": b"01-%b-%b-01-more" % (TRACE, PARENT)}, TRACE.decode()),
        ({b"traceparent": b"00-%b-%b-01-more" % (TRACE, PARENT)}, None),
        ({b"traceparent": b"ff-%b-%b-01" % (TRACE, PARENT)}, None),
        ({b"traceparent": b"00-%b-%b-01" % (b"0" * 32, PARENT)}, None),
        ({b"traceparent": b"00-%b-%b-01" % (TRACE, b"0" * 16)}, None),
        ({b"traceparent": b"00-%b-%b-01" % (TRACE.upper(), PARENT)}, None),
        ({}, None),
    ],
)
def test_a_callers_id_is_taken_if_it_is_usable(headers: dict[bytes, bytes], want: str) -> None:
    assert read_id(headers) == want


def test_made_ids_are_version_4_and_never_the_same() -> None:
    mint = IdMint()
    made = [mint.make() for _ in range(1000)]
    assert len(set(made)) == 1000
    for one in made:
        parsed = uuid.UUID(one.removeprefix("inf-"))
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
        assert read_id({b"x-request-id": one.encode()}) == one
