from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from palio.backends.onnxruntime import OnnxBackend, load
from palio.backends.onnxruntime_options import OPTIONS
from palio.core.errors import BackendFailed, RowRejected, SettingsError
from palio.core.manifest import Manifest
from palio.core.ports import Placement
from tests.kit import graphs

Given = Mapping[str, str | int | bool]


def _wanted(
    options: Given | None = None, *, threads: int = 1, providers: tuple[str, ...] = ()
) -> Placement:
    return Placement(
        device="cpu", precision="fp32", threads=threads, providers=providers, options=options or {}
    )


def _load(folder: Path, manifest: Manifest, wanted: Placement | None = None) -> OnnxBackend:
    return load(str(folder), manifest, wanted or _wanted())


@pytest.mark.parametrize(
    "options",
    [
        {"execution_mode": "parallel", "inter_op_threads": 2},
        {"graph_optimization_level": "disable"},
        {"graph_optimization_level": "basic"},
        {"graph_optimization_level": "extended"},
        {"enable_cpu_mem_arena": False},
        {"enable_mem_pattern": False},
        {"enable_mem_reuse": False},
        {"use_deterministic_compute": True},
        {"allow_spinning": True},
        {"allow_inter_op_spinning": True},
        {"flush_denormals": True},
        {"disable_prepacking": True},
        {"dynamic_block_base": 4},
        {"log_severity": "error"},
    ],
    ids=str,
)
def test_every_option_is_applied_and_read_back(tmp_path: Path, options: Given) -> None:
    manifest = graphs.dense(tmp_path)
    usual = _load(tmp_path, manifest).info.effective.options
    effective = _load(tmp_path, manifest, _wanted(options)).info.effective.options
    assert effective == {**usual, **options}
    assert any(usual[name] != value for name, value in options.items())
    assert set(effective) == set(OPTIONS)


def test_threads_are_those_asked_for_and_results_the_same(tmp_path: Path) -> None:
    manifest = graphs.dense(tmp_path)
    x = np.ones((2, 3), np.float32)
    one, two = _load(tmp_path, manifest), _load(tmp_path, manifest, _wanted(threads=2))
    assert (one.info.effective.threads, two.info.effective.threads) == (1, 2)
    np.testing.assert_allclose(one.run({"x": x})["y"], two.run({"x": x})["y"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"graph_optimisation_level": "all"}, r"did you mean graph_optimization_level\?"),
        ({"graph_optimization_level": "most"}, r"disable or basic .* \(got 'most'\)"),
        ({"allow_spinning": 1}, r"allow_spinning must be true or false \(got 1\)"),
        ({"inter_op_threads": 0}, r"inter_op_threads must be a whole number ≥ 1"),
        ({"inter_op_threads": 2}, "does nothing while execution_mode is sequential"),
    ],
)
def test_an_option_that_would_do_nothing_stops_the_start(
    tmp_path: Path, options: Given, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        _load(tmp_path, graphs.dense(tmp_path), _wanted(options))


def test_a_device_that_is_not_there_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    # No machine has this one, so the test means the same with and without a GPU.
    wanted = _wanted(providers=("AbacusExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(SettingsError, match=r"no AbacusExecutionProvider .*palio\[gpu\]"):
        _load(tmp_path, graphs.dense(tmp_path), wanted)


def test_a_fallback_that_was_allowed_is_reported(tmp_path: Path) -> None:
    wanted = _wanted({"allow_fallback": True}, providers=("AbacusExecutionProvider",))
    info = _load(tmp_path, graphs.dense(tmp_path), wanted).info
    assert info.requested.providers == ("AbacusExecutionProvider",)
    assert info.effective.providers == ("CPUExecutionProvider",)


def test_an_id_outside_the_table_is_the_fault_of_its_row(tmp_path: Path) -> None:
    backend = _load(tmp_path, graphs.embedding(tmp_path))
    with pytest.raises(RowRejected, match="idx=99 must be within") as rejected:
        backend.run({"ids": np.array([[1, 2], [3, 99]])})
    assert rejected.value.__cause__ is not None
    np.testing.assert_array_equal(
        backend.run({"ids": np.array([[0, 0]])})["vector"], [[0, 1, 2, 3]]
    )


def test_text_that_is_no_utf_8_is_the_fault_of_its_row(tmp_path: Path) -> None:
    backend = _load(tmp_path, graphs.echo(tmp_path))
    with pytest.raises(RowRejected, match="text holds bytes that are not UTF-8"):
        backend.run({"text": np.array([b"fine", b"\xff"], object)})


def test_rows_that_disagree_are_refused_before_they_run(tmp_path: Path) -> None:
    backend = _load(tmp_path, graphs.dense(tmp_path))
    with pytest.raises(BackendFailed, match="the graph takes x, not z"):
        backend.run({"z": np.ones((1, 3), np.float32)})
    with pytest.raises(BackendFailed, match="x is FP64, but the graph takes FP32"):
        backend.run({"x": np.ones((1, 3))})


def test_a_result_without_the_batchs_rows_is_no_answer(tmp_path: Path) -> None:
    backend = _load(tmp_path, graphs.total(tmp_path))
    with pytest.raises(BackendFailed, match=r"y came out with shape \[1, 1\], but the batch has 3"):
        backend.run({"x": np.ones((3, 2), np.float32)})


def test_a_manifest_that_speaks_of_other_tensors_stops_the_start(tmp_path: Path) -> None:
    graphs.dense(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = graphs.embedding(tmp_path / "other")
    with pytest.raises(SettingsError, match=r"inputs ids INT64, but model.onnx has x FP32"):
        _load(tmp_path, stranger)


def test_a_file_that_is_missing_or_no_model_is_one_sentence(tmp_path: Path) -> None:
    manifest = graphs.dense(tmp_path)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"this is no protobuf")
    with pytest.raises(SettingsError, match=r"model\.onnx does not load: "):
        _load(tmp_path, manifest)
    model.unlink()
    with pytest.raises(SettingsError, match=r"model\.onnx is not there"):
        _load(tmp_path, manifest)
