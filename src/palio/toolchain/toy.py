"""Makes the toy's folder: a manifest and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from palio.core.manifest import Manifest
from palio.core.tensors import TensorSpec
from palio.toolchain.manifests import write_manifest
from palio.toolchain.zoo import ZooModel

RECIPE: Final = 1


def make_toy(model: ZooModel, folder: Path) -> None:
    """Fill `folder` with the manifest of a model that only the toy backend can run."""
    inputs = (TensorSpec("x", "FP32", (-1, 4)),)
    outputs = (TensorSpec("y", "FP32", (-1, 4)),)
    manifest = Manifest(
        name=model.name,
        task="tensor",
        platform="toy",
        inputs=inputs,
        outputs=outputs,
        graph_inputs=inputs,
        graph_outputs=outputs,
        artifact="",
        artifact_sha256="",
        weights=model.weights,
        source=f"zoo:{model.name}",
        licence=model.licence,
    )
    write_manifest(folder, manifest)
