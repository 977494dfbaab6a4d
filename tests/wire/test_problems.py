from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from palio.core import errors
from palio.wire.problems import (
    STATUS,
    openai_problem_body,
    problem_body,
    problem_headers,
    reference_table,
    status_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"

KINDS = [
    kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.PalioError)
    and kind is not errors.PalioError
    and not name.startswith("_")
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_has_a_row(kind: type[errors.PalioError]) -> None:
    assert kind in STATUS


def test_a_code_always_means_the_same_status() -> None:
    statuses: dict[str, tuple[int, str]] = {}
    for row in STATUS.values():
        assert statuses.setdefault(row.code, (row.http, row.grpc)) == (row.http, row.grpc)


def test_the_page_is_the_table() -> None:
    assert reference_table() in PAGE.read_text()


def test_the_nearest_ancestor_decides() -> None:
    class Odd(errors.Overloaded): ...

    assert status_of(Odd(1, 2)).code == "OVERLOADED"
    assert status_of(errors.PalioError("bare")).code == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    "error", [KeyError("secret"), errors.InternalError("secret"), errors.PalioError("secret")]
)
def test_what_is_not_a_callers_business_stays_inside(error: Exception) -> None:
    for body in (problem_body(error, "id"), openai_problem_body(error, "id")):
        assert b"secret" not in body
        assert b"INTERNAL_ERROR" in body


def test_bodies_carry_what_a_caller_can_act_on() -> None:
    error = errors.Overloaded(9, 8, retry_after_s=1.5)
    assert json.loads(problem_body(error, "id")) == {
        "error": "the queue is full: 9 of 8 rows are waiting",
        "detail": "The queue is full; try again after `retry_after` seconds.",
        "code": "OVERLOADED",
        "correlation_id": "id",
        "waiting": 9,
        "limit": 8,
        "retry_after": 1.5,
    }
    refused = errors.ValidationFailed("blank", field="input[3]")
    assert json.loads(openai_problem_body(refused, "id")) == {
        "error": {
            "message": "blank",
            "type": "invalid_request_error",
            "code": "VALIDATION_ERROR",
            "param": "input[3]",
        },
        "correlation_id": "id",
    }


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.RateLimited(1, retry_after_s=0.01), {"Retry-After": "1"}),
        (errors.CircuitOpen("u", retry_after_s=2.1), {"Retry-After": "3"}),
        (errors.NotReady("x", retry_after_s=float("inf")), {"Retry-After": "86400"}),
        (errors.MethodNotAllowed("PUT", ["GET", "HEAD"]), {"Allow": "GET, HEAD"}),
        (errors.Unauthenticated("x"), {"WWW-Authenticate": 'Bearer realm="palio"'}),
        (errors.BadRequest("x"), {}),
    ],
)
def test_headers(error: errors.PalioError, headers: dict[str, str]) -> None:
    assert problem_headers(error) == headers
