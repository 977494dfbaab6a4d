"""Keeps a process quiet while it measures: no collections, no wandering between cores."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """What lives now is set aside and what comes is not searched, until the block is over."""
    was_enabled = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextmanager
def on_cpus(cpus: Set[int] | None) -> Iterator[None]:
    """This thread, and what it starts, on these cores; None leaves it where it is.

    Cores that this process may not use are left out; if none is left nothing is pinned.
    """
    allowed = os.sched_getaffinity(0)
    wanted = allowed if cpus is None else allowed & cpus
    if not wanted or wanted == allowed:
        yield
        return
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
