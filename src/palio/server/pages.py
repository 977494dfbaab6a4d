"""What is answered without asking a model: health, readiness, metadata, metrics."""

from __future__ import annotations

from typing import Final

import orjson

from palio.core.errors import NotFound, NotReady
from palio.core.ports import ModelState
from palio.server.desk import Desk
from palio.server.heads import JSON
from palio.server.routes import EMBEDDINGS_PATH, Match
from palio.wire.oip_metadata import (
    live_body,
    model_metadata,
    model_ready_body,
    ready_body,
    server_metadata,
)

_LINKS: Final = {
    "metadata": "/v2",
    "live": "/v2/health/live",
    "ready": "/v2/health/ready",
    "embeddings": EMBEDDINGS_PATH,
    "metrics": "/metrics",
}


def page_of(desk: Desk, match: Match) -> tuple[str, bytes]:
    """Content type and body; raises `NotFound` or `NotReady` where that is the answer."""
    match match.route.kind:
        case "alive" | "live":
            return JSON, live_body()
        case "ready":
            return JSON, _ready(desk)
        case "server":
            return JSON, server_metadata(desk.version)
        case "model":
            return JSON, model_metadata(match.model, _state(desk, match).manifest)
        case "model_ready":
            return JSON, _model_ready(desk, match)
        case "metrics":
            body, content_type = desk.metrics()
            return content_type, body
        case _:
            return JSON, _root(desk)


def _ready(desk: Desk) -> bytes:
    if not desk.inference.is_ready():
        waiting = [name for name, state in desk.inference.models().items() if not state.is_ready]
        raise NotReady(f"not ready: {', '.join(waiting) or 'the server is stopping'}")
    return ready_body()


def _model_ready(desk: Desk, match: Match) -> bytes:
    state = _state(desk, match)
    if not state.is_ready:
        raise NotReady(f"{match.model} is not ready: {state.reason}")
    return model_ready_body(match.model)


def _root(desk: Desk) -> bytes:
    models = {name: f"/v2/models/{name}" for name in desk.inference.models()}
    return orjson.dumps(
        {"name": "palio", "version": desk.version, "links": _LINKS, "models": models}
    )


def _state(desk: Desk, match: Match) -> ModelState:
    state = desk.inference.models().get(match.model)
    if state is None:
        raise NotFound(f"there is no model {match.model[:80]!r}")
    if match.version and match.version != state.manifest.version:
        raise NotFound(
            f"{match.model} has no version {match.version[:40]!r}; "
            f"it is at {state.manifest.version}"
        )
    return state
