"""From a reference to a folder that a backend can load: the toolchain's front door."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from palio.toolchain import sentence_bert, toy
from palio.toolchain.cache import Cache
from palio.toolchain.digests import sha256_of_text
from palio.toolchain.errors import BadModel, UnknownReference
from palio.toolchain.fetch import Fetcher
from palio.toolchain.manifests import MANIFEST_FILE, read_manifest, verify_files, write_manifest
from palio.toolchain.progress import Progress, Silent
from palio.toolchain.sources import SCHEMES, Wanted, read_source
from palio.toolchain.zoo import ZooModel, zoo_model

# Raise it whenever the same ONNX file would be described otherwise: it is part of the key.
_PLAIN_RECIPE: Final = 1
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+]+):")
_PINNED: Final = re.compile(r"(?P<source>.+)#sha256=(?P<sha256>[0-9a-f]{64})")


def build(
    reference: str,
    cache: Cache,
    progress: Progress | None = None,
    *,
    fetcher: Fetcher | None = None,
) -> Path:
    """The folder of a model: manifest.json and the files it names, fetched and built if need be.

    A reference is `zoo:NAME`, a path to an ONNX file, a path to a folder with a manifest.json, or
    a source with the sha256 of its content: `https://…/model.onnx#sha256=HEX`. A folder that is
    named is used where it lies, its files verified each time; an ONNX file that is named is
    described in the cache and stays where it is.

    Raises:
        UnknownReference: there is no such model, path or scheme.
        ToolchainError: it could not be fetched or built; the kind says why.
    """
    watcher = progress or Silent()
    scheme = match[1] if (match := _SCHEME.match(reference)) else ""
    if scheme == "zoo":
        model = zoo_model(reference.removeprefix("zoo:"))
        return _zoo(model, cache, watcher, fetcher or Fetcher(cache, watcher))
    if scheme in ("", "file"):
        return _path(Path(reference.removeprefix("file:").removeprefix("//")), cache)
    if f"{scheme}:" not in SCHEMES:
        raise UnknownReference(
            f"{reference!r}: the scheme {scheme}: is not known; known are zoo:, "
            f"{', '.join(SCHEMES)} and plain paths"
        )
    return _pinned(reference, cache, fetcher or Fetcher(cache, watcher))


def _zoo(model: ZooModel, cache: Cache, progress: Progress, fetcher: Fetcher) -> Path:
    recipe = {"sentence-bert": sentence_bert.RECIPE, "toy": toy.RECIPE}[model.kind]

    def make(folder: Path) -> None:
        files = fetcher.fetch(model.files)
        match model.kind:
            case "sentence-bert":
                sentence_bert.make_sentence_bert(model, files, folder, progress)
            case "toy":
                toy.make_toy(model, folder)

    return cache.build(model.key(recipe), make)


def _path(path: Path, cache: Cache) -> Path:
    if (path / MANIFEST_FILE).is_file():
        verify_files(path, read_manifest(path))
        return path
    if path.is_dir():
        raise UnknownReference(f"{path} is a folder without a {MANIFEST_FILE}")
    if not path.is_file():
        raise UnknownReference(
            f"{path} does not exist; a model is zoo:NAME, an ONNX file, or a folder with a "
            f"{MANIFEST_FILE}"
        )
    if path.suffix != ".onnx":
        raise BadModel(f"{path} is not named .onnx, and no other kind of file is known yet")
    path = path.resolve()
    return _described(path, path.stem, f"file:{path}", cache)


def _pinned(reference: str, cache: Cache, fetcher: Fetcher) -> Path:
    match = _PINNED.fullmatch(reference)
    if match is None:
        raise UnknownReference(
            f"{reference!r} does not say which content is wanted; add #sha256= and 64 hex digits"
        )
    source = read_source(match["source"])
    name = PurePosixPath(match["source"]).stem
    wanted = Wanted(name=name, sha256=match["sha256"], sources=(source,))
    return _described(fetcher.fetch([wanted])[name], name, str(source), cache)


def _described(path: Path, name: str, source: str, cache: Cache) -> Path:
    def make(folder: Path) -> None:
        # Here, not above: importing onnx takes longer than a start from the cache may.
        from palio.toolchain.plain import describe_onnx

        write_manifest(folder, replace(describe_onnx(path), name=name, source=source))

    key = sha256_of_text(str(path), name, source, str(_PLAIN_RECIPE))
    return cache.build(f"plain-{key[:16]}", make)
