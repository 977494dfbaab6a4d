from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.process import Served, serving
from tests.toolchain.conftest import minilm

__all__ = ["both", "minilm", "toy"]

BOTH = """\
cpus: 2
models:
  minilm-l6: {source: zoo:minilm-l6, instances: 1, deadline_ms: 30000}
  toy: {source: zoo:toy, backend: toy, instances: 1}
"""


@pytest.fixture(scope="session")
def both(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The real model and the toy behind one door."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "palio.yaml").write_text(BOTH)
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("toy"), "zoo:toy") as served:
        yield served
