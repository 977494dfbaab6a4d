from __future__ import annotations

import os
from pathlib import Path

import pytest

from palio.settings import cache_root
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.errors import NoSourceWorked


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model's folder, from the cache people use, so that it is fetched only once."""
    try:
        return build("zoo:minilm-l6", Cache(cache_root(os.environ)))
    except NoSourceWorked as error:
        pytest.skip(f"zoo:minilm-l6 is not cached and cannot be fetched: {error.failures[0][1]}")
