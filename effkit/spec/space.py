"""A space of recipes: a recipe in which a field may have several values, to be searched by `ek.explore`.

    {"steps": [{"step": "quantize", "method": ["rtn", "gptq"], "bits": [3, 4, 8], "group_size": [32, 64]}]}

A list holds choices, {"from": 16, "to": 28, "by": 4} is a range, and anything else is the same in every recipe. Several
kinds of recipe stand in "recipes": [{"steps": [...]}, {"steps": [...]}]. A quantize step may have "bytes" instead of bits:
bytes of the whole model, or below 1 its share of the base's; every module then gets the bits that a measured sensitivity
allots to it. What is drawn from a space is a point (a plain value for each open field) and, of it, a draft of a recipe.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from .errors import BadInput, choice
from .files import content_hash, parsed, upgrade
from .intervals import Noun
from .recipe import STEPS, Recipe, validated

VERSION = 1
BYTES = "bytes"  # a quantize step's budget: resolved into module_bits when the recipe is made
RANGE = {"from", "to", "by", "log"}
TRIED = 20_000  # combinations of one step's fields that are looked at before a choice is called impossible
WHICH = "recipe"  # the open field that chooses among several kinds of recipe
Point = dict[str, Any]
Draft = dict[str, Any]


class Range(Noun):
    """Numbers from `low` to `high`, in steps of `by` (None: any number between); `log`: small ones as often as large ones.

    whole: whole numbers only, since all that was given of it was whole
    """

    low: float
    high: float
    by: float | None = None
    log: bool = False
    whole: bool = False

    def values(self) -> tuple[Any, ...]:
        """All of them, rising; empty where they cannot be counted."""
        by = self.by or (1 if self.whole else None)
        if by is None:
            return ()
        count = math.floor((self.high - self.low) / by + 1e-9) + 1
        return tuple(int(self.low + i * by) if self.whole else self.low + i * by for i in range(count))


class Dimension(Noun):
    """An open field: its `name` ("0.1.bits": of the second step of the first kind of recipe) and what it may be."""

    name: str
    choices: tuple[Any, ...] = ()
    range: Range | None = None

    def keys(self) -> tuple[Any, ...]:
        """Its values as a point holds them: plain ones as they are, others as JSON. Empty for a range without steps."""
        return tuple(map(_key, self.choices)) if self.range is None else self.range.values()

    def value(self, key: Any) -> Any:
        """The value that a point's `key` stands for."""
        if self.range is not None:
            return int(key) if self.range.whole else key
        for one in self.choices:
            if _key(one) == key and type(_key(one)) is type(key):
                return one
        raise choice(self.name, key, self.keys())


class Template(Noun):
    """One kind of recipe: steps whose fields may be lists of choices or ranges."""

    steps: tuple[dict[str, Any], ...] = Field(min_length=1)


