"""A clock's alarm that is on time: Linux timerfd on `CLOCK_MONOTONIC`, to the microsecond.

asyncio's own timers, uvloop's too, know whole milliseconds only. Through ctypes, because Python's
`os` has timerfd only from 3.13 on.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_NONBLOCK_CLOEXEC: Final = 0o4000 | 0o2000000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls `ring` on the loop at the instant last set; a later setting replaces the earlier.

    It goes on ringing, once each turn of the loop, until it is set anew or switched off: setting
    it takes back a ring not yet heard, which spares a read for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd = int(libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _Itimerspec()
        self._value = self._spec.value
        self._where = ctypes.byref(self._spec)
        self._loop = loop
        loop.add_reader(self._fd, ring)

    def set_at(self, monotonic_ns: int) -> None:
        """Ring at that time of `time.monotonic_ns`, at once if it has passed."""
        self._value.seconds, self._value.ns = divmod(max(monotonic_ns, 1), 1_000_000_000)
        self._arm()

    def switch_off(self) -> None:
        """Do not ring until set again."""
        self._value.seconds = self._value.ns = 0
        self._arm()

    def close(self) -> None:
        """Give the timer back; a second time does nothing."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self) -> None:
        if self._settime(self._fd, _TFD_TIMER_ABSTIME, self._where, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
