"""Models to serve in tests: a doubler of tensors and an embedder of letters, with gates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from palio.core.batching import BatchRule
from palio.core.errors import PalioError
from palio.core.manifest import Manifest, Tokenizer
from palio.core.ports import Backend, BackendInfo, LoadBackend, Placement
from palio.core.requests import InferRequest, InferResponse, Outcome
from palio.core.tensors import Array, Tensor, TensorSpec
from palio.engine.model import ModelSpec
from palio.engine.runtime import Runtime
from palio.engine.texts import Ids
from tests.kit.clock import ThreadGate

X = TensorSpec("x", "FP32", (-1, 4))
Y = TensorSpec("y", "FP32", (-1, 4))
DOUBLER = Manifest(
    name="doubler",
    task="tensor",
    platform="fake",
    inputs=(X,),
    outputs=(Y,),
    graph_inputs=(X,),
    graph_outputs=(Y,),
    artifact="",
    artifact_sha256="",
    weights="none",
)
LETTERS = replace(
    DOUBLER,
    name="letters",
    task="text-embedding",
    inputs=(TensorSpec("text", "BYTES", (-1,)),),
    outputs=(TensorSpec("embedding", "FP32", (-1, 2)),),
    graph_inputs=(
        TensorSpec("input_ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
    ),
    graph_outputs=(TensorSpec("embedding", "FP32", (-1, 2)),),
    tokenizer=Tokenizer(file="", max_tokens=100, pad_id=7),
)
CPU = Placement(device="cpu", precision="fp32", threads=1)


class FakeBackend:
    """Runs `function` on the feeds, remembers them, and waits at a gate if it is given one."""

    def __init__(
        self,
        manifest: Manifest,
        function: Callable[[Mapping[str, Array]], dict[str, Array]],
        gate: ThreadGate | None = None,
    ) -> None:
        self.info = BackendInfo(
            backend="fake",
            requested=CPU,
            effective=CPU,
            inputs=manifest.graph_inputs,
            outputs=manifest.graph_outputs,
        )
        self.feeds: list[dict[str, Array]] = []
        self.is_closed = False
        self._function = function
        self._gate = gate

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.feeds.append(dict(feeds))
        if self._gate is not None:
            self._gate.pass_through()
        return self._function(feeds)

    def close(self) -> None:
        self.is_closed = True


def double(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": feeds["x"] * 2}


def count_letters(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """How many ids, and their sum: padding that leaks in changes both."""
    mask = feeds["attention_mask"]
    ids = feeds["input_ids"]
    return {"embedding": np.stack([mask.sum(1), (ids * mask).sum(1)], 1).astype(np.float32)}


class LetterEncoder:
    """One id for each letter."""

    truncated = 0

    def encode(self, text: str) -> Ids:
        return [ord(letter) for letter in text]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]


def spec_of(manifest: Manifest, *backends: FakeBackend, **changes: object) -> ModelSpec:
    """A spec whose instances are just these backends."""
    left = list(backends)

    def load(folder: str, manifest: Manifest, wanted: Placement) -> Backend:
        return left.pop(0)

    loads: LoadBackend = load
    spec = ModelSpec(
        name=manifest.name,
        folder="",
        manifest=manifest,
        load=loads,
        wanted=CPU,
        instances=len(backends),
        rule=BatchRule(max_rows=4, capacity_rows=16),
        deadline_ns=10**9,
        open_encoder=LetterEncoder if manifest.tokenizer else None,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def tensors(rows: Sequence[Sequence[float]]) -> Tensor:
    return Tensor("x", "FP32", np.array(rows, np.float32))


def texts(*items: str) -> Tensor:
    data = np.empty(len(items), np.object_)
    data[:] = [item.encode() for item in items]
    return Tensor("text", "BYTES", data)


async def ask(runtime: Runtime, request: InferRequest) -> InferResponse:
    """Put one question and wait; an error is raised, and to be cancelled is to leave."""
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def when_done(outcome: Outcome) -> None:
        # A task that is cancelled cancels what it awaits at once, and runs `finally` later.
        if not answer.done():
            answer.set_result(outcome)

    pending = runtime.infer(request, when_done)
    try:
        outcome = await answer
    finally:
        pending.cancel()
    if isinstance(outcome, PalioError):
        raise outcome
    return outcome


def nobody(outcome: object) -> None:
    """For a question that must not be answered."""
    raise AssertionError(f"answered after all: {outcome}")
