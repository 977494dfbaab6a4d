"""Between a request's tensors and a model's rows: cut into pieces, stacked into feeds, split again.

Nothing here decides who runs together, and nothing here runs: `pieces_of` makes what the batcher
queues, `Stack` is what a worker calls around the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from palio.core.errors import BackendFailed, BadRequest
from palio.core.manifest import Manifest
from palio.core.tensors import Array, Tensor, TensorSpec
from palio.engine.calls import Piece

Rows: TypeAlias = tuple[Array, ...]
RunFeeds: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


def check_inputs(manifest: Manifest, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The request's tensors by name, held against what the model takes.

    Raises:
        BadRequest: one is missing, unknown, of another datatype or shape, or they disagree on
            how many rows there are; `field` names it.
    """
    given = {tensor.name: tensor for tensor in tensors}
    for index, tensor in enumerate(tensors):
        spec = next((s for s in manifest.inputs if s.name == tensor.name), None)
        if spec is None:
            known = ", ".join(s.name for s in manifest.inputs)
            raise BadRequest(
                f"there is no input {tensor.name[:80]!r}; the model takes {known}",
                field=f"inputs[{index}].name",
            )
        _check_one(spec, tensor, f"inputs[{index}]")
    missing = [spec.name for spec in manifest.inputs if spec.name not in given]
    if missing:
        raise BadRequest(f"{', '.join(missing)} is needed as well", field="inputs")
    if manifest.is_batchable:
        rows = {tensor.shape[0] for tensor in tensors}
        if rows == {0}:
            raise BadRequest("there are no rows to run", field="inputs[0].shape")
        if len(rows) != 1:
            raise BadRequest(
                f"the inputs disagree on the number of rows: {sorted(rows)}", field="inputs"
            )
    return given


def _check_one(spec: TensorSpec, tensor: Tensor, field: str) -> None:
    if tensor.datatype != spec.datatype:
        raise BadRequest(
            f"{spec.name} is {spec.datatype}, but {tensor.datatype} came", field=f"{field}.datatype"
        )
    if not spec.accepts(tensor.shape):
        raise BadRequest(
            f"{spec.name} has shape {list(spec.shape)}, but {list(tensor.shape)} came",
            field=f"{field}.shape",
        )


def tensor_pieces(
    manifest: Manifest, given: Mapping[str, Tensor], max_rows: int
) -> list[Piece[Rows]]:
    """A tensor request as pieces of at most `max_rows` rows; all its arrays are views.

    Rows may share a batch when their arrays agree in every axis but the first. A model without
    a batch axis gets the request whole, as one row.
    """
    arrays = tuple(given[spec.name].data for spec in manifest.inputs)
    if not manifest.is_batchable:
        return [Piece(arrays, size_bytes=sum(a.nbytes for a in arrays))]
    shape = tuple(a.shape[1:] for a in arrays)
    rows = arrays[0].shape[0]
    if rows <= max_rows:
        return [Piece(arrays, rows, 1, shape, sum(a.nbytes for a in arrays))]
    pieces: list[Piece[Rows]] = []
    for low in range(0, rows, max_rows):
        part = tuple(a[low : low + max_rows] for a in arrays)
        pieces.append(Piece(part, len(part[0]), 1, shape, sum(a.nbytes for a in part)))
    return pieces


def text_piece(ids: Sequence[int]) -> Piece[Rows]:
    """One text's token ids as a piece of one row; its length is what batches are sorted by."""
    row = np.array(ids, np.int64)
    return Piece((row,), 1, len(row), None, row.nbytes)


def run_tensors(manifest: Manifest, run: RunFeeds) -> Callable[[Sequence[Rows]], list[Rows]]:
    """What a worker calls for a tensor model: stack, run, split."""
    names = [spec.name for spec in manifest.graph_inputs]
    gives = [spec.name for spec in manifest.graph_outputs]
    batchable = manifest.is_batchable

    def run_batch(batch: Sequence[Rows]) -> list[Rows]:
        if len(batch) == 1:
            outputs = run(dict(zip(names, batch[0], strict=True)))
            rows = len(batch[0][0]) if batchable else 0
            return [_checked(outputs, gives, rows)]
        counts = [len(arrays[0]) for arrays in batch]
        feeds = {
            name: np.concatenate([arrays[i] for arrays in batch]) for i, name in enumerate(names)
        }
        return split(_checked(run(feeds), gives, sum(counts)), counts)

    return run_batch


def run_text(manifest: Manifest, run: RunFeeds) -> Callable[[Sequence[Rows]], list[Rows]]:
    """What a worker calls for a text model: pad the ids to the longest, mask, run, split."""
    ids_name, mask_name = (spec.name for spec in manifest.graph_inputs)
    gives = [spec.name for spec in manifest.graph_outputs]
    pad = manifest.tokenizer.pad_id if manifest.tokenizer else 0

    def run_batch(batch: Sequence[Rows]) -> list[Rows]:
        rows = len(batch)
        length = max(len(ids) for (ids,) in batch)
        padded = np.full((rows, length), pad, np.int64)
        mask = np.zeros((rows, length), np.int64)
        for index, (ids,) in enumerate(batch):
            padded[index, : len(ids)] = ids
            mask[index, : len(ids)] = 1
        outputs = _checked(run({ids_name: padded, mask_name: mask}), gives, rows)
        return split(outputs, [1] * rows)

    return run_batch


def split(outputs: Rows, counts: Sequence[int]) -> list[Rows]:
    """A batch's outputs as views, one tuple for each piece that went in."""
    parts: list[Rows] = []
    at = 0
    for count in counts:
        parts.append(tuple(array[at : at + count] for array in outputs))
        at += count
    return parts


def join(parts: Sequence[Rows]) -> Rows:
    """The pieces of one call back together, in order."""
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _checked(outputs: Mapping[str, Any], gives: Sequence[str], rows: int) -> Rows:
    """The outputs in the manifest's order; a wrong number of rows is the model's failure."""
    arrays = tuple(outputs[name] for name in gives)
    if rows:
        for name, array in zip(gives, arrays, strict=True):
            if not array.shape or array.shape[0] != rows:
                raise BackendFailed(
                    f"{rows} rows went in, but {name} came out with shape {list(array.shape)}"
                )
    return arrays
