from __future__ import annotations

import os
from pathlib import Path

import pytest

from palio.toolchain.cache import Cache
from palio.toolchain.errors import BadModel, CacheBusy, CacheUnusable, WrongContent
from palio.toolchain.fetch import Fetcher
from palio.toolchain.manifests import read_manifest
from palio.toolchain.progress import Silent
from palio.toolchain.sources import FileSource, Wanted
from tests.toolchain.parcels import python, sha256
from tests.toolchain.samples import fill

TWO = """
import sys
from pathlib import Path
from palio.toolchain.cache import Cache
from tests.toolchain.samples import fill

def make(folder):
    with open(sys.argv[2], "a") as log: log.write("made\\n")
    print("making", flush=True)
    sys.stdin.readline()
    fill(folder)

print("started", flush=True)
print(Cache(Path(sys.argv[1])).build("key", make), flush=True)
"""

FULL = """
import resource, sys
from pathlib import Path
from palio.toolchain.cache import Cache
from palio.toolchain.errors import DiskFull
from palio.toolchain.fetch import Fetcher
from palio.toolchain.progress import Silent
from palio.toolchain.sources import FileSource, Wanted

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
root, path, sha256 = sys.argv[1:]
wanted = Wanted(name="a", sha256=sha256, sources=(FileSource(Path(path)),))
try:
    Fetcher(Cache(Path(root)), Silent()).fetch([wanted])
except DiskFull as error:
    print(error)
"""


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} should not be made")


def test_a_blob_with_the_wrong_content_never_gets_in(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"another")
    with pytest.raises(WrongContent):
        cache.put_blob(path, sha256(b"content"))
    assert not path.exists()
    assert cache.blob(sha256(b"content")) is None


def test_a_truncated_blob_is_put_aside_and_fetched_again(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    wanted = Wanted(name="a", sha256=sha256(b"content"), sources=(FileSource(tmp_path / "a"),))
    fetcher = Fetcher(cache, Silent())
    blob = fetcher.fetch([wanted])["a"]
    os.truncate(blob, 3)
    assert fetcher.fetch([wanted])["a"].read_bytes() == b"content"
    assert (cache.root / "quarantine" / wanted.sha256).read_bytes() == b"con"


def test_a_build_is_made_once_and_then_found_without_writing(cache: Cache) -> None:
    folder = cache.build("key", fill)
    before = {path: path.stat().st_mtime_ns for path in cache.root.rglob("*")}
    assert Cache(cache.root).build("key", never) == folder
    assert {path: path.stat().st_mtime_ns for path in cache.root.rglob("*")} == before


def test_a_build_that_was_only_touched_is_kept(cache: Cache) -> None:
    folder = cache.build("key", fill)
    os.utime(folder / "weights", ns=(1, 1))
    assert cache.build("key", never) == folder
    os.utime(folder / "weights", ns=(2, 2))
    (folder / ".stamps.json").write_bytes(b"[")
    assert cache.build("key", never) == folder


@pytest.mark.parametrize("name", ["weights", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_build_is_put_aside_and_made_again(cache: Cache, name: str, damage: str) -> None:
    path = cache.build("key", fill) / name
    if damage == "cut":
        os.truncate(path, 3)
    elif damage == "changed":
        path.write_bytes(path.read_bytes()[::-1])
    else:
        path.unlink()
    folder = cache.build("key", fill)
    assert read_manifest(folder).name == "sample"
    assert (folder / "weights").read_bytes() == b"weights"
    assert (cache.root / "quarantine" / "key").is_dir()


def test_a_maker_that_fails_leaves_nothing(cache: Cache) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise BadModel("no")

    with pytest.raises(BadModel):
        cache.build("key", make)
    assert not list((cache.root / "tmp").iterdir())
    assert not (cache.root / "builds" / "key").exists()
    assert cache.build("key", fill).is_dir()


def test_a_maker_whose_manifest_lies_is_not_believed(cache: Cache) -> None:
    def make(folder: Path) -> None:
        fill(folder)
        (folder / "weights").write_bytes(b"others")

    with pytest.raises(BadModel, match="damaged or another"):
        cache.build("key", make)


def test_two_processes_at_once_make_it_once(cache: Cache, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with python(TWO, cache.root, log) as first, python(TWO, cache.root, log) as second:
        children = (first, second)
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "started\n"
        # Whoever makes it waits for this line; the other one never reads it.
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        folders = [child.communicate()[0].splitlines()[-1] for child in children]
    assert folders == [str(cache.root / "builds" / "key")] * 2
    assert log.read_text(encoding="utf-8") == "made\n"


def test_a_lock_held_too_long_is_named(cache: Cache) -> None:
    impatient = Cache(cache.root, lock_timeout_s=0)
    with (
        cache.lock("thing"),
        pytest.raises(CacheBusy, match=r"locks/thing\.lock for 0 s"),
        impatient.lock("thing"),
    ):
        pass


def test_what_the_dead_left_is_swept_and_what_the_living_use_is_not(cache: Cache) -> None:
    with cache.workspace("alive") as alive:
        dead = alive.parent / "dead-0123"
        dead.mkdir()
        (dead / "half").write_bytes(b"half")
        with cache.workspace("other"):
            assert alive.is_dir()
            assert not dead.exists()
    assert not list((cache.root / "tmp").iterdir())
    assert not list((cache.root / "locks").glob("tmp-*"))


def test_a_full_disk_is_named_and_leaves_no_corrupt_cache(cache: Cache, tmp_path: Path) -> None:
    data = bytes(2_000_000)
    (tmp_path / "a").write_bytes(data)
    with python(FULL, cache.root, tmp_path / "a", sha256(data)) as child:
        told = child.communicate()[0]
    assert f"no room in {cache.root}: 2,000,000 bytes are needed" in told
    assert "PALIO_CACHE" in told
    assert not list((cache.root / "tmp").iterdir())
    wanted = Wanted(name="a", sha256=sha256(data), sources=(FileSource(tmp_path / "a"),))
    assert Fetcher(cache, Silent()).fetch([wanted])["a"].read_bytes() == data


def test_a_place_that_cannot_hold_a_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusable, match="cannot be written"):
        Cache(tmp_path / "file").build("key", fill)
