"""Asking in the binary form of the Open Inference Protocol: tensors as raw bytes, both ways.

Source: KServe, "Binary tensor data extension". The request is a JSON head, whose length the header
`Inference-Header-Content-Length` says, followed by the tensors' bytes; so is the answer.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import numpy as np
import orjson

from palio.bench.adapters import Body, is_close
from palio.bench.workloads import Workload
from palio.core.errors import BadRequest
from palio.core.tensors import Array, Tensor, datatype_of, pack, unpack

_read_head: Final = json.JSONDecoder().raw_decode


class OipBinary:
    """The protocol with binary tensors in the request, and asked for in the answer."""

    name = "oip-binary"

    def __init__(self, model: str, tensor: str, *, version: str = "", output: str = "") -> None:
        """Ask `model`, whose input is called `tensor`; `output` is what is expected to be right."""
        self._path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        self._tensor = tensor
        self._output = output

    def body(self, workload: Workload, input_id: int) -> Body:
        data = _array_of(workload, input_id)
        datatype = datatype_of(data)
        raw = pack(Tensor(self._tensor, datatype, data))
        given = {
            "name": self._tensor,
            "datatype": datatype,
            "shape": data.shape,
            "parameters": {"binary_data_size": len(raw)},
        }
        head = orjson.dumps({"inputs": [given], "parameters": {"binary_data_output": True}})
        return Body(
            self._path,
            head + raw,
            "application/octet-stream",
            f"Inference-Header-Content-Length: {len(head)}\r\n",
        )

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:
        try:
            outputs = read_outputs(answer)
        except (ValueError, KeyError, TypeError, BadRequest):
            return False
        if not outputs or not all(_is_finite(each.data) for each in outputs):
            return False
        if not workload.expected:
            return True
        named = [each for each in outputs if self._output in ("", each.name)]
        return bool(named) and is_close(named[0].data.reshape(-1), workload.expected[input_id])


def read_outputs(answer: bytes) -> list[Tensor]:
    """The tensors of an answer, binary ones and those the server chose to write as JSON.

    Raises:
        ValueError, KeyError, TypeError: the head is not what the protocol says.
        BadRequest: bytes and shapes disagree.
    """
    # Where the head ends is known from a header that is not here, but also from the head itself.
    head, at = _read_head(answer.decode("latin-1"))
    outputs: list[Tensor] = []
    for output in head["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = np.array(output["data"]).reshape(shape)
            outputs.append(Tensor(name, datatype, data))
            continue
        outputs.append(unpack(name, datatype, shape, answer[at : at + size]))
        at += size
    if at != len(answer):
        raise ValueError(f"{len(answer) - at} bytes belong to no tensor")
    return outputs


def _array_of(workload: Workload, input_id: int) -> Array:
    if not workload.texts:
        return workload.tensors[input_id]
    texts = workload.texts[input_id]
    data = np.empty(len(texts), np.object_)
    data[:] = [text.encode() for text in texts]
    return data


def _is_finite(data: Any) -> bool:
    if data.dtype == object or data.dtype.kind in "SU":
        return True
    return math.prod(data.shape) > 0 and bool(np.isfinite(data).all())
