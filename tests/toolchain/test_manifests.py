from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from palio.core.manifest import Tokenizer
from palio.toolchain.errors import BadManifest, BadModel
from palio.toolchain.manifests import read_manifest, verify_files, write_manifest
from tests.toolchain.samples import fill, sample_manifest


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = replace(
        sample_manifest(), opset=20, tokenizer=Tokenizer(file="tokenizer.json", max_tokens=7)
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    first = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, manifest)
    assert (tmp_path / "manifest.json").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "red"}, "colour: Unexpected keyword"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "q": 2}]}, r"inputs\.0\.q"),
        ({"version": 1}, "version: .*string"),
        ({"weights": "stolen"}, "weights: "),
    ],
)
def test_a_wrong_key_or_value_is_named(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    write_manifest(tmp_path, sample_manifest())
    path = tmp_path / "manifest.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(said | change), encoding="utf-8")
    with pytest.raises(BadManifest, match=rf"manifest\.json: {says}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"name": "a",\n oops}', "line 2"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{},{}", "not JSON"),
        (b"{}", "name: "),
        (b"[]", "the whole: "),
    ],
)
def test_a_corrupt_manifest_is_a_clear_error(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(BadManifest, match=says):
        read_manifest(tmp_path)


def test_a_missing_manifest_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="cannot be read"):
        read_manifest(tmp_path)


def test_files_are_held_to_their_sha256(tmp_path: Path) -> None:
    fill(tmp_path)
    verify_files(tmp_path, sample_manifest())
    with pytest.raises(BadModel, match="not the same in `files`"):
        verify_files(tmp_path, replace(sample_manifest(), artifact_sha256="00" * 32))
    (tmp_path / "weights").write_bytes(b"weightz")
    with pytest.raises(BadModel, match="damaged or another"):
        verify_files(tmp_path, sample_manifest())
    (tmp_path / "weights").unlink()
    with pytest.raises(BadModel, match="cannot be read"):
        verify_files(tmp_path, sample_manifest())
