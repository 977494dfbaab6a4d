"""`trial.json`: what was asked, of whom, from where, and what came of it.

It is written before the first request with the state "running", and replaced as a whole at the end.
A trial that was cut off keeps the first: nobody has to clean up for it to be true.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from palio.bench.canonical import sha256_of
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.verdict import Reason, State, Verdict
from palio.core.errors import SettingsError

FILE: Final = "trial.json"
FORMAT: Final = 1

_LOADS: Final[Mapping[str, type[OpenLoad] | type[ClosedLoad]]] = {
    "open": OpenLoad,
    "closed": ClosedLoad,
}


class UnreadableTrial(SettingsError):
    """A folder does not hold a trial that this version can read; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about a trial but its attempts.

    spec: what was asked beside the load: server, protocol, workload, SLO; JSON values only.
    workload_sha256: of the inputs themselves.
    zero_ns: the `CLOCK_MONOTONIC` nanoseconds that the attempts' times count from, which joins
    them with the samples of the machine; 0 while it is not known.
    fingerprint: `fingerprint()`'s.
    server: the configuration in effect there, as far as it says.
    client: the calibration of this client on this machine; empty if it never was.
    """

    spec: Mapping[str, Any]
    load: Load
    workload_sha256: str
    zero_ns: int
    started: datetime
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)
    ended: datetime | None = None
    verdict: Verdict | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end, whatever its verdict."""
        return self.verdict is not None

    @property
    def spec_sha256(self) -> str:
        """Equal for two trials that asked for the same, wherever and whenever they ran."""
        return sha256_of(
            {
                "spec": dict(self.spec),
                "load": load_as_json(self.load),
                "workload_sha256": self.workload_sha256,
            }
        )

    @property
    def name(self) -> str:
        """A name for the trial's folder that sorts by time: `20261120-143106-1f2e3d4c`."""
        return f"{self.started.astimezone(UTC):%Y%m%d-%H%M%S}-{self.spec_sha256[:8]}"

    def finished(self, verdict: Verdict, ended: datetime) -> Manifest:
        """The same trial at its end."""
        return replace(self, verdict=verdict, ended=ended)

    def as_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "palio_trial": FORMAT,
            "state": "finished" if self.is_finished else "running",
            "started": self.started.isoformat(),
            "ended": None if self.ended is None else self.ended.isoformat(),
            "verdict": None if self.verdict is None else _verdict_as_json(self.verdict),
            "spec_sha256": self.spec_sha256,
            "spec": dict(self.spec),
            "load": load_as_json(self.load),
            "workload_sha256": self.workload_sha256,
            "zero_ns": self.zero_ns,
            "fingerprint": dict(self.fingerprint),
            "server": dict(self.server),
            "client": dict(self.client),
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put `trial.json` in place as a whole: a reader sees the old one or the new one."""
    content = json.dumps(manifest.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    new = folder / f".{FILE}.new"
    with new.open("w", encoding="utf-8") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / FILE)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> Manifest:
    """What `trial.json` says.

    Raises:
        UnreadableTrial: there is none, or it is none of ours.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UnreadableTrial(f"{folder} has no {FILE}: no trial was begun there") from error
    except (OSError, ValueError) as error:
        raise UnreadableTrial(f"cannot read {path}: {error}") from error
    found = content.get("palio_trial") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UnreadableTrial(f"{path} is of format {found!r}; this version reads {FORMAT}")
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableTrial(f"{path} is not whole: {error!r}") from error


def load_as_json(load: Load) -> dict[str, Any]:
    """A load as JSON values, its kind included."""
    kind = next(kind for kind, each in _LOADS.items() if isinstance(load, each))
    return {"kind": kind, **asdict(load)}


def load_from_json(content: Mapping[str, Any]) -> Load:
    """The load that `load_as_json` wrote."""
    terms = dict(content)
    return _LOADS[terms.pop("kind")](**terms)


def _from_json(content: Mapping[str, Any]) -> Manifest:
    verdict, ended = content["verdict"], content["ended"]
    return Manifest(
        spec=content["spec"],
        load=load_from_json(content["load"]),
        workload_sha256=content["workload_sha256"],
        zero_ns=content["zero_ns"],
        started=datetime.fromisoformat(content["started"]),
        fingerprint=content["fingerprint"],
        server=content["server"],
        client=content["client"],
        ended=None if ended is None else datetime.fromisoformat(ended),
        verdict=None if verdict is None else _verdict_from_json(verdict),
    )


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "state": str(verdict.state),
        "reasons": [asdict(reason) for reason in verdict.reasons],
    }


def _verdict_from_json(content: Mapping[str, Any]) -> Verdict:
    return Verdict(
        State(content["state"]), tuple(Reason(**reason) for reason in content["reasons"])
    )
