from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palio.bench.schedule import Sizes
from palio.bench.workloads import (
    Workload,
    read_workload,
    sized_texts,
    tensor,
    text_embed,
    text_file,
    toy,
)
from palio.core.errors import SettingsError

SPECS = ["text-embed", "text-embed:mixed", "toy", "tensor:3x8x8"]


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_seed_gives_the_same_inputs_and_another_gives_others(spec: str) -> None:
    first = read_workload(spec, seed=1)
    assert first.sha256 == read_workload(spec, seed=1).sha256
    assert first.sha256 != read_workload(spec, seed=2).sha256


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rows", [1, 3])
def test_there_is_more_than_one_input_and_each_has_its_rows(spec: str, rows: int) -> None:
    workload = read_workload(spec, rows=rows)
    assert len(workload) > 1
    assert set(workload.rows) == {rows}
    assert len(workload.lengths) == len(workload)
    assert workload.lengths.min() > 0


def test_searches_are_as_long_as_ms_marcos() -> None:
    counts = np.array([len(text.split()) for (text,) in text_embed().texts])
    assert 5.7 < counts.mean() < 6.2
    assert counts.min() >= 2
    assert 8 <= np.percentile(counts, 95) <= 11
    assert counts.max() <= 16


def test_searches_hardly_repeat() -> None:
    assert len(set(text_embed().texts)) > 1900


def test_mixed_lengths_spread_from_8_to_128_tokens() -> None:
    counts = np.array([len(text.split()) + 2 for (text,) in text_embed(is_mixed=True).texts])
    assert counts.min() == 8
    assert counts.max() == 128
    assert np.median(counts) == pytest.approx(32, rel=0.1)


def test_the_toys_right_answers_are_known() -> None:
    workload = toy()
    assert workload.tensors[0].shape == (1, 4)
    assert all(
        np.array_equal(right, 2 * given)
        for given, right in zip(workload.tensors, workload.expected, strict=True)
    )


def test_large_tensors_are_fewer() -> None:
    assert len(tensor((4,))) > len(tensor((256, 1024))) > len(tensor((2048, 4096))) == 2


def test_texts_come_from_the_last_column_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "queries.tsv"
    path.write_text("1\tfirst one\n\n2\tsecond\nthird\n")
    assert set(text_file(path).texts) == {("first one",), ("second",), ("third",)}
    assert read_workload(f"text-embed:{path}").name == "text-embed:queries.tsv"


@pytest.mark.parametrize("content", [b"", b"only one\n", b"\xff\xfe\n"])
def test_a_file_of_no_use_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queries.tsv"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"queries\.tsv"):
        text_file(path)


def test_texts_are_made_to_a_traces_sizes() -> None:
    sizes = Sizes(np.array([1, 3, 1], np.int32), np.array([20, 100, 20], np.int32))
    workload = sized_texts(sizes)
    assert sorted(zip(workload.rows, workload.lengths, strict=True)) == [(1, 20), (3, 100)]


def test_a_trace_of_one_size_still_gets_two_texts() -> None:
    workload = sized_texts(Sizes(np.array([1], np.int32), np.array([40], np.int32)))
    assert len(set(workload.texts)) == 2
    assert set(workload.lengths) == {40}


@pytest.mark.parametrize(
    "spec", ["", "text", "toy:1", "tensor", "tensor:0", "tensor:ax3", "tensor:9999999x9999999"]
)
def test_what_is_no_workload_is_refused(spec: str) -> None:
    with pytest.raises(SettingsError):
        read_workload(spec)


def test_a_workload_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match="texts or of tensors"):
        Workload(name="both", texts=(("a",),), tensors=(np.zeros((1, 1)),))
