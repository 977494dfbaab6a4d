"""A model that needs no file and costs what it is told: y is x doubled.

For trying the server (`palio serve zoo:toy`), for tests and for teaching a batcher on known costs.
It fails, stalls and answers nonsense on demand: an option such as `fail_when: 13` names the value
in x that brings it about.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from palio.backends.effect import demand
from palio.backends.options import Options
from palio.core.errors import BackendFailed, RowRejected, SettingsError
from palio.core.manifest import Manifest
from palio.core.ports import BackendInfo, Placement
from palio.core.tensors import Array, datatype_of, dtype_of

NAME: Final = "toy"
OPTIONS: Final = (
    "base_ms",
    "per_row_ms",
    "busy",
    "fail_when",
    "reject_when",
    "stall_when",
    "stall_ms",
    "nan_when",
    "wrong_shape",
)

Sleep = Callable[[float], None]


class ToyFailed(Exception):
    """The failure that `fail_when` asks for; no error of the house, as a model's would not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyRule:
    """What a run costs, and which value in x brings which trouble; None brings none."""

    base_s: float = 0.0
    per_row_s: float = 0.0
    busy: bool = False
    fail_when: float | None = None
    reject_when: float | None = None
    stall_when: float | None = None
    stall_s: float = 60.0
    nan_when: float | None = None
    wrong_shape: bool = False


def read_rule(options: Options) -> ToyRule:
    """The rule that a user's options describe."""
    return ToyRule(
        base_s=options.milliseconds("base_ms"),
        per_row_s=options.milliseconds("per_row_ms"),
        busy=options.flag("busy", default=False),
        fail_when=options.number("fail_when"),
        reject_when=options.number("reject_when"),
        stall_when=options.number("stall_when"),
        stall_s=options.milliseconds("stall_ms", default=60_000),
        nan_when=options.number("nan_when"),
        wrong_shape=options.flag("wrong_shape", default=False),
    )


class ToyBackend:
    """Doubles one floating tensor, at a cost and with faults by its rule.

    A test passes its own `sleep` and `gate`; a stalled run goes on once the gate is set.
    """

    def __init__(
        self,
        info: BackendInfo,
        rule: ToyRule,
        *,
        sleep: Sleep | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.info: Final = info
        self.gate: Final = gate or threading.Event()
        self._rule: Final = rule
        self._spend: Final = sleep or (spin if rule.busy else time.sleep)
        self._is_open = True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not self._is_open:
            raise BackendFailed("the toy is closed")
        x = self._read(feeds)
        rule = self._rule
        cost_s = rule.base_s + rule.per_row_s * len(x)
        if cost_s:
            self._spend(cost_s)
        if _holds(x, rule.stall_when):
            self.gate.wait(rule.stall_s)
        if _holds(x, rule.fail_when):
            raise ToyFailed(f"x holds {rule.fail_when:g}, and fail_when says to fail then")
        if _holds(x, rule.reject_when):
            raise RowRejected(f"x holds {rule.reject_when:g}, which this model cannot take")
        y = x * x.dtype.type(2)
        if rule.nan_when is not None:
            y[x == rule.nan_when] = np.nan
        return {self.info.outputs[0].name: y[:-1] if rule.wrong_shape else y}

    def close(self) -> None:
        """Also lets a stalled run go on, so that stopping never waits for a stall."""
        self._is_open = False
        self.gate.set()

    def _read(self, feeds: Mapping[str, Array]) -> Array:
        (spec,) = self.info.inputs
        if set(feeds) != {spec.name}:
            raise BackendFailed(f"the toy takes {spec.name}, not {', '.join(feeds) or 'nothing'}")
        x = feeds[spec.name]
        if x.dtype != dtype_of(spec.datatype) or not spec.accepts(x.shape):
            raise BackendFailed(
                f"{spec.name} is {spec.datatype} of shape {list(spec.shape)}, "
                f"not {datatype_of(x)} of {list(x.shape)}"
            )
        return x


def load(folder: str, manifest: Manifest, wanted: Placement) -> ToyBackend:
    """A toy for `manifest`; there is nothing to read in `folder`."""
    del folder
    return load_toy(manifest, wanted)


def load_toy(
    manifest: Manifest,
    wanted: Placement,
    *,
    sleep: Sleep | None = None,
    gate: threading.Event | None = None,
) -> ToyBackend:
    """A toy whose time and stalls a test may hold in its hand."""
    options = Options(NAME, wanted.options, OPTIONS)
    rule = read_rule(options)
    if len(manifest.graph_inputs) != 1 or len(manifest.graph_outputs) != 1:
        raise SettingsError(f"{manifest.name} is no toy: it has not one input and one output")
    if not manifest.graph_inputs[0].datatype.startswith("FP"):
        raise SettingsError(f"{manifest.name} is no toy: its input holds no FP numbers")
    effective = Placement(
        device="cpu", precision=manifest.precision, threads=1, options=wanted.options
    )
    demand(NAME, manifest.name, wanted, effective, allow_fallback=options.allow_fallback)
    info = BackendInfo(
        backend=NAME,
        requested=wanted,
        effective=effective,
        inputs=manifest.graph_inputs,
        outputs=manifest.graph_outputs,
    )
    return ToyBackend(info, rule, sleep=sleep, gate=gate)


def spin(seconds: float) -> None:
    """Keep a CPU busy, and Python's lock held, for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _holds(x: Array, value: float | None) -> bool:
    return value is not None and bool((x == value).any())
