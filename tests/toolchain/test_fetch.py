from __future__ import annotations

import sys
from pathlib import Path

import pytest

from palio.toolchain.cache import Cache
from palio.toolchain.errors import NoSourceWorked
from palio.toolchain.fetch import Fetcher
from palio.toolchain.progress import Silent
from palio.toolchain.sources import FileSource, Wanted, Wheel, WheelSource
from tests.toolchain.parcels import Watcher, fake_pip, make_wheel, sha256


def in_wheel(wheel: Wheel, member: str, data: bytes) -> Wanted:
    return Wanted(name=member, sha256=sha256(data), sources=(WheelSource(wheel, member),))


def test_the_first_source_that_works_wins(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"another")
    (tmp_path / "right").write_bytes(b"content")
    sources = tuple(FileSource(tmp_path / name) for name in ("missing", "wrong", "right", "unused"))
    wanted = Wanted(name="a", sha256=sha256(b"content"), sources=sources)
    assert Fetcher(cache, Silent()).fetch([wanted])["a"].read_bytes() == b"content"
    assert not list((cache.root / "tmp").iterdir())


def test_when_all_fail_each_is_listed_with_its_reason(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"another")
    sources = (FileSource(tmp_path / "missing"), FileSource(tmp_path / "wrong"))
    wanted = Wanted(name="a", sha256=sha256(b"content"), sources=sources)
    with pytest.raises(NoSourceWorked) as caught:
        Fetcher(cache, Silent()).fetch([wanted])
    lines = str(caught.value).splitlines()
    assert lines[1].endswith("missing: cannot be read: No such file or directory")
    assert "was promised" in lines[2]
    assert "blobs" in lines[3]
    assert not list((cache.root / "tmp").iterdir())


def test_one_wheel_is_fetched_once_for_all_its_files_and_then_deleted(
    cache: Cache, tmp_path: Path
) -> None:
    path, wheel = make_wheel(tmp_path, {"m/a": b"first", "m/b": b"second"})
    script, log = fake_pip(tmp_path, path)
    watcher = Watcher()
    files = [in_wheel(wheel, "m/a", b"first"), in_wheel(wheel, "m/b", b"second")]
    found = Fetcher(cache, watcher, pip=[sys.executable, str(script)]).fetch(files)
    assert [found[name].read_bytes() for name in ("m/a", "m/b")] == [b"first", b"second"]
    assert log.read_text(encoding="utf-8") == "called\n"
    assert watcher.stretches == [("fetch pypi:parcel==1.0", wheel.size_bytes)]
    assert not list((cache.root / "tmp").iterdir())


def test_a_wheel_without_the_file_says_so(cache: Cache, tmp_path: Path) -> None:
    path, wheel = make_wheel(tmp_path, {})
    script, _ = fake_pip(tmp_path, path)
    with pytest.raises(NoSourceWorked, match=r"holds no m/a"):
        Fetcher(cache, Silent(), pip=[sys.executable, str(script)]).fetch(
            [in_wheel(wheel, "m/a", b"first")]
        )


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; sys.exit('ERROR: no such thing\\nERROR: none at all')", "none at all"),
        ("raise SystemExit(1)", "without a word"),
        ("raise SystemExit('No module named pip')", "ensurepip"),
        ("pass", "0 wheels instead of one"),
    ],
)
def test_a_failing_pip_is_quoted(cache: Cache, script: str, says: str) -> None:
    wheel = Wheel("parcel", "1.0", "00" * 32)
    with pytest.raises(NoSourceWorked, match=says):
        Fetcher(cache, Silent(), pip=[sys.executable, "-c", script]).fetch(
            [in_wheel(wheel, "m/a", b"first")]
        )


@pytest.mark.slow
def test_the_real_pip_takes_the_pinned_wheel_and_no_other(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wheel = make_wheel(tmp_path / "index", {"m/a": b"first"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    fetcher = Fetcher(cache, Silent())
    found = fetcher.fetch([in_wheel(wheel, "m/a", b"first")])
    assert found["m/a"].read_bytes() == b"first"
    other = Wheel("parcel", "1.0", "00" * 32)
    with pytest.raises(NoSourceWorked, match=r"(?i)hash"):
        fetcher.fetch([in_wheel(other, "m/a", b"other")])
