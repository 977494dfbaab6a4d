"""A model's description: what it takes, what it gives, and exactly which weights it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from palio.core.tensors import TensorSpec

Task = Literal["tensor", "text-embedding"]
Weights = Literal["real", "seeded", "planted", "unknown", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """How text becomes ids: a `tokenizer.json` beside the model, and the longest it may get."""

    file: str
    max_tokens: int
    pad_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model directory holds; written as `manifest.json` beside the files it names.

    `inputs` and `outputs` are what a *client* sends and gets, batch axis included: a text model
    takes one BYTES tensor of shape [-1] whatever its graph takes. `graph_inputs` and
    `graph_outputs` are what the backend is fed and gives. `files` maps each file's name to its
    sha256; `artifact_sha256` is that of the file with the weights, the model's identity.
    """

    name: str
    task: Task
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph_inputs: tuple[TensorSpec, ...]
    graph_outputs: tuple[TensorSpec, ...]
    artifact: str
    artifact_sha256: str
    weights: Weights
    version: str = "1"
    opset: int | None = None
    precision: str = "fp32"
    tokenizer: Tokenizer | None = None
    source: str = ""
    licence: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_batchable(self) -> bool:
        """Whether rows of several calls may share a run: every graph tensor has a free axis 0."""
        specs = (*self.graph_inputs, *self.graph_outputs)
        return bool(specs) and all(spec.shape and spec.shape[0] == -1 for spec in specs)
