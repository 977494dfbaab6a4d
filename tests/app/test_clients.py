"""The clients people already have work as they are, against a real process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # it ships no types
from tritonclient.utils import (  # type: ignore[import-untyped]  # as above
    InferenceServerException,
)

from tests.app.process import EMBED, Served

pytestmark = [pytest.mark.wire, pytest.mark.model]

TEXTS = ["a cat sat on the mat", "interest rates went up", "Zürich, 東京 and 🦊"]


@pytest.fixture
def client(both: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{both.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def inference(both: Served) -> Iterator[Any]:
    client = triton.InferenceServerClient(both.url.removeprefix("http://"))
    yield client
    client.close()


def vectors_of(both: Served, texts: list[str]) -> Any:
    """What the plain route says of them, as JSON numbers."""
    data = both.ask(EMBED, {"input": texts}).json["data"]
    return np.array([one["embedding"] for one in data], np.float32)


def test_openai_embeds_one_string(client: openai.OpenAI, both: Served) -> None:
    answer = client.embeddings.create(model="minilm-l6", input=TEXTS[0])
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], vectors_of(both, TEXTS[:1]), atol=1e-6
    )


def test_openai_embeds_a_list_in_its_order(client: openai.OpenAI, both: Served) -> None:
    answer = client.embeddings.create(model="minilm-l6", input=TEXTS)
    assert [one.index for one in answer.data] == [0, 1, 2]
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], vectors_of(both, TEXTS), atol=1e-5
    )


def test_openai_gets_the_same_vectors_as_numbers_and_in_base64(client: openai.OpenAI) -> None:
    # Without an encoding_format the SDK asks for base64 and decodes it.
    compact = client.embeddings.create(model="minilm-l6", input=TEXTS)
    plain = client.embeddings.create(model="minilm-l6", input=TEXTS, encoding_format="float")
    assert [len(one.embedding) for one in plain.data] == [384] * len(TEXTS)
    np.testing.assert_allclose(
        [one.embedding for one in compact.data], [one.embedding for one in plain.data], atol=1e-6
    )


def test_openai_sees_the_tokens_used(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="minilm-l6", input="a cat sat")
    # Three words, and the marks at the start and the end.
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)
    assert answer.model == "minilm-l6"


def test_openai_names_the_field_it_got_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.embeddings.create(model="minilm-l6", input=["fine", "  "])
    error = refused.value
    assert (error.code, error.param, error.type) == (
        "VALIDATION_ERROR",
        "input[1]",
        "invalid_request_error",
    )


def test_openai_raises_bad_request_for_what_cannot_be_read(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/embeddings", body={"model": "minilm-l6", "input": 7}, cast_to=object)
    assert refused.value.code == "BAD_REQUEST"


def test_openai_raises_not_found_for_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody") as refused:
        client.embeddings.create(model="nobody", input="a")
    assert refused.value.code == "NOT_FOUND"
    assert json.loads(refused.value.response.content)["correlation_id"]


def test_triton_finds_the_server_and_its_models_live_and_ready(inference: Any) -> None:
    assert inference.is_server_live()
    assert inference.is_server_ready()
    assert inference.is_model_ready("toy")
    assert inference.is_model_ready("minilm-l6", "1")
    assert not inference.is_model_ready("nobody")


def test_triton_reads_the_metadata(inference: Any) -> None:
    assert inference.get_server_metadata()["name"] == "palio"
    model = inference.get_model_metadata("toy")
    assert model["name"] == "toy"
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert inference.get_model_metadata("minilm-l6")["inputs"][0]["datatype"] == "BYTES"


def test_triton_infers_floats(inference: Any) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    given = triton.InferInput("x", [2, 4], "FP32")
    given.set_data_from_numpy(x, binary_data=False)
    wanted = triton.InferRequestedOutput("y", binary_data=False)
    answer = inference.infer("toy", [given], outputs=[wanted], request_id="mine")
    np.testing.assert_array_equal(answer.as_numpy("y"), x * 2)
    assert answer.get_response()["id"] == "mine"


def test_triton_infers_text(inference: Any, both: Served) -> None:
    given = triton.InferInput("text", [len(TEXTS)], "BYTES")
    given.set_data_from_numpy(np.array(TEXTS, np.object_), binary_data=False)
    wanted = triton.InferRequestedOutput("embedding", binary_data=False)
    answer = inference.infer("minilm-l6", [given], outputs=[wanted])
    np.testing.assert_allclose(answer.as_numpy("embedding"), vectors_of(both, TEXTS), atol=1e-5)


def test_triton_is_told_what_was_wrong(inference: Any) -> None:
    given = triton.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32), binary_data=False)
    with pytest.raises(InferenceServerException) as refused:
        inference.infer("toy", [given])
    assert refused.value.status() == "400"
    assert "[1, 3]" in refused.value.message()
