"""What was found: checkpoint + recipe + quality + profile + cost + environment. One result, one row of the store."""

from __future__ import annotations

import datetime
import uuid
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from .energy import Energy
from .files import upgrade
from .intervals import Estimate, Noun, three
from .plan import Plan
from .recipe import Recipe, from_json

if TYPE_CHECKING:
    from .serving import Goodput

VERSION = 1


class Checkpoint(Noun):
    """Where weights came from. `hash`: SHA-256 over names, shapes and bytes of all tensors."""

    source: str
    revision: str | None = None
    licence: str | None = None
    hash: str
    architecture: str
    task: str = "causal-lm"
    layers: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    parameters: int = 0
    notes: tuple[str, ...] = ()


class KL(Noun):
    """KL divergence of base to model per token, in nats: KL(base || model)."""

    mean: Estimate
    median: Estimate
    p90: Estimate
    p99: Estimate


class NoiseFloor(Noun):
    """What rounding the base to bfloat16 changes by itself: differences below it mean nothing."""

    kl: Estimate
    agreement: Estimate
    dtype: str = "bfloat16"


class Blocks(Noun):
    """Means per block of tokens, so that two records on the same text can be compared in pairs later."""

    tokens: int
    nll: tuple[float, ...] = ()
    base_nll: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()


class Quality(Noun):
    """How much of the base was kept, measured on `tokens` scored tokens of the text with hash `text`.

    perplexity:      exp of the mean negative log-likelihood; unavailable for classifiers
    perplexity_ratio: model over base, paired
    agreement:       share of tokens (classifier: texts) whose most likely choice is the base's
    kv_bits:         bits that keys and values were kept in; None: as computed
    vocabulary:      how many tokens both know, where the model has a part of the base's: the text is cut as the model cuts it, and the
                     base's probabilities are those among these tokens; None: the same vocabulary
    covered:         then, the share of the base's own tokens of the text that the model knows
    indistinguishable: True where the data cannot tell the model from its base, None where nothing was compared
    """

    perplexity: Estimate
    base_perplexity: Estimate
    perplexity_ratio: Estimate
    kl: KL | None = None
    agreement: Estimate
    floor: NoiseFloor | None = None
    indistinguishable: bool | None = None
    text: str
    text_source: str = ""
    tokens: int
    window: int
    windows: int
    kv_bits: int | None = None
    vocabulary: int | None = None
    covered: float | None = None
    blocks: Blocks
    seconds: float = 0.0

    @property
    def retained(self) -> float | None:
        """Quality retained: base perplexity over perplexity for a language model, agreement for a classifier. Base: 1."""
        if self.perplexity_ratio.value:
            return 1.0 / self.perplexity_ratio.value
        return self.agreement.value


class Memory(Noun):
    """Peak bytes while profiling. Allocated and reserved come from the device's allocator; resident from the process."""

    allocated: int | None = None
    reserved: int | None = None
    resident: int | None = None
    how: str = "unavailable"


class Decoding(Noun):
    """How output tokens were made.

    cache:           keys and values kept as "dynamic" (grows), "static" (of fixed size), "int8" or "int4" (rounded)
    cache_bytes:     of the whole batch after the last token; None where nothing was kept
    compiled:        whether the forward pass of a token was compiled; compile_seconds are never part of a figure
    engines:         how many linear layers run on which engine
    note:            what was asked for and could not be done, and why
    """

    cache: str = "dynamic"
    cache_bytes: int | None = None
    compiled: bool = False
    compile_seconds: float | None = None
    engines: dict[str, int] = Field(default_factory=dict)
    note: str = ""


class Outlier(Noun):
    """A step that took much longer or shorter than its like. It is named, and stays in every figure.

    repeat: counted from 0, without the discarded ones; token: 0 for the first token; typical_ms: the median of its like
    """

    repeat: int
    token: int
    ms: float
    typical_ms: float


