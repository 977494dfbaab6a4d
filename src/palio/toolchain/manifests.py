"""manifest.json, read and written; and whether the files beside it are the ones it names."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from palio.core.manifest import Manifest
from palio.toolchain.digests import sha256_of
from palio.toolchain.disk import write_whole
from palio.toolchain.errors import BadManifest, BadModel

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MANIFEST_FILE: Final = "manifest.json"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model's folder.

    Raises:
        BadManifest: it is missing, not JSON, lacks a key, has an unknown one or a wrong value.
    """
    from pydantic import ValidationError

    path = folder / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
        # Also sees to it that there is one value and no more, before it is put into a list.
        json.loads(text)
        return _adapter().validate_json(f"[{text}]", strict=True)[0]
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadManifest(f"{path} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise BadManifest(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, one['loc'][1:])) or 'the whole'}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
        raise BadManifest(f"{path}: {reasons}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest beside the files it names; the same manifest gives the same bytes."""
    [plain] = _adapter().dump_python([manifest], mode="json")
    write_whole(folder / MANIFEST_FILE, (json.dumps(plain, indent=2) + "\n").encode())


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Read every file the manifest names and compare its sha256.

    Raises:
        BadModel: a file is missing or has other content, or the identity is not among them.
    """
    for name, sha256 in manifest.files.items():
        path = folder / name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise BadModel(f"{path} cannot be read: {error.strerror}") from error
        if found != sha256:
            raise BadModel(
                f"{path} has sha256 {found[:12]}…, but its manifest says {sha256[:12]}…: "
                "the file is damaged or another one"
            )
    if manifest.artifact and manifest.files.get(manifest.artifact) != manifest.artifact_sha256:
        raise BadModel(
            f"{folder / MANIFEST_FILE} gives {manifest.artifact} and its sha256 in `artifact`, "
            "but not the same in `files`"
        )


@cache
def _adapter() -> TypeAdapter[list[Manifest]]:
    # Built on first use, for pydantic takes its time. A list, because a stranger's dataclass takes
    # no configuration of its own but hears the one of whatever it is inside of.
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(list[Manifest], config=ConfigDict(extra="forbid"))
