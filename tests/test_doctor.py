from __future__ import annotations

import io
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from palio.doctor import (
    PACKAGES,
    Report,
    examine,
    installed_version,
    look_at_cache,
    own_requirements,
    port_is_free,
    render,
)
from palio.engine.machine import Machine
from palio.toolchain.manifests import write_manifest
from tests.kit.toy import MANIFEST

MACHINE = Machine(
    cpus=2,
    affinity_cpus=4,
    quota_cpus=2.5,
    cpu_model="Fast CPU 9000",
    isa=("avx2", "avx512_vnni"),
    memory_bytes=8_000_000_000,
)
REQUIREMENTS = (
    "numpy>=2",
    'grpcio>=1.70; extra == "grpc"',
    "grpcio-status; extra == 'grpc'",
    'pytest>=9; extra == "dev"',
)


def _examine(
    tmp_path: Path,
    *missing: str,
    is_free: bool = True,
    environ: dict[str, str] | None = None,
) -> Report:
    return examine(
        {"PALIO_CACHE": str(tmp_path / "cache"), **(environ or {})},
        machine=MACHINE,
        version_of=lambda name: None if name in missing else "1.0",
        is_free=lambda host, port: is_free,
        requirements=REQUIREMENTS,
    )


def _text(report: Report) -> str:
    console = Console(width=300, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(report))
    return captured.get()


def test_a_machine_that_can_serve_says_so_and_with_what(tmp_path: Path) -> None:
    report = _examine(tmp_path)
    text = _text(report)
    assert report.exit_status == 0
    assert "2 (affinity 4, quota 2.5)" in text
    assert "Fast CPU 9000: avx2 avx512_vnni" in text
    assert "8.0 GB" in text
    assert "CPUExecutionProvider" in text
    assert "onnxruntime, toy" in text
    assert "8000 on 127.0.0.1 is free" in text
    assert text.rstrip().endswith("palio serve zoo:minilm-l6")


def test_without_a_package_it_needs_nothing_can_be_served(tmp_path: Path) -> None:
    report = _examine(tmp_path, "uvloop", "tokenizers")
    assert report.exit_status == 1
    (trouble,) = report.troubles
    assert trouble.what == "tokenizers, uvloop are not installed"
    assert trouble.mend == "pip install tokenizers uvloop"
    assert "Nothing can be served here yet." in _text(report)


def test_without_onnx_runtime_there_are_no_providers(tmp_path: Path) -> None:
    report = _examine(tmp_path, "onnxruntime")
    assert (report.providers, report.exit_status) == ((), 1)


def test_an_extra_says_what_it_brings_and_the_line_that_brings_it(tmp_path: Path) -> None:
    extras = {extra.name: extra for extra in _examine(tmp_path, "grpcio").extras}
    assert extras["grpc"].missing == ("grpcio",)
    assert extras["grpc"].mend == "pip install 'palio[grpc]'"
    assert (extras["dev"].missing, extras["dev"].mend) == ((), "")
    assert (extras["ray"].missing, extras["ray"].mend) == (None, "")
    text = _text(_examine(tmp_path, "grpcio"))
    assert "pip install 'palio[grpc]'" in text
    assert "comes later" in text


def test_a_taken_port_is_a_trouble_but_no_hindrance(tmp_path: Path) -> None:
    report = _examine(tmp_path, is_free=False)
    assert report.exit_status == 0
    assert [trouble.what for trouble in report.troubles] == ["port 8000 on 127.0.0.1 is taken"]
    assert "--http-port 8001" in _text(report)


def test_settings_in_the_environment_are_examined_too(tmp_path: Path) -> None:
    moved = _examine(tmp_path, environ={"PALIO_SERVER__HTTP_PORT": "9000"})
    assert moved.door is not None
    assert moved.door.port == 9000
    wrong = _examine(tmp_path, environ={"PALIO_SERVER__HTP_PORT": "9000"})
    assert (wrong.door, wrong.exit_status) == (None, 1)
    assert "did you mean server.http_port?" in _text(wrong)


def test_the_cache_shows_what_was_built(tmp_path: Path) -> None:
    for key in ("minilm-0a1b", "broken-0a1b"):
        (tmp_path / "cache" / "builds" / key).mkdir(parents=True)
    write_manifest(
        tmp_path / "cache" / "builds" / "minilm-0a1b", replace(MANIFEST, name="minilm-l6")
    )
    cache = _examine(tmp_path).cache
    assert cache.built == ("minilm-l6",)
    assert cache.is_writable
    assert cache.free_bytes > 0


def test_a_cache_that_cannot_be_a_folder_is_a_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not look_at_cache(tmp_path / "file" / "cache").is_writable
    report = _examine(tmp_path, environ={"PALIO_CACHE": str(tmp_path / "file" / "cache")})
    assert report.exit_status == 0
    assert "no model can be fetched" in report.troubles[0].what


@pytest.mark.net
def test_a_port_is_taken_while_somebody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not port_is_free("127.0.0.1", taken.getsockname()[1])
    assert port_is_free("127.0.0.1", 0)
    assert not port_is_free("no such host", 1)


def test_this_very_environment_has_what_serving_needs() -> None:
    assert [name for name in PACKAGES if installed_version(name) is None] == []
    assert installed_version("no-such-package-at-all") is None
    assert all(isinstance(line, str) for line in own_requirements())
