"""The real model against sentence-transformers' vectors and against people's judgement."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]  # it ships no types

from palio.core.tensors import Array
from palio.toolchain.bert import BertShape, build_bert
from palio.toolchain.manifests import read_manifest, verify_files
from palio.toolchain.progress import Silent
from palio.toolchain.zoo import zoo_model
from palio.wire.tokenisers import TextTokeniser

pytestmark = [pytest.mark.model, pytest.mark.slow]

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parents[2]
STS = REPOSITORY.parent / "shared" / "data" / "text" / "stsbenchmark" / "sts-test.csv"
# Changes with the recipe, on purpose, and with nothing else.
GRAPH_SHA256 = "7fb34bf630520d83e7357293ddd6d23237a1c908eb38a51728435cd9d68005c8"


class Embedder:
    """Texts to vectors by the built folder alone, the shortest texts first."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        assert manifest.tokenizer is not None
        self.tokeniser = TextTokeniser(
            folder / manifest.tokenizer.file, max_tokens=manifest.tokenizer.max_tokens
        )
        self.session = ort.InferenceSession(
            folder / manifest.artifact, providers=["CPUExecutionProvider"]
        )

    def embed(self, texts: Sequence[str], rows: int = 32) -> Array:
        many = self.tokeniser.encode_many(texts)
        order = sorted(range(len(many)), key=lambda index: len(many[index]))
        vectors = np.empty((len(many), 384), np.float32)
        for begin in range(0, len(order), rows):
            batch = order[begin : begin + rows]
            ids = np.zeros((len(batch), max(len(many[index]) for index in batch)), np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, : len(many[index])] = many[index]
                mask[row, : len(many[index])] = 1
            [vectors[batch]] = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return vectors


@pytest.fixture(scope="module")
def embedder(minilm: Path) -> Embedder:
    return Embedder(minilm)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    texts: list[str] = json.loads((GOLDEN / "sentences.json").read_text(encoding="utf-8"))
    return texts


@pytest.mark.parametrize("rows", [1, 8])
def test_vectors_are_those_of_sentence_transformers(
    embedder: Embedder, sentences: list[str], rows: int
) -> None:
    with np.load(GOLDEN / "minilm-l6.npz") as golden:
        cosines = (embedder.embed(sentences, rows) * golden["vectors"]).sum(1)
    assert cosines.min() >= 1 - 1e-5


def test_token_ids_are_those_of_sentence_transformers(
    embedder: Embedder, sentences: list[str]
) -> None:
    before = embedder.tokeniser.truncated
    with np.load(GOLDEN / "minilm-l6.npz") as golden:
        wanted = np.split(golden["ids"], np.cumsum(golden["lengths"])[:-1])
    for text, ids in zip(sentences, wanted, strict=True):
        assert list(embedder.tokeniser.encode(text)) == ids.tolist(), text
    assert embedder.tokeniser.truncated - before == 2


def test_a_row_of_padding_is_finite(embedder: Embedder) -> None:
    zeros = np.zeros((1, 8), np.int64)
    [out] = embedder.session.run(None, {"input_ids": zeros, "attention_mask": zeros})
    np.testing.assert_array_equal(out, np.zeros((1, 384), np.float32))


def test_similarity_agrees_with_people(embedder: Embedder) -> None:
    if not STS.exists():
        pytest.skip(f"{STS} is not here")
    with STS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 1379
    scores = [float(row[4]) for row in rows]
    vectors = embedder.embed([row[5] for row in rows] + [row[6] for row in rows])
    cosines = (vectors[:1379] * vectors[1379:]).sum(1)
    assert spearmanr(scores, cosines).statistic == pytest.approx(0.820, abs=0.003)


def test_the_graph_is_the_same_bytes_on_every_machine(minilm: Path) -> None:
    manifest = read_manifest(minilm)
    verify_files(minilm, manifest)
    assert manifest.artifact_sha256 == GRAPH_SHA256


def test_building_again_gives_the_same_bytes(minilm: Path) -> None:
    blobs = minilm.parent.parent / "blobs"
    files = {wanted.name: blobs / wanted.sha256 for wanted in zoo_model("minilm-l6").files}
    shape = BertShape.read(files["config.json"])
    graph = build_bert(files["model.safetensors"], shape, Silent())
    assert graph == (minilm / "model.onnx").read_bytes()
