from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from palio.toolchain.cache import Cache
from palio.toolchain.errors import NoSourceWorked
from palio.toolchain.fetch import Fetcher
from palio.toolchain.progress import Silent
from tests.toolchain.parcels import Shop, Watcher, open_shop, python

pytestmark = pytest.mark.net

DATA = bytes(range(256)) * 800

FETCH = """
import ssl, sys
from pathlib import Path
from palio.toolchain.cache import Cache
from palio.toolchain.fetch import Fetcher
from palio.toolchain.sources import HttpsSource, Wanted

class Told:
    def start(self, label, total_bytes): pass
    def done(self): pass
    def advance(self, n_bytes): print(n_bytes, flush=True)

root, url, sha256, authority = sys.argv[1:]
wanted = Wanted(name="parcel", sha256=sha256, sources=(HttpsSource(url),))
tls = ssl.create_default_context(cadata=authority)
Fetcher(Cache(Path(root)), Told(), tls=tls).fetch([wanted])
"""


def fetch(shop: Shop, cache: Cache, sha: str = "") -> Path:
    return Fetcher(cache, Silent(), tls=shop.tls).fetch([shop.wanted(sha)])["parcel"]


def test_a_file_comes_over_https_and_is_not_asked_for_twice(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        watcher = Watcher()
        fetcher = Fetcher(cache, watcher, tls=shop.tls)
        assert fetcher.fetch([shop.wanted()])["parcel"].read_bytes() == DATA
        assert watcher.stretches == [("fetch parcel", len(DATA))]
        assert watcher.seen_bytes == len(DATA)
        fetcher.fetch([shop.wanted()])
        assert shop.ranges == [None]


def test_a_download_killed_half_way_is_taken_up_where_it_stopped(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.gate = threading.Event()
        wanted = shop.wanted()
        with python(FETCH, cache.root, shop.url, wanted.sha256, shop.authority) as child:
            assert child.stdout is not None
            come = 0
            while come < len(DATA) // 2:
                come += int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
        assert not list((cache.root / "blobs").glob("*"))
        assert fetch(shop, cache).read_bytes() == DATA
        assert shop.ranges == [None, f"bytes={len(DATA) // 2}-"]


def test_a_broken_connection_is_taken_up_at_once(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.breaks_after = [1000, 500]
        assert fetch(shop, cache).read_bytes() == DATA
        assert shop.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_one_that_keeps_breaking_is_given_up_but_kept(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.breaks_after = [1000, 0]
        with pytest.raises(NoSourceWorked, match=r"ended after 1,000 of 204,800 bytes"):
            fetch(shop, cache)
        assert cache.part(shop.wanted().sha256).stat().st_size == 1000


def test_a_server_without_ranges_starts_again(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.honours_ranges = False
        shop.breaks_after = [1000]
        assert fetch(shop, cache).read_bytes() == DATA


def test_a_half_of_another_file_is_dropped_and_fetched_anew(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        cache.part(shop.wanted().sha256).write_bytes(b"x" * 1000)
        assert fetch(shop, cache).read_bytes() == DATA
        assert shop.ranges == ["bytes=1000-", None]


def test_a_half_longer_than_the_whole_is_dropped(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        cache.part(shop.wanted().sha256).write_bytes(DATA + b"x")
        assert fetch(shop, cache).read_bytes() == DATA


def test_the_wrong_content_is_not_kept(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        with pytest.raises(NoSourceWorked, match=r"parcel:\n  https://.*was promised"):
            fetch(shop, cache, "00" * 32)
        assert not list((cache.root / "blobs").glob("*"))
        assert not list((cache.root / "parts").glob("*"))


def test_a_redirect_away_from_https_is_not_followed(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.redirect = "http://localhost:1/file"
        with pytest.raises(NoSourceWorked, match="which is not https"):
            fetch(shop, cache)


def test_a_refusal_names_the_status(cache: Cache) -> None:
    with open_shop(DATA) as shop:
        shop.status = 403
        with pytest.raises(NoSourceWorked, match="answered 403"):
            fetch(shop, cache)


def test_an_untrusted_server_is_refused(cache: Cache) -> None:
    with (
        open_shop(DATA) as shop,
        pytest.raises(NoSourceWorked, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        Fetcher(cache, Silent()).fetch([shop.wanted()])
