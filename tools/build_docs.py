"""Build the API reference from the docstrings: `python tools/build_docs.py [FOLDER]` (build/docs without arguments).

pdoc writes a page for `effkit` and one for the widgets, with the public names only, and one for every module through whose table
a plug-in enters. A warning of pdoc's (a module that does not load, an annotation that names nothing) is an error, and so is a
public name, or a public method of one, without a docstring. The pages ask no address.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import typing
import warnings
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("effkit", "effkit_widgets")
DOORS = (  # where plug-ins enter, and what they raise
    "effkit.spec.errors",
    "effkit.spec.plugins",
    "effkit.spec.progress",
    "effkit.compress.quantization.registry",
    "effkit.lab.pages.parts",
    "effkit.models.files.exporting",
    "effkit.models.execution.engines",
    "effkit.models.texts.labelled",
    "effkit.models.stored.storage",
)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in memory: of a validator in an annotation


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else ROOT / "build" / "docs"
    import effkit.hardware.preflight  # noqa: F401  (before anything imports torch)

    missing = [name for package in PACKAGES for name in undocumented(package)]
    if missing:
        print(f"Without a docstring: {', '.join(missing)}", file=sys.stderr)
        return 1
    build(folder)
    print(f"The API reference is at {folder / 'index.html'}")
    return 0


def undocumented(package: str) -> list[str]:
    """The public names of `package`, and the public methods that they define, that have no docstring of their own.

    What a class only takes over or fills in for a base class is documented there.
    """
    found = []
    for name, value in public(package).items():
        if not text_of(value):
            found.append(f"{package}.{name}")
        if inspect.isclass(value):
            methods = {key: attribute for key, attribute in vars(value).items() if not key.startswith("_") and inspect.isroutine(attribute)}
            inherited = {key for base in value.__mro__[1:] for key in vars(base)}
            found += [f"{package}.{name}.{key}" for key, method in methods.items() if key not in inherited and not text_of(method)]
    return found


def public(package: str) -> dict[str, Any]:
    """Every name in `__all__`, imported: the front door imports a name when it is first used, and pdoc reads what is there."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


def text_of(value: Any) -> str:
    """The docstring that stands at `value` itself."""
    return (getattr(value, "__doc__", None) or "").strip()


def build(folder: Path) -> None:
    """Write the pages. Raises what pdoc warns of."""
    import pdoc
    import pdoc.render

    from effkit.spec.progress import LongVerb

    for package in PACKAGES:
        for name, value in public(package).items():
            if isinstance(value, LongVerb):
                setattr(sys.modules[package], name, as_function(value))
    for door in DOORS:
        resolve_named_tuples_(importlib.import_module(door))
    pdoc.render.configure(
        docformat="markdown", show_source=False, search=True, template_directory=ROOT / "tools" / "api", footer_text="effkit"
    )
    submodules = [rf"!{package}\." for package in PACKAGES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*PACKAGES, *submodules, *DOORS, output_directory=folder)
    for page in [*folder.rglob("*.html"), folder / "search.js"]:
        text = page.read_text(encoding="utf-8")
        page.write_text(ADDRESS.sub("", text), encoding="utf-8")


def as_function(verb: Any) -> FunctionType:
    """A long verb as it is called: with its arguments, returning the result of its work."""
    work = verb.work
    function = FunctionType(work.__code__, work.__globals__, work.__name__, work.__defaults__, work.__closure__)
    functools.update_wrapper(function, work)
    del function.__wrapped__
    function.__kwdefaults__ = work.__kwdefaults__
    result = re.fullmatch(r"Work\[(.+)\]", work.__annotations__["return"])
    assert result is not None, f"{verb.name} does not return Work[...]"
    function.__annotations__ = {**work.__annotations__, "return": result[1]}
    return function


def resolve_named_tuples_(module: ModuleType) -> None:
    """A NamedTuple is made in a module of its own, where pdoc cannot find what its fields' postponed annotations name."""
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields") and value.__module__ == module.__name__:
            value.__new__.__annotations__ = typing.get_type_hints(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
