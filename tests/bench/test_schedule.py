from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from palio.bench.load import Arrivals, OpenLoad
from palio.bench.schedule import draw, draw_inputs, read_trace
from palio.core.errors import SettingsError

LOAD = OpenLoad(rate_per_s=1000, duration_s=20, warmup_s=0)

drawn: st.SearchStrategy[Arrivals] = st.sampled_from(["poisson", "constant", "gamma", "burst"])
loads = st.builds(
    OpenLoad,
    rate_per_s=st.sampled_from([0.5, 3.0, 1000.0, 12345.6]),
    duration_s=st.sampled_from([0.01, 1.0, 3.0]),
    warmup_s=st.sampled_from([0.0, 0.5]),
    arrivals=drawn,
    shape=st.sampled_from([1.0, 4.0]),
    seed=st.integers(0, 5),
)


@given(loads)
@settings(max_examples=60)
def test_times_are_in_order_and_within_the_run(load: OpenLoad) -> None:
    schedule = draw(load)
    offsets = schedule.offsets
    assert offsets.dtype == np.int64
    assert np.all(np.diff(offsets) >= 0)
    assert schedule.end_ns == round(load.warmup_s * 1e9) + round(load.duration_s * 1e9)
    assert not len(offsets) or (offsets[0] >= 0 and offsets[-1] < schedule.end_ns)


@given(loads)
@settings(max_examples=30)
def test_the_same_load_gives_the_same_bytes(load: OpenLoad) -> None:
    assert draw(load).offsets.tobytes() == draw(load).offsets.tobytes()
    assert draw(load).sha256 == draw(load).sha256


@given(loads)
@settings(max_examples=30)
def test_a_longer_run_begins_with_the_shorter_one(load: OpenLoad) -> None:
    short, long = draw(load), draw(replace(load, duration_s=load.duration_s * 7))
    assert np.array_equal(long.offsets[long.offsets < short.end_ns], short.offsets)


def test_another_seed_gives_other_times() -> None:
    assert draw(LOAD).sha256 != draw(replace(LOAD, seed=1)).sha256


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(draw(LOAD).offsets) / 1e6
    assert stats.kstest(gaps, stats.expon(scale=1.0).cdf).pvalue > 0.01


def test_poisson_counts_vary_as_they_should() -> None:
    counts = [
        len(draw(replace(LOAD, rate_per_s=200, duration_s=1, seed=seed)).offsets)
        for seed in range(400)
    ]
    assert np.mean(counts) == pytest.approx(200, rel=0.02)
    assert np.var(counts) == pytest.approx(200, rel=0.25)


@pytest.mark.parametrize("shape", [0.5, 4.0])
def test_gamma_gaps_have_their_shape_and_the_mean_rate(shape: float) -> None:
    gaps = np.diff(draw(replace(LOAD, arrivals="gamma", shape=shape)).offsets) / 1e6
    assert stats.kstest(gaps, stats.gamma(shape, scale=1 / shape).cdf).pvalue > 0.01


def test_constant_is_constant() -> None:
    offsets = draw(replace(LOAD, rate_per_s=400, duration_s=1, arrivals="constant")).offsets
    assert offsets.tolist() == [2_500_000 * at for at in range(400)]


def test_bursts_come_whole_and_keep_the_mean_rate() -> None:
    offsets = draw(replace(LOAD, arrivals="burst", shape=5)).offsets
    _, counts = np.unique(offsets, return_counts=True)
    assert np.all(counts == 5)
    assert len(offsets) == pytest.approx(20_000, rel=0.05)


def test_the_warmup_is_the_same_load() -> None:
    schedule = draw(replace(LOAD, warmup_s=10))
    before = np.count_nonzero(schedule.offsets < schedule.warmup_ns)
    assert before == pytest.approx(10_000, rel=0.05)
    assert len(schedule.offsets) - before == pytest.approx(20_000, rel=0.05)


def trace_of(folder: Path, *lines: str) -> str:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_a_trace_is_replayed_with_its_sizes(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path,
        '{"at_ms": 105.5, "rows": 3, "length": 70}',
        '{"at_ms": 100, "rows": 1, "length": 20}',
        "",
        '{"at_ms": 120, "rows": 2, "length": 5, "model": "another key is no harm"}',
    )
    schedule = draw(OpenLoad(rate_per_s=0, duration_s=0, warmup_s=0, arrivals="trace", trace=trace))
    assert schedule.offsets.tolist() == [0, 5_500_000, 20_000_000]
    assert schedule.sizes is not None
    assert schedule.sizes.rows.tolist() == [1, 3, 2]
    assert schedule.sizes.lengths.tolist() == [20, 70, 5]
    assert schedule.end_ns == 30_000_000


def test_a_trace_can_be_sped_up_cut_and_warmed_up_for(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, *(f'{{"at_ms": {at}, "length": {at}}}' for at in range(0, 1000, 10)))
    load = OpenLoad(
        rate_per_s=1000, duration_s=0.05, warmup_s=0.1, arrivals="trace", trace=trace, seed=3
    )
    schedule = draw(load)
    main = schedule.offsets[schedule.offsets >= schedule.warmup_ns] - schedule.warmup_ns
    assert main.tolist() == [1_000_000 * at for at in range(50)]
    before = len(schedule.offsets) - 50
    assert 70 < before < 130
    assert schedule.sizes is not None
    assert schedule.sizes.lengths[:3].tolist() == [0, 10, 20]
    assert schedule.sizes.lengths[before:][:3].tolist() == [0, 10, 20]


def test_a_trace_without_all_sizes_has_none(tmp_path: Path) -> None:
    path = trace_of(tmp_path, '{"at_ms": 1, "length": 4}', '{"at_ms": 2}')
    assert read_trace(Path(path))[1] is None


@pytest.mark.parametrize("line", ["", "nonsense", '{"rows": 1}', '{"at_ms": 1, "rows": 0}', "[]"])
def test_a_trace_that_is_none_says_where(tmp_path: Path, line: str) -> None:
    path = trace_of(tmp_path, line)
    with pytest.raises(SettingsError, match=r"trace\.jsonl"):
        read_trace(Path(path))


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_trace(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "load",
    [
        OpenLoad(rate_per_s=0, duration_s=1),
        OpenLoad(rate_per_s=float("nan"), duration_s=1),
        OpenLoad(rate_per_s=1, duration_s=0),
        OpenLoad(rate_per_s=1, duration_s=1, seed=-1),
        OpenLoad(rate_per_s=1, duration_s=1, arrivals="gamma", shape=0),
        OpenLoad(rate_per_s=1, duration_s=1, arrivals="burst", shape=1.5),
        OpenLoad(rate_per_s=1, duration_s=1, arrivals="trace"),
    ],
)
def test_loads_that_make_no_sense_are_refused(load: OpenLoad) -> None:
    with pytest.raises(SettingsError):
        draw(load)


@given(seed=st.integers(0, 3), count=st.integers(0, 100), inputs=st.integers(1, 20))
def test_every_input_is_asked_equally_often(seed: int, count: int, inputs: int) -> None:
    ids = draw_inputs(seed, count, inputs)
    assert len(ids) == count
    counts = np.bincount(ids, minlength=inputs)
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(ids, draw_inputs(seed, count, inputs))
