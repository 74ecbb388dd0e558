"""What a transformer is made of, counted without loading it: parameters, bytes, cached bytes and arithmetic.

An `Architecture` is a list of groups of equal layers; a layer is its matrices, one attention core and a few vectors.
Everything else follows: a matrix of i inputs and o outputs holds i·o numbers and costs 2·i·o operations a token; a
core compares each new token with the tokens before it. `architecture(config)` in configs.py makes one.

Counted as in Kaplan et al. 2020 (arXiv 2001.08361, table 1), and checked against torch's FlopCounterMode and
`num_parameters`. Latent attention: DeepSeek-V2 (arXiv 2405.04434). Gated delta rule: arXiv 2412.06464.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from effkit.spec.errors import BadInput, choice

PARTS: tuple[str, ...] = ("attention", "mlp", "experts", "router", "norms", "embedding", "head")

# Bits of one weight with the scales it needs (one group of g weights shares a scale of s bits: + s/g).
BITS = {
    "fp32": 32.0, "bf16": 16.0, "fp16": 16.0,
    "fp8": 8.0, "fp8_block": 8 + 32 / (128 * 128), "int8": 8.0,
    "int4_g32": 4 + 16 / 32, "int4_g128": 4 + 16 / 128,
    "nvfp4": 4 + 8 / 16, "mxfp4": 4 + 8 / 32,
}  # fmt: skip
ALIASES = {"fp4": "nvfp4", "int4": "int4_g128", "int4_wo": "int4_g32", "int8_wo": "int8", "float16": "fp16", "bfloat16": "bf16"}
# Left at 16 bits by every common recipe: they are small, or quality hangs on them.
WHOLE = ("router", "norms", "embedding", "head")


def format_name(name: str) -> str:
    """A format's own name: 'fp4' -> 'nvfp4'. Raises BadInput for an unknown one."""
    own = ALIASES.get(name, name)
    if own not in BITS:
        raise choice("format", name, [*BITS, *ALIASES])
    return own


@dataclass(frozen=True)
class Matrix:
    """`copies` equal matrices of which a token uses `used` (experts: all of them, and the chosen ones)."""

    part: str
    inputs: int
    outputs: int
    copies: int = 1
    used: int = 1
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.copies * self.outputs * (self.inputs + self.bias)

    @property
    def active(self) -> int:
        return self.used * self.outputs * (self.inputs + self.bias)

    @property
    def flops(self) -> int:
        """Per token, one multiply and one add for each weight; a bias adds nothing that counters count."""
        return 2 * self.used * self.inputs * self.outputs


@dataclass(frozen=True)
class Core:
    """What attention does between its projections.

    kind: full (all earlier tokens), window (the last `window`), latent (low-rank cache), linear (a state of fixed size).
    key, value: width per head. cached: numbers kept a token (full, window, latent). state: numbers kept a sequence (linear).
    latent_key, latent_value: widths per head in decoding, where a latent cache is read as it is, without expanding it.
    top: how many tokens an indexer selects (DeepSeek sparse attention), 0 for all; scanned: of `cached`, what it reads of all.
    """

    kind: Literal["full", "window", "latent", "linear"]
    heads: int
    key: int
    value: int
    kv_heads: int = 1
    cached: int = 0
    window: int = 0
    state: int = 0
    latent_key: int = 0
    latent_value: int = 0
    top: int = 0
    scanned: int = 0

    def seen(self, context: float) -> float:
        """How many of `context` tokens a new one attends to."""
        limit = self.window or self.top
        return min(context, limit) if limit else context

    def read(self, context: float) -> float:
        """Numbers that one step of decoding reads for one sequence."""
        return (self.cached - self.scanned) * self.seen(context) + self.scanned * context

    def flops(self, tokens: int, context: float, causal: bool) -> float:
        """Scores and weighted sums of `tokens` new tokens after `context` earlier ones (one sequence)."""
        if self.kind == "linear":
            # The delta rule per token and head: decay, read, write and query a state of key x value.
            return 8 * tokens * self.heads * self.key * self.value
        return 2 * self.heads * (self.key + self.value) * self._pairs(tokens, context, causal)

    def step_flops(self, context: float) -> float:
        """One token of decoding after `context` earlier ones."""
        if self.kind == "latent" and self.latent_key:
            return 2 * self.heads * (self.latent_key + self.latent_value) * self.seen(context + 1)
        return self.flops(1, context, causal=True)

    def _pairs(self, tokens: int, context: float, causal: bool) -> float:
        if not causal:
            return tokens * (context + tokens)
        limit = self.window or self.top
        if not limit or context + tokens <= limit:
            return tokens * context + tokens * (tokens + 1) / 2
        growing = max(0.0, min(float(tokens), limit - context))
        return growing * context + growing * (growing + 1) / 2 + (tokens - growing) * limit


@dataclass(frozen=True)
class Group:
    """`count` equal layers. `vectors`: numbers in norms and other vectors of one layer."""

    count: int
    core: Core
    matrices: tuple[Matrix, ...]
    vectors: int = 0


