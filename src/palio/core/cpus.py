"""Decides how many threads compute at once, so that what runs together adds up to the machine.

How many CPUs there are is an argument: `palio.engine.machine` reads that. Why the plan is as it
is: docs/decisions/0005-cpu-plan.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from palio.core.errors import SettingsError

# Reading, tokenising and writing cost about a tenth of computing a small model, so
# `auto` leaves one CPU in eight for them; on fewer they share with the workers.
CPUS_PER_SPARE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuRequest:
    """What one model asks for; `instances` None is `auto`, `weight` is its share of the rest."""

    model: str
    instances: int | None = None
    threads: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if (self.instances is not None and self.instances < 1) or self.threads < 1:
            raise ValueError(f"instances and threads start at 1: {self}")
        if not self.weight > 0:
            raise ValueError(f"a weight is more than 0: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuShare:
    """What one model gets: so many instances, each computing on so many threads."""

    model: str
    instances: int
    threads: int

    @property
    def computing(self) -> int:
        """How many of its threads compute at once."""
        return self.instances * self.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPlan:
    """Who computes on how many threads; the shares never add up to more than `cpus`.

    `machine_cpus` is what the machine really gives; it differs from `cpus` only when told so.
    """

    cpus: int
    machine_cpus: int
    shares: tuple[CpuShare, ...]

    @property
    def computing(self) -> int:
        """How many threads compute at once, over all models."""
        return sum(share.computing for share in self.shares)

    @property
    def tokenise_thread(self) -> bool:
        """Whether a CPU is left, so that preparing text on a thread of its own gains anything."""
        return self.computing < self.cpus

    def share(self, model: str) -> CpuShare:
        """What `model` gets; raises `KeyError` for one that was not planned."""
        for share in self.shares:
            if share.model == model:
                return share
        raise KeyError(model)

    def lines(self) -> tuple[str, ...]:
        """The plan in words, printed at the start."""
        told = (
            ""
            if self.cpus == self.machine_cpus
            else f" as told; this machine gives {self.machine_cpus}"
        )
        where = "on a thread of its own" if self.tokenise_thread else "beside the workers"
        return (
            f"CPUs: {self.cpus}{told}; {self.computing} computing at once; tokenising {where}",
            *(
                f"  {share.model}: {_many(share.instances, 'instance')} x "
                f"{_many(share.threads, 'thread')}"
                for share in self.shares
            ),
        )


def plan_cpus(cpus: int, requests: Sequence[CpuRequest], *, told: int | None = None) -> CpuPlan:
    """Share `cpus` out, or `told` where the settings say so, never more than there are.

    Instances that were asked for by number are given first. Every `auto` model gets one instance;
    what is left goes, an instance at a time, to the one with the least for its weight.

    Raises:
        SettingsError: even the least of it does not fit; the sentence says what to change.
    """
    limit = told if told is not None else cpus
    if limit < 1:
        raise ValueError(f"there is always a CPU to run this on, not {limit}")
    counts = {request.model: request.instances or 1 for request in requests}
    if len(counts) < len(requests):
        raise ValueError("two requests name the same model")
    taken = sum(counts[request.model] * request.threads for request in requests)
    if taken > limit:
        raise SettingsError(_too_many(limit, taken, requests, counts))
    left = limit - taken - limit // CPUS_PER_SPARE
    growing = [request for request in requests if request.instances is None]
    while growing := [request for request in growing if request.threads <= left]:
        # max() keeps the first of equals, so the order in the file breaks ties.
        neediest = max(
            growing, key=lambda each: each.weight / (each.threads * (counts[each.model] + 1))
        )
        counts[neediest.model] += 1
        left -= neediest.threads
    shares = tuple(
        CpuShare(model=each.model, instances=counts[each.model], threads=each.threads)
        for each in requests
    )
    return CpuPlan(cpus=limit, machine_cpus=cpus, shares=shares)


def _too_many(
    limit: int, taken: int, requests: Sequence[CpuRequest], counts: dict[str, int]
) -> str:
    """What does not fit, and both ways out."""
    asked = ", ".join(f"{each.model} {counts[each.model]} x {each.threads}" for each in requests)
    if any(counts[each.model] > 1 or each.threads > 1 for each in requests):
        way_out = "lower their instances or threads"
    else:
        way_out = "serve fewer models here"
    return (
        f"the models would compute on {taken} threads at once "
        f"(instances x threads: {asked}), but there {_is_or_are(limit)}: "
        f"{way_out}, or write `cpus: {taken}` to let them share"
    )


def _is_or_are(cpus: int) -> str:
    return "is 1 CPU" if cpus == 1 else f"are {cpus} CPUs"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
