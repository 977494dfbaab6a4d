"""Attempts for other programs: JSON lines for all, Parquet where pyarrow is installed.

What never happened is null, a fault is its name, and each stage is a column of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from palio.bench.attempts import NEVER, STAGES, Attempts, Fault
from palio.core.errors import SettingsError

TIMES: Final = ("intended", "released", "sent", "first_byte", "last_byte")
_PLAIN: Final = ("status", "bytes_out", "bytes_in", "input_id", "rows", "batch")
_AT_ONCE: Final = 10_000
_NAMES: Final = np.array([fault.name.lower() for fault in Fault])


class MissingExtra(SettingsError):
    """Something optional is not installed; the message is the line that installs it."""


def export_jsonl(attempts: Attempts, path: Path) -> None:
    """One object per attempt, in the order of intended time."""
    with path.open("wb") as file:
        for start in range(0, len(attempts), _AT_ONCE):
            part = attempts.where(slice(start, start + _AT_ONCE))
            file.writelines(
                orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in _objects(part)
            )


def export_parquet(attempts: Attempts, path: Path) -> None:
    """One row per attempt, compressed with zstd.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        pyarrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(
            "Parquet needs pyarrow: pip install 'palio[bench]'; JSON lines need nothing"
        ) from error
    columns: dict[str, Any] = {}
    for name in TIMES:
        times = getattr(attempts, name)
        columns[f"{name}_ns"] = pyarrow.array(times, mask=times == NEVER)
    columns["fault"] = pyarrow.array(_NAMES[attempts.fault])
    for name in _PLAIN:
        columns[name] = pyarrow.array(getattr(attempts, name))
    for at, stage in enumerate(STAGES):
        spent = np.ascontiguousarray(attempts.stages[:, at])
        columns[f"{stage}_ms"] = pyarrow.array(spent, mask=np.isnan(spent))
    parquet.write_table(pyarrow.table(columns), path, compression="zstd")


def _objects(attempts: Attempts) -> Iterator[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name in TIMES:
        times = getattr(attempts, name)
        columns[f"{name}_ns"] = [None if time == NEVER else time for time in times.tolist()]
    columns["fault"] = _NAMES[attempts.fault].tolist()
    for name in _PLAIN:
        columns[name] = getattr(attempts, name).tolist()
    for at, stage in enumerate(STAGES):
        # NaN is null in JSON as orjson writes it.
        columns[f"{stage}_ms"] = attempts.stages[:, at].tolist()
    names = tuple(columns)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(names, row, strict=True))
