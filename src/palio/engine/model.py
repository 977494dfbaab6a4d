"""One served model: loaded, warmed up, asked, drained, unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

import numpy as np

from palio.core.batching import BatchRule
from palio.core.costs import CostLearner
from palio.core.errors import BadRequest, InternalError, NotFound, NotReady, PalioError, RowRejected
from palio.core.manifest import Manifest
from palio.core.policies import alone, most_useful_per_second
from palio.core.ports import Backend, Clock, LoadBackend, ModelState, Placement
from palio.core.requests import InferRequest, InferResponse, Timings, WhenDone
from palio.core.tensors import Tensor, dtype_of
from palio.engine.batcher import Batcher, BatchRecord
from palio.engine.calls import Call, Piece
from palio.engine.shapes import (
    Rows,
    check_inputs,
    join,
    run_tensors,
    run_text,
    tensor_pieces,
    text_piece,
)
from palio.engine.texts import Encoder, Ids, TextPreparer, TokeniseThread
from palio.wire.texts import read_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything decided about a model before it is loaded."""

    name: str
    folder: str
    manifest: Manifest
    load: LoadBackend
    wanted: Placement
    instances: int
    rule: BatchRule
    deadline_ns: int
    is_batching: bool = True
    max_text_chars: int = 8192
    open_encoder: Callable[[], Encoder] | None = None


class Stage(Enum):
    """Where in its life a model is; the value is what a person is told."""

    LOADING = "the model is loading"
    READY = "ready"
    DRAINING = "the model is draining"
    STOPPED = "the model has stopped"
    FAILED = "the model failed to load"


class Question:
    """A request under way, and the `Pending` its door holds."""

    __slots__ = ("_call", "_has_left", "_model", "_when_done", "request", "timings", "tokens")

    def __init__(self, model: ServedModel, request: InferRequest, when_done: WhenDone) -> None:
        self._model = model
        self._when_done = when_done
        self._call: Call[Rows, Rows] | None = None
        self._has_left = False
        self.request = request
        self.tokens = 0
        self.timings = Timings(request.first_read_ns, request.read_ns)

    def cancel(self) -> None:
        """The caller has left; what waits is withdrawn and `when_done` is never called."""
        self._has_left = True
        call, self._call = self._call, None
        if call is not None:
            self._model.cancel(call)

    def queue(self, pieces: Sequence[Piece[Rows]]) -> None:
        """The rows are ready: join the queue; raises what `Batcher.submit` raises."""
        if not self._has_left:
            self._call = self._model.submit(self, pieces)

    def queue_later(self, ids: Sequence[Ids]) -> None:
        """As `queue`, for rows that became ready after `infer` had returned."""
        try:
            self.queue(self._model.text_pieces(self, ids))
        except PalioError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """It will not be answered; anything but our own kinds of error is our own fault."""
        if self._has_left:
            return
        if not isinstance(error, PalioError):
            fault = InternalError("the request could not be prepared")
            fault.__cause__ = error
            error = fault
        self._when_done(error)

    def settle(self, call: Call[Rows, Rows]) -> None:
        """The batcher is done with it."""
        self._call = None
        if call.error is not None:
            self.fail(call.error)
        elif not self._has_left:
            self._when_done(self._model.respond(self, join(call.results())))


