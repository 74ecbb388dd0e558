"""The folder of a search, as others read it: what it has found so far, also while it goes on. Imports no torch.

What stands in it is told in search.py, which writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput
from effkit.spec.exploration import Exploration, Trial
from effkit.spec.files import parsed
from effkit.spec.recipe import from_json
from effkit.spec.record import Record

from ..runs.folder import RunFolder

STUDY = "study.json"  # what is searched, and how


def asked(folder: Path) -> dict[str, Any]:
    """{"id", "facts"}: what the search in `folder` was asked for. BadInput where there is none, or not a whole one."""
    allowed = "Allowed: the folder of ek.explore or effkit explore"
    try:
        found = parsed((folder / STUDY).read_text(encoding="utf-8"))
        facts = found["facts"]
        if not isinstance(found["id"], str) or not {"objectives", "sampler"} <= facts.keys():
            raise KeyError("facts")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{str(folder)!r} holds no exploration ({type(error).__name__} in {STUDY})", allowed) from None
    return found


def read(folder: str | Path) -> Exploration:
    """What a search in `folder` has found so far, also while another process searches. BadInput where there is none."""
    folder = Path(folder)
    facts = asked(folder)["facts"]
    state = RunFolder(folder).state()
    base = folder / "base.json"
    trials = [from_json(Trial, p.read_text(encoding="utf-8"), f"trial {p.name}") for p in sorted((folder / "trials").glob("*.json"))]
    return Exploration(
        objectives=tuple(facts["objectives"]),
        base=Record.from_json(base.read_text(encoding="utf-8")) if base.exists() else None,
        trials=tuple(trials),
        sampler=facts["sampler"],
        ended=state.get("ended", ""),
        seconds=state.get("seconds", 0.0),
        folder=str(folder),
        notes=tuple(state.get("notes", ())),
    )
