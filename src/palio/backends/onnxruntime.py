"""Runs ONNX graphs on ONNX Runtime, with every option applied and read back.

The words for the options are ours and stable; what ONNX Runtime calls them is in
`palio.backends.onnxruntime_options`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types

from palio.backends.effect import demand
from palio.backends.onnxruntime_options import OPTIONS, Session, read_back, session_options
from palio.backends.options import Options
from palio.core.errors import BackendFailed, RowRejected, SettingsError
from palio.core.manifest import Manifest
from palio.core.ports import BackendInfo, Placement
from palio.core.tensors import BYTES, Array, TensorSpec, datatype_of, dtype_of

NAME: Final = "onnxruntime"

_PROVIDERS: Final = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}
_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
# What kernels say of an element whose value points outside a table (Gather, GatherND, OneHot,
# the fused embedding layers). A row brought that value, so a row is to blame and no other fault
# of the graph reads like this.
_ROW_CAUSED: Final = re.compile(
    r"while running .*(out of data bounds|invalid ind(ex|ices|ice) found|index out of range"
    r"|ind(ex|ices) .*out of (bounds|range))",
    re.IGNORECASE | re.DOTALL,
)


class OnnxBackend:
    """One session on one graph; `run` may be called from several threads on the CPU."""

    def __init__(
        self, session: ort.InferenceSession, info: BackendInfo, *, is_batchable: bool
    ) -> None:
        self.info: Final = info
        self._session: ort.InferenceSession | None = session
        self._dtypes: Final = {spec.name: dtype_of(spec.datatype) for spec in info.inputs}
        self._outputs: Final = [spec.name for spec in info.outputs]
        self._texts_out: Final = [spec.name for spec in info.outputs if spec.datatype == BYTES]
        self._is_batchable: Final = is_batchable

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise BackendFailed("the model is closed")
        rows = self._check(feeds)
        fed = {
            name: _to_text(name, array) if array.dtype.hasobject else array
            for name, array in feeds.items()
        }
        try:
            arrays = session.run(self._outputs, fed)
        # ONNX Runtime's errors have no root; all but a row's fault go on as they are.
        except Exception as fault:
            if _ROW_CAUSED.search(str(fault)):
                raise RowRejected(_sentence(fault)) from fault
            raise
        results: dict[str, Array] = dict(zip(self._outputs, arrays, strict=True))
        if rows is not None:
            _check_rows(results, rows)
        for name in self._texts_out:
            results[name] = _to_bytes(results[name])
        return results

    def close(self) -> None:
        self._session = None

    def _check(self, feeds: Mapping[str, Array]) -> int | None:
        """How many rows came, where rows mean anything; ONNX Runtime checks ranks itself."""
        if feeds.keys() != self._dtypes.keys():
            raise BackendFailed(f"the graph takes {_names(self._dtypes)}, not {_names(feeds)}")
        rows: int | None = None
        for name, array in feeds.items():
            if array.dtype != self._dtypes[name]:
                raise BackendFailed(
                    f"{name} is {datatype_of(array)}, but the graph takes "
                    f"{datatype_of(np.empty(0, self._dtypes[name]))}"
                )
            if not self._is_batchable:
                continue
            have = array.shape[0] if array.ndim else 0
            if rows is not None and have != rows:
                raise BackendFailed(f"{name} has {have} rows, but others have {rows}")
            rows = have
        return rows


def load(folder: str, manifest: Manifest, wanted: Placement) -> OnnxBackend:
    """Load the graph that `manifest` names, checked against what it says of itself.

    Raises:
        SettingsError: an option is unknown, the file is no model, or less than `wanted` came out.
    """
    ort.disable_telemetry_events()
    options = Options(NAME, wanted.options, OPTIONS)
    asked = session_options(options, threads=wanted.threads)
    providers = _choose(wanted, allow_fallback=options.allow_fallback)
    session = _open(Path(folder) / manifest.artifact, asked, providers)
    inputs, outputs = _specs(session.get_inputs()), _specs(session.get_outputs())
    _check_names("inputs", manifest, manifest.graph_inputs, inputs)
    _check_names("outputs", manifest, manifest.graph_outputs, outputs)
    effective = _in_effect(session, manifest, wanted)
    demand(NAME, manifest.name, wanted, effective, allow_fallback=options.allow_fallback)
    info = BackendInfo(
        backend=NAME,
        requested=wanted,
        effective=effective,
        inputs=inputs,
        outputs=outputs,
        is_concurrent=effective.device == "cpu",
    )
    return OnnxBackend(session, info, is_batchable=manifest.is_batchable)


def _choose(wanted: Placement, *, allow_fallback: bool) -> list[Any]:
    """The providers to ask for, in order; one that this build lacks is refused, or left out."""
    kind, _, number = wanted.device.partition(":")
    if kind not in _PROVIDERS or (number and not (kind == "cuda" and number.isdecimal())):
        raise SettingsError(
            f"{NAME} knows no device {wanted.device!r}; known are cpu, cuda and cuda:N"
        )
    chosen = wanted.providers or _PROVIDERS[kind]
    available = ort.get_available_providers()
    lacking = [name for name in chosen if name not in available]
    if lacking and not allow_fallback:
        raise SettingsError(
            f"this ONNX Runtime has no {lacking[0]} (it has {', '.join(available)}): "
            "pip install 'palio[gpu]', ask for `device: cpu`, or set `allow_fallback: true`"
        )
    present = [name for name in chosen if name in available] or list(_PROVIDERS["cpu"])
    device = {"device_id": number or "0"}
    return [(name, device) if name.startswith("CUDA") else name for name in present]


def _open(path: Path, asked: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    if not path.is_file():
        raise SettingsError(f"{path} is not there")
    try:
        # Where a provider fails to start, ONNX Runtime would quietly take the CPU; it is told
        # not to here, and `demand` looks again at what came out.
        session = ort.InferenceSession(str(path), asked, providers=providers)
    # Nothing it raises has a root of its own, and whatever it says, the file does not load.
    except Exception as fault:
        raise SettingsError(f"{path} does not load: {_sentence(fault)}") from fault
    session.disable_fallback()
    return session


def _in_effect(session: Session, manifest: Manifest, wanted: Placement) -> Placement:
    providers = tuple(session.get_providers())
    if "CUDAExecutionProvider" in providers:
        number = session.get_provider_options()["CUDAExecutionProvider"].get("device_id", "0")
        # `cuda` means any one of them, so it is in effect on whichever it came to.
        device = "cuda" if wanted.device == "cuda" else f"cuda:{number}"
    else:
        device = "cpu"
    threads, options = read_back(session)
    return Placement(
        device=device,
        precision=manifest.precision,
        threads=threads,
        providers=providers,
        options=options,
    )


def _specs(nodes: list[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    for node in nodes:
        if node.type not in _DATATYPES:
            raise SettingsError(f"{node.name} is a {node.type}, which cannot be served")
    return tuple(
        TensorSpec(
            node.name,
            _DATATYPES[node.type],
            tuple(size if isinstance(size, int) else -1 for size in node.shape),
        )
        for node in nodes
    )


def _check_names(
    what: str, manifest: Manifest, said: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> None:
    """The manifest and the graph must speak of the same tensors."""
    if {(spec.name, spec.datatype) for spec in said} != {
        (spec.name, spec.datatype) for spec in found
    }:
        raise SettingsError(
            f"the manifest of {manifest.name} gives its graph the {what} {_typed(said)}, "
            f"but {manifest.artifact} has {_typed(found)}"
        )


def _check_rows(results: Mapping[str, Array], rows: int) -> None:
    for name, array in results.items():
        if array.shape[:1] != (rows,):
            raise BackendFailed(
                f"{name} came out with shape {list(array.shape)}, but the batch has {rows} rows"
            )


def _to_bytes(array: Array) -> Array:
    """Text as the rest of the house holds it: an object array of bytes."""
    out = np.empty(array.shape, np.object_)
    for index, item in np.ndenumerate(array):
        out[index] = str(item).encode()
    return out


def _to_text(name: str, array: Array) -> Array:
    """The reverse: given bytes, ONNX Runtime would read the letters b'…' and say nothing."""
    out = np.empty(array.shape, np.object_)
    for index, item in np.ndenumerate(array):
        try:
            out[index] = item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError:
            raise RowRejected(f"{name} holds bytes that are not UTF-8", field=name) from None
    return out


def _sentence(fault: Exception) -> str:
    """ONNX Runtime's message without its prefix, on one line."""
    return " ".join(str(fault).rpartition("Status Message: ")[2].split())


def _names(named: Mapping[str, object]) -> str:
    return ", ".join(named) or "nothing"


def _typed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}" for spec in specs) or "none"
