from __future__ import annotations

from pathlib import Path

import numpy as np

from palio.backends import onnxruntime, toy
from tests.kit import graphs
from tests.kit.check_backend import check_backend
from tests.kit.toy import MANIFEST

RNG = np.random.default_rng(7)


def test_the_toy_keeps_the_promises(tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    check_backend(toy.load, str(tmp_path), MANIFEST, {"x": x})


def test_onnx_runtime_keeps_them_on_numbers(tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    check_backend(onnxruntime.load, str(tmp_path), graphs.dense(tmp_path), {"x": x})


def test_onnx_runtime_keeps_them_on_ids_of_any_length(tmp_path: Path) -> None:
    ids = RNG.integers(0, 16, size=(4, 6))
    check_backend(onnxruntime.load, str(tmp_path), graphs.embedding(tmp_path), {"ids": ids})


def test_onnx_runtime_keeps_them_on_text(tmp_path: Path) -> None:
    text = np.array([b"one", "zwölf".encode(), b""], object)
    check_backend(onnxruntime.load, str(tmp_path), graphs.echo(tmp_path), {"text": text})
