"""Makes a text-embedding model's folder from what sentence-transformers publishes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from palio.core.manifest import Manifest, Tokenizer
from palio.core.tensors import BYTES, TensorSpec
from palio.toolchain.digests import sha256_of
from palio.toolchain.disk import write_whole, writing
from palio.toolchain.errors import BadModel
from palio.toolchain.manifests import write_manifest
from palio.toolchain.progress import Progress
from palio.toolchain.zoo import ZooModel

# Raise it whenever the same sources would give other files: it is part of the cache's key.
RECIPE: Final = 1

_MODEL: Final = "model.onnx"
_TOKENIZER: Final = "tokenizer.json"


def make_sentence_bert(
    model: ZooModel, files: Mapping[str, Path], folder: Path, progress: Progress
) -> None:
    """Fill `folder` with the graph, the tokenizer and the manifest.

    Raises:
        BadModel: the files do not hold a BERT sentence encoder.
    """
    # Here, not above: importing onnx takes longer than a start from the cache may.
    from palio.toolchain.bert import OPSET, BertShape, build_bert

    shape = BertShape.read(files["config.json"])
    graph = build_bert(files["model.safetensors"], shape, progress)
    with writing(folder, len(graph)):
        write_whole(folder / _MODEL, graph)
        shutil.copyfile(files[_TOKENIZER], folder / _TOKENIZER)
    digests = {name: sha256_of(folder / name) for name in (_MODEL, _TOKENIZER)}
    embedding = TensorSpec("embedding", "FP32", (-1, shape.width))
    manifest = Manifest(
        name=model.name,
        task="text-embedding",
        platform="onnxruntime_onnx",
        inputs=(TensorSpec("text", BYTES, (-1,)),),
        outputs=(embedding,),
        graph_inputs=(
            TensorSpec("input_ids", "INT64", (-1, -1)),
            TensorSpec("attention_mask", "INT64", (-1, -1)),
        ),
        graph_outputs=(embedding,),
        artifact=_MODEL,
        artifact_sha256=digests[_MODEL],
        weights=model.weights,
        opset=OPSET,
        tokenizer=Tokenizer(
            file=_TOKENIZER, max_tokens=_max_tokens(files["sentence_bert_config.json"])
        ),
        source=f"zoo:{model.name}",
        licence=model.licence,
        files=digests,
    )
    write_manifest(folder, manifest)


def _max_tokens(config: Path) -> int:
    """Where sentence-transformers cuts; what tokenizer.json says of it is overruled there too."""
    try:
        limit = json.loads(config.read_bytes())["max_seq_length"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{config} does not say max_seq_length: {error!r}") from error
    if not isinstance(limit, int) or limit < 1:
        raise BadModel(f"{config}: max_seq_length is {limit!r}")
    return limit
