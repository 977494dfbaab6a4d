from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from palio.core.tensors import TensorSpec
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.errors import BadModel, NoSourceWorked, UnknownReference
from palio.toolchain.manifests import read_manifest
from palio.toolchain.zoo import ZOO, zoo_model
from tests.toolchain.parcels import make_wheel, open_shop, sha256
from tests.toolchain.samples import fill


def save_onnx(path: Path, *, beside: bool = False, shape: tuple[int | str, ...] = ("n", 4)) -> None:
    """A graph that adds a stored row, with the row in a file of its own if `beside`."""
    row = numpy_helper.from_array(np.ones(4, np.float32), "row")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "row"], ["y"])],
        "adder",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [row],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path, save_as_external_data=beside, location="row.bin", size_threshold=0)


def test_the_toy_is_a_manifest_and_nothing_else(cache: Cache) -> None:
    folder = build("zoo:toy", cache)
    manifest = read_manifest(folder)
    assert (manifest.platform, manifest.weights, manifest.files) == ("toy", "none", {})
    assert manifest.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert manifest.outputs == (TensorSpec("y", "FP32", (-1, 4)),)
    assert manifest.is_batchable
    assert build("zoo:toy", cache) == folder


@pytest.mark.parametrize("name", ["minilm-l12", "minilm", "MiniLM-L6"])
def test_an_unknown_name_gets_the_nearest(cache: Cache, name: str) -> None:
    with pytest.raises(UnknownReference, match=r"did you mean zoo:minilm-l6\?"):
        build(f"zoo:{name}", cache)


def test_a_name_near_nothing_gets_the_list(cache: Cache) -> None:
    with pytest.raises(UnknownReference, match=r"'zzz'; it has zoo:minilm-l6, zoo:toy"):
        build("zoo:zzz", cache)


def test_another_recipe_or_another_file_is_another_key() -> None:
    model = zoo_model("minilm-l6")
    assert model.key(1) != model.key(2)
    assert len({one.key(1) for one in ZOO}) == len(ZOO)


def test_an_onnx_file_is_described_where_it_lies(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "adder.onnx"
    save_onnx(path)
    manifest = read_manifest(build(str(path), cache))
    assert manifest.name == "adder"
    assert manifest.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert manifest.outputs == (TensorSpec("y", "FP32", (-1, 4)),)
    assert manifest.opset == 17
    assert Path(manifest.artifact) == path.resolve()
    assert manifest.artifact_sha256 == sha256(path.read_bytes())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adder.onnx", "cache"]


def test_an_onnx_file_that_changes_is_described_anew(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "adder.onnx"
    save_onnx(path)
    build(f"file:{path}", cache)
    save_onnx(path, shape=(2, 4))
    assert read_manifest(build(f"file:{path}", cache)).inputs[0].shape == (2, 4)
    path.write_bytes(b"no longer a model")
    with pytest.raises(BadModel, match="is not an ONNX"):
        build(f"file:{path}", cache)


def test_weights_in_a_file_beside_it_are_part_of_the_model(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "adder.onnx"
    save_onnx(path, beside=True)
    manifest = read_manifest(build(str(path), cache))
    assert [Path(name).name for name in manifest.files] == ["adder.onnx", "row.bin"]
    (tmp_path / "row.bin").unlink()
    with pytest.raises(BadModel, match=r"row\.bin, which is missing"):
        build(str(path), cache)


def test_a_model_the_protocol_cannot_speak_of_is_refused(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.COMPLEX64, [1])
    onnx.save(helper.make_model(helper.make_graph([node], "odd", [x], [y])), path)
    with pytest.raises(BadModel, match="COMPLEX64"):
        build(str(path), cache)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph([node], "odd", [x], [y])), path)
    with pytest.raises(BadModel, match="how many dimensions"):
        build(str(path), cache)


def test_a_folder_with_a_manifest_is_used_where_it_lies(cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UnknownReference, match=r"without a manifest\.json"):
        build(str(folder), cache)
    fill(folder)
    assert build(str(folder), cache) == folder
    (folder / "weights").write_bytes(b"others")
    with pytest.raises(BadModel, match="damaged or another"):
        build(str(folder), cache)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("no/such.onnx", "does not exist"),
        ("hf:org/model", "scheme hf: is not known; known are zoo:, file:, https:, pypi:"),
        ("http://example.org/a.onnx", "scheme http: is not known"),
        ("https://example.org/a.onnx", "add #sha256="),
    ],
)
def test_what_is_no_reference_is_refused(cache: Cache, reference: str, says: str) -> None:
    with pytest.raises(UnknownReference, match=says):
        build(reference, cache)


def test_a_file_that_is_not_a_model_is_refused(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes", encoding="utf-8")
    with pytest.raises(BadModel, match=r"not named \.onnx"):
        build(str(path), cache)
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    with pytest.raises(BadModel, match="gives nothing"):
        build(str(path), cache)


@pytest.mark.net
def test_a_model_behind_an_address_is_pinned_fetched_and_described(
    cache: Cache, tmp_path: Path
) -> None:
    from palio.toolchain.fetch import Fetcher
    from palio.toolchain.progress import Silent

    save_onnx(tmp_path / "adder.onnx")
    data = (tmp_path / "adder.onnx").read_bytes()
    with open_shop(data) as shop:
        fetcher = Fetcher(cache, Silent(), tls=shop.tls)
        reference = f"{shop.url}#sha256={sha256(data)}"
        manifest = read_manifest(build(reference, cache, fetcher=fetcher))
        assert (manifest.name, manifest.source) == ("file", shop.url)
        assert manifest.artifact_sha256 == sha256(data)


@pytest.mark.slow
def test_a_model_inside_a_wheel_is_pinned_twice(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_onnx(tmp_path / "adder.onnx")
    data = (tmp_path / "adder.onnx").read_bytes()
    _, wheel = make_wheel(tmp_path / "index", {"m/adder.onnx": data})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    start = f"pypi:parcel==1.0#sha256={wheel.sha256}!m/adder.onnx#sha256="
    assert read_manifest(build(start + sha256(data), cache)).name == "adder"
    with pytest.raises(NoSourceWorked, match="was promised"):
        build(start + "00" * 32, cache)


def test_the_reference_page_names_every_model_and_every_pinned_file() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "zoo.md"
    text = page.read_text(encoding="utf-8")
    for model in ZOO:
        assert f"`zoo:{model.name}`" in text
        for wanted in model.files:
            assert f"| `{wanted.name}` | `{wanted.sha256}` |" in text
