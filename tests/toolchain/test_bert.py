from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
import pytest
from safetensors.numpy import load_file
from scipy.special import erf  # type: ignore[import-untyped]  # it ships no types

from palio.core.tensors import Array
from palio.toolchain.bert import BertShape, build_bert
from palio.toolchain.errors import BadModel
from palio.toolchain.progress import Silent
from tests.toolchain.parcels import Watcher
from tests.toolchain.samples import HEADS, LAYERS, WIDTH, save_small_bert

IDS = np.array([[3, 9, 4, 1, 7], [5, 2, 8, 0, 0], [6, 6, 6, 6, 6]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


def run(graph: bytes, ids: Array, mask: Array) -> Array:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    [embedding] = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return np.asarray(embedding)


def by_hand(tensors: dict[str, Array], ids: Array) -> Array:
    """One row without padding, as the paper says it, in double precision."""
    get = {name: value.astype(np.float64) for name, value in tensors.items()}

    def norm(name: str, value: Array) -> Array:
        centred = value - value.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * get[f"{name}.weight"] + get[f"{name}.bias"])

    def dense(name: str, value: Array) -> Array:
        return np.asarray(value @ get[f"{name}.weight"].T + get[f"{name}.bias"])

    words = get["embeddings.word_embeddings.weight"][ids]
    places = get["embeddings.position_embeddings.weight"][: len(ids)]
    types = get["embeddings.token_type_embeddings.weight"][0]
    hidden = norm("embeddings.LayerNorm", words + places + types)
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            dense(f"{name}.attention.self.{part}", hidden).reshape(len(ids), HEADS, -1)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(WIDTH // HEADS)
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, value).reshape(len(ids), WIDTH)
        attended = dense(f"{name}.attention.output.dense", mixed)
        hidden = norm(f"{name}.attention.output.LayerNorm", attended + hidden)
        inner = dense(f"{name}.intermediate.dense", hidden)
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        hidden = norm(f"{name}.output.LayerNorm", dense(f"{name}.output.dense", inner) + hidden)
    mean = hidden.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_small_bert(tmp_path_factory.mktemp("bert"))


def make(small: tuple[Path, Path]) -> bytes:
    weights, config = small
    return build_bert(weights, BertShape.read(config), Silent())


def test_the_graph_computes_what_the_paper_says(small: tuple[Path, Path]) -> None:
    out = run(make(small), IDS, MASK)
    tensors = load_file(small[0])
    np.testing.assert_allclose(out[0], by_hand(tensors, IDS[0]), atol=1e-5)
    np.testing.assert_allclose(out[1], by_hand(tensors, IDS[1, :3]), atol=1e-5)


def test_padding_changes_nothing_and_a_row_of_it_is_zeros(small: tuple[Path, Path]) -> None:
    graph = make(small)
    out = run(graph, IDS, MASK)
    alone = run(graph, IDS[1:2, :3], MASK[1:2, :3])
    np.testing.assert_allclose(out[1], alone[0], atol=1e-6)
    np.testing.assert_array_equal(out[2], np.zeros(WIDTH, np.float32))


def test_the_same_weights_give_the_same_bytes(small: tuple[Path, Path]) -> None:
    assert make(small) == make(small)


def test_building_reports_every_byte_of_the_weights(small: tuple[Path, Path]) -> None:
    watcher = Watcher()
    build_bert(small[0], BertShape.read(small[1]), watcher)
    assert watcher.seen_bytes == small[0].stat().st_size
    assert not watcher.is_open


def test_a_model_that_is_no_such_bert_is_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    weights, config = small
    said = json.loads(config.read_text(encoding="utf-8"))
    other = tmp_path / "config.json"
    other.write_text(json.dumps(said | {"hidden_act": "relu"}), encoding="utf-8")
    with pytest.raises(BadModel, match="relu"):
        BertShape.read(other)
    other.write_text("{}", encoding="utf-8")
    with pytest.raises(BadModel, match="num_hidden_layers"):
        BertShape.read(other)
    deeper = BertShape(layers=LAYERS + 1, heads=HEADS, width=WIDTH, epsilon=1e-12)
    with pytest.raises(BadModel, match=r"lacks the weight 'encoder\.layer\.2"):
        build_bert(weights, deeper, Silent())
    other.write_bytes(b"not safetensors at all")
    with pytest.raises(BadModel, match="does not hold"):
        build_bert(other, deeper, Silent())
