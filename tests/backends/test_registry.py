from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from palio.backends import find_backend, installed_backends, toy
from palio.backends.registry import GROUP, OURS
from palio.core.errors import SettingsError
from palio.core.ports import Placement
from tests.kit.check_backend import check_backend
from tests.kit.toy import MANIFEST

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs/how-to/add-a-backend.md"

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a distribution as pip would leave it: code, and a folder with its metadata."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package: str, entry_points: str) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")

    return put


def test_ours_are_found_without_being_installed() -> None:
    assert {"onnxruntime", "toy"} <= set(installed_backends())
    assert find_backend("toy") is toy.load


def test_pyproject_declares_the_same_backends() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["entry-points"][GROUP] == OURS


def test_somebody_elses_backend_serves_without_an_edit_of_ours(
    install: Install, tmp_path: Path
) -> None:
    _, code, _ = re.split(r"^```(?:python)?$", HOW_TO.read_text(), maxsplit=2, flags=re.MULTILINE)
    (tmp_path / "negator_backend.py").write_text(code)
    install("negator", "negator = negator_backend:load")
    assert "negator" in installed_backends()
    load = find_backend("negator")
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    wanted = Placement(device="cpu", precision="fp32", threads=1)
    np.testing.assert_array_equal(load("", MANIFEST, wanted).run({"x": x})["y"], -x)
    check_backend(load, "", MANIFEST, {"x": x})


def test_an_unknown_name_gets_the_nearest_and_the_installed() -> None:
    with pytest.raises(
        SettingsError,
        match=r"no backend 'onnx'; did you mean onnxruntime\? \(installed: .*toy.*\)",
    ):
        find_backend("onnx")


def test_what_a_backend_lacks_is_one_sentence_with_the_pip_line(install: Install) -> None:
    install("abacus", "abacus = abacus_backend:load [beads]")
    with pytest.raises(
        SettingsError, match=r"needs abacus_backend, .* pip install 'abacus\[beads\]'"
    ):
        find_backend("abacus")


def test_a_name_claimed_twice_is_refused(install: Install) -> None:
    install("rival", "toy = rival:load")
    with pytest.raises(SettingsError, match=r"two packages bring a backend 'toy'.*\(rival\)"):
        find_backend("toy")


def test_an_entry_point_to_nothing_is_refused(install: Install, tmp_path: Path) -> None:
    (tmp_path / "hollow_backend.py").write_text("number = 1\n")
    install("hollow", "hollow = hollow_backend:load\nnumber = hollow_backend:number")
    with pytest.raises(SettingsError, match="nothing at hollow_backend:load"):
        find_backend("hollow")
    with pytest.raises(SettingsError, match="not a callable"):
        find_backend("number")
