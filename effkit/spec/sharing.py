"""What others get of a record: all that a replay needs, and nothing of where things lay on its author's machine.

A checkpoint and a text are known by their hashes, which the record holds; where they lay helps nobody else and names its author.
So what leaves the machine says "./mine" for /home/somebody/models/mine: a thing of that name, which the reader has to have, and
which `ek.replay` takes from wherever it lies there. The store keeps the whole record, so that its author's replay finds all.

Folders are cut out of sentences too (reasons, notes, errors), credentials out of addresses. Names that the author chose stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .intervals import Noun
from .places import is_local, last_part
from .recipe import Recipe
from .record import Record

READ = ("calibration", "text")  # fields of a step that name what it reads
PLACES = ("source", "text_source", *READ)  # fields that may hold a path
LEFT_OUT = ("folder",)  # of an exploration: where it goes on
FILE = re.compile(r".+\.(txt|md|jsonl)", re.IGNORECASE)
PART = r"""[^\s/\\:*?"'<>|,;()\[\]{}`]{1,255}"""
# not within an address, a base64 text or a relative path
BEFORE = r"(?<![\w:/.~+\\-])(?<!base64,)"
SECRETS = ((re.compile(r"\b(\w+://)[^/\s@]+@"), r"\1"), (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "[token]"))
QUOTED = re.compile(r"""(["'])(?:file://)?(?:~?/|[A-Za-z]:[\\/]+|\\\\)(?:[^"'\n/\\]+[/\\]+)+([^"'\n/\\]*)\1""")
HOMES = re.compile(rf"{BEFORE}/(?:home|Users)/{PART}")
WINDOWS = re.compile(rf"(?<!\w)(?:[A-Za-z]:[\\/]+|\\\\)(?:{PART}[\\/]+)*({PART})?")
POSIX = re.compile(rf"(?:file://|{BEFORE})(?:~/(?:{PART}/)*|/(?:{PART}/)+)({PART})?")
N = TypeVar("N", bound=Noun)


def shareable(noun: N) -> N:
    """`noun` (a Record, an Exploration, a Plan, a Recipe, a Checkpoint, ...) as others may have it; once more changes nothing.

    A record whose fingerprint fits its recipe has one that fits what the recipe now says; one that was altered still shows it.
    """
    data = noun.model_dump(mode="json")
    names: dict[str, str] = {}
    for path in dict.fromkeys(_paths(data)):
        name, count = f"./{last_part(path)}", 2
        while name in names.values():  # two files of one name in two folders
            name, count = f"./{count}-{last_part(path)}", count + 1
        names[path] = name
    return _renamed(noun, data, names, sentences=True)


def parts_for_others(checkpoint: Noun, recipe: Noun, plans: Iterable[Noun]) -> dict[str, Any]:
    """What a model says of how it came about, as others may have it, by the names that a Model and its manifest have for it."""
    return {"checkpoint": shareable(checkpoint), "recipe": shareable(recipe), "plans": tuple(shareable(plan) for plan in plans)}


def renamed(noun: N, names: Mapping[str, str]) -> N:
    """`noun` with files called otherwise wherever a field names one."""
    return _renamed(noun, noun.model_dump(mode="json"), names, sentences=False) if names else noun


def texts_of(recipe: Recipe) -> tuple[str, ...]:
    """The files that the steps of `recipe` read, as it names them, each once."""
    parts = [part for step in recipe.steps for part in (step, getattr(step, "quantize", None))]
    named = [getattr(part, field, None) for part in parts for field in READ]
    return tuple(dict.fromkeys(name for name in named if name and _is_file(name)))


def without_folders(text: str) -> str:
    """A sentence without the folders that it names: "there is no file '/home/x/a.txt'" says "... './a.txt'". Addresses stay,
    without the user and the token in them."""
    if not any(mark in text for mark in ("/", "\\", "hf_")):
        return text
    for secret, instead in SECRETS:
        text = secret.sub(instead, text)
    text = _own_home(str(Path.home())).sub("~", text)
    text = QUOTED.sub(lambda found: f"{found[1]}./{found[2]}{found[1]}", text)
    text = HOMES.sub("~", text)
    return POSIX.sub(_last, WINDOWS.sub(_last, text))


def _last(found: re.Match[str]) -> str:
    return found[1] or "a folder"


@cache
def _own_home(home: str) -> re.Pattern[str]:
    return re.compile(rf"{BEFORE}{re.escape(home)}(?![\w.-])" if len(home) > 1 else r"(?!)")


def _renamed(noun: N, data: Any, names: Mapping[str, str], sentences: bool) -> N:
    # a known folder is found in a sentence also where its name has spaces
    known = {path: last_part(path) for path in names if is_local(path)}
    known |= {folder: "a folder" for path in known if len(folder := path[: -len(known[path])].rstrip("\\/")) > 1}
    longest = sorted(known, key=len, reverse=True) if sentences else ()

    def told(text: str) -> str:
        for path in longest:
            text = re.sub(rf"{BEFORE}{re.escape(path)}(?![\w-])", known[path], text) if path in text else text
        return without_folders(text) if sentences else text

    def walked(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            if sentences and key in LEFT_OUT:
                return ""
            return names[value] if value in names and key in PLACES else told(value)
        if isinstance(value, Mapping):
            return {names.get(k, k if k in names.values() else told(k)): walked(v, k) for k, v in value.items()}
        return [walked(v, key) for v in value] if isinstance(value, list | tuple) else value

    made = type(noun).model_validate(walked(data))
    return _refitted(noun, made)


def _refitted(noun: Any, made: Any) -> Any:
    """`made` with fingerprints of its own recipes, wherever `noun` had fitting ones."""
    if isinstance(noun, Record):
        if noun.fingerprint is None or noun.fingerprint.steps != noun.recipe.steps_hash():
            return made
        return made.model_copy(update={"fingerprint": made.fingerprint.model_copy(update={"steps": made.recipe.steps_hash()})})
    changed = {}
    for name in type(noun).model_fields:
        before, after = getattr(noun, name), getattr(made, name)
        if isinstance(before, Noun):
            changed[name] = _refitted(before, after)
        elif isinstance(before, tuple) and any(isinstance(one, Noun) for one in before):
            changed[name] = tuple(_refitted(a, b) for a, b in zip(before, after, strict=True))
    return made.model_copy(update=changed)


def _paths(data: Any) -> Iterator[str]:
    for key, value in _named(data):
        if key in PLACES and (is_local(value) or _is_file(value)) and value != f"./{last_part(value)}":
            yield value


def _is_file(value: str) -> bool:
    return is_local(value) or bool(FILE.fullmatch(value))


def _named(data: Any) -> Iterator[tuple[str, str]]:
    """Every text in plain data with the field that holds it."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from _named(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _named(value)
