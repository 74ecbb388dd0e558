"""Where effkit keeps things: records and runs in the user's data folder, caches in the cache folder.

`EFFKIT_HOME` moves both (tests and workshops use it).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .errors import Unavailable
from .files import writing


def data_folder() -> Path:
    """Records and runs. Not created here."""
    home = os.environ.get("EFFKIT_HOME")
    if home:
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("effkit"))


def cache_folder() -> Path:
    """What can be computed again: reference logits, converted weights. Not created here."""
    home = os.environ.get("EFFKIT_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("effkit"))


def cache_bytes() -> dict[str, int]:
    """Bytes of what the cache holds, by kind: "reference" (outputs of bases and teachers), "kernels"."""
    kinds = sorted(place for place in cache_folder().glob("*") if place.is_dir())
    return {kind.name: sum(file.stat().st_size for file in kind.rglob("*") if file.is_file()) for kind in kinds}


def clear_cache() -> None:
    """Remove all of the cache; work that reads it meanwhile computes again. Raises CannotWrite."""
    if cache_folder().exists():
        aside = cache_folder().with_name(f".cache-{os.getpid()}.old")  # at once, so that nobody writes into it meanwhile
        with writing(cache_folder()):
            cache_folder().rename(aside)
            shutil.rmtree(aside)


def runs_folder() -> Path:
    """One folder a run. Not created here."""
    return data_folder() / "runs"


def shipped_file(name: str) -> Path:
    """A data file that travels with effkit, inside the installed package or in the checkout. Raises Unavailable if there is none."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "_data" / name, package.parent / "data" / name):
        if place.is_file():
            return place
    raise Unavailable(
        f"the data file {name!r}", f"It is not in {package / '_data'}", "Install effkit again: pip install --force-reinstall effkit"
    )


def is_local(source: str) -> bool:
    """Whether a model's or text's source is a place on somebody's machine, of whatever system, and not a name that others know."""
    return source.startswith(("/", "./", "../", "~", "\\\\")) or bool(re.match(r"[A-Za-z]:[\\/]", source))


def short_name(source: str) -> str:
    """A model's or text's name for people: a local folder or file by its own name, for where it lay is nobody's business."""
    return last_part(source) if is_local(source) else source


def last_part(path: str) -> str:
    """The file's or folder's own name, of whatever system the path is."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
