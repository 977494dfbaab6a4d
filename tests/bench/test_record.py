from __future__ import annotations

import dataclasses
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from palio.bench import attempts_file
from palio.bench.attempts import NEVER, Attempts, Fault
from palio.bench.export import MissingExtra, export_jsonl, export_parquet
from palio.bench.record import RESOURCES, SCHEDULE, Recorder, UnreadableTrial, read_trial
from palio.bench.verdict import Reason, State, Verdict
from palio.core.errors import SettingsError
from tests.bench.test_manifest import STARTED, manifest

WIDE = {"stages": 5}


def attempts_of(count: int, seed: int = 0) -> Attempts:
    """Attempts with something else in every place."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for name, kind in attempts_file.COLUMNS.items():
        shape = (count, WIDE[name]) if name in WIDE else (count,)
        most = len(Fault) if name == "fault" else 30_000
        columns[name] = rng.integers(0, most, shape).astype(kind)
    columns["stages"][::3, 1] = np.nan
    columns["first_byte"][::4] = NEVER
    return Attempts(**columns)


@st.composite
def some_attempts(draw: st.DrawFn) -> Attempts:
    count = draw(st.integers(0, 6))
    columns: dict[str, Any] = {}
    for name, kind in attempts_file.COLUMNS.items():
        # Few different times, so that some are equal.
        elements = st.integers(0, 3) if name == "intended" else None
        shape = (count, WIDE[name]) if name in WIDE else (count,)
        columns[name] = draw(arrays.arrays(np.dtype(kind), shape, elements=elements))
    return Attempts(**columns)


def in_order(parts: list[Attempts]) -> Attempts:
    """All parts in one, by intended time, equals as they came."""
    order = np.argsort(np.concatenate([part.intended for part in parts]), kind="stable")
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
        for field in dataclasses.fields(Attempts)
    }
    return Attempts(**columns)


def assert_same(found: Attempts, wanted: Attempts) -> None:
    """To the bit, and of the same kind: NaNs are not equal to themselves."""
    for field in dataclasses.fields(Attempts):
        mine, theirs = getattr(found, field.name), getattr(wanted, field.name)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), field.name
        assert mine.tobytes() == theirs.tobytes(), field.name


def written(parts: list[Attempts]) -> bytes:
    return attempts_file.head() + b"".join(attempts_file.chunk(part) for part in parts)


@given(parts=st.lists(some_attempts(), min_size=1, max_size=4))
def test_what_is_written_is_read_in_the_order_of_intended_time(
    parts: list[Attempts], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "law.bin"
    path.write_bytes(written(parts))
    found, torn = attempts_file.read(path)
    assert torn == ""
    assert_same(found, in_order(parts))


def test_a_file_cut_off_at_any_byte_keeps_every_whole_chunk(tmp_path: Path) -> None:
    parts = [attempts_of(count, seed=count) for count in (1, 2, 3)]
    content = written(parts)
    ends = [len(written(parts[:count])) for count in range(4)]
    path = tmp_path / "cut.bin"
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found, torn = attempts_file.read(path)
        whole = sum(end <= length for end in ends[1:])
        assert_same(found, in_order([attempts_of(0), *parts[:whole]]))
        left = length - max((end for end in ends if end <= length), default=0)
        assert (f"the last {left:,} bytes" in torn) == bool(left)
        assert bool(torn) == bool(left)


@given(at=st.integers(), bit=st.integers(0, 7))
def test_a_chunk_that_was_changed_is_never_taken_for_whole(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(written([attempts_of(2), attempts_of(2, 1)]))
    begin = len(written([attempts_of(2)]))
    content[begin + at % (len(content) - begin)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(content)
    found, torn = attempts_file.read(path)
    assert torn
    assert_same(found, in_order([attempts_of(2)]))


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PALIOATT\x02\0\0\0\x51\0\0\0"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(UnreadableTrial, match="does not begin as a file of attempts of version 1"):
        attempts_file.read(tmp_path / "other")


OK = Verdict(State.OK)


def test_a_finished_trial_has_its_verdict_its_attempts_and_its_schedule(tmp_path: Path) -> None:
    parts = [attempts_of(5), attempts_of(0), attempts_of(3, 1)]
    verdict = Verdict(State.SATURATED, (Reason("rate", "it fell behind"),))
    with Recorder(
        tmp_path / "a" / "b", manifest(), schedule=np.arange(10), now=lambda: STARTED
    ) as recorder:
        for part in parts:
            recorder.add(part)
        recorder.finish(verdict)
    trial = read_trial(tmp_path / "a" / "b")
    assert trial.is_finished
    assert (trial.manifest.verdict, trial.manifest.ended) == (verdict, STARTED)
    assert_same(trial.attempts, in_order(parts))
    assert trial.schedule is not None
    assert (trial.schedule.tolist(), trial.unrecorded) == (list(range(10)), 2)
    assert (trial.torn, trial.samples) == ("", ())


def test_a_trial_that_ends_by_an_error_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path, manifest()) as recorder:
        _record_until_interrupted(recorder)
    trial = read_trial(tmp_path)
    assert not trial.is_finished
    assert trial.manifest.verdict is None
    assert (len(trial.attempts), trial.unrecorded) == (4, None)


def test_a_verdict_may_come_after_the_last_attempt_was_taken(tmp_path: Path) -> None:
    with Recorder(tmp_path, manifest()) as recorder:
        recorder.add(attempts_of(4))
    assert not read_trial(tmp_path).is_finished
    recorder.finish(OK)
    trial = read_trial(tmp_path)
    assert (trial.is_finished, len(trial.attempts)) == (True, 4)


def _record_until_interrupted(recorder: Recorder) -> None:
    recorder.add(attempts_of(4))
    raise KeyboardInterrupt


def test_no_trial_is_written_over(tmp_path: Path) -> None:
    Recorder(tmp_path, manifest()).close()
    with pytest.raises(SettingsError, match="already holds a trial"):
        Recorder(tmp_path, manifest())


def test_a_folder_that_cannot_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"cannot record a trial in .*: not a directory"):
        Recorder(tmp_path / "file" / "trial", manifest())


def test_the_start_of_a_trial_is_readable_whatever_is_missing(tmp_path: Path) -> None:
    Recorder(tmp_path, manifest(), schedule=np.arange(3)).close()
    (tmp_path / attempts_file.FILE).unlink()
    (tmp_path / SCHEDULE).write_bytes(b"\x93NUMPY")
    (tmp_path / RESOURCES).write_bytes(b'{"palio_samples":1}\n{"t_n')
    trial = read_trial(tmp_path)
    assert (len(trial.attempts), trial.schedule, trial.samples) == (0, None, ())
    assert not trial.is_finished


def test_nothing_in_the_folder_is_a_percentile(tmp_path: Path) -> None:
    with Recorder(tmp_path, manifest()) as recorder:
        recorder.add(attempts_of(4))
        recorder.finish(OK)
    text = (tmp_path / "trial.json").read_text()
    assert not [word for word in ("p50", "p90", "p99_", "percentile", "mean") if word in text]
    assert {path.name for path in tmp_path.iterdir()} == {"trial.json", "attempts.bin"}


def test_a_full_disk_costs_the_chunk_that_met_it_and_no_other(tmp_path: Path) -> None:
    parts = [attempts_of(3), attempts_of(2, 1)]
    with Recorder(tmp_path, manifest()) as recorder:
        recorder.add(parts[0])
        with file_limit(bytes_=len(written(parts[:1])) + 50), pytest.raises(OSError, match="large"):
            recorder.add(attempts_of(9, 2))
        recorder.add(parts[1])
        recorder.finish(OK)
    trial = read_trial(tmp_path)
    assert trial.torn == ""
    assert_same(trial.attempts, in_order(parts))


@contextmanager
def file_limit(*, bytes_: int) -> Iterator[None]:
    """No file of this process may grow beyond it: like a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


