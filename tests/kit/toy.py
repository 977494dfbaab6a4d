"""The toy backend with its time and its stalls in the test's hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from palio.backends.toy import ToyBackend, load_toy
from palio.core.manifest import Manifest
from palio.core.ports import Placement
from palio.core.tensors import TensorSpec

_X = (TensorSpec("x", "FP32", (-1, -1)),)
_Y = (TensorSpec("y", "FP32", (-1, -1)),)

MANIFEST = Manifest(
    name="toy",
    task="tensor",
    platform="toy",
    inputs=_X,
    outputs=_Y,
    graph_inputs=_X,
    graph_outputs=_Y,
    artifact="",
    artifact_sha256="",
    weights="none",
)

Given = Mapping[str, str | int | bool]


def make_toy(
    options: Given | None = None,
    *,
    sleep: Callable[[float], None] | None = None,
    gate: threading.Event | None = None,
) -> ToyBackend:
    """A toy with these options; `sleep` takes seconds, and a stalled run waits for `gate`."""
    wanted = Placement(device="cpu", precision="fp32", threads=1, options=options or {})
    return load_toy(MANIFEST, wanted, sleep=sleep, gate=gate)
