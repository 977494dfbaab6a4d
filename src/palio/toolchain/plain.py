"""Describes an ONNX file that somebody brings, where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no types
from onnx import TensorProto

from palio.core.manifest import Manifest
from palio.core.tensors import BYTES, TensorSpec
from palio.toolchain.digests import sha256_of
from palio.toolchain.errors import BadModel

_DATATYPES: Final[dict[int, str]] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.STRING: BYTES,
}


def describe_onnx(path: Path) -> Manifest:
    """What an ONNX file takes and gives, and which one it is; nothing is copied.

    The manifest names the file, and any with weights beside it, by absolute path.

    Raises:
        BadModel: it is not ONNX, or takes or gives something that has no name in the protocol.
    """
    path = path.resolve()
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise BadModel(f"{path} is not an ONNX file") from error
    if not model.graph.output:
        raise BadModel(f"{path} is not an ONNX model: its graph gives nothing")
    # Files of old formats list their weights among the inputs too.
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(path, info) for info in model.graph.input if info.name not in stored)
    outputs = tuple(_spec(path, info) for info in model.graph.output)
    opsets = {
        "" if one.domain == "ai.onnx" else one.domain: one.version for one in model.opset_import
    }
    files = {str(file): sha256_of(file) for file in (path, *_weight_files(path, model.graph))}
    return Manifest(
        name=path.stem,
        task="tensor",
        platform="onnxruntime_onnx",
        inputs=inputs,
        outputs=outputs,
        graph_inputs=inputs,
        graph_outputs=outputs,
        artifact=str(path),
        artifact_sha256=files[str(path)],
        weights="unknown",
        opset=opsets.get(""),
        source=f"file:{path}",
        files=files,
    )


def _spec(path: Path, info: onnx.ValueInfoProto) -> TensorSpec:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BadModel(f"{path}: {info.name} is a {kind or 'thing without a type'}, not a tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type not in _DATATYPES:
        name = TensorProto.DataType.Name(tensor.elem_type)
        raise BadModel(f"{path}: {info.name} is of {name}, which the protocol has no word for")
    if not tensor.HasField("shape"):
        raise BadModel(
            f"{path} does not say how many dimensions {info.name} has; "
            "onnx.shape_inference.infer_shapes_path can often add it"
        )
    shape = tuple(
        size.dim_value if size.WhichOneof("value") == "dim_value" and size.dim_value >= 0 else -1
        for size in tensor.shape.dim
    )
    return TensorSpec(info.name, _DATATYPES[tensor.elem_type], shape)


def _weight_files(path: Path, graph: onnx.GraphProto) -> list[Path]:
    """The files beside the model that hold weights, in order of name."""
    names = {
        entry.value
        for tensor in _tensors(graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = [(path.parent / name).resolve() for name in sorted(names)]
    for file in found:
        if not file.is_relative_to(path.parent):
            raise BadModel(f"{path} keeps weights outside its own folder, in {file}")
        if not file.is_file():
            raise BadModel(f"{path} keeps weights in {file}, which is missing")
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
