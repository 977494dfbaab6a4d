"""Where a request that has been read in full is put to whoever can answer it."""

from __future__ import annotations

from typing import Final

from palio.core.errors import NotFound, PalioError, TooLarge, UnsupportedMediaType, ValidationFailed
from palio.core.manifest import Manifest
from palio.core.requests import InferRequest
from palio.core.tensors import BYTES
from palio.server.desk import Desk
from palio.server.exchange import Exchange
from palio.server.pages import page_of
from palio.wire.embeddings import WRITERS, read_embeddings
from palio.wire.oip_json import read_infer

_ANY_NUMBER: Final = (-1,)


def begin(desk: Desk, exchange: Exchange) -> None:
    """Put the question; afterwards the exchange is answered, or its `finish` will be called."""
    try:
        if exchange.refusal is not None:
            exchange.fail(exchange.refusal)
            return
        kind = exchange.match.route.kind
        if kind == "infer":
            _infer(desk, exchange)
        elif kind == "embeddings":
            _embed(desk, exchange)
        else:
            exchange.answer(*page_of(desk, exchange.match))
    except PalioError as error:
        exchange.fail(error)
    except Exception as error:  # noqa: BLE001  (one bad request must not stop the door)
        exchange.fault(error, desk.on_fault)


def _infer(desk: Desk, exchange: Exchange) -> None:
    request = read_infer(
        _body(exchange),
        model=exchange.model,
        version=exchange.version,
        correlation_id=exchange.correlation_id,
        first_read_ns=exchange.first_read_ns,
        now_ns=desk.clock_now,
    )
    manifest = desk.inference.manifest(request.model)
    if manifest is not None:
        exchange.items = _check_items(desk, request, manifest)
        exchange.length = _length_of(request)
    _ask(desk, exchange, request)


def _embed(desk: Desk, exchange: Exchange) -> None:
    limits = desk.limits
    call = read_embeddings(
        _body(exchange), max_items=limits.max_items, max_text_chars=limits.max_text_chars
    )
    exchange.items = len(call.texts)
    exchange.length = sum(map(len, call.texts))
    exchange.encode = WRITERS[call.encoding]
    name, manifest = _embedder(desk, exchange, call.model)
    exchange.model = name
    request = call.request(
        name,
        manifest,
        correlation_id=exchange.correlation_id,
        first_read_ns=exchange.first_read_ns,
        now_ns=desk.clock_now,
    )
    _ask(desk, exchange, request)


def _ask(desk: Desk, exchange: Exchange, request: InferRequest) -> None:
    exchange.read_ns = request.read_ns
    pending = desk.inference.infer(request, exchange.finish)
    if not exchange.is_answered:
        exchange.pending = pending
    elif exchange.timings is None:
        # It failed before `infer` returned, so what is known of its time came too late for it.
        exchange.timings = pending.timings


def _body(exchange: Exchange) -> bytes:
    parts = exchange.parts
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    # A question waits for its answer far longer than for this; its bytes need not.
    exchange.parts = []
    return body


def _embedder(desk: Desk, exchange: Exchange, asked: str) -> tuple[str, Manifest]:
    """The model the caller named, or else the one this route is bound to."""
    name = asked or exchange.model
    if not name:
        raise ValidationFailed("model: say which one", field="model")
    manifest = desk.inference.manifest(name)
    if manifest is None:
        raise NotFound(f"there is no model {name[:80]!r}")
    if manifest.task != "text-embedding":
        raise UnsupportedMediaType(
            f"{name} takes tensors, not text", route=f"/v2/models/{name}/infer"
        )
    return name, manifest


def _length_of(request: InferRequest) -> int:
    """How much is asked about: characters of text, or elements."""
    return sum(
        sum(map(len, each.data.ravel())) if each.datatype == BYTES else each.data.size
        for each in request.inputs
    )


def _check_items(desk: Desk, request: InferRequest, manifest: Manifest) -> int:
    """How many rows are asked about; raises `TooLarge`."""
    first, specs = request.inputs[0], manifest.inputs
    if not (first.shape and specs and specs[0].shape[:1] == _ANY_NUMBER):
        return 1
    limits = desk.limits
    rows = first.shape[0]
    if rows > limits.max_items:
        raise TooLarge(
            "inputs[0]", size=rows, limit=limits.max_items, unit="rows", field="inputs[0].shape"
        )
    return rows
