"""The one definition of `infer`: every door, pipeline step and replica calls `Runtime.infer`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from palio.core.errors import NotFound, NotReady
from palio.core.manifest import Manifest
from palio.core.ports import Clock, ModelState
from palio.core.requests import InferRequest, Pending, WhenDone
from palio.engine.model import ServedModel


class Runtime:
    """The models this server has, by name. Implements `palio.core.ports.Inference`."""

    def __init__(self, models: Sequence[ServedModel], clock: Clock) -> None:
        self._models: Mapping[str, ServedModel] = {model.spec.name: model for model in models}
        self._clock = clock
        self._is_stopping = False

    async def load(self) -> None:
        """Load every model, one after the other: two at once would only fight for the CPUs.

        Raises what stopped the first one that failed.
        """
        for model in self._models.values():
            await model.load()

    def infer(self, request: InferRequest, when_done: WhenDone) -> Pending:
        """Take one question; see `palio.core.ports.Inference.infer`."""
        model = self._models.get(request.model)
        if model is None:
            raise NotFound(self._unknown(request.model))
        if self._is_stopping:
            raise NotReady("the server is stopping")
        return model.infer(request, when_done)

    def models(self) -> Mapping[str, ModelState]:
        """Every configured model by name, loading ones included."""
        return {name: model.state() for name, model in self._models.items()}

    def manifest(self, model: str) -> Manifest | None:
        """What a model takes and gives; None if there is no such model."""
        served = self._models.get(model)
        return None if served is None else served.spec.manifest

    def queues(self) -> Mapping[str, tuple[int, int]]:
        """For each model, how many rows wait and how many batches run."""
        return {
            name: (model.waiting_rows, model.running_batches)
            for name, model in self._models.items()
        }

    def truncated(self) -> Mapping[str, int]:
        """For each model, how many texts were cut to its limit so far."""
        return {name: model.truncated for name, model in self._models.items()}

    def is_ready(self) -> bool:
        """Every model answers and nobody has asked us to stop."""
        return not self._is_stopping and all(
            model.state().is_ready for model in self._models.values()
        )

    def begin_stop(self) -> None:
        """Say we are not ready from now on, so that balancers send no more; still answer."""
        self._is_stopping = True

    async def stop(self, until_ns: int) -> None:
        """Answer what is here while there is time, then let go of every model."""
        self._is_stopping = True
        async with asyncio.TaskGroup() as group:
            for model in self._models.values():
                group.create_task(model.stop(until_ns))

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name, self._models, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(self._models)}"
        return f"there is no model {name[:80]!r}{hint}"