RECORDING = """
import sys
from pathlib import Path
import numpy as np
from palio.bench.record import Recorder
from tests.bench.test_manifest import manifest
from tests.bench.test_record import attempts_of
recorder = Recorder(Path(sys.argv[1]), manifest(), schedule=np.arange(1_000_000))
seed = 0
while True:
    recorder.add(attempts_of(100, seed))
    seed += 1
    print(seed, flush=True)
"""


@pytest.mark.parametrize("seed", range(2))
def test_what_was_recorded_survives_a_kill(tmp_path: Path, seed: int) -> None:
    kill_after = int(np.random.default_rng(seed).integers(1, 40))
    process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [sys.executable, "-c", RECORDING, str(tmp_path / "trial")],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == kill_after:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    trial = read_trial(tmp_path / "trial")
    assert not trial.is_finished
    chunks, rest = divmod(len(trial.attempts), 100)
    assert (chunks >= kill_after, rest) == (True, 0)
    assert_same(trial.attempts, in_order([attempts_of(100, seed) for seed in range(chunks)]))
    assert trial.unrecorded == 1_000_000 - len(trial.attempts)


def one_attempt(**changes: Any) -> Attempts:
    columns: dict[str, Any] = {
        name: np.full((1, WIDE[name]) if name in WIDE else 1, 7, kind)
        for name, kind in attempts_file.COLUMNS.items()
    }
    for name, value in changes.items():
        columns[name][...] = value
    return Attempts(**columns)


TIMED_OUT = one_attempt(fault=Fault.TIMEOUT, last_byte=NEVER, stages=np.nan)
EXPORTED = {
    **dict.fromkeys(("intended_ns", "released_ns", "sent_ns", "first_byte_ns"), 7),
    "last_byte_ns": None,
    "fault": "timeout",
    **dict.fromkeys(("status", "bytes_out", "bytes_in", "input_id", "rows", "batch"), 7),
    **dict.fromkeys(("read_ms", "tokenise_ms", "queue_ms", "compute_ms", "write_ms")),
}


def test_json_lines_say_null_for_what_never_happened(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    export_jsonl(TIMED_OUT, path)
    assert orjson.loads(path.read_bytes()) == EXPORTED
    export_jsonl(attempts_of(10_001), path)
    assert len(path.read_bytes().splitlines()) == 10_001


def test_parquet_says_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is in the extra [bench]")
    path = tmp_path / "attempts.parquet"
    export_parquet(TIMED_OUT, path)
    assert parquet.read_table(path).to_pylist() == [EXPORTED]
    assert parquet.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_without_pyarrow_parquet_is_declined_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'palio\[bench\]'"):
        export_parquet(TIMED_OUT, tmp_path / "attempts.parquet")
    assert not list(tmp_path.iterdir())


def test_stamps_are_utc(tmp_path: Path) -> None:
    with Recorder(tmp_path, manifest()) as recorder:
        recorder.finish(OK)
    ended = read_trial(tmp_path).manifest.ended
    assert ended is not None
    assert ended.utcoffset() == datetime.now(UTC).utcoffset()