@dataclass(frozen=True)
class Architecture:
    """The shape of a model. `kept`: parts that its own quantized release leaves at 16 bits."""

    family: str
    hidden: int
    vocabulary: int
    groups: tuple[Group, ...]
    embedding: int
    head: tuple[Matrix, ...]
    tied: bool
    final: int = 0
    head_vectors: int = 0
    max_context: int = 0
    kept: tuple[str, ...] = ()
    name: str = ""
    known: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, to be kept in a record."""
        return TypeAdapter(Architecture).dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Architecture:
        """What `to_dict` gave. Raises BadInput for anything else."""
        try:
            return TypeAdapter(cls).validate_python(dict(fields))
        except ValidationError as error:
            raise BadInput("this is no shape of a model", "Allowed: what Architecture.to_dict gave", str(error).splitlines()[0]) from error

    # ---- shape

    @property
    def layers(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def heads(self) -> int:
        return max(group.core.heads for group in self.groups)

    @property
    def kv_heads(self) -> int:
        return max(group.core.kv_heads for group in self.groups)

    @property
    def experts(self) -> int:
        return max((m.copies for group in self.groups for m in group.matrices if m.part == "experts"), default=0)

    @property
    def active_experts(self) -> int:
        return max((m.used for group in self.groups for m in group.matrices if m.part == "experts"), default=0)

    @property
    def sparse_layers(self) -> int:
        """Layers with routed experts."""
        return sum(group.count for group in self.groups if any(m.part == "experts" for m in group.matrices))

    @property
    def moe(self) -> bool:
        return self.experts > 0

    # ---- parameters and bytes

    def parameters(self, active: bool = False) -> dict[str, int]:
        """Numbers by part. A tied head counts once, as embedding. active: of the experts only those a token uses."""
        found: dict[str, int] = dict.fromkeys(PARTS, 0)
        found["embedding"] = self.embedding
        found["norms"] = self.final + self.head_vectors
        for group in self.groups:
            found["norms"] += group.count * group.vectors
            for matrix in group.matrices:
                found[matrix.part] += group.count * (matrix.active if active else matrix.parameters)
        for number, matrix in enumerate(self.head):
            tied = self.tied and number == len(self.head) - 1
            found["head"] += matrix.outputs * matrix.bias if tied else matrix.parameters
        return found

    @property
    def total(self) -> int:
        """All parameters. Llama-3.1-8B: 8_030_261_248."""
        return sum(self.parameters().values())

    @property
    def active(self) -> int:
        """Parameters that one token uses. DeepSeek-V3: 37.6 of 671 billion (without its predictor of further tokens)."""
        return sum(self.parameters(active=True).values())

    def bits(self, part: str, format: str) -> float:
        """Bits of one weight of a part: the format's with its scales, or 16 where the part is left whole; a wider format is that of all."""
        own = BITS[format_name(format)]
        return own if own > 16 or (part not in WHOLE and part not in self.kept) else 16.0

    def weight_bytes(self, format: str = "bf16") -> float:
        """Bytes of all weights in a format, scales included; embedding, head, router and norms stay at 16 bits."""
        return sum(count * self.bits(part, format) / 8 for part, count in self.parameters().items())

    def kv_bytes_per_token(self, element: float = 2.0) -> float:
        """Bytes that one more token of context keeps (a window that is full keeps none, a linear layer none)."""
        return element * sum(group.count * group.core.cached for group in self.groups if group.core.kind in ("full", "latent"))

    def kv_bytes(self, context: float, element: float = 2.0) -> float:
        """Bytes kept for one sequence of `context` tokens: caches, windows and the states of linear layers (float32)."""
        kept = 0.0
        for group in self.groups:
            core = group.core
            length = min(context, core.window) if core.window else context
            kept += group.count * (core.cached * length * element + core.state * 4)
        return kept

    def read_bytes(self, context: float, element: float = 2.0) -> float:
        """Bytes of cache that one decoding step reads for one sequence (sparse attention reads less than is kept)."""
        return sum(g.count * (g.core.read(context) * element + 2 * g.core.state * 4) for g in self.groups)

    # ---- arithmetic

    def prefill_flops(
        self, tokens: int, context: int = 0, batch: int = 1, causal: bool = True, logits: Literal["all", "last", "none"] = "last"
    ) -> dict[str, float]:
        """Operations by part to read `tokens` new tokens after `context` ones, for `batch` sequences.

        causal counts only pairs a token may see, as the fused kernels compute; False counts the whole square, as torch's
        FlopCounterMode does. logits: for which tokens the head is computed (serving: the last).
        """
        found = self._linear_flops(batch * tokens)
        found["core"] = batch * sum(g.count * g.core.flops(tokens, context, causal) for g in self.groups)
        found["head"] = self._head_flops() * batch * {"all": tokens, "last": 1, "none": 0}[logits]
        return found

    def decode_flops(self, batch: int, context: float) -> dict[str, float]:
        """Operations by part of one decoding step: one new token for each of `batch` sequences of `context` tokens."""
        found = self._linear_flops(batch)
        found["core"] = batch * sum(g.count * g.core.step_flops(context) for g in self.groups)
        found["head"] = self._head_flops() * batch
        return found

    def touched(self, tokens: float) -> float:
        """The share of a layer's experts that `tokens` tokens use, if each chooses at random: 1 - (1 - k/E)^tokens."""
        return 1 - (1 - self.active_experts / self.experts) ** tokens if self.moe else 0.0

    def _linear_flops(self, tokens: float) -> dict[str, float]:
        found: dict[str, float] = dict.fromkeys(("attention", "mlp", "experts", "router"), 0.0)
        for group in self.groups:
            for matrix in group.matrices:
                found[matrix.part] += group.count * matrix.flops * tokens
        return found

    def _head_flops(self) -> float:
        return float(sum(matrix.flops for matrix in self.head))
