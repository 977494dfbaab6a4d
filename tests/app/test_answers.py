"""Whoever asks together gets what they would get alone, and batches form when they should."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
import pytest
from tokenizers import Tokenizer

from palio.bench.attempts import Attempts
from palio.bench.summary import Summary
from palio.demo import run as demo
from tests.app.process import (
    EMBED,
    PATIENCE_S,
    TOY_INFER,
    Served,
    metrics_of,
    serving,
    toy_rows,
)
from tests.kit.answers import Answer
from tests.kit.callers import closed_loop, post_json

MINILM_INFER = "/v2/models/minilm-l6/infer"
WORDS = " ".join(
    (Path(demo.__file__).parent / name).read_text() for name in ("questions.txt", "sentences.txt")
).split()
Vector = Any


def unique_texts(count: int, seed: int) -> list[str]:
    """Mostly short, some of a hundred words; no two alike."""
    dice = random.Random(seed)  # noqa: S311  (a test's own numbers)
    lengths = dice.choices([2, 5, 9, 14, 25, 100], [20, 30, 25, 18, 5, 2], k=count)
    return [
        " ".join([*dice.choices(WORDS, k=length), str(number)])
        for number, length in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def alone(minilm: Path) -> Callable[[str], Vector]:
    """The vector of a text that shares no run with another, made without our own code."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        minilm / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)

    def embed(text: str) -> Vector:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return session.run(["embedding"], feeds)[0][0]

    return embed


@dataclass(slots=True)
class Crowd:
    """Many callers at once, a connection each. `leaves_after` says at which answer one hangs up."""

    served: Served
    leaves_after: dict[int, list[int]] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    _writers: dict[int, asyncio.StreamWriter] = field(default_factory=dict)

    async def ask(self, requests: Sequence[bytes]) -> None:
        """All of them connect, then all of them ask, and each waits for its answer or leaves."""
        opened = [await asyncio.open_connection("127.0.0.1", self.served.port) for _ in requests]
        self._writers = {number: writer for number, (_, writer) in enumerate(opened)}
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(
                *(
                    self._ask(number, reader, request)
                    for number, ((reader, _), request) in enumerate(
                        zip(opened, requests, strict=True)
                    )
                )
            )

    async def _ask(self, number: int, reader: asyncio.StreamReader, request: bytes) -> None:
        writer = self._writers[number]
        writer.write(request)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self.answers[number] = await read_answer(reader)
            self._hang_up()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def _hang_up(self) -> None:
        for number in self.leaves_after.get(len(self.answers), ()):
            if number not in self.answers:
                self.left.add(number)
                self._writers[number].transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])
    }
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(head[0].split()[1]), headers, body)


def embedding_request(text: str) -> bytes:
    return post_json(EMBED, json_bytes({"input": text, "encoding_format": "base64"}))


def infer_request(text: str) -> bytes:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    return post_json(MINILM_INFER, json_bytes({"inputs": [tensor]}))


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def vector_of(answer: Answer) -> Vector:
    if "outputs" in answer.json:
        return np.array(answer.json["outputs"][0]["data"], np.float32)
    return np.frombuffer(base64.b64decode(answer.json["data"][0]["embedding"]), np.float32)


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def mean_batch(served: Served, model: str) -> float:
    metrics = metrics_of(served)
    labels = f'{{model="{model}"}}'
    return metrics[f"inf_batch_size_sum{labels}"] / metrics[f"inf_batch_size_count{labels}"]


@pytest.mark.anyio
@pytest.mark.wire
@pytest.mark.model
@pytest.mark.slow
async def test_of_two_thousand_at_once_each_gets_its_own_answer_while_a_tenth_leaves(
    tmp_path: Path, alone: Callable[[str], Vector]
) -> None:
    texts = unique_texts(2_000, seed=18)
    dice = random.Random(81)  # noqa: S311  (a test's own numbers)
    leaves_after = defaultdict(list)
    for number in dice.sample(range(10, 2_000), 200):
        # At any moment before its turn would come if the queue were first come, first served.
        leaves_after[dice.randrange(1, number)].append(number)
    arguments = ["--set", "models.minilm-l6.batch.capacity_rows=2000"]
    arguments += ["--set", "models.minilm-l6.deadline_ms=60000"]
    with serving(tmp_path, "zoo:minilm-l6", *arguments) as served:
        crowd = Crowd(served, leaves_after)
        await crowd.ask([embedding_request(text) for text in texts])
        mean = mean_batch(served, "minilm-l6")
    # Of those who left, some had their answer on its way already.
    assert len(crowd.left - set(crowd.answers)) >= 100
    assert set(crowd.answers) | crowd.left == set(range(2_000))
    assert {answer.status for answer in crowd.answers.values()} == {200}
    far = {
        texts[number]: likeness
        for number, answer in crowd.answers.items()
        if (likeness := cosine(vector_of(answer), alone(texts[number]))) < 0.99999
    }
    assert not far
    assert mean > 1


