"""What the rooms above must bring: the shapes of a clock, a backend and a model source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from palio.core.manifest import Manifest
from palio.core.requests import InferRequest, Pending, WhenDone
from palio.core.tensors import Array, TensorSpec


class Bell(Protocol):
    """Wakes one thread that waits for work; used only while holding the lock it was made with."""

    def ring(self) -> None:
        """Wake one waiter, if there is any."""
        ...

    def wait(self, until_ns: int | None) -> None:
        """Let go of the lock until rung or until the clock reaches `until_ns`; then hold it."""
        ...


class Alarm(Protocol):
    """A call arranged for later."""

    def cancel(self) -> None:
        """It will not be made after all."""
        ...


class Lock(Protocol):
    """Anything that one thread at a time may hold, as a context manager too."""

    def __enter__(self) -> bool: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...


class Clock(Protocol):
    """The only source of time below the edges."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds; only differences mean anything."""
        ...

    def alarm(self, at_ns: int, ring: Callable[[], None]) -> Alarm:
        """Call `ring` on the event loop once the clock reaches `at_ns`."""
        ...

    def bell(self, lock: Lock) -> Bell:
        """A bell for threads that hold `lock`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a model runs; one value as asked for, one as it came out."""

    device: str
    precision: str
    threads: int
    providers: tuple[str, ...] = ()
    options: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """A backend's report on itself: what was requested, and what is really in effect."""

    backend: str
    requested: Placement
    effective: Placement
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_concurrent: bool = False


class Backend(Protocol):
    """One loaded model. `run` is called from one thread at a time unless `is_concurrent`."""

    @property
    def info(self) -> BackendInfo:
        """What was asked for, and what is in effect."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by input name in, arrays by output name out, rows in the same order.

        Raises:
            RowRejected: a row's values caused the failure; the others would run without it.
            Exception: anything else fails the whole batch.
        """
        ...

    def close(self) -> None:
        """Let go of memory and devices; `run` is not called again."""
        ...


class LoadBackend(Protocol):
    """How a backend is registered: a callable that loads one instance of a model."""

    def __call__(self, folder: str, manifest: Manifest, wanted: Placement) -> Backend:
        """Load the artifact in `folder`; never settle for less than `wanted` in silence."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What a door may say of a model: which one it is and whether it answers."""

    manifest: Manifest
    is_ready: bool
    reason: str
    info: BackendInfo | None


class Inference(Protocol):
    """What every door calls: the one definition of `infer`."""

    def infer(self, request: InferRequest, when_done: WhenDone) -> Pending:
        """Take the question; `when_done` is called on the event loop with answer or error.

        Raises:
            PalioError: refused at once; `when_done` is then never called.
        """
        ...

    def manifest(self, model: str) -> Manifest | None:
        """What a model takes and gives; None if there is no such model. Asked on every request."""
        ...

    def models(self) -> Mapping[str, ModelState]:
        """Every configured model by name, loading ones included."""
        ...

    def is_ready(self) -> bool:
        """Every model answers and nobody has asked us to stop."""
        ...
