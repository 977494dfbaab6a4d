"""Examines this machine: what it can serve with, what is missing, and the command that mends it.

It looks and changes nothing; printing is `palio.cli`.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palio.backends import installed_backends
from palio.core.errors import SettingsError
from palio.engine.machine import Machine, read_machine
from palio.settings import cache_root, load_settings
from palio.toolchain.errors import ToolchainError
from palio.toolchain.manifests import read_manifest

OLDEST_PYTHON: Final = (3, 11)

# What serving cannot do without.
PACKAGES: Final = (
    "numpy",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "httptools",
    "uvloop",
    "msgspec",
    "orjson",
    "pydantic",
    "prometheus-client",
    "structlog",
)

# The extras' names are fixed; what they need is read from the installed package.
EXTRAS: Final = {
    "grpc": "the gRPC door and client",
    "images": "decoding and preparing pictures",
    "openvino": "the OpenVINO backend; bf16 on CPUs with AMX",
    "torch": "the PyTorch backend, export of its models",
    "gpu": "ONNX Runtime on CUDA",
    "gateway": "keys and limits shared through Redis",
    "bench": "races, statistics, reports",
    "stores": "models in S3, GCS and Azure",
    "otel": "traces by OpenTelemetry",
    "ray": "placing steps on Ray",
    "photos": "the near-duplicate photo app",
    "dev": "running the tests",
}

_FREE_BYTES_WANTED: Final = 1_000_000_000

VersionOf = Callable[[str], str | None]
IsFree = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """One extra: `missing` names what it needs that is not here; None where it is still empty."""

    name: str
    brings: str
    missing: tuple[str, ...] | None

    @property
    def mend(self) -> str:
        """The one command that brings it; nothing where there is nothing to bring."""
        return f"pip install 'palio[{self.name}]'" if self.missing else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFolder:
    """Where downloads and built models are kept, and what is there."""

    path: Path
    is_writable: bool
    free_bytes: int
    built: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a server started now would listen."""

    host: str
    port: int
    is_free: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something wrong and the one thing to do about it; `is_fatal` means nothing can be served."""

    what: str
    mend: str
    is_fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found."""

    machine: Machine
    python: str
    packages: Mapping[str, str | None]
    providers: tuple[str, ...]
    backends: tuple[str, ...]
    extras: tuple[Extra, ...]
    cache: CacheFolder
    door: Door | None
    troubles: tuple[Trouble, ...]

    @property
    def exit_status(self) -> int:
        """1 where serving is impossible; what merely could be better is 0."""
        return int(any(trouble.is_fatal for trouble in self.troubles))


def examine(
    environ: Mapping[str, str],
    *,
    machine: Machine | None = None,
    version_of: VersionOf | None = None,
    is_free: IsFree | None = None,
    requirements: Sequence[str] | None = None,
) -> Report:
    """Look at everything a server needs; a test passes machines and packages of its own."""
    version_of = version_of or installed_version
    packages = {name: version_of(name) for name in PACKAGES}
    providers = _providers() if packages["onnxruntime"] else ()
    cache = look_at_cache(cache_root(environ))
    troubles = [
        *_python_troubles(),
        *_package_troubles(packages, providers),
        *_cache_troubles(cache),
    ]
    door = None
    try:
        server = load_settings(None, environ, {}).server
    except SettingsError as fault:
        troubles.append(
            Trouble(what=f"{fault}", mend="unset or correct the variable", is_fatal=True)
        )
    else:
        free = (is_free or port_is_free)(server.host, server.http_port)
        door = Door(host=server.host, port=server.http_port, is_free=free)
        if not free:
            troubles.append(
                Trouble(
                    what=f"port {server.http_port} on {server.host} is taken",
                    mend=f"palio serve … --http-port {server.http_port + 1}",
                    is_fatal=False,
                )
            )
    return Report(
        machine=machine or read_machine(),
        python=".".join(str(part) for part in sys.version_info[:3]),
        packages=packages,
        providers=providers,
        backends=installed_backends(),
        extras=tuple(
            look_at_extras(own_requirements() if requirements is None else requirements, version_of)
        ),
        cache=cache,
        door=door,
        troubles=tuple(troubles),
    )


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def own_requirements() -> Sequence[str]:
    """What our own package says it needs; nothing in a checkout that was never installed."""
    try:
        return metadata.requires("palio") or ()
    except metadata.PackageNotFoundError:
        return ()