class ServedModel:
    """A model behind its batcher. Lives on the event loop; loading happens off it."""

    def __init__(
        self,
        spec: ModelSpec,
        clock: Clock,
        *,
        on_batch: Callable[[str, BatchRecord], None] = lambda _name, _record: None,
        tokenise_thread: TokeniseThread | None = None,
    ) -> None:
        self.spec = spec
        self.stage = Stage.LOADING
        self.reason = ""
        self._clock = clock
        self._on_batch = on_batch
        self._tokenise_thread = tokenise_thread
        self._backends: list[Backend] = []
        self._batcher: Batcher[Rows, Rows] | None = None
        self._texts: TextPreparer | None = None
        self._learner = CostLearner()

    # --- life -------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load every instance and warm it up, off the loop; afterwards it is ready or has failed.

        Raises whatever stopped it, and says it in `state()` from then on.
        """
        try:
            encoder = await asyncio.get_running_loop().run_in_executor(None, self._load_all)
        except Exception as error:
            self.stage = Stage.FAILED
            self.reason = f"{type(error).__name__}: {error}"
            raise
        if encoder is not None:
            self._texts = TextPreparer(encoder, self._clock.now_ns, thread=self._tokenise_thread)
        name = self.spec.name
        self._batcher = Batcher(
            self.spec.rule,
            [self._worker_run(backend) for backend in self._backends],
            self._clock,
            policy=most_useful_per_second if self._may_share else alone,
            learner=self._learner,
            on_batch=lambda record: self._on_batch(name, record),
            name=name,
        )
        self._batcher.start()
        self.stage = Stage.READY

    async def stop(self, until_ns: int) -> None:
        """Refuse new calls, answer those here while there is time, then let go of the model."""
        self.stage = Stage.DRAINING
        has_all_home = True
        if self._batcher is not None:
            await self._batcher.drain(until_ns)
            # Those that could not be answered are told before the workers are waited for.
            has_all_home = await self._batcher.stop(max(until_ns, self._clock.now_ns() + 10**9))
        self.stage = Stage.STOPPED
        if has_all_home:
            # A backend must not be closed under a worker that is still inside it.
            for backend in self._backends:
                backend.close()

    def state(self) -> ModelState:
        """What a door may say of it."""
        is_ready = self.stage is Stage.READY and (
            self._batcher is not None and self._batcher.is_working
        )
        reason = "" if is_ready else self.reason or self.stage.value
        if self.stage is Stage.READY and not is_ready:
            reason = "no worker is left"
        info = self._backends[0].info if self._backends else None
        return ModelState(manifest=self.spec.manifest, is_ready=is_ready, reason=reason, info=info)

    @property
    def waiting_rows(self) -> int:
        """How many rows wait in its queue."""
        return 0 if self._batcher is None else self._batcher.waiting_rows

    @property
    def running_batches(self) -> int:
        """How many batches are being computed."""
        return 0 if self._batcher is None else self._batcher.running_batches

    @property
    def truncated(self) -> int:
        """How many texts were cut to the model's limit so far."""
        return 0 if self._texts is None else self._texts.truncated

    @property
    def _may_share(self) -> bool:
        """Whether rows of different calls may run together."""
        return self.spec.is_batching and self.spec.manifest.is_batchable

    # --- one question -----------------------------------------------------------------------

    def infer(self, request: InferRequest, when_done: WhenDone) -> Question:
        """Take one question; see `palio.core.ports.Inference.infer`."""
        if self._batcher is None or self.stage is not Stage.READY:
            raise NotReady(f"{self.spec.name}: {self.reason or self.stage.value}")
        manifest = self.spec.manifest
        if request.version and request.version != manifest.version:
            raise NotFound(
                f"{self.spec.name} has no version {request.version[:40]!r}; "
                f"it has {manifest.version}"
            )
        self._check_outputs(request)
        given = check_inputs(manifest, request.inputs)
        question = Question(self, request, when_done)
        if self._texts is None:
            question.queue(tensor_pieces(manifest, given, self.spec.rule.max_rows))
        else:
            self._prepare_texts(question, given)
        return question

    def submit(self, question: Question, pieces: Sequence[Piece[Rows]]) -> Call[Rows, Rows]:
        """Queue a question's rows under its deadline."""
        if self._batcher is None:
            raise NotReady(self.stage.value)
        request, timings = question.request, question.timings
        if not timings.first_read_ns:
            timings.first_read_ns = timings.read_ns = self._clock.now_ns()
        timeout = self.spec.deadline_ns if request.timeout_ns is None else request.timeout_ns
        return self._batcher.submit(
            pieces,
            question.settle,
            timings=timings,
            deadline_ns=timings.first_read_ns + timeout,
            priority=request.priority,
            tag=request.correlation_id,
        )

    def cancel(self, call: Call[Rows, Rows]) -> None:
        """A caller has left."""
        if self._batcher is not None:
            self._batcher.cancel(call)

    def text_pieces(self, question: Question, ids: Sequence[Ids]) -> list[Piece[Rows]]:
        """One piece a text; what they come to in tokens is noted on the question."""
        question.tokens = sum(map(len, ids))
        return [text_piece(one) for one in ids]

    def respond(self, question: Question, arrays: Rows) -> InferResponse:
        """The answer, with the outputs that were asked for."""
        request = question.request
        outputs = tuple(
            Tensor(spec.name, spec.datatype, array)
            for spec, array in zip(self.spec.manifest.outputs, arrays, strict=True)
            if not request.outputs or spec.name in request.outputs
        )
        return InferResponse(
            model=self.spec.name,
            version=self.spec.manifest.version,
            id=request.id,
            outputs=outputs,
            timings=question.timings,
            tokens=question.tokens,
        )

    def _check_outputs(self, request: InferRequest) -> None:
        known = [spec.name for spec in self.spec.manifest.outputs]
        for index, name in enumerate(request.outputs):
            if name not in known:
                raise BadRequest(
                    f"{self.spec.name} has no output {name[:80]!r}; it gives {', '.join(known)}",
                    field=f"outputs[{index}].name",
                )

    def _prepare_texts(self, question: Question, given: dict[str, Tensor]) -> None:
        assert self._texts is not None  # noqa: S101  (only text models come here)
        tensor = given[self.spec.manifest.inputs[0].name]
        texts = read_texts(tensor.data, self.spec.max_text_chars, "inputs[0].data")
        is_returned = False

        def when_encoded(ids: Sequence[Ids]) -> None:
            # What is ready before infer() returns may still be refused by raising; what becomes
            # ready later must answer through the caller's callback.
            if is_returned:
                question.queue_later(ids)
            else:
                question.queue(self.text_pieces(question, ids))

        self._texts.prepare(texts, when_encoded, question.fail)
        is_returned = True

    # --- loading, off the loop --------------------------------------------------------------

    def _load_all(self) -> Encoder | None:
        spec = self.spec

        def load_one(_: int) -> Backend:
            return spec.load(spec.folder, spec.manifest, spec.wanted)

        with ThreadPoolExecutor(spec.instances + 1, thread_name_prefix="load") as pool:
            opening = None if spec.open_encoder is None else pool.submit(spec.open_encoder)
            self._backends = list(pool.map(load_one, range(spec.instances)))
            encoder = None if opening is None else opening.result()
        self._warm_up()
        return encoder

    def _worker_run(self, backend: Backend) -> Callable[[Sequence[Rows]], Sequence[Rows]]:
        make = run_text if self.spec.manifest.task == "text-embedding" else run_tensors
        return make(self.spec.manifest, backend.run)

    def _warm_up(self) -> None:
        """Run each instance once, and the first a few times more to learn what runs cost."""
        samples = list(_warm_up_batches(self.spec.manifest, self.spec.rule.max_rows))
        for number, backend in enumerate(self._backends):
            run = self._worker_run(backend)
            for batch, length in samples[: None if number == 0 else 1]:
                began = self._clock.now_ns()
                try:
                    run(batch)
                except RowRejected:
                    # It runs; it only does not like the made-up values.
                    return
                if number == 0 and batch is not samples[0][0]:
                    rows = len(batch) if length > 1 else len(batch[0][0])
                    self._learner.observe(rows, length, self._clock.now_ns() - began)


def _warm_up_batches(manifest: Manifest, max_rows: int) -> list[tuple[list[Rows], int]]:
    """Small made-up batches and their lengths; none where a free axis leaves the shape open."""
    if manifest.task == "text-embedding":
        shapes = ((1, 8), (1, 8), (min(8, max_rows), 8), (1, 48), (min(4, max_rows), 48), (1, 128))
        return [
            ([(np.full(length, 1, np.int64),) for _ in range(rows)], length)
            for rows, length in shapes
        ]
    inner = [spec.shape[1 if manifest.is_batchable else 0 :] for spec in manifest.inputs]
    if any(-1 in shape for shape in inner):
        return []
    sizes = (1, 1, min(8, max_rows)) if manifest.is_batchable else (1,)
    batches: list[tuple[list[Rows], int]] = []
    for rows in sizes:
        leading = (rows,) if manifest.is_batchable else ()
        arrays = tuple(
            np.zeros((*leading, *shape), dtype_of(spec.datatype))
            for spec, shape in zip(manifest.inputs, inner, strict=True)
        )
        batches.append(([arrays], 1))
    return batches
