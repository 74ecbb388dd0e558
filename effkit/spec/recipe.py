"""What was asked: an ordered tuple of steps, each frozen data, with a content hash.

    Recipe(steps=[Prune(layers=20), Distill(steps=200), Quantize(method="rtn", bits=4)])

As JSON: {"version": 1, "steps": [{"step": "quantize", "method": "rtn", "bits": 4, "group_size": 64}]}
Defaults are written out, so that a recipe means the same after a default changes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from .errors import BadInput, choice
from .files import check_writable, content_hash, parsed, upgrade
from .intervals import Noun

VERSION = 1
BITS: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
KEPT = 16  # "bits" of a module that stays as it is
FIXED_BITS = {"nf4": 4, "fp4": 4, "int8": 8, "smooth": 8}


class Quantize(Noun):
    """Round weights to few bits.

    method:         a name in the registry of quantization methods: "rtn", "search", "hqq", "gptq", "awq", "learned", "nf4", ..., or a
                    plug-in's
    bits:           2 to 8, default 4; nf4 and fp4 have 4, int8 and smooth have 8
    module_bits:    bits of single modules by name, as `Sensitivity.allocate` gives them; 16 leaves a module as it is
    group_size:     consecutive input weights that share a scale; None: one scale for a whole row;
                    "auto": 64 where it divides the row, else 32, else the whole row (the plan shows which)
    symmetric:      no zero point (rtn, search, gptq, awq, learned; the others refuse it)
    embedding_bits: 2 to 8 for the token embedding and the head, by rtn; None leaves them alone
    skip:           module names (or parts of them) to leave alone; one may be given as a string
    calibration:    what a method that looks at inputs reads: a file of text, "generated" (the model writes it itself), or
                    None for the offline default
    samples:        windows of calibration text that it reads, each of `window` tokens
    rotate:         turn hidden states (where the head has a table of its own) and values by orthogonal matrices that are folded
                    into the weights before they are rounded, so that outliers are spread; the whole model is copied for it
    learn_steps:    steps with which the method "learned" trains each layer, of two windows each
    tune:           "scales": afterwards the integers are frozen, and scales and norms are trained by KL to the base on the
                    calibration text; "weights": the integers too. Kept only where held-out text agrees
    tune_steps:     how many steps of that, of four windows each
    """

    step: Literal["quantize"] = "quantize"
    method: str = "rtn"
    bits: int = 4
    group_size: int | Literal["auto"] | None = "auto"
    symmetric: bool = False
    embedding_bits: int | None = 8
    module_bits: dict[str, int] = Field(default_factory=dict)
    skip: Annotated[tuple[str, ...], BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)] = ()
    calibration: str | None = None
    samples: int = Field(default=64, ge=1)
    window: int = Field(default=256, ge=2)
    rotate: bool = False
    learn_steps: int = Field(default=200, ge=1)
    tune: Literal["scales", "weights"] | None = None
    tune_steps: int = Field(default=100, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _own_bits(cls, data: Any) -> Any:
        """A format with one width brings it along: it need not be repeated, and may not be contradicted."""
        method = data.get("method") if isinstance(data, dict) else None
        if isinstance(method, str) and (width := FIXED_BITS.get(method)) is not None:
            given = data.get("bits", width)
            if given != width:
                raise choice(f"bits for {method}", given, [width], f"Leave bits out, or choose method 'rtn' for {given} bits")
            return {**data, "bits": width}
        return data

    @field_validator("bits", "embedding_bits")
    @classmethod
    def _bits(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value not in BITS:
            raise choice(info.field_name, value, BITS)
        if value is None and info.field_name == "bits":
            raise choice("bits", value, BITS)
        return value

    @field_validator("module_bits")
    @classmethod
    def _module_bits(cls, value: dict[str, int]) -> dict[str, int]:
        for name, bits in value.items():
            if bits not in (*BITS, KEPT):
                raise choice(f"module_bits of {name}", bits, (*BITS, KEPT))
        return value

    @field_validator("group_size", mode="before")
    @classmethod
    def _group(cls, value: Any) -> Any:
        if value not in (None, "auto") and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
            raise BadInput(
                f"group_size is {value!r}",
                "Allowed: a whole number of at least 2 that divides every quantized row, None for whole rows, or 'auto'",
                "Common choices are 32, 64 and 128",
            )
        return value

    def label(self) -> str:
        """A short name for a chart: 'rtn 4-bit g64', 'nf4'."""
        bits = "mixed" if self.module_bits else f"{self.bits}-bit"
        name = self.method if self.method in FIXED_BITS else f"{self.method} {bits}"
        group = {None: " rows", "auto": ""}.get(self.group_size, f" g{self.group_size}")  # type: ignore[arg-type]
        tuned = {None: "", "scales": " tuned", "weights": " trained"}[self.tune]
        return name + group + (" symmetric" if self.symmetric else "") + (" rotated" if self.rotate else "") + tuned


def _vocabulary(value: Any) -> Any:
    if value in (None, "used") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise BadInput(f"vocabulary is {value!r}", "Allowed: a whole number of tokens, 'used' for all that the text uses, or None for all")


Vocabulary = Annotated[int | Literal["used"] | None, BeforeValidator(_vocabulary)]


class Prune(Noun):
    """Make the model smaller with the weights that it has; what is None is left alone, in all else fewer stay.

    layers:      how many transformer layers to keep, or the indices to keep
    by:          how layers are chosen: "even" (spread, with the first and the last), "importance" (measured on `text`),
                 or "random" (by `seed`; for heads, ffn and hidden_size too, which are measured otherwise)
    heads:       query heads to keep in every layer; with grouped-query attention, whole groups
    ffn:         channels to keep between the two halves of every feed-forward block
    hidden_size: channels to keep of the residual stream, the same ones everywhere
    vocabulary:  how many tokens to keep, the most used ones of `text`; or "used": all that it uses
    text:        a file of text of the domain; None for the offline default
    """

    step: Literal["prune"] = "prune"
    layers: int | tuple[int, ...] | None = None
    by: Literal["even", "importance", "random"] = "even"
    heads: int | None = Field(default=None, ge=1)
    ffn: int | None = Field(default=None, ge=1)
    hidden_size: int | None = Field(default=None, ge=1)
    vocabulary: Vocabulary = None
    text: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _something(self) -> Prune:
        if all(getattr(self, name) is None for name in ("layers", "heads", "ffn", "hidden_size", "vocabulary")):
            raise BadInput("nothing is to be pruned", "Allowed: at least one of layers, heads, ffn, hidden_size, vocabulary")
        return self

    def label(self) -> str:
        """A short name for a chart: '20 layers, ffn 512'."""
        return _shape_label(self)


class Student(Noun):
    """A new student of the teacher's architecture, its weights drawn by `seed`; what is None is as in the teacher.

    layers, hidden_size, heads, ffn: the new shape. Where hidden_size alone is given, heads keep their size as far as it
                                     divides, and ffn keeps its ratio to hidden_size
    vocabulary, text:                as in Prune
    embeddings:                      "random"; "project": the teacher's tables, projected to the new width; or "words" (of a BERT):
                                     the frequent words of `text` become tokens beside the pieces it uses, `vocabulary` in all, and
                                     each starts as the teacher's answer to it alone
    window:                          with "words": the most tokens that it reads
    """

    step: Literal["student"] = "student"
    layers: int | None = Field(default=None, ge=1)
    hidden_size: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    ffn: int | None = Field(default=None, ge=1)
    vocabulary: Vocabulary = None
    embeddings: Literal["random", "project", "words"] = "random"
    window: int | None = Field(default=None, ge=8)
    text: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _words(self) -> Student:
        if self.embeddings == "words" and not isinstance(self.vocabulary, int):
            raise BadInput(f"vocabulary is {self.vocabulary!r}", "Allowed with embeddings 'words': a whole number, the most tokens")
        if self.embeddings != "words" and self.window is not None:
            raise BadInput(f"window is {self.window}", "Allowed with embeddings 'words' only: else it is the teacher's", "Leave it out")
        return self

    def label(self) -> str:
        """A short name for a chart: 'new student of 4 layers'."""
        shape = _shape_label(self).replace(" tokens", " words" if self.embeddings == "words" else " tokens")
        return f"new student of {shape}" if shape else "new student"


def _shape_label(step: Prune | Student) -> str:
    """'20 layers, ffn 512, 8000 tokens'."""
    layers = len(step.layers) if isinstance(step.layers, tuple) else step.layers
    parts = [
        f"{layers} layer{'' if layers == 1 else 's'}" if layers is not None else "",
        f"hidden {step.hidden_size}" if step.hidden_size else "",
        f"{step.heads} heads" if step.heads else "",
        f"ffn {step.ffn}" if step.ffn else "",
        f"{step.vocabulary} tokens" if step.vocabulary else "",
    ]
    return ", ".join(part for part in parts if part)


class Distill(Noun):
    """Train the student (the model so far) to the base's outputs.

    steps, window (tokens), batch (windows or texts a step), learning_rate, temperature: above 0
    objective: "forward-kl", "reverse-kl", "jensen-shannon", "skew-kl", or "hard-labels" (no teacher: the next token or the class)
    mix:       the teacher's share in the mixture of jensen-shannon (default 0.5) and skew-kl (default 0.1)
    hard:      weight of cross-entropy with the next token or the class, beside the objective; None: 0.2 beside the forward KL of
               a language model that reads text as it is (perplexity gains more by it than KL loses), else 0
    hidden, attention: weights of hidden-state and attention transfer between mapped layers
    layer_map: (student layer, teacher layer) pairs for them, numbered from 0; None: the last of each stretch
    source:    what is read: "text" as it is, the "teacher"'s own continuations of it (sequence-level), or the "student"'s (on-policy)
    train:     "blocks" keeps the embedding and the head as they are, "all" trains everything
    quantize:  round the student's weights so in every forward pass (quantization-aware; method rtn), and train through it
    autocast:  "bfloat16" or "float16" (the loss is then scaled) for the forward passes; None: as the models compute
    top_k:     learn the teacher's k likeliest tokens of each position and the mass of all others, kept on disk for later runs
    patience:  stop after so many held-out measurements without a better one, and keep the best; None: all steps
    schedule:  of the learning rate after its warm-up: "constant", or "linear", falling to zero at the last step
    word_dropout: share of a text's tokens hidden from a classifier in a step, so that no single word decides
    augment:   where a classifier has fewer texts to train on, so many, made of their words; the teacher answers them too
    text:      a file of training text; None for the offline default
    """

    step: Literal["distill"] = "distill"
    steps: int = Field(default=100, ge=1)
    objective: Literal["forward-kl", "reverse-kl", "jensen-shannon", "skew-kl", "hard-labels"] = "forward-kl"
    temperature: float = Field(default=1.0, gt=0)
    mix: float | None = Field(default=None, gt=0, lt=1)
    hard: float | None = Field(default=None, ge=0)
    hidden: float = Field(default=0.0, ge=0)
    attention: float = Field(default=0.0, ge=0)
    layer_map: tuple[tuple[int, int], ...] | None = None
    source: Literal["text", "teacher", "student"] = "text"
    learning_rate: float = Field(default=3e-4, gt=0)
    window: int = Field(default=128, ge=2)
    batch: int = Field(default=4, ge=1)
    train: Literal["blocks", "all"] = "blocks"
    quantize: Quantize | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    top_k: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)
    schedule: Literal["constant", "linear"] = "constant"
    word_dropout: float = Field(default=0.0, ge=0, lt=0.5)
    augment: int | None = Field(default=None, ge=1)
    text: str | None = None

    def label(self) -> str:
        """A short name for a chart: 'distilled 200 steps'."""
        way = "" if self.objective == "forward-kl" else f" by {self.objective}"
        return f"distilled {self.steps} steps{way}"


Step = Annotated[Quantize | Prune | Student | Distill, Field(discriminator="step")]
S = TypeVar("S", Quantize, Prune, Student, Distill)
STEPS = {"quantize": Quantize, "prune": Prune, "student": Student, "distill": Distill}


class Recipe(Noun):
    """An ordered tuple of steps; empty means the base itself. `seed` decides everything random in it."""

    version: int = VERSION
    steps: tuple[Step, ...] = ()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return upgrade(data, VERSION, "recipe") if isinstance(data, dict) else data

    def hash(self) -> str:
        """16 hex digits of SHA-256 over the canonical JSON: equal recipes have equal hashes."""
        return content_hash(self.model_dump(mode="json"))

    def steps_hash(self) -> str:
        """Like `hash`, of the steps alone: equal for recipes that differ in their seed only."""
        return content_hash(self.model_dump(mode="json")["steps"])

    def label(self) -> str:
        """A short name for a chart, of all steps; 'base' where there is none."""
        return " + ".join(step.label() for step in self.steps) or "base"

    def kind(self) -> Literal["base", "quantized", "pruned", "distilled", "combined"]:
        """Which mark a chart gives it. Pruning before distillation is part of making a student."""
        kinds = {step.step for step in self.steps}
        if not kinds:
            return "base"
        if kinds == {"quantize"}:
            return "quantized"
        if kinds <= {"prune", "student"}:
            return "pruned"
        return "distilled" if "quantize" not in kinds else "combined"

    def then(self, step: Quantize | Prune | Student | Distill, seed: int | None = None) -> Recipe:
        """This recipe and one more step, which was done with `seed`; None: with the recipe's own.

        Prune and Student add a seed of their own to the recipe's: theirs are shifted, so that the sums stay what they were.
        Two other steps that were done with different seeds cannot both be told by one number: the later one that is not 0 is kept.
        """
        own = seed if seed is not None else self.seed
        if own == self.seed:
            return self.model_copy(update={"steps": (*self.steps, step)})
        if self.steps and isinstance(step, Prune | Student):
            return self.then(step.model_copy(update={"seed": step.seed + own - self.seed}))
        free = all(isinstance(earlier, Prune | Student) for earlier in self.steps)
        own = own if free else own or self.seed
        earlier = tuple(
            e.model_copy(update={"seed": e.seed + self.seed - own}) if isinstance(e, Prune | Student) else e for e in self.steps
        )
        return self.model_copy(update={"steps": (*earlier, step), "seed": own})

    @classmethod
    def from_json(cls, text: str, where: str = "the recipe") -> Recipe:
        """Read a recipe. BadInput names the field, the value and what is allowed."""
        try:
            data = parsed(text)
        except ValueError as error:
            at = f"line {error.lineno}, column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else error
            raise BadInput(
                f"{where} is not JSON ({at})",
                'Allowed: {"version": 1, "steps": [{"step": "quantize", "method": "rtn", "bits": 4, "group_size": 64}]}',
            ) from None
        return validated(cls, data, where)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a recipe from a JSON file. BadInput where there is none, or as `from_json`."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadInput(f"there is no recipe file {str(path)!r}", "Allowed: a path to a JSON file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"the recipe file {str(path)!r} cannot be read ({error})", "Allowed: a UTF-8 JSON file") from None
        return cls.from_json(text, where=path.name)

    def to_json(self) -> str:
        """The recipe as JSON, with all defaults written out."""
        return self.model_dump_json(indent=2)


def step_of(kind: type[S], **fields: Any) -> S:
    """A validated step from keyword arguments, as the verbs take them."""
    return validated(kind, fields, kind.__name__.lower())


def validated(noun: type, data: Any, where: str) -> Any:
    """Build `noun` from plain data; a mistake becomes one BadInput naming field, value and what is allowed."""
    check_writable(data, where)
    if noun is Recipe and isinstance(data, dict):
        steps = data.get("steps")
        for i, step in enumerate(steps if isinstance(steps, list | tuple) else ()):
            if isinstance(step, dict) and step.get("step") not in list(STEPS):
                raise choice(f"{where}: steps.{i}.step", step.get("step"), STEPS)
    try:
        return noun.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        path = [str(part) for part in _without_tags(first["loc"])]
        field = ".".join(path) or noun.__name__
        if isinstance(cause, BadInput):
            raise type(cause)(f"{where}: {cause.given}", cause.allowed, cause.todo) from None
        if first["type"] == "extra_forbidden":
            known = _fields_at(noun, first["loc"])
            raise choice(f"{where}: the field", path[-1], known) from None
        allowed = first["msg"][0].lower() + first["msg"][1:]
        given = "missing" if first["type"] == "missing" else repr(first.get("input"))
        raise BadInput(f"{where}: {field} is {given[:200]}", f"Allowed: {allowed}") from None


def from_json(noun: type, text: str, what: str) -> Any:
    """Build `noun` from the JSON that its to_json() writes. what: its name in a sentence, such as 'record'."""
    try:
        data = parsed(text)
    except ValueError as error:
        raise BadInput(f"this is not a {what} ({error})", f"Allowed: the JSON that {noun.__name__}.to_json() writes") from None
    return validated(noun, data, f"the {what}")


def _without_tags(loc: tuple[int | str, ...]) -> list[int | str]:
    """The path of a mistake as the user sees it: after an index, pydantic names the kind of step too."""
    return [part for i, part in enumerate(loc) if not (i and isinstance(loc[i - 1], int) and part in STEPS)]


def _fields_at(noun: type, loc: tuple[int | str, ...]) -> list[str]:
    """The fields allowed where an unknown one was given."""
    for before, part in itertools.pairwise(loc):
        if isinstance(before, int) and part in STEPS:
            noun = STEPS[str(part)]
    return sorted(noun.model_fields)  # type: ignore[attr-defined]
