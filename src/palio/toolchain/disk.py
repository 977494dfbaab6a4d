"""Writing so that a file is whole or absent, and saying clearly when the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from palio.toolchain.errors import CacheUnusable, DiskFull

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


@contextmanager
def writing(folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a disk's refusal to write into an error that says where and how much.

    Raises:
        DiskFull: there is no room, or a file may not become so large.
        CacheUnusable: the folder may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(folder, needed_bytes=needed_bytes, free_bytes=free_in(folder)) from error
        if error.errno in _REFUSED:
            raise CacheUnusable(
                f"the cache folder {folder} cannot be written ({error.strerror}); "
                "mend its permissions, or name another folder with PALIO_CACHE"
            ) from error
        raise


def free_in(folder: Path) -> int | None:
    """How many bytes are free where `folder` is; None if it cannot be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file and see it safely onto the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def settle(path: Path) -> None:
    """See a file's bytes, or a folder's list of names, safely onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_into_place(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, all at once; the bytes are on the disk first."""
    settle(source)
    source.replace(target)
    settle(target.parent)
