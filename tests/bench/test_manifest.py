from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.bench.canonical import canonical_json
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.manifest import (
    Manifest,
    UnreadableTrial,
    load_as_json,
    load_from_json,
    read_manifest,
    write_manifest,
)
from palio.bench.served import model_info, read_server
from palio.bench.verdict import Reason, State, Verdict
from tests.app.process import serving

STARTED = datetime(2026, 11, 20, 14, 31, 6, tzinfo=UTC)
OPEN = OpenLoad(rate_per_s=200.0, duration_s=20.0, seed=7)


def manifest(load: Load = OPEN, **changes: Any) -> Manifest:
    terms: dict[str, Any] = {
        "spec": {"url": "http://127.0.0.1:8000", "slo": "p99<50ms"},
        "load": load,
        "workload_sha256": "ab" * 32,
        "zero_ns": 12_345,
        "started": STARTED,
    }
    return Manifest(**{**terms, **changes})


LOADS: st.SearchStrategy[Load] = st.builds(
    OpenLoad,
    rate_per_s=st.floats(0.1, 1e5),
    duration_s=st.floats(0, 100),
    arrivals=st.sampled_from(["poisson", "constant", "gamma", "burst", "trace"]),
    trace=st.text(),
    seed=st.integers(0, 2**64),
) | st.builds(ClosedLoad, concurrency=st.integers(1, 1000), requests=st.integers(0, 10**9))


@given(load=LOADS)
def test_a_load_comes_back_as_it_was(load: Load) -> None:
    assert load_from_json(json.loads(json.dumps(load_as_json(load)))) == load


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    running = manifest(fingerprint={"machine": {"cpus": 2}}, client={"clean_per_s": 9.5})
    write_manifest(tmp_path, running)
    assert read_manifest(tmp_path) == running
    assert not running.is_finished
    verdict = Verdict(State.UNSTEADY, (Reason("trend", "it grew by 3 ms/s"),))
    finished = running.finished(verdict, STARTED)
    write_manifest(tmp_path, finished)
    assert read_manifest(tmp_path) == finished
    assert finished.is_finished
    assert [path.name for path in tmp_path.iterdir()] == ["trial.json"]


def test_a_specs_hash_is_of_what_was_asked_and_not_of_when_or_where() -> None:
    first = manifest()
    same = manifest(
        spec=dict(reversed(list(first.spec.items()))),
        started=datetime(2027, 1, 1, tzinfo=UTC),
        zero_ns=1,
        fingerprint={"machine": {}},
    )
    assert first.spec_sha256 == same.spec_sha256
    others = [
        manifest(ClosedLoad(concurrency=1)),
        manifest(OpenLoad(rate_per_s=200.0, duration_s=20.0, seed=8)),
        manifest(spec={"url": "http://127.0.0.1:8001", "slo": "p99<50ms"}),
        manifest(workload_sha256="cd" * 32),
    ]
    assert len({each.spec_sha256 for each in (first, *others)}) == 5


def test_a_folders_name_sorts_by_time() -> None:
    assert manifest().name == f"20261120-143106-{manifest().spec_sha256[:8]}"


def test_canonical_json_has_one_form_and_no_words_for_what_is_no_number() -> None:
    assert canonical_json({"b": 1, "a": ["é", None]}) == '{"a":["é",null],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no trial was begun there"),
        (b"", "cannot read"),
        (b"{", "cannot read"),
        (b"[]", "is of format None"),
        (b'{"palio_trial": 99}', "is of format 99; this version reads 1"),
        (b'{"palio_trial": 1}', "is not whole"),
    ],
)
def test_what_is_no_trial_is_said_in_a_sentence(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "trial.json").write_bytes(content)
    with pytest.raises(UnreadableTrial, match=says):
        read_manifest(tmp_path)


INFO = """\
# TYPE inf_model_info gauge
inf_model_info{model="toy",version="1",weights="a \\"b\\"\\n",threads="2"} 1.0
inf_requests_total{model="other"} 1.0
"""


def test_a_servers_configuration_is_what_it_says_of_itself() -> None:
    pages = {
        "/metrics": INFO.encode(),
        "/v2": b'{"name": "palio"}',
        "/v2/models/toy": b'{"name": "toy", "platform": "python"}',
        "/v2/models/a%2Fb": b"NaN",
    }
    assert read_server(lambda path: pages.get(path), ["a/b", "gone"]) == {
        "server": {"name": "palio"},
        "models": {"a/b": None, "gone": None, "toy": {"name": "toy", "platform": "python"}},
        "info": [{"model": "toy", "version": "1", "weights": 'a "b"\n', "threads": "2"}],
        "unanswered": ["/v2/models/gone"],
    }


def test_a_server_that_tells_nothing_is_no_error() -> None:
    told = read_server(lambda _: None)
    assert told["unanswered"] == ["/metrics", "/v2"]
    assert model_info("") == []


@pytest.mark.wire
def test_our_own_server_says_which_weights_run_and_how(tmp_path: Path) -> None:
    with serving(tmp_path, "zoo:toy") as served:
        told = read_server(lambda path: served.ask(path).body)
    assert told["unanswered"] == []
    assert told["server"]["name"] == "palio"
    (info,) = told["info"]
    assert (info["model"], info["backend"]) == ("toy", "toy")
    assert told["models"]["toy"]["inputs"]
