"""A recipe as the lines of Python that make its model: what a reader takes from a chart to a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .intervals import Noun
from .recipe import FIXED_BITS, Distill, Prune, Quantize, Recipe, Step, Student

VERBS = {"quantize": "ek.quantize(model", "prune": "ek.prune(model", "student": "ek.student(model", "distill": "ek.distill(base, model"}
ALWAYS = {"quantize": ("method", "bits"), "distill": ("steps",)}  # said even where it is the default


def code_of(recipe: Recipe, source: str, revision: str | None = None) -> str:
    """Lines that load `source` and make the model of `recipe`: three for one step, one more for each further one.

    What a step reads is named as the recipe names it; texts that were given as strings have no name and are left out.

    >>> print(code_of(Recipe(steps=(Quantize(method="gptq", bits=3),)), "smollm2-135m"))
    import effkit as ek
    base = ek.load("smollm2-135m")
    model = ek.quantize(base, method="gptq", bits=3)
    """
    hub = "/" in source and not source.startswith(("/", ".", "~"))  # what is built in has a revision that nobody can ask for
    at = f", revision={_written(revision)}" if revision and hub else ""
    lines = ["import effkit as ek", f"base = ek.load({_written(tilde(source))}{at})"]
    for i, step in enumerate(recipe.steps):
        call = VERBS[step.step] if i else VERBS[step.step].replace("model", "base")
        lines.append(f"model = {call}{''.join(f', {name}={_written(value)}' for name, value in said(step, recipe.seed).items())})")
    return "\n".join(lines)


def said(step: Step, seed: int = 0) -> dict[str, Any]:
    """The fields of a step that say something: those that are not the default, and the few that are always said."""
    always = ALWAYS.get(step.step, ())
    kept = {
        name: getattr(step, name)
        for name, field in type(step).model_fields.items()
        if name not in ("step", "seed") and (name in always or getattr(step, name) != field.get_default(call_default_factory=True))
    }
    if isinstance(step, Quantize) and step.method in FIXED_BITS:
        kept.pop("bits", None)
    whole = seed + (step.seed if isinstance(step, Prune | Student) else 0)
    return {**kept, "seed": whole} if whole else kept


def _written(value: Any) -> str:
    """A value as Python reads it, strings in double quotes."""
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    if isinstance(value, Noun):
        assert isinstance(value, Quantize | Distill)
        return f"ek.{type(value).__name__}({', '.join(f'{name}={_written(v)}' for name, v in said(value).items())})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    return repr(value)


def tilde(source: str) -> str:
    """A path below the home folder without the person's name; anything else as it is."""
    path = Path(source)
    return f"~/{path.relative_to(Path.home())}" if path.is_absolute() and path.is_relative_to(Path.home()) else source
