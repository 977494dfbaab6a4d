"""The promises every backend keeps; call it from a test of yours with a model of yours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from palio.core.errors import SettingsError
from palio.core.manifest import Manifest
from palio.core.ports import Backend, LoadBackend, Placement
from palio.core.tensors import Array, TensorSpec, dtype_of


def check_backend(
    load: LoadBackend,
    folder: str,
    manifest: Manifest,
    feeds: Mapping[str, Array],
    *,
    wanted: Placement | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Fail unless `load` keeps every promise on `manifest`, given good feeds of several rows."""
    wanted = wanted or Placement(device="cpu", precision=manifest.precision, threads=1)
    rows = len(next(iter(feeds.values())))
    assert rows > 1, "rows can only be told apart where there are several"
    with _loaded(load, folder, manifest, wanted) as backend:
        _says_what_was_asked_and_what_is(backend, manifest, wanted)
        _gives_what_the_manifest_says(backend, manifest, feeds, rows)
        _is_the_same_again_and_leaves_its_feeds_alone(backend, feeds)
        _gives_every_row_what_it_gets_alone(backend, feeds, rows, tolerance)
        _refuses_feeds_that_do_not_fit(backend, feeds)
        _is_the_same_again_and_leaves_its_feeds_alone(backend, feeds)
    _does_not_run_once_closed(load, folder, manifest, wanted, feeds)
    _settles_for_nothing_else(load, folder, manifest, wanted)
    _allows_a_fallback_when_told(load, folder, manifest, wanted)


@contextlib.contextmanager
def _loaded(
    load: LoadBackend, folder: str, manifest: Manifest, wanted: Placement
) -> Iterator[Backend]:
    backend = load(folder, manifest, wanted)
    try:
        yield backend
    finally:
        backend.close()


def _says_what_was_asked_and_what_is(
    backend: Backend, manifest: Manifest, wanted: Placement
) -> None:
    info = backend.info
    assert info.backend
    assert info.requested == wanted
    assert info.effective.device == wanted.device
    assert info.effective.precision == wanted.precision
    assert info.effective.threads == wanted.threads
    assert _kinds(info.inputs) == _kinds(manifest.graph_inputs)
    assert _kinds(info.outputs) == _kinds(manifest.graph_outputs)


def _gives_what_the_manifest_says(
    backend: Backend, manifest: Manifest, feeds: Mapping[str, Array], rows: int
) -> None:
    results = backend.run(feeds)
    assert set(results) == {spec.name for spec in manifest.graph_outputs}
    for spec in manifest.graph_outputs:
        array = results[spec.name]
        assert array.dtype == dtype_of(spec.datatype), spec.name
        assert spec.accepts(array.shape), (spec.name, array.shape)
        if manifest.is_batchable:
            assert len(array) == rows, spec.name


def _is_the_same_again_and_leaves_its_feeds_alone(
    backend: Backend, feeds: Mapping[str, Array]
) -> None:
    before = {name: array.copy() for name, array in feeds.items()}
    first, second = backend.run(feeds), backend.run(feeds)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    for name, array in before.items():
        np.testing.assert_array_equal(array, feeds[name])


def _gives_every_row_what_it_gets_alone(
    backend: Backend, feeds: Mapping[str, Array], rows: int, tolerance: float
) -> None:
    together = backend.run(feeds)
    for row in range(rows):
        alone = backend.run({name: array[row : row + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            if array.dtype.hasobject:
                np.testing.assert_array_equal(array[0], together[name][row])
            else:
                np.testing.assert_allclose(array[0], together[name][row], tolerance, tolerance)


def _refuses_feeds_that_do_not_fit(backend: Backend, feeds: Mapping[str, Array]) -> None:
    name, array = next(iter(feeds.items()))
    rest = {other: each for other, each in feeds.items() if other != name}
    other_dtype = np.float32 if array.dtype == np.float64 else np.float64
    zeros = np.zeros(array.shape, other_dtype)
    for wrong in (
        rest,
        {**feeds, "nobody_knows_me": array},
        {**rest, "nobody_knows_me": array},
        {**feeds, name: zeros},
        {**feeds, name: array[..., np.newaxis]},
    ):
        with pytest.raises(Exception, match=r".") as refused:
            backend.run(wrong)
        assert not isinstance(refused.value, SettingsError)


def _does_not_run_once_closed(
    load: LoadBackend,
    folder: str,
    manifest: Manifest,
    wanted: Placement,
    feeds: Mapping[str, Array],
) -> None:
    backend = load(folder, manifest, wanted)
    backend.close()
    with pytest.raises(Exception, match="closed"):
        backend.run(feeds)
    backend.close()


def _settles_for_nothing_else(
    load: LoadBackend, folder: str, manifest: Manifest, wanted: Placement
) -> None:
    other = "fp32" if manifest.precision == "int8" else "int8"
    for impossible, word in (
        (replace(wanted, options={**wanted.options, "no_such_option": 1}), "no_such_option"),
        (replace(wanted, precision=other), other),
        (replace(wanted, device="abacus"), "abacus"),
    ):
        with pytest.raises(SettingsError, match=word):
            load(folder, manifest, impossible)


def _allows_a_fallback_when_told(
    load: LoadBackend, folder: str, manifest: Manifest, wanted: Placement
) -> None:
    other = "fp32" if manifest.precision == "int8" else "int8"
    asked = replace(wanted, precision=other, options={**wanted.options, "allow_fallback": True})
    with _loaded(load, folder, manifest, asked) as backend:
        assert backend.info.requested.precision == other
        assert backend.info.effective.precision == manifest.precision


def _kinds(specs: tuple[TensorSpec, ...]) -> set[tuple[str, str]]:
    return {(spec.name, spec.datatype) for spec in specs}
