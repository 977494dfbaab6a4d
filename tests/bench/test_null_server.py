from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest

from palio.bench.calibrate import (
    Calibration,
    Point,
    calibrate,
    load_calibration,
    machine,
    null_questions,
    null_server,
    save_calibration,
)
from palio.bench.drive import drive_alone
from palio.bench.load import ClosedLoad
from palio.bench.null_server import ANSWER, answer_of

pytestmark = [pytest.mark.net, pytest.mark.wire]


def point(rate: float, *, is_clean: bool = True) -> Point:
    return Point(
        rate_per_s=rate,
        achieved=1.0,
        lag_p50_ms=0.1,
        lag_p99_ms=0.2,
        lag_max_ms=1.0,
        cpu_share=0.3,
        is_clean=is_clean,
    )


KEPT = Calibration(
    machine=machine(), measured="2026-11-20T00:00:00+00:00", clean_per_s=500, points=[point(500)]
)


@pytest.mark.parametrize("size", [0, 1, len(ANSWER), 200, 5000])
def test_an_answer_of_any_size_is_json(size: int) -> None:
    answer = answer_of(size)
    assert orjson.loads(answer)["outputs"][0]["shape"] == [1, 4]
    assert size <= len(answer) <= max(size, len(ANSWER) + 14)


def test_the_null_server_answers_everything() -> None:
    load = ClosedLoad(concurrency=2, requests=100, warmup_s=0)
    with null_server(answer_bytes=1000) as target:
        attempts = drive_alone(target, null_questions(target), load).attempts
    assert attempts.is_good.all()
    assert attempts.bytes_in.min() > 1000
    assert not np.isnan(attempts.stages).any()


def test_calibration_tells_of_each_rate() -> None:
    told: list[Point] = []
    made = calibrate(rates=(100, 50), seconds=0.2, progress=told.append)
    assert [each.rate_per_s for each in made.points] == [50, 100]
    assert made.points == told
    assert made.clean_per_s in (0, 50, 100)
    assert all(0 <= each.lag_p50_ms <= each.lag_p99_ms <= each.lag_max_ms for each in told)


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = save_calibration(KEPT, tmp_path)
    assert path.is_relative_to(tmp_path)
    assert load_calibration(tmp_path) == KEPT


def test_another_machines_figures_are_not_ours(tmp_path: Path) -> None:
    save_calibration(msgspec.structs.replace(KEPT, machine="another"), tmp_path)
    assert load_calibration(tmp_path) is None


def test_nothing_kept_or_nothing_readable_is_nothing(tmp_path: Path) -> None:
    assert load_calibration(tmp_path) is None
    save_calibration(KEPT, tmp_path).write_text("{")
    assert load_calibration(tmp_path) is None