@pytest.mark.anyio
@pytest.mark.wire
@pytest.mark.model
@pytest.mark.slow
async def test_a_full_queue_refuses_with_429_and_answers_the_others_rightly(
    tmp_path: Path, alone: Callable[[str], Vector]
) -> None:
    texts = unique_texts(600, seed=64)
    arguments = ["--set", "models.minilm-l6.batch.capacity_rows=64"]
    arguments += ["--set", "models.minilm-l6.deadline_ms=60000"]
    with serving(tmp_path, "zoo:minilm-l6", *arguments) as served:
        crowd = Crowd(served)
        await crowd.ask(
            [
                embedding_request(text) if number % 2 else infer_request(text)
                for number, text in enumerate(texts)
            ]
        )
        afterwards = served.ask(EMBED, {"input": "still there?"})
    refused = {number for number, answer in crowd.answers.items() if answer.status == 429}
    answered = {number for number, answer in crowd.answers.items() if answer.status == 200}
    assert refused | answered == set(range(600))
    assert refused
    assert len(answered) >= 64
    for number in refused:
        assert_is_a_good_refusal(crowd.answers[number], is_openai=bool(number % 2))
    for number in answered:
        assert cosine(vector_of(crowd.answers[number]), alone(texts[number])) >= 0.99999
    assert afterwards.status == 200


def assert_is_a_good_refusal(answer: Answer, *, is_openai: bool) -> None:
    body = answer.json
    assert int(answer.headers["retry-after"]) >= 1
    assert body["correlation_id"] == answer.headers["x-correlation-id"]
    if is_openai:
        assert set(body) == {"error", "correlation_id"}
        assert set(body["error"]) == {"message", "type", "code", "param"}
        assert body["error"]["code"] == "OVERLOADED"
    else:
        assert body["code"] == "OVERLOADED"
        assert body["limit"] == 64
        assert body["retry_after"] > 0
        assert isinstance(body["error"], str)
        assert isinstance(body["detail"], str)


def loop_over_toy(folder: Path, *arguments: str) -> tuple[Attempts, Summary]:
    """Thirty-two patient callers of a toy whose runs cost 2 ms, for a short while."""
    request = post_json(TOY_INFER, json_bytes(toy_rows(1.0)))
    cost = ("--set", "models.toy.options.base_ms=2", "--set", "models.toy.instances=1")
    with serving(folder, "zoo:toy", *cost, *arguments) as served:
        return closed_loop(served.port, [request], concurrency=32, seconds=0.5)


@pytest.mark.wire
def test_batches_form_when_callers_wait_for_one_worker(tmp_path: Path) -> None:
    attempts, summary = loop_over_toy(tmp_path)
    assert attempts.is_good.all()
    assert summary.mean_batch is not None
    assert summary.mean_batch > 8


@pytest.mark.wire
def test_with_batching_off_nobody_ever_shares_a_run(tmp_path: Path) -> None:
    attempts, _ = loop_over_toy(tmp_path, "--set", "models.toy.batch.enabled=false")
    assert attempts.is_good.all()
    assert set(attempts.batch.tolist()) == {1}


@pytest.mark.wire
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
def test_the_real_model_is_batched_only_when_batching_is_on(
    tmp_path: Path, minilm: Path, enabled: bool
) -> None:
    requests = [embedding_request(text) for text in unique_texts(200, seed=32)]
    change = f"models.minilm-l6.batch.enabled={str(enabled).lower()}"
    with serving(tmp_path, "zoo:minilm-l6", "--set", change) as served:
        attempts, _ = closed_loop(served.port, requests, concurrency=32, seconds=1.0)
        mean = mean_batch(served, "minilm-l6")
    assert attempts.is_good.all()
    assert (mean > 1) if enabled else (mean == 1)
