from __future__ import annotations

import io
import threading

from rich.console import Console

from palio.toolchain.progress import Silent
from palio.toolchain.progress_rich import RichProgress


def test_bars_name_each_stretch_and_leave_nothing_running() -> None:
    out = io.StringIO()
    threads = threading.active_count()
    with RichProgress(Console(file=out, force_terminal=True, width=100)) as progress:
        progress.start("fetch [a]", 2_000_000)
        progress.advance(2_000_000)
        progress.done()
        assert threading.active_count() == threads
        progress.start("build", None)
        progress.advance(1_000)
    assert threading.active_count() == threads
    assert "fetch [a]" in out.getvalue()
    assert "2.0/2.0 MB" in out.getvalue()
    assert "build" in out.getvalue()


def test_telling_a_progress_nobody_started_does_no_harm() -> None:
    for progress in (RichProgress(), Silent()):
        progress.advance(1)
        progress.done()