class Profile(Noun):
    """How fast it runs, on which device. Percentiles are keyed "p50", "p90", "p99"; those of output tokens are inter-token.

    time_to_first_token: ms, prompt in to first token out
    time_per_output_token: ms, over the tokens after the first
    prefill, decode: tokens per second over the whole batch
    warmup: repeats that were run first and discarded; warmup_how: how many that should be was asked for or found
    first_token_times, output_token_times: ms, one value a repeat (of the output tokens: their mean); batch requests share each
    energy: over the measured repeats; isolated: measured in a process of its own
    architecture: the model's shape, so that `ek.project` takes the profile elsewhere; None where it is not known
    speed_ratio: decode throughput over the base's, both run in turns (a classifier: answers a second); unavailable without a base
    timed_on: id of the record whose model was timed, where `ek.explore` took over what it found for another model of the same
              shapes and storage, which runs the same code on as many bytes; None: this record's own model was timed
    """

    device: str
    device_type: str
    simulated: bool = False
    dtype: str
    prompt: int
    new_tokens: int
    batch: int
    repeats: int
    warmup: int
    time_to_first_token: Estimate
    time_per_output_token: Estimate
    first_token_percentiles: dict[str, float] = Field(default_factory=dict)
    output_token_percentiles: dict[str, float] = Field(default_factory=dict)
    prefill: Estimate
    decode: Estimate
    memory: Memory = Memory()
    timing: str = "wall clock after synchronising"
    threads: int | None = None
    decoding: Decoding | None = None
    speed_ratio: Estimate = Estimate.unavailable()
    warmup_how: str = "asked for"
    first_token_times: tuple[float, ...] = ()
    output_token_times: tuple[float, ...] = ()
    outliers: tuple[Outlier, ...] = ()
    energy: Energy | None = None
    isolated: bool = False
    architecture: dict[str, Any] | None = None
    timed_on: str | None = None

    def goodput(self, first_token_ms: float | None = None, output_token_ms: float | None = None) -> Goodput:
        """Share and rate of the requests that met a bound on the time to first token, per output token, or both."""
        from .serving import goodput

        return goodput(self, first_token_ms, output_token_ms)

    @property
    def slower(self) -> str | None:
        """A sentence where the model is slower than its base for certain, such as "decodes 0.8 times as fast as its base"."""
        ratio = self.speed_ratio
        if ratio.value is None or (ratio.value if ratio.high is None else ratio.high) >= 1:
            return None
        return f"{'decodes' if self.new_tokens else 'answers'} {three(ratio.value)} times as fast as its base"


class Cost(Noun):
    """Bytes really stored, by what they are for, and what a query costs where a price is known."""

    bytes: int
    predicted_bytes: int | None = None
    base_bytes: int
    bits_per_weight: float
    ledger: dict[str, int] = Field(default_factory=dict)
    price_per_1000_queries: Estimate = Estimate.unavailable("$")
    energy_per_query: Estimate = Estimate.unavailable("J")

    @property
    def compression(self) -> float:
        """Base bytes over stored bytes of the whole model."""
        return self.base_bytes / self.bytes


class Fingerprint(Noun):
    """What a result was made with, so that a replay can tell which of it is not the same any more.

    steps:   hash of the recipe's steps; seed: the recipe's
    weights: SHA-256 over names, types, shapes and bytes of the measured model's tensors
    device, dtype: what it computed on and in
    texts:   SHA-256 of each text that the steps read, by the name that the recipe has for it
    """

    steps: str
    seed: int
    weights: str
    device: str | None = None
    dtype: str | None = None
    texts: dict[str, str] = Field(default_factory=dict)


class Record(Noun):
    """One result. `environment`: versions of Python and libraries, machine, threads, git revision.

    fingerprint: what it was made with, for `ek.replay`; None in records that were made before there was one
    """

    version: int = VERSION
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    created: str = Field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    name: str
    checkpoint: Checkpoint
    recipe: Recipe = Recipe()
    plans: tuple[Plan, ...] = ()
    quality: Quality | None = None
    profile: Profile | None = None
    cost: Cost
    environment: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    fingerprint: Fingerprint | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return upgrade(data, VERSION, "record") if isinstance(data, dict) else data

    def to_json(self) -> str:
        """The record as JSON, to be stored."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a stored record, of an older version too. BadInput names what is wrong."""
        return from_json(cls, text, "record")

    def code(self) -> str:
        """The lines of Python that make the measured model: import, load, and one for each step of the recipe."""
        from .code import code_of

        return code_of(self.recipe, self.checkpoint.source, self.checkpoint.revision)

    def figure(self, name: str) -> Estimate:
        """A measured quantity by name, one of FIGURES: what charts put on an axis and budgets are set on."""
        from .errors import choice
        from .frontier import FIGURES, figure_of

        if name not in FIGURES:
            raise choice("the quantity", name, FIGURES)
        return figure_of(self, name)

    def __repr__(self) -> str:
        quality = f", keeps {self.quality.retained:.1%}" if self.quality and self.quality.retained is not None else ""
        from .errors import bytes_text

        return f"Record({self.name!r}, {bytes_text(self.cost.bytes)}{quality})"

    __str__ = __repr__
