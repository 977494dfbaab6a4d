from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palio.toolchain.wheels import _bytes_under


def test_what_pip_has_fetched_is_counted_while_pip_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was listed is gone when it is opened: passed over, not raised."""
    (tmp_path / "kept").write_bytes(b"1234")
    (tmp_path / "gone").mkdir()
    really = os.scandir

    def scandir(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _bytes_under(tmp_path) == 4
