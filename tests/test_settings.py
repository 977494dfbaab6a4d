from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.core.errors import SettingsError
from palio.core.ports import Placement
from palio.settings import (
    ModelSettings,
    Settings,
    cache_root,
    explain,
    json_schema,
    load_settings,
    reference_page,
)
from palio.settings.layers import deep_merge, paths_of
from palio.settings.shape import ANY_NAME, description_of, patterns

PAGE = Path(__file__).parents[1] / "docs/reference/settings.md"

MINILM = """\
models:
  minilm:
    source: zoo:minilm-l6
"""


class Folder:
    """A folder of settings files, and the environment and flags they are read under."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ: dict[str, str] = {}
        self.flags: dict[str, object] = {}

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def load(self, text: str) -> Settings:
        return load_settings(self.write("palio.yaml", text), self.environ, self.flags)

    def refusal(self, text: str) -> str:
        """What stops the start, as a user sees it from inside the folder."""
        with pytest.raises(SettingsError) as refused:
            self.load(text)
        return str(refused.value).replace(f"{self.path}/", "")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# What is in the tree


def test_the_defaults_are_those_of_the_design() -> None:
    settings = load_settings(None, {}, {})
    server, model = settings.server, ModelSettings(source="zoo:minilm-l6")
    assert (server.host, server.http_port, server.unix_socket) == ("127.0.0.1", 8000, None)
    assert (server.drain_s, server.max_body_mb, server.max_items) == (10, 64, 256)
    assert (settings.cpus, settings.compat, settings.edge.enabled) == ("auto", "none", False)
    assert (model.backend, model.precision, model.allow_fallback) == ("onnxruntime", "fp32", False)
    assert (model.instances, model.threads, model.deadline_ms) == ("auto", 1, 1000)
    assert (model.batch.max_rows, model.batch.max_wait_ms, model.batch.capacity_rows) == (
        32,
        0,
        1024,
    )
    assert (model.cache.enabled, model.cache.max_mb, model.cache.ttl_s) == (False, 256, 300)


def test_what_users_write_in_ms_and_mb_is_counted_in_ns_and_bytes(folder: Folder) -> None:
    text = MINILM + "    deadline_ms: 2.5\n    batch: {max_wait_ms: 1, capacity_mb: 0.5}\n"
    model = folder.load(text).models["minilm"]
    assert model.deadline_ns == 2_500_000
    assert (model.batch.max_wait_ns, model.batch.capacity_bytes) == (1_000_000, 500_000)
    assert model.batch.ageing_ns == 500_000_000
    server = Settings().server
    assert (server.max_body_bytes, server.max_header_bytes) == (64_000_000, 16_000)
    assert (server.drain_ns, server.read_timeout_ns) == (10_000_000_000, 30_000_000_000)
    assert server.idle_timeout_ns == 75_000_000_000


def test_a_model_says_what_its_backend_is_asked_for(folder: Folder) -> None:
    text = MINILM + "    threads: 2\n    options: {base_ms: 0.5, inter_op_threads: 3}\n"
    model = folder.load(text).models["minilm"]
    assert model.placement == Placement(
        device="cpu",
        precision="fp32",
        threads=2,
        options={"base_ms": "0.5", "inter_op_threads": 3, "allow_fallback": False},
    )
    assert model.computing_threads == 6
    assert (model.told_instances, Settings().told_cpus) == (None, None)
    assert folder.load(MINILM + "    instances: 3\ncpus: 4\n").told_cpus == 4


# Where settings come from


def test_flags_win_over_environment_over_file_over_base(folder: Folder) -> None:
    keys = ("max_items", "max_connections", "max_pipelined", "max_text_chars")
    folder.write("base.yaml", "server:\n" + "".join(f"  {key}: 1\n" for key in keys))
    text = "extends: base.yaml\nserver:\n" + "".join(f"  {key}: 2\n" for key in keys[1:])
    folder.environ = {f"PALIO_SERVER__{key.upper()}": "3" for key in keys[2:]}
    folder.flags = {"server.max_text_chars": 4}
    settings = folder.load(text)
    assert [getattr(settings.server, key) for key in keys] == [1, 2, 3, 4]
    said = {row.key: row.source.replace(f"{folder.path}/", "") for row in explain(settings)}
    assert [said[f"server.{key}"] for key in keys] == [
        "base.yaml:2",
        "palio.yaml:3",
        "environment PALIO_SERVER__MAX_PIPELINED",
        "flag server.max_text_chars",
    ]
    assert said["server.host"] == "default"


def test_explain_has_a_row_for_every_setting(folder: Folder) -> None:
    keys = {row.key for row in explain(folder.load(MINILM))}
    wanted = {
        ".".join(path).replace(ANY_NAME, "minilm")
        for path, _ in patterns()
        if path[-1] != ANY_NAME and not any(_is_above(path, other) for other, _ in patterns())
    }
    optional = {"pipelines", "routes", "models.minilm.options"}
    assert keys == wanted | optional


def _is_above(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(other) > len(path) and other[: len(path)] == path


def test_a_variable_finds_the_model_whatever_its_name_is_made_of(folder: Folder) -> None:
    folder.environ = {"PALIO_MODELS__MINI_LM_L6__BATCH__ENABLED": "false", "PALIO_CPUS": "2"}
    settings = folder.load("models: {Mini-LM.l6: {source: 'zoo:minilm-l6'}}\n")
    assert not settings.models["Mini-LM.l6"].batch.enabled
    assert settings.cpus == 2


def test_a_variable_may_hold_a_whole_mapping(folder: Folder) -> None:
    folder.environ = {"PALIO_ROUTES": "{/v1/embeddings: minilm}"}
    assert folder.load(MINILM).routes == {"/v1/embeddings": "minilm"}


def test_a_starred_flag_is_that_of_every_model(folder: Folder) -> None:
    folder.flags = {"models.*.batch.enabled": False, "models.*.threads": "2"}
    models = folder.load("models: {a: {source: 'zoo:a'}, b: {source: 'zoo:b'}}\n").models
    assert [(each.batch.enabled, each.threads) for each in models.values()] == [(False, 2)] * 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PALIO_CACHE", "/somewhere"),
        ("PALIO_SERVICE_HOST", "10.0.0.1"),
        ("PALIO_SERVICE_PORT", "8000"),
        ("PALIO_SERVICE_PORT_HTTP", "8000"),
        ("PALIO_PORT", "tcp://10.0.0.1:8000"),
        ("PALIO_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("PALIO_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("PALIO_GATEWAY_SERVICE_HOST", "10.0.0.2"),
        ("SOMEBODY_ELSES", "1"),
    ],
)
def test_what_kubernetes_and_others_put_there_is_no_setting(variable: str, value: str) -> None:
    assert load_settings(None, {variable: value}, {}) == Settings()


@pytest.mark.parametrize(
    ("source", "name", "model"),
    [
        ("zoo:minilm-l6", "minilm-l6", ModelSettings(source="zoo:minilm-l6")),
        ("zoo:toy", "toy", ModelSettings(source="zoo:toy", backend="toy")),
        ("models/my net.onnx", "my-net", ModelSettings(source="file:models/my net.onnx")),
        (
            "https://there.example/a/b.onnx?raw#sha256=00",
            "b",
            ModelSettings(source="https://there.example/a/b.onnx?raw#sha256=00"),
        ),
    ],
)
def test_one_model_needs_no_file(source: str, name: str, model: ModelSettings) -> None:
    settings = load_settings(source, {}, {f"models.{name}.threads": 2})
    assert list(settings.models) == [name]
    assert settings.models[name].source == model.source
    assert settings.models[name].backend == model.backend
    assert settings.models[name].threads == 2
    said = {row.key: row.source for row in explain(settings)}
    assert said[f"models.{name}.source"] == f"argument {source}"


def test_a_folder_with_a_model_is_served_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    settings = load_settings(tmp_path / "net", {}, {})
    assert settings.models["net"].source == f"file:{tmp_path}/net"


def test_what_cannot_be_served_is_refused_with_what_can() -> None:
    with pytest.raises(SettingsError, match=r"give a palio\.yaml, a model\.onnx or zoo:NAME"):
        load_settings("somewhere", {}, {})


def test_a_relative_file_counts_from_the_folder_of_the_file_that_names_it(folder: Folder) -> None:
    folder.write("shared/base.yaml", "models: {a: {source: 'file:a.onnx'}, b: {source: b.onnx}}\n")
    models = folder.load(
        "extends: shared/base.yaml\nmodels: {c: {source: 'file:/abs.onnx'}, d: {source: 'zoo:d'}}\n"
    ).models
    assert {name: each.source for name, each in models.items()} == {
        "a": f"file:{folder.path}/shared/a.onnx",
        "b": f"file:{folder.path}/shared/b.onnx",
        "c": "file:/abs.onnx",
        "d": "zoo:d",
    }


# What a file may hold


def test_variables_are_read_as_if_they_stood_in_the_file(folder: Folder) -> None:
    folder.environ = {"PORT": "9000", "EMPTY": ""}
    settings = folder.load(
        "server:\n  http_port: ${PORT}\n  max_items: ${ITEMS:-7}\n"
        '  host: "${HOST:-0}.0.0.${EMPTY:-1}"\n  unix_socket: /run/$${x}/${PORT}\n'
    )
    assert (settings.server.http_port, settings.server.max_items) == (9000, 7)
    assert settings.server.host == "0.0.0.1"
    assert settings.server.unix_socket == "/run/${x}/9000"


def test_a_variable_that_is_not_set_stops_the_start(folder: Folder) -> None:
    assert folder.refusal("server:\n  host: ${NOWHERE}\n") == (
        "palio.yaml:2: ${NOWHERE} is not set; set it, or write ${NOWHERE:-a default}"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "palio.yaml:1: must be a mapping of settings"),
        ("server: {host: a\n", "palio.yaml:2: expected ',' or '}'"),
        ("cpus: 1\ncpus: 2\n", "palio.yaml:2: cpus is here twice"),
        ("server: &a\n  host: *a\n", "is nested too deeply"),
        ("? [a]\n: 1\n", "palio.yaml:1: a key is a word"),
        ("cpus: 1\n---\ncpus: 2\n", "palio.yaml:2: but found another document"),
        ("cpus: \0\n", "palio.yaml: is not YAML"),
        ("cpus: 2026-13-01\n", "palio.yaml:1: 2026-13-01: month must be in 1..12"),
        ("extends: [a, b]\n", "palio.yaml:1: extends: must be the path of one file"),
        ("extends: none.yaml\n", "palio.yaml:1: cannot read none.yaml: No such file"),
        ("extends: palio.yaml\n", "palio.yaml:1: palio.yaml extends itself by a detour"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(folder: Folder, text: str, says: str) -> None:
    assert says in folder.refusal(text)


def test_a_circle_of_files_is_refused(folder: Folder) -> None:
    folder.write("base.yaml", "extends: palio.yaml\n")
    assert folder.refusal("extends: base.yaml\n") == (
        "base.yaml:1: palio.yaml extends itself by a detour"
    )


def test_no_file_and_no_text_are_each_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*palio\.yaml: No such file"):
        load_settings(tmp_path / "palio.yaml", {}, {})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        load_settings(tmp_path / "latin.yaml", {}, {})


def test_an_empty_file_is_the_defaults(folder: Folder) -> None:
    assert folder.load("") == Settings()


# What stops the start


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "server:\n  prot: 1\n",
            "palio.yaml:2: server.prot is not a setting; did you mean server.http_port?",
        ),
        (
            MINILM + "    max_rows: 8\n",
            "palio.yaml:4: models.minilm.max_rows is not a setting; "
            "did you mean models.minilm.batch.max_rows?",
        ),
        ("host: x\n", "palio.yaml:1: host is not a setting; did you mean server.host?"),
        ("origins: {}\n", "palio.yaml:1: origins is not a setting; known here are server, cpus"),
        (
            MINILM + "    batch: {max_rows: 0}\n",
            "palio.yaml:4: models.minilm.batch.max_rows: must be ≥ 1 (got 0)",
        ),
        ("cpus: 0\n", "palio.yaml:1: cpus: must be 'auto' or ≥ 1 (got 0)"),
        ("cpus: all\n", "palio.yaml:1: cpus: must be 'auto' or a whole number (got 'all')"),
        (
            "server: {http_port: true}\n",
            "palio.yaml:1: server.http_port: must be a whole number (got True)",
        ),
        (
            "server: {drain_s: .inf}\n",
            "palio.yaml:1: server.drain_s: must be a finite number (got inf)",
        ),
        (
            MINILM + "    batch: {enabled: 'yes'}\n",
            "palio.yaml:4: models.minilm.batch.enabled: must be true or false (got 'yes')",
        ),
        ("models: {a: {}}\n", "palio.yaml:1: models.a.source: is missing"),
        ("models: {a: zoo:a}\n", "palio.yaml:1: models.a: must be a mapping (got 'zoo:a')"),
        ("server: 1\n", "palio.yaml:1: server: must be a mapping (got 1)"),
        ("models: {'a/b': {source: 'zoo:a'}}\n", "a model's name is letters, digits"),
        (
            MINILM + "routes: {/v1/embeddings: minilm6}\n",
            "palio.yaml:4: routes./v1/embeddings: there is no model 'minilm6'; "
            "did you mean minilm?",
        ),
        (
            MINILM + "routes: {/v1/embedding: minilm}\n",
            "palio.yaml:4: routes./v1/embedding is not a route; did you mean /v1/embeddings?",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_place(folder: Folder, text: str, says: str) -> None:
    assert says in folder.refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("compat: s1\n", "palio.yaml:1: compat: is not available yet; leave it at none"),
        ("pipelines: {p: {a: 1, b: 2}}\n", "pipelines: is not available yet; leave it at {}"),
        ("edge: {enabled: true}\n", "edge.enabled: is not available yet; leave it at false"),
        ("telemetry: {traces: true}\n", "telemetry.traces: is not available yet"),
        ("server: {grpc_port: 8001}\n", "server.grpc_port: is not available yet; leave it at null"),
        (MINILM + "    finite_inputs: true\n", "models.minilm.finite_inputs: is not available"),
        (MINILM + "    cache: {enabled: true}\n", "models.minilm.cache.enabled: is not available"),
        (MINILM + "    cache: {ttl_s: 5}\n", "cache.ttl_s: is not available yet; leave it at 300"),
    ],
)
def test_a_setting_that_would_do_nothing_stops_the_start(
    folder: Folder, text: str, says: str
) -> None:
    refusal = folder.refusal(text)
    assert says in refusal
    assert refusal.count("\n") == 0


def test_everything_wrong_is_said_at_once(folder: Folder) -> None:
    folder.environ = {"PALIO_SERVER__HTP_PORT": "1", "PALIO_CPUS": "none"}
    folder.flags = {"server.max_items": 0}
    assert folder.refusal("server: {drain_s: -1}\n").splitlines() == [
        "environment PALIO_SERVER__HTP_PORT: server.htp_port is not a setting; "
        "did you mean server.http_port?",
        "palio.yaml:1: server.drain_s: must be ≥ 0 (got -1)",
        "flag server.max_items: server.max_items: must be ≥ 1 (got 0)",
        "environment PALIO_CPUS: cpus: must be 'auto' or a whole number (got 'none')",
    ]


# Laws of merging

LEAVES = st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2)
TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), LEAVES | inner, max_size=3),
    max_leaves=8,
)


@given(base=TREES, over=TREES)
def test_what_lies_on_top_is_all_there(base: dict[str, object], over: dict[str, object]) -> None:
    before = repr((base, over))
    merged = deep_merge(base, over)
    assert repr((base, over)) == before
    for path in paths_of(over):
        value = _at(over, path)
        if not isinstance(value, Mapping):
            assert _at(merged, path) == value


@given(base=TREES, over=TREES)
def test_what_is_not_covered_shows_through(
    base: dict[str, object], over: dict[str, object]
) -> None:
    merged = deep_merge(base, over)
    assert list(merged) == [*base, *(key for key in over if key not in base)]
    for key, value in base.items():
        if key not in over:
            assert merged[key] == value


@given(tree=TREES)
def test_nothing_and_the_same_again_change_nothing(tree: dict[str, object]) -> None:
    assert deep_merge(tree, {}) == deep_merge({}, tree) == deep_merge(tree, tree) == tree


def _at(tree: object, path: tuple[str, ...]) -> object:
    for step in path:
        assert isinstance(tree, Mapping)
        tree = tree[step]
    return tree


# What is written down


def test_the_reference_page_is_the_one_that_the_settings_write() -> None:
    assert PAGE.read_text() == reference_page(), (
        "write it again: python -c 'import pathlib, palio.settings as s; "
        f'pathlib.Path("{PAGE}").write_text(s.reference_page())\''
    )


def test_every_setting_says_what_it_means() -> None:
    undescribed = [
        path for path, kind in patterns() if path[-1] != "*" and not description_of(kind)
    ]
    assert undescribed == []


def test_the_schema_knows_the_keys_and_nothing_else() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == {
        *("extends", "server", "cpus", "models", "pipelines", "routes"),
        *("compat", "edge", "telemetry"),
    }
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["BatchSettings"]["properties"]["max_rows"]["minimum"] == 1
    assert schema["$defs"]["ModelSettings"]["required"] == ["source"]


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"PALIO_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/palio"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/palio"),
        ({"PALIO_CACHE": "", "HOME": "/h"}, "/h/.cache/palio"),
    ],
)
def test_the_cache_is_where_it_was_put(environ: dict[str, str], root: str) -> None:
    assert cache_root(environ) == Path(root)
    assert cache_root({}).parts[-2:] == (".cache", "palio")
