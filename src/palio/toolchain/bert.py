"""Sentence embeddings as an ONNX graph, straight from a BERT encoder's safetensors.

The graph takes ids and mask, runs the encoder, averages over the mask and scales to length one.
It is written for ONNX Runtime's own optimiser: query, key and value are one product, the score's
scale is folded into the query, token types (all zero) into the positions, and bias and GELU stand
where its fusion looks for them. Six spellings were timed; none was faster than this beyond noise.

Source: Devlin et al., "BERT", 2018, and the layout of names of Hugging Face's `BertModel`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError, safe_open

from palio.core.tensors import Array
from palio.toolchain.errors import BadModel
from palio.toolchain.progress import Progress

# Opset 20 is the first with Gelu; files of format 9 load in every ONNX Runtime since 1.17.
OPSET: Final = 20
_FORMAT: Final = 9
# Finite, so that a row that is all padding stays finite; exp(-10,000) is exactly zero.
_MASKED: Final = -10_000.0
_NO_TOKENS: Final = 1e-9
_NO_LENGTH: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """What the weights alone do not say."""

    layers: int
    heads: int
    width: int
    epsilon: float

    @classmethod
    def read(cls, config: Path) -> BertShape:
        """The shape in a model's config.json.

        Raises:
            BadModel: it is not a BERT encoder of the kind this graph is for.
        """
        try:
            said = json.loads(config.read_bytes())
            shape = cls(
                layers=said["num_hidden_layers"],
                heads=said["num_attention_heads"],
                width=said["hidden_size"],
                epsilon=said["layer_norm_eps"],
            )
            kind = (said["model_type"], said["hidden_act"], said["position_embedding_type"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadModel(f"{config} does not describe a BERT encoder: {error!r}") from error
        if kind != ("bert", "gelu", "absolute"):
            raise BadModel(f"{config} describes {kind}; only ('bert', 'gelu', 'absolute') is built")
        return shape


def build_bert(weights: Path, shape: BertShape, progress: Progress) -> bytes:
    """The ONNX file, checked; the same weights and shape give the same bytes.

    Raises:
        BadModel: a weight is missing or has an unexpected shape.
    """
    left = weights.stat().st_size
    progress.start("build graph", left)
    try:
        tensors: dict[str, Array] = {}
        with safe_open(weights, "np") as stored:
            for name in stored.keys():  # noqa: SIM118  (not a mapping)
                tensors[name] = stored.get_tensor(name)
                progress.advance(tensors[name].nbytes)
                left -= tensors[name].nbytes
        progress.advance(left)
        model = _Writer(tensors, shape).write()
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
    except KeyError as error:
        raise BadModel(f"{weights} lacks the weight {error}") from error
    except (SafetensorError, ValueError) as error:
        raise BadModel(f"{weights} does not hold this BERT: {error}") from error
    else:
        return data
    finally:
        progress.done()


class _Writer:
    """Writes one graph, node after node; a value is known by its name."""

    def __init__(self, tensors: Mapping[str, Array], shape: BertShape) -> None:
        self._tensors = tensors
        self._shape = shape
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def write(self) -> onnx.ModelProto:
        mask = self._add("Cast", "attention_mask", to=TensorProto.FLOAT)
        hidden = self._embeddings()
        bias = self._score_bias(mask)
        for layer in range(self._shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias)
        self._pooled(hidden, mask)
        graph = helper.make_graph(
            self._nodes,
            "sentence-bert",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
                for name in ("input_ids", "attention_mask")
            ],
            [
                helper.make_tensor_value_info(
                    "embedding", TensorProto.FLOAT, ["batch", self._shape.width]
                )
            ],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph, producer_name="palio", opset_imports=[helper.make_opsetid("", OPSET)]
        )
        model.ir_version = _FORMAT
        return model

    def _embeddings(self) -> str:
        words = self._constant("words", self._tensors["embeddings.word_embeddings.weight"])
        types = self._tensors["embeddings.token_type_embeddings.weight"]
        places = self._constant(
            "positions", self._tensors["embeddings.position_embeddings.weight"] + types[0]
        )
        tokens = self._add("Shape", "input_ids", start=1, end=2)
        zero = self._integers("zero", 0)
        word = self._add("Gather", words, "input_ids")
        place = self._add("Slice", places, zero, tokens, zero)
        return self._normalised("embeddings.LayerNorm", self._add("Add", word, place))

    def _score_bias(self, mask: str) -> str:
        """0 where a token may be looked at, very low where it is padding: [batch, 1, 1, tokens]."""
        wide = self._add("Unsqueeze", mask, self._integers("heads_and_queries", 1, 2))
        absent = self._add("Sub", self._number("one", 1.0), wide)
        return self._add("Mul", absent, self._number("masked", _MASKED))

    def _layer(self, name: str, hidden: str, bias: str) -> str:
        attended = self._dense(
            f"{name}.attention.output.dense", self._attention(f"{name}.attention", hidden, bias)
        )
        hidden = self._normalised(
            f"{name}.attention.output.LayerNorm", self._add("Add", attended, hidden)
        )
        inner = self._add("Gelu", self._dense(f"{name}.intermediate.dense", hidden))
        outer = self._dense(f"{name}.output.dense", inner)
        return self._normalised(f"{name}.output.LayerNorm", self._add("Add", outer, hidden))

    def _attention(self, name: str, hidden: str, bias: str) -> str:
        shape = self._shape
        head = shape.width // shape.heads
        scale = np.float32(head**-0.5)
        parts = [
            (self._tensors[f"{name}.self.{part}.weight"], self._tensors[f"{name}.self.{part}.bias"])
            for part in ("query", "key", "value")
        ]
        parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
        weight, offset = (np.concatenate(halves) for halves in zip(*parts, strict=True))
        whole = self._affine(f"{name}.qkv", hidden, weight, offset)
        widths = self._integers("qkv_widths", *[shape.width] * 3)
        query, key, value = self._split(whole, widths)
        apart = self._integers("heads_apart", 0, 0, shape.heads, head)

        def by_head(part: str, order: tuple[int, ...]) -> str:
            return self._add("Transpose", self._add("Reshape", part, apart), perm=order)

        scores = self._add("MatMul", by_head(query, (0, 2, 1, 3)), by_head(key, (0, 2, 3, 1)))
        shares = self._add("Softmax", self._add("Add", scores, bias), axis=-1)
        mixed = self._add("MatMul", shares, by_head(value, (0, 2, 1, 3)))
        together = self._integers("heads_together", 0, 0, shape.width)
        return self._add("Reshape", self._add("Transpose", mixed, perm=(0, 2, 1, 3)), together)

    def _pooled(self, hidden: str, mask: str) -> None:
        """The mean over the tokens that are there, scaled to length one; zeros if there is none."""
        axis = self._integers("tokens_axis", 1)
        total = self._add("MatMul", self._add("Unsqueeze", mask, axis), hidden)
        count = self._add("ReduceSum", mask, axis, keepdims=1)
        mean = self._add(
            "Div",
            self._add("Squeeze", total, axis),
            self._add("Max", count, self._number("no_tokens", _NO_TOKENS)),
        )
        length = self._add("ReduceL2", mean, axis, keepdims=1)
        safe = self._add("Max", length, self._number("no_length", _NO_LENGTH))
        self._nodes.append(helper.make_node("Div", [mean, safe], ["embedding"], name="embedding"))

    def _dense(self, name: str, value: str) -> str:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return self._affine(name, value, weight, bias)

    def _affine(self, name: str, value: str, weight: Array, bias: Array) -> str:
        product = self._add("MatMul", value, self._constant(f"{name}.weight", weight.T))
        return self._add("Add", product, self._constant(f"{name}.bias", bias))

    def _normalised(self, name: str, value: str) -> str:
        return self._add(
            "LayerNormalization",
            value,
            self._constant(f"{name}.weight", self._tensors[f"{name}.weight"]),
            self._constant(f"{name}.bias", self._tensors[f"{name}.bias"]),
            axis=-1,
            epsilon=self._shape.epsilon,
        )

    def _split(self, value: str, widths: str) -> tuple[str, str, str]:
        stem = f"split_{len(self._nodes)}"
        names = (f"{stem}_query", f"{stem}_key", f"{stem}_value")
        self._nodes.append(helper.make_node("Split", [value, widths], names, name=stem, axis=-1))
        return names

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _integers(self, name: str, *values: int) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _number(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _constant(self, name: str, value: Array) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name
