"""Small models to build and describe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from palio.core.manifest import Manifest
from palio.core.tensors import Array, TensorSpec
from palio.toolchain.manifests import write_manifest
from tests.toolchain.parcels import sha256

LAYERS, HEADS, WIDTH, INNER, WORDS, PLACES = 2, 3, 12, 20, 30, 16


def sample_manifest() -> Manifest:
    spec = (TensorSpec("x", "FP32", (-1, 4)),)
    digest = sha256(b"weights")
    return Manifest(
        name="sample",
        task="tensor",
        platform="toy",
        inputs=spec,
        outputs=spec,
        graph_inputs=spec,
        graph_outputs=spec,
        artifact="weights",
        artifact_sha256=digest,
        weights="seeded",
        files={"weights": digest},
    )


def fill(folder: Path) -> None:
    """Make the smallest folder that counts as a model."""
    (folder / "weights").write_bytes(b"weights")
    write_manifest(folder, sample_manifest())


def save_small_bert(folder: Path) -> tuple[Path, Path]:
    """The weights and config of a BERT too small to mean anything, seeded."""
    draw = np.random.default_rng(7)
    tensors: dict[str, Array] = {}

    def put(name: str, *shape: int) -> None:
        tensors[name] = draw.normal(0, 0.5, shape).astype(np.float32)

    def dense(name: str, outer: int, inner: int) -> None:
        put(f"{name}.weight", outer, inner)
        put(f"{name}.bias", outer)

    def norm(name: str) -> None:
        put(f"{name}.weight", WIDTH)
        put(f"{name}.bias", WIDTH)

    put("embeddings.word_embeddings.weight", WORDS, WIDTH)
    put("embeddings.position_embeddings.weight", PLACES, WIDTH)
    put("embeddings.token_type_embeddings.weight", 2, WIDTH)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            dense(f"{name}.attention.self.{part}", WIDTH, WIDTH)
        dense(f"{name}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{name}.attention.output.LayerNorm")
        dense(f"{name}.intermediate.dense", INNER, WIDTH)
        dense(f"{name}.output.dense", WIDTH, INNER)
        norm(f"{name}.output.LayerNorm")
    weights, config = folder / "model.safetensors", folder / "config.json"
    save_file(tensors, weights)
    said = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_size": WIDTH,
        "layer_norm_eps": 1e-12,
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    }
    config.write_text(json.dumps(said), encoding="utf-8")
    return weights, config
