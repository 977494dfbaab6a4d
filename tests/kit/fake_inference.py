"""An engine without models: answers at once, or once a gate opens, or as it is told to fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from palio.core.errors import BadRequest, NotFound, PalioError
from palio.core.manifest import Manifest
from palio.core.ports import ModelState
from palio.core.requests import InferRequest, InferResponse, Timings, WhenDone
from palio.core.tensors import BYTES, Array, Tensor, TensorSpec
from palio.wire.texts import read_texts

TOY = Manifest(
    name="toy",
    task="tensor",
    platform="toy",
    inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    outputs=(TensorSpec("y", "FP32", (-1, 4)),),
    graph_inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    graph_outputs=(TensorSpec("y", "FP32", (-1, 4)),),
    artifact="toy.json",
    artifact_sha256="0" * 64,
    weights="none",
)
TEXT = Manifest(
    name="text",
    task="text-embedding",
    platform="toy",
    inputs=(TensorSpec("text", BYTES, (-1,)),),
    outputs=(TensorSpec("embedding", "FP32", (-1, 8)),),
    graph_inputs=(TensorSpec("input_ids", "INT64", (-1, -1)),),
    graph_outputs=(TensorSpec("embedding", "FP32", (-1, 8)),),
    artifact="text.onnx",
    artifact_sha256="1" * 64,
    weights="planted",
)


@dataclass(eq=False, slots=True)
class FakePending:
    """A call the fake has taken; remembers whether its caller left."""

    request: InferRequest
    when_done: WhenDone
    timings: Timings
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass(eq=False, slots=True)
class FakeInference:
    """Implements `core.ports.Inference`: `toy` doubles its rows, `text` counts its bytes.

    With `is_held` set, calls wait until `release`. `refusal` is raised at once, `failure` is what
    becomes of calls once they are due. `seen` remembers every request, `calls` every call.
    """

    clock_now: Callable[[], int]
    is_held: bool = False
    ready: bool = True
    refusal: PalioError | None = None
    failure: PalioError | None = None
    answer: Callable[[InferRequest], Tensor] | None = None
    remembers: bool = True
    seen: list[InferRequest] = field(default_factory=list)
    calls: list[FakePending] = field(default_factory=list)
    states: dict[str, ModelState] = field(default_factory=dict)
    _held: deque[FakePending] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for manifest in (TOY, TEXT):
            self.states[manifest.name] = ModelState(
                manifest=manifest, is_ready=True, reason="", info=None
            )

    def infer(self, request: InferRequest, when_done: WhenDone) -> FakePending:
        if self.refusal is not None:
            raise self.refusal
        self._check(request)
        timings = Timings(request.first_read_ns, request.read_ns)
        pending = FakePending(request, when_done, timings)
        if self.remembers:
            self.seen.append(request)
            self.calls.append(pending)
        if self.is_held:
            self._held.append(pending)
        else:
            self._finish(pending)
        return pending

    def manifest(self, model: str) -> Manifest | None:
        state = self.states.get(model)
        return None if state is None else state.manifest

    def models(self) -> Mapping[str, ModelState]:
        return self.states

    def is_ready(self) -> bool:
        return self.ready and all(state.is_ready for state in self.states.values())

    def unready(self, model: str, reason: str = "loading") -> None:
        """From now on `model` says that it cannot answer."""
        self.states[model] = replace(self.states[model], is_ready=False, reason=reason)

    def release(self, count: int | None = None) -> None:
        """Answer the first `count` held calls, or all of them, oldest first."""
        for _ in range(len(self._held) if count is None else count):
            self._finish(self._held.popleft())

    def release_last(self) -> None:
        """Answer the youngest held call: answers need not come in order."""
        self._finish(self._held.pop())

    def _check(self, request: InferRequest) -> None:
        state = self.states.get(request.model)
        if state is None:
            raise NotFound(f"there is no model {request.model!r}")
        if request.version not in ("", state.manifest.version):
            raise NotFound(f"there is no version {request.version!r}")
        spec, given = state.manifest.inputs[0], request.inputs[0]
        if (given.name, given.datatype) != (spec.name, spec.datatype):
            raise BadRequest(f"{spec.name} of {spec.datatype} is wanted", field="inputs[0]")
        if not spec.accepts(given.shape):
            raise BadRequest(f"not of shape {spec.shape}", field="inputs[0].shape")
        if state.manifest.task == "text-embedding":
            read_texts(given.data, 1_000, "inputs[0].data")
        known = {output.name for output in state.manifest.outputs}
        for index, name in enumerate(request.outputs):
            if name not in known:
                raise BadRequest(f"no output {name!r}", field=f"outputs[{index}].name")

    def _finish(self, pending: FakePending) -> None:
        if pending.is_cancelled:
            return
        request, timings = pending.request, pending.timings
        timings.prepared_ns = timings.taken_ns = timings.read_ns
        if self.failure is not None:
            pending.when_done(self.failure)
            return
        timings.batch_rows = len(request.inputs[0].data)
        timings.computed_ns = self.clock_now()
        pending.when_done(
            InferResponse(
                model=request.model,
                version="1",
                id=request.id,
                outputs=(self._output(request),),
                timings=timings,
                tokens=3 * timings.batch_rows if request.model == "text" else 0,
            )
        )

    def _output(self, request: InferRequest) -> Tensor:
        data = request.inputs[0].data
        if self.answer is not None:
            return self.answer(request)
        if request.model == "toy":
            return Tensor("y", "FP32", data * np.float32(2))
        return Tensor("embedding", "FP32", vectors_of(list(data)))


def vectors_of(texts: list[bytes]) -> Array:
    """What the text model makes of its texts: how often each residue modulo 8 occurs in them."""
    return np.array(
        [np.bincount(np.frombuffer(text, np.uint8) % 8, minlength=8) for text in texts], np.float32
    )
