"""What each route answers when all is well."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from palio.core.errors import BadRequest, NotFound
from palio.server.routes import RouteTable
from tests.kit.fake_inference import FakeInference, vectors_of
from tests.server.house import EMBED, GOOD, GOOD_TEXT, INFER, Hand, get, post, serving

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2", {"name": "palio", "version": "0.0.0", "extensions": []}),
        ("/v2/", {"name": "palio", "version": "0.0.0", "extensions": []}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/health", {"live": True}),
        ("/healthz?deep=1", {"live": True}),
        ("/ready", {"ready": True}),
        ("/readiness/", {"ready": True}),
        ("/v2/models/toy/ready", {"name": "toy", "ready": True}),
        ("/v2/models/t%6Fy/versions/1/ready", {"name": "toy", "ready": True}),
        (
            "/v2/models/toy",
            {
                "name": "toy",
                "versions": ["1"],
                "platform": "toy",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
            },
        ),
    ],
)
async def test_pages(path: str, body: object) -> None:
    async with serving() as house:
        answer = await house.get(path)
    assert (answer.status, answer.json) == (200, body)


async def test_root_links_the_models() -> None:
    async with serving() as house:
        answer = await house.get("/")
        absolute = await house.get("http://palio.example/v2?x")
    assert answer.json["models"] == {"toy": "/v2/models/toy", "text": "/v2/models/text"}
    assert absolute.json["name"] == "palio"


async def test_metrics_come_from_the_callback() -> None:
    async with serving() as house:
        answer = await house.get("/metrics")
    assert answer.body == b"up 1\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"


async def test_head_is_get_without_the_body() -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(get("/health", method="HEAD"), has_body=False)
        assert answer.headers["content-length"] == str(len(b'{"live":true}'))
        assert (await caller.ask(get("/health"))).status == 200


async def test_readiness_says_no_with_the_reason() -> None:
    async with serving() as house:
        house.inference.unready("text", "still loading")
        whole, one, other = [
            await house.get(path)
            for path in ("/v2/health/ready", "/v2/models/text/ready", "/v2/models/toy/ready")
        ]
        live = await house.get("/v2/health/live")
    assert [whole.status, one.status, other.status, live.status] == [503, 503, 200, 200]
    assert whole.json["code"] == "NOT_READY"
    assert "text" in whole.json["error"]
    assert "still loading" in one.json["error"]
    assert whole.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", [INFER, INFER + "/", "/v2/models/toy/versions/1/infer"])
async def test_infer(path: str) -> None:
    body = json.dumps({**json.loads(GOOD), "id": "q1"}).encode()
    async with serving() as house:
        answer = await house.post(path, body)
    assert answer.json == {
        "model_name": "toy",
        "model_version": "1",
        "id": "q1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]}
        ],
    }


async def test_embeddings_in_both_encodings() -> None:
    texts = ["a b", "zoë"]
    want = vectors_of([text.encode() for text in texts])
    async with serving() as house:
        plain = await house.post(EMBED, json.dumps({"input": texts, "model": "text"}).encode())
        packed = await house.post(
            EMBED,
            json.dumps({"input": texts, "encoding_format": "base64", "surprise": 1}).encode(),
        )
    assert [row["embedding"] for row in plain.json["data"]] == want.tolist()
    assert [row["index"] for row in plain.json["data"]] == [0, 1]
    assert plain.json["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert plain.json["model"] == "text"
    unpacked = [
        np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed.json["data"]
    ]
    assert np.array_equal(unpacked, want)


async def test_a_configured_path_speaks_its_models_form() -> None:
    async with serving(routes={"/embed": "text", "/predict/": "toy"}) as house:
        embedded = await house.post("/embed/", b'{"input": "a"}')
        predicted = await house.post("/predict", GOOD)
        refused = await house.post("/embed", b'{"input": ""}')
    assert embedded.json["object"] == "list"
    assert predicted.json["model_name"] == "toy"
    assert refused.json["error"]["param"] == "input"
    assert [record.route for record in house.records] == ["/embed", "/predict", "/embed"]


async def test_ids_are_kept_or_made() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with serving() as house:
        caller = await house.call()
        kept = await caller.ask(get("/health", "X-Correlation-ID: abc:1", "X-Request-ID: other"))
        request = await caller.ask(get("/health", "x-request-id: other"))
        traced = await caller.ask(get("/health", f"traceparent: 00-{trace}-b7ad6b7169203331-01"))
        made = await caller.ask(post(INFER, b"{", "X-Correlation-ID: no spaces"))
    assert kept.headers["x-correlation-id"] == "abc:1"
    assert request.headers["x-correlation-id"] == "other"
    assert traced.headers["x-correlation-id"] == trace
    uuid4 = r"inf-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(uuid4, made.json["correlation_id"])
    assert made.json["correlation_id"] == made.headers["x-correlation-id"]


async def test_one_record_for_every_exchange() -> None:
    async with serving() as house:
        caller = await house.call()
        await caller.ask(post(INFER, GOOD, "X-Request-ID: one"))
        await caller.ask(post(EMBED, GOOD_TEXT))
        await caller.ask(get("/v2/models/secret-name/nonsense"))
        first, second, third = house.records
    assert first[:7] == ("POST", "/v2/models/{model}/infer", "toy", "1", 200, "OK", "one")
    assert first.items == 1
    assert first.bytes_in > len(GOOD)
    assert first.bytes_out > 100
    assert first.timings is not None
    assert first.peer.startswith("127.0.0.1:")
    assert (second.route, second.model, second.tokens) == (EMBED, "text", 3)
    assert (third.route, third.status, third.code) == ("-", 404, "NOT_FOUND")


def test_an_escaped_slash_stays_in_its_part() -> None:
    table = RouteTable({}, FakeInference(Hand()).models)
    assert table.find(b"/v2/models/a%2Fb/infer").model == "a/b"
    with pytest.raises(NotFound):
        table.find(b"/v2/models//infer/x")
    with pytest.raises(BadRequest):
        table.find(b"/v2/models/%ff")
    with pytest.raises(NotFound):
        table.find(b"*")
