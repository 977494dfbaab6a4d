"""Progress as bars on a terminal. Rich is imported when the first bar is drawn."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_LABEL_WIDTH: Final = 36
_REDRAW_NS: Final = 100_000_000


class RichProgress:
    """Draws one bar for each stretch of work, on stderr; finished ones stay in view.

    It starts no thread and draws only when told of progress, so a server may keep one for life.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._drawn_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.done()

    def start(self, label: str, total_bytes: int | None) -> None:
        self.done()
        self._bar = _bar(self._console)
        self._task = self._bar.add_task(label.ljust(_LABEL_WIDTH), total=total_bytes)
        self._bar.start()

    def advance(self, n_bytes: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n_bytes)
            now = time.perf_counter_ns()
            if now - self._drawn_ns >= _REDRAW_NS:
                self._bar.refresh()
                self._drawn_ns = now

    def done(self) -> None:
        if self._bar is None or self._task is None:
            return
        task = self._bar.tasks[0]
        if task.total is None:
            # Of unknown length until now: what came was the whole.
            self._bar.update(self._task, total=task.completed)
        self._bar.stop()
        self._bar = self._task = None


def _bar(console: Console | None) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        # Bars are for eyes: stdout stays clean for whoever reads it.
        console=console or Console(stderr=True),
        auto_refresh=False,
    )
