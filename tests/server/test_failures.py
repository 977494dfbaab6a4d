"""Every row of the table of failures that this door can meet, and that none of them harms it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from palio.core import errors
from palio.core.requests import InferRequest
from palio.core.tensors import BYTES, Tensor
from tests.server.house import EMBED, GOOD, GOOD_TEXT, INFER, ROW, get, post, serving

pytestmark = [pytest.mark.anyio, pytest.mark.net]


def infer(**changes: Any) -> bytes:
    return post(INFER, json.dumps({"inputs": [{**ROW, **changes}]}).encode())


def embed(**fields: Any) -> bytes:
    return post(EMBED, json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("request_bytes", "status", "code", "field"),
    [
        (infer(data=[1, 2]), 400, "BAD_REQUEST", "inputs[0].data"),
        (infer(shape=[-1, 4]), 400, "BAD_REQUEST", "inputs[0].shape[0]"),
        (infer(datatype="FP33"), 400, "BAD_REQUEST", "inputs[0].datatype"),
        (infer(shape=[2, 2]), 400, "BAD_REQUEST", "inputs[0].shape"),
        (post(INFER, b""), 400, "BAD_REQUEST", None),
        (post(INFER, b"\xef\xbb\xbf" + GOOD), 400, "BAD_REQUEST", None),
        (get("/nowhere"), 404, "NOT_FOUND", None),
        (post("/v2/models/none/infer", GOOD), 404, "NOT_FOUND", None),
        (post("/v2/models/toy/versions/9/infer", GOOD), 404, "NOT_FOUND", None),
        (get("/v2/models/toy/versions/9"), 404, "NOT_FOUND", None),
        (get("/v2/models/none/ready"), 404, "NOT_FOUND", None),
        (get(INFER), 405, "METHOD_NOT_ALLOWED", None),
        (get("/health", method="DELETE"), 405, "METHOD_NOT_ALLOWED", None),
        (get(INFER, method="POST"), 411, "LENGTH_REQUIRED", None),
        (post(INFER, GOOD, kind="image/png"), 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (post(INFER, GOOD, "Content-Encoding: gzip"), 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (
            post(INFER, GOOD, "Inference-Header-Content-Length: 5"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            None,
        ),
        (infer(shape=[9, 4], data=[0] * 36), 413, "TOO_LARGE", "inputs[0].shape"),
        (embed(input=" ", model="text"), 422, "VALIDATION_ERROR", "input"),
        (embed(input=["a", "b", "c", "\n"]), 422, "VALIDATION_ERROR", "input[3]"),
        (embed(input=["x" * 65]), 422, "VALIDATION_ERROR", "input[0]"),
        (embed(input=[]), 422, "VALIDATION_ERROR", "input"),
        (embed(input=[[1, 2]]), 422, "VALIDATION_ERROR", "input[0]"),
        (embed(input=[1, 2]), 422, "VALIDATION_ERROR", "input[0]"),
        (embed(input="a", dimensions=3), 422, "VALIDATION_ERROR", "dimensions"),
        (embed(input="a", encoding_format="hex"), 422, "VALIDATION_ERROR", "encoding_format"),
        (embed(input=["a"] * 9), 413, "TOO_LARGE", "input"),
        (embed(input={"a": 1}), 400, "BAD_REQUEST", "input"),
        (embed(model="text"), 400, "BAD_REQUEST", None),
        (embed(input="a", model="none"), 404, "NOT_FOUND", None),
        (embed(input="a", model="toy"), 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (get(EMBED), 405, "METHOD_NOT_ALLOWED", None),
        (get("/v1/models"), 404, "NOT_FOUND", None),
    ],
)
async def test_what_a_caller_did_wrong(
    request_bytes: bytes, status: int, code: str, field: str | None
) -> None:
    async with serving(max_items=8, max_text_chars=64) as house:
        caller = await house.call()
        answer = await caller.ask(request_bytes)
        assert answer.status == status
        body = answer.json
        if b" /v1/" in request_bytes:
            assert body["error"]["code"] == code
            assert body["error"]["param"] == field
            assert body["error"]["message"]
        else:
            assert body["code"] == code
            assert body.get("field") == field
            assert body["detail"]
        assert body["correlation_id"] == answer.headers["x-correlation-id"]
        assert ("allow" in answer.headers) is (status == 405)
        assert (await caller.ask(post(INFER, GOOD))).status == 200


@pytest.mark.parametrize("data", [["a", " "], ["x" * 1_001, "b"]], ids=["blank", "long"])
async def test_texts_are_checked_on_the_tensor_route_as_well(data: list[str]) -> None:
    form = {"name": "text", "shape": [2], "datatype": "BYTES", "data": data}
    body = json.dumps({"inputs": [form]}).encode()
    async with serving(max_text_chars=64) as house:
        answer = await house.post("/v2/models/text/infer", body)
    assert answer.status == 422
    assert answer.json["field"].startswith("inputs[0].data[")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (errors.Overloaded(9, 8, retry_after_s=1.2), 429, "OVERLOADED", "2"),
        (errors.RateLimited(9, retry_after_s=0.1), 429, "RATE_LIMIT_EXCEEDED", "1"),
        (errors.DeadlineInfeasible(80.0, retry_after_s=3), 429, "DEADLINE_INFEASIBLE", "3"),
        (errors.NotReady("draining"), 503, "NOT_READY", "1"),
        (errors.DeadlineExceeded("too late"), 504, "DEADLINE_EXCEEDED", None),
        (errors.BackendFailed("the model raised"), 500, "BACKEND_FAILED", None),
        (errors.RowRejected("row 0", field="inputs[0]"), 422, "VALIDATION_ERROR", None),
        (errors.Unauthenticated("no key"), 401, "UNAUTHENTICATED", None),
        (errors.Forbidden("not you"), 403, "FORBIDDEN", None),
        (errors.Conflict("reloading"), 409, "CONFLICT", None),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_the_engine_may_say(
    error: errors.PalioError, status: int, code: str, retry_after: str | None, at_once: bool
) -> None:
    async with serving() as house:
        house.inference.refusal, house.inference.failure = (
            (error, None) if at_once else (None, error)
        )
        answer = await house.post(INFER, GOOD)
        openai = await house.post(EMBED, GOOD_TEXT)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["error"] == str(error)
    assert answer.json.items() >= error.details().items()
    assert answer.headers.get("retry-after") == retry_after
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert (openai.status, openai.json["error"]["code"]) == (status, code)
    assert set(openai.json["error"]) == {"message", "type", "code", "param"}
    stages = {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")}
    assert stages == ({"read"} if at_once else {"read", "tokenise", "queue"})


async def test_our_own_fault_is_told_to_us_and_not_to_the_caller() -> None:
    def explode(_request: InferRequest) -> Tensor:
        raise ZeroDivisionError("secret")

    async with serving() as house:
        house.inference.answer = explode
        answer = await house.post(INFER, GOOD)
        assert answer.status == 500
        assert answer.json["code"] == "INTERNAL_ERROR"
        assert b"secret" not in answer.body
        assert [str(fault) for fault in house.faults] == ["secret"]
        house.inference.answer = None
        assert await house.answers_well()


async def test_an_answer_json_cannot_hold_is_not_acceptable() -> None:
    async with serving() as house:
        house.inference.answer = lambda _: Tensor("y", BYTES, np.array([b"\xff"], np.object_))
        answer = await house.post(INFER, GOOD)
    assert (answer.status, answer.json["code"]) == (406, "NOT_ACCEPTABLE")