def look_at_extras(requirements: Sequence[str], version_of: VersionOf) -> Iterator[Extra]:
    """Every extra with what it lacks."""
    needs: dict[str, list[str]] = {name: [] for name in EXTRAS}
    for line in requirements:
        package = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if package and extra and extra[1] in needs:
            needs[extra[1]].append(package[0])
    for name, brings in EXTRAS.items():
        missing = tuple(package for package in needs[name] if version_of(package) is None)
        yield Extra(name=name, brings=brings, missing=missing if needs[name] else None)


def look_at_cache(path: Path) -> CacheFolder:
    """The cache as it is; the folder need not exist yet, only be possible."""
    standing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return CacheFolder(
        path=path,
        is_writable=standing.is_dir() and os.access(standing, os.W_OK | os.X_OK),
        free_bytes=shutil.disk_usage(standing).free,
        built=tuple(sorted(set(_built(path / "builds")))),
    )


def _built(folder: Path) -> Iterator[str]:
    """The name of every finished model; a folder that is none is the cache's business."""
    for build in folder.iterdir() if folder.is_dir() else ():
        with suppress(ToolchainError):
            yield read_manifest(build).name


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            # As the server does: an old connection that is still closing takes no port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def render(report: Report) -> RenderableType:
    """The report for a terminal, troubles last, where the eye ends up."""
    return Group(
        _facts(report),
        "",
        _extras_table(report.extras),
        "",
        *_verdict(report),
    )


def _providers() -> tuple[str, ...]:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return ()
    return tuple(runtime.get_available_providers())


def _python_troubles() -> Iterator[Trouble]:
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(str(part) for part in OLDEST_PYTHON)
        yield Trouble(
            what=f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old",
            mend=f"make the environment with Python {wanted} or newer",
            is_fatal=True,
        )


def _package_troubles(
    packages: Mapping[str, str | None], providers: tuple[str, ...]
) -> Iterator[Trouble]:
    missing = [name for name, version in packages.items() if version is None]
    if missing:
        yield Trouble(
            what=f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            mend=f"pip install {' '.join(missing)}",
            is_fatal=True,
        )
    elif "CPUExecutionProvider" not in providers:
        yield Trouble(
            what="ONNX Runtime is installed but does not work",
            mend="pip install --force-reinstall onnxruntime",
            is_fatal=True,
        )


def _cache_troubles(cache: CacheFolder) -> Iterator[Trouble]:
    if not cache.is_writable:
        yield Trouble(
            what=f"{cache.path} cannot be written, so no model can be fetched",
            mend="export PALIO_CACHE=/a/folder/of/yours",
            is_fatal=False,
        )
    if cache.free_bytes < _FREE_BYTES_WANTED:
        yield Trouble(
            what=f"{cache.path} has {_gb(cache.free_bytes)} left",
            mend="make room, or export PALIO_CACHE=/a/larger/disk",
            is_fatal=False,
        )


def _facts(report: Report) -> Table:
    machine, cache = report.machine, report.cache
    quota = "no quota" if machine.quota_cpus is None else f"quota {machine.quota_cpus:g}"
    memory = "unknown" if machine.memory_bytes is None else _gb(machine.memory_bytes)
    versions = ", ".join(
        f"{name} {version or 'missing'}" for name, version in report.packages.items()
    )
    rows = {
        "CPUs": f"{machine.cpus} (affinity {machine.affinity_cpus}, {quota})",
        "CPU": f"{machine.cpu_model}: {' '.join(machine.isa) or 'no vector instructions known'}",
        "memory": memory,
        "Python": report.python,
        "packages": versions,
        "backends": ", ".join(report.backends),
        "ONNX Runtime": ", ".join(report.providers) or "none",
        "cache": f"{cache.path} ({_gb(cache.free_bytes)} free)",
        "built models": ", ".join(cache.built) or "none yet; the first start builds what it serves",
    }
    if report.door is not None:
        state = "free" if report.door.is_free else "taken"
        rows["port"] = f"{report.door.port} on {report.door.host} is {state}"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _extras_table(extras: tuple[Extra, ...]) -> Table:
    table = Table("extra", "brings", "state", box=None, padding=(0, 2, 0, 0))
    for extra in extras:
        state = "comes later" if extra.missing is None else extra.mend or "installed"
        table.add_row(extra.name, Text(extra.brings), Text(state))
    return table


def _verdict(report: Report) -> Iterator[Text]:
    for trouble in report.troubles:
        style = "bold red" if trouble.is_fatal else "yellow"
        yield Text.assemble((trouble.what, style), f"\n  → {trouble.mend}")
    if report.exit_status:
        yield Text("Nothing can be served here yet.", style="bold red")
    else:
        yield Text("This machine can serve: palio serve zoo:minilm-l6", style="bold green")


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