class Space(Noun):
    """All recipes that may be tried. `seed` is that of every recipe and of what draws them."""

    version: int = VERSION
    recipes: tuple[Template, ...] = Field(min_length=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = upgrade(data, VERSION, "space")
        if "steps" in data:  # a single kind, written like a recipe
            data = {**{k: v for k, v in data.items() if k != "steps"}, "recipes": [{"steps": data["steps"]}]}
        return data

    @model_validator(mode="after")
    def _possible(self) -> Space:
        for number, template in enumerate(self.recipes):
            _refuse_order([str(step.get("step")) for step in template.steps], f"recipes.{number}")
            for at, step in enumerate(template.steps):
                _refuse_step(step, f"recipes.{number}.steps.{at}")
        return self

    @classmethod
    def of(cls, given: Any) -> Space:
        """A space from what a person gives: a Space, its JSON as a dict, the path of a JSON file, or a list of recipes."""
        if isinstance(given, Space):
            return given
        if isinstance(given, str | Path):
            return cls.from_file(given)
        if isinstance(given, Recipe):
            given = [given]
        if isinstance(given, Sequence) and given and all(isinstance(one, Recipe) for one in given):
            seeds = sorted({recipe.seed for recipe in given})
            if len(seeds) > 1:
                raise BadInput(f"the recipes have the seeds {seeds}", "Allowed: one seed for all", "Explore them one seed at a time")
            return cls(recipes=tuple(Template(steps=_fixed(recipe)) for recipe in given), seed=seeds[0])
        if isinstance(given, Mapping):
            return validated(cls, dict(given), "the space")
        raise BadInput(
            f"the space is {given!r}",
            "Allowed: the path of a JSON file, a dict such as {'steps': [{'step': 'quantize', 'bits': [3, 4, 8]}]}, or a list of recipes",
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Space:
        """Read a space from a JSON file. BadInput where there is none, or naming the field, its value and what is allowed."""
        path = Path(path).expanduser()
        try:
            data = parsed(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadInput(f"there is no space file {str(path)!r}", "Allowed: a path to a JSON file") from None
        except (OSError, ValueError) as error:
            example = '{"steps": [{"step": "quantize", "method": ["rtn", "gptq"], "bits": [3, 4, 8]}]}'
            raise BadInput(f"the space file {str(path)!r} cannot be read ({error})", f"Allowed: JSON such as {example}") from None
        return validated(cls, data, path.name)

    def to_json(self) -> str:
        """The space as JSON."""
        return self.model_dump_json(indent=2)

    def dimensions(self, number: int) -> tuple[Dimension, ...]:
        """The open fields of recipe kind `number`, in the order in which they stand; the last varies fastest in a grid."""
        found = []
        for at, step in enumerate(self.recipes[number].steps):
            for field, value in step.items():
                name = f"{number}.{at}.{field}"
                if isinstance(value, list | tuple):
                    found.append(Dimension(name=name, choices=tuple(value)))
                elif (span := _range(value)) is not None:
                    found.append(Dimension(name=name, range=span))
        return tuple(found)

    @property
    def size(self) -> float:
        """How many points there are; infinite with a range without steps."""
        total = 0.0
        for number in range(len(self.recipes)):
            total += math.prod(len(d.keys()) or math.inf for d in self.dimensions(number))
        return total

    def points(self) -> Iterator[Point]:
        """All points in order. BadInput for a range without steps, which has no end of them."""
        for number in range(len(self.recipes)):
            open_fields = self.dimensions(number)
            endless = next((d for d in open_fields if not d.keys()), None)
            if endless is not None:
                raise BadInput(
                    f"{endless.name} is a range without steps",
                    'Allowed in a grid: a list, or a range with "by"',
                    'Add "by", or use another sampler',
                )
            for keys in itertools.product(*(d.keys() for d in open_fields)):
                yield {**self.start(number), **{d.name: key for d, key in zip(open_fields, keys, strict=True)}}

    def start(self, number: int) -> Point:
        """The beginning of a point of recipe kind `number`: named only where there are several kinds."""
        return {WHICH: number} if len(self.recipes) > 1 else {}

    def draft(self, point: Point) -> Draft:
        """The steps at `point`, as plain data: a recipe's, but for the budgets in bytes."""
        number = int(point.get(WHICH, 0))
        values = {d.name: d.value(point[d.name]) for d in self.dimensions(number)}
        steps = []
        for at, step in enumerate(self.recipes[number].steps):
            steps.append({field: values.get(f"{number}.{at}.{field}", value) for field, value in step.items()})
        return {"steps": steps, "seed": self.seed}

    def shuffled(self, seed: int) -> list[Point]:
        """All points in a random order that `seed` decides."""
        points = list(self.points())
        random.Random(seed).shuffle(points)
        return points


def step_at(draft: Draft, at: int) -> Any:
    """Step `at` of a draft, validated; a budget in bytes is left out of it. BadInput for what cannot be combined."""
    data = {field: value for field, value in draft["steps"][at].items() if field != BYTES}
    return validated(STEPS[data["step"]], data, f"step {at + 1}")


def byte_budget(draft: Draft, at: int, base_bytes: int) -> int | None:
    """The budget of step `at` in bytes of the whole model; None where it has none."""
    given = draft["steps"][at].get(BYTES)
    return None if given is None else round(given * base_bytes) if given < 1 else int(given)


def label_of(draft: Draft) -> str:
    """What charts call it before it is a recipe: 'rtn 4-bit g64'; a budget is named."""
    parts = []
    for at, data in enumerate(draft["steps"]):
        try:
            step = step_at(draft, at)
            label = (step.model_copy(update={"module_bits": {"": step.bits}}) if BYTES in data else step).label()
        except BadInput:
            label = " ".join(f"{field} {value}" for field, value in data.items() if field != "step")
        if "embedding_bits" in data and data["embedding_bits"] != STEPS["quantize"].model_fields["embedding_bits"].default:
            label += " embedding kept" if data["embedding_bits"] is None else f" embedding {data['embedding_bits']}-bit"
        parts.append(f"{label} within {data[BYTES]:g}" if BYTES in data else label)
    return " + ".join(parts)


def key_of(draft: Draft, steps: int | None = None) -> str:
    """Equal for drafts that are alike in their first `steps` steps (None: in all) and their seed, defaults written out."""
    begun = []
    for at, data in enumerate(draft["steps"][:steps]):
        try:
            begun.append({**step_at(draft, at).model_dump(mode="json"), BYTES: data.get(BYTES)})
        except BadInput:
            begun.append(data)
    return content_hash({"steps": begun, "seed": draft["seed"]})


def _fixed(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """The steps of a recipe as a template without an open field: what is a list in them stands as a single choice."""
    steps = recipe.model_dump(mode="json")["steps"]
    return tuple({field: [value] if isinstance(value, list) else value for field, value in step.items()} for step in steps)


def _key(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _range(value: Any) -> Range | None:
    if not isinstance(value, dict) or not {"from", "to"} <= value.keys() <= RANGE:
        return None
    low, high, by, log = value["from"], value["to"], value.get("by"), value.get("log", False)
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in (low, high))
    if not numbers or low >= high or not isinstance(log, bool) or (log and low <= 0):
        raise BadInput(
            f"a range is {value!r}", 'Allowed: {"from": 16, "to": 28}, from below to; with "by" for steps, or "log": true above 0'
        )
    if by is not None and (isinstance(by, bool) or not isinstance(by, int | float) or not 0 < by <= high - low or log):
        raise BadInput(f"a range goes by {by!r}", f"Allowed: above 0, at most {high - low:g}, and not together with log")
    return Range(low=low, high=high, by=by, log=log, whole=all(isinstance(x, int) for x in (low, high, by or 1)))


def _refuse_order(kinds: list[str], where: str) -> None:
    """Raise BadInput for steps in an order that no recipe can have."""
    for before, kind in zip([None, *kinds], kinds, strict=False):
        if kind not in STEPS:
            raise choice(f"{where}: the step", kind, STEPS)
        if before == "quantize":
            raise BadInput(f"{where}: a {kind} step follows quantize", "Allowed: quantize as the last step", "Prune and distill first")
        if kind == "distill" and before not in ("prune", "student"):
            raise BadInput(
                f"{where}: a distill step follows no prune step",
                "A student that equals its teacher has nothing to learn",
                "Add prune before it",
            )


def _refuse_step(step: dict[str, Any], where: str) -> None:
    """Raise BadInput for a field that the step lacks, and for a choice that fits no combination of the others."""
    kind = step["step"]
    known = sorted({*STEPS[kind].model_fields, *([BYTES] if kind == "quantize" else [])})
    for field, value in step.items():
        if field not in known:
            raise choice(f"{where}: the field", field, known)
        if isinstance(value, list | tuple) and not value:
            raise BadInput(f"{where}: {field} is an empty list", "Allowed: at least one choice")
    open_fields = {field: _offered(value) for field, value in step.items()}
    for budget in open_fields.get(BYTES, ()):
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
            raise BadInput(f"{where}: bytes is {budget!r}", "Allowed: bytes of the whole model, or a share of the base's below 1")
    if BYTES in step and "module_bits" in step:
        raise BadInput(f"{where}: bytes and module_bits are both given", "Allowed: one of them, since bytes decides the bits of modules")
    waiting = {(field, i) for field, offered in open_fields.items() for i in range(len(offered)) if field != BYTES}
    refusal: dict[tuple[str, int], BadInput] = {}
    names = [field for field in open_fields if field != BYTES]
    for picked in itertools.islice(itertools.product(*(range(len(open_fields[n])) for n in names)), TRIED):
        if not waiting:
            return
        try:
            validated(STEPS[kind], {name: open_fields[name][i] for name, i in zip(names, picked, strict=True)}, where)
        except BadInput as error:
            for pair in zip(names, picked, strict=True):
                refusal.setdefault(pair, error)
        else:
            waiting -= set(zip(names, picked, strict=True))
    if waiting:
        told = [refusal[pair] for pair in sorted(waiting) if pair in refusal]
        if told:
            # the error that names the field itself, where there is one
            raise next((e for p in sorted(waiting) if (e := refusal.get(p)) and f"{where}: {p[0]} " in str(e)), told[0])


def _offered(value: Any) -> tuple[Any, ...]:
    """The choices of a field; of a range its ends, as representatives."""
    if isinstance(value, list | tuple):
        return tuple(value)
    span = _range(value)
    return (value,) if span is None else (int(span.low), int(span.high)) if span.whole else (span.low, span.high)
