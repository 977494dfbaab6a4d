"""ONNX graphs small enough to read, each with the manifest that describes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from palio.core.manifest import Manifest
from palio.core.tensors import TensorSpec

_TYPES = {
    "FP32": TensorProto.FLOAT,
    "INT64": TensorProto.INT64,
    "BYTES": TensorProto.STRING,
}
_VOCABULARY, _WIDTH = 16, 4


def dense(folder: Path) -> Manifest:
    """y = relu(x · w): rows of 3 in, rows of 2 out."""
    weights = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    return _save(
        folder,
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        (TensorSpec("x", "FP32", (-1, 3)),),
        (TensorSpec("y", "FP32", (-1, 2)),),
        {"w": weights},
    )


def embedding(folder: Path) -> Manifest:
    """The mean of table rows named by ids; an id outside the table is the row's fault."""
    table = np.arange(_VOCABULARY * _WIDTH, dtype=np.float32).reshape(_VOCABULARY, _WIDTH)
    return _save(
        folder,
        [
            helper.make_node("Gather", ["table", "ids"], ["found"]),
            helper.make_node("ReduceMean", ["found", "axis"], ["vector"], keepdims=0),
        ],
        (TensorSpec("ids", "INT64", (-1, -1)),),
        (TensorSpec("vector", "FP32", (-1, _WIDTH)),),
        {"table": table, "axis": np.array([1])},
    )


def echo(folder: Path) -> Manifest:
    """Text in, the same text out."""
    spec = TensorSpec("text", "BYTES", (-1,))
    node = helper.make_node("Identity", ["text"], ["same"])
    return _save(folder, [node], (spec,), (TensorSpec("same", "BYTES", (-1,)),), {})


def total(folder: Path) -> Manifest:
    """One sum over everything, whatever its manifest promises of rows."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    return _save(
        folder,
        [node],
        (TensorSpec("x", "FP32", (-1, -1)),),
        (TensorSpec("y", "FP32", (-1, 1)),),
        {},
    )


def _save(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
) -> Manifest:
    graph = helper.make_graph(
        nodes,
        "graph",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return Manifest(
        name="small",
        task="tensor",
        platform="onnxruntime",
        inputs=inputs,
        outputs=outputs,
        graph_inputs=inputs,
        graph_outputs=outputs,
        artifact="model.onnx",
        artifact_sha256="",
        weights="seeded",
        opset=18,
    )


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = [f"{spec.name}_{at}" if size == -1 else size for at, size in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.datatype], shape)
