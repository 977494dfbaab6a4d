"""What the Open Inference Protocol says about a server and its models, as JSON bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from palio.core.manifest import Manifest
from palio.core.tensors import TensorSpec

# C adds binary_tensor_data, statistics and model_configuration.
EXTENSIONS: Final[tuple[str, ...]] = ()


def server_metadata(version: str) -> bytes:
    """`GET /v2`: which server this is."""
    return orjson.dumps({"name": "palio", "version": version, "extensions": EXTENSIONS})


def model_metadata(name: str, manifest: Manifest) -> bytes:
    """`GET /v2/models/{model}`: what a client sends and gets, batch axis included."""
    return orjson.dumps(
        {
            "name": name,
            "versions": [manifest.version],
            "platform": manifest.platform,
            "inputs": _specs(manifest.inputs),
            "outputs": _specs(manifest.outputs),
        }
    )


def live_body() -> bytes:
    """`GET /v2/health/live`."""
    return b'{"live":true}'


def ready_body() -> bytes:
    """`GET /v2/health/ready`, when it is."""
    return b'{"ready":true}'


def model_ready_body(name: str) -> bytes:
    """`GET /v2/models/{model}/ready`, when it is."""
    return orjson.dumps({"name": name, "ready": True})


def _specs(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": s.name, "datatype": s.datatype, "shape": s.shape} for s in specs]
