"""The Open Inference Protocol's infer call in JSON: bytes to core values and back.

What C adds beside this file: the binary tensor extension. Until then an output asked for with
`binary_data: true` is refused, and `binary_data_output: true`, which tritonclient sends on its
own whenever no outputs are named, is answered in JSON, which that client reads as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from palio.core.errors import BadRequest, ValidationFailed
from palio.core.requests import InferRequest, InferResponse, Parameter
from palio.core.tensors import Tensor
from palio.wire.json_form import read_form
from palio.wire.oip_data import plain_data, read_data, write_json

# A caller may step back in the queue, never forward: the usual is 0, lower goes first.
_LOWEST_PRIORITY: Final = 255
_LONGEST_TIMEOUT_US: Final = 2**53


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Parameter] | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Parameter] | None = None


class _Infer(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Parameter] | None = None
    outputs: list[_Output] | None = None


_decoder: Final = msgspec.json.Decoder(_Infer)


def read_infer(
    body: bytes,
    *,
    model: str,
    version: str,
    correlation_id: str,
    first_read_ns: int,
    now_ns: Callable[[], int],
) -> InferRequest:
    """One question from a JSON body; `read_ns` is stamped once all of it is understood.

    Raises:
        BadRequest: naming the place, such as `inputs[0].data`.
    """
    form = read_form(_decoder, body)
    parameters = form.parameters or {}
    return InferRequest(
        model=model,
        inputs=_read_inputs(form.inputs),
        version=version,
        id=form.id,
        outputs=_read_outputs(form.outputs) if form.outputs else (),
        parameters=parameters,
        priority=_read_priority(parameters) if "priority" in parameters else 0,
        timeout_ns=_read_timeout(parameters) if "timeout" in parameters else None,
        correlation_id=correlation_id,
        first_read_ns=first_read_ns,
        read_ns=now_ns(),
    )


def write_infer(response: InferResponse) -> bytes:
    """The answer in JSON: flat `data`, BYTES as text, non-finite numbers as null."""
    body: dict[str, Any] = {
        "model_name": response.model,
        "model_version": response.version,
    }
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = dict(response.parameters)
    body["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.data.shape,
            "data": plain_data(tensor),
        }
        for tensor in response.outputs
    ]
    return write_json(body)


def _read_inputs(forms: Sequence[_Input]) -> tuple[Tensor, ...]:
    if not forms:
        raise BadRequest("inputs: there are none", field="inputs")
    tensors: list[Tensor] = []
    names: set[str] = set()
    for index, form in enumerate(forms):
        field = f"inputs[{index}]"
        if form.name in names:
            raise BadRequest(
                f"{field}.name: {form.name[:80]!r} is there twice", field=f"{field}.name"
            )
        names.add(form.name)
        tensors.append(_read_input(form, field))
    return tuple(tensors)


def _read_input(form: _Input, field: str) -> Tensor:
    if form.parameters and "binary_data_size" in form.parameters:
        raise BadRequest(
            f"{field}.parameters: binary tensor data is not yet read; send `data` as JSON",
            field=f"{field}.parameters.binary_data_size",
        )
    if not bytes(form.data):
        raise BadRequest(f"{field}.data is missing", field=f"{field}.data")
    try:
        data = read_data(form.data, form.datatype, form.shape, field)
    except BadRequest as error:
        # Only an unknown datatype comes without its place: core does not know of fields.
        if error.field is not None:
            raise
        place = f"{field}.datatype"
        raise BadRequest(f"{place}: {error}", field=place) from None
    return Tensor(form.name, form.datatype, data)


def _read_outputs(forms: Sequence[_Output]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for index, form in enumerate(forms):
        field = f"outputs[{index}]"
        asked = form.parameters or {}
        for unsupported in ("binary_data", "classification"):
            if asked.get(unsupported):
                place = f"{field}.parameters.{unsupported}"
                raise BadRequest(f"{place} is not yet supported in JSON answers", field=place)
        if form.name in names:
            raise BadRequest(
                f"{field}.name: {form.name[:80]!r} is there twice", field=f"{field}.name"
            )
        names[form.name] = None
    return tuple(names)


def _read_priority(parameters: dict[str, Parameter]) -> int:
    value = parameters["priority"]
    field = "parameters.priority"
    if type(value) is not int:
        raise BadRequest(f"{field}: expected an integer", field=field)
    if not 0 <= value <= _LOWEST_PRIORITY:
        raise ValidationFailed(
            f"{field}: {value} is not within 0 to {_LOWEST_PRIORITY}", field=field
        )
    return value


def _read_timeout(parameters: dict[str, Parameter]) -> int | None:
    """Microseconds, as Triton has it; 0 means the model's own deadline."""
    value = parameters["timeout"]
    field = "parameters.timeout"
    if type(value) is not int:
        raise BadRequest(f"{field}: expected an integer of microseconds", field=field)
    if not 0 <= value <= _LONGEST_TIMEOUT_US:
        raise ValidationFailed(
            f"{field}: {value} is not a usable number of microseconds", field=field
        )
    return value * 1000 or None
