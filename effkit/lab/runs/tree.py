"""Several ways from one point: kept checkpoints of a run, branches from them, and steps that were undone.

A checkpoint is kept when a run is paused, when someone asks for one, and before a knob is changed; so `run.undo()` takes
back the last change. A branch is a run of its own, in a folder of its own beside the first, that remembers its parent.
Nothing is forgotten: undone events stay in the folder (undone.jsonl), and what happened stands in the result's plan.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput
from effkit.spec.files import write_text, writing

from .folder import RunFolder

KEPT = 8  # kept checkpoints a run; the oldest goes first


def keep(home: RunFolder, snapshot: Path) -> Path:
    """Keep a snapshot under a name that later ones do not replace. Shares the bytes on disk."""
    target = home.path / snapshot.name.replace("snapshot", "kept")
    if not target.exists():
        _linked(snapshot, target)
    for old in kept(home)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def kept(home: RunFolder) -> list[Path]:
    """The folders of kept checkpoints, the last one last."""
    return sorted(home.path.glob("kept-*"))


def checkpoints(home: RunFolder) -> list[dict[str, Any]]:
    """{"step", "events", "path"} of every point to go on from, the earliest first."""
    events, found = home.all_events(), {}
    for path in (*kept(home), *home.snapshots()):
        count = int(path.name.rpartition("-")[2])
        if 0 < count <= len(events):
            found.setdefault(count, {"step": events[count - 1]["done"], "events": count, "path": path})
    return [found[count] for count in sorted(found)]


def chosen(home: RunFolder, step: int | None, before: int | None = None) -> dict[str, Any]:
    """The checkpoint at `step`, or the last one (earlier than `before` steps). BadInput lists those there are."""
    there = checkpoints(home)
    if step is not None:
        fitting = [point for point in there if point["step"] == step]
    else:
        fitting = [point for point in there if before is None or point["step"] < before]
    if not fitting:
        steps = ", ".join(str(point["step"]) for point in there)
        what = f"there is no checkpoint at step {step}" if step is not None else "there is no earlier checkpoint to go back to"
        raise BadInput(
            what, f"Checkpoints of this run: {steps or 'none'}", "run.checkpoint_now() keeps one; so do a pause and a changed knob"
        )
    return fitting[-1]


def go_back(home: RunFolder, point: dict[str, Any]) -> None:
    """Make `point` the one that the run goes on from. What came after it is put aside."""
    events = home.all_events()
    gone = events[point["events"] :]
    note = f"undone: back from step {events[-1]['done'] if events else 0} to step {point['step']}"
    with writing(home.path), (home.path / "undone.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"note": note, "when": _now(), "events": gone}) + "\n")
    home.rewrite_events(events[: point["events"]])
    for snapshot in home.snapshots():
        if snapshot != point["path"]:
            shutil.rmtree(snapshot, ignore_errors=True)
    for later in kept(home):
        if int(later.name.rpartition("-")[2]) > point["events"]:
            shutil.rmtree(later, ignore_errors=True)
    _settle(point["path"], home.path / f"snapshot-{point['events']:06d}", note, None)
    home.write_state(state="interrupted", notes=[], error=None)


def branch(home: RunFolder, point: dict[str, Any], change: dict[str, Any], folder: str | Path | None) -> RunFolder:
    """A new run folder that goes on from `point` with changed knobs."""
    call = home.call()
    id = uuid.uuid4().hex
    place = Path(folder) if folder is not None else home.path.with_name(f"{home.path.name.partition('~')[0]}~{id[:6]}")
    new = RunFolder(place)
    parent = {"id": call["id"], "folder": str(home.path), "step": point["step"]}
    new.create({**call, "id": id, "created": _now(), "parent": parent, "change": change})
    try:
        if (home.path / "inputs").exists():
            _linked(home.path / "inputs", new.path / "inputs")
        new.rewrite_events(home.all_events()[: point["events"]])
        note = f"branched from run {call['id'][:6]} at step {point['step']}"
        _settle(point["path"], new.path / f"snapshot-{point['events']:06d}", note, change)
    finally:
        new.release()
    return new


class Tree(dict[str, Any]):
    """A run and its branches as plain data; `print(tree)` draws them, a line a run, the earliest branch first."""

    def __str__(self) -> str:
        return "\n".join(_drawn(self))


def _drawn(node: dict[str, Any], stem: str = "") -> list[str]:
    change = ", ".join(f"{name} {value:g}" for name, value in node["change"].items())
    origin = f"branched at step {node['from_step']}{f' with {change}' if change else ''}" if stem else node["verb"]
    held_out = "" if node["held_out"] is None else f", held-out {node['held_out']:.3f}"
    lines = [f"{stem}{origin}: {node['state']} at step {node['step']}{held_out}"]
    below = stem.replace("├─ ", "│  ").replace("└─ ", "   ")
    children = sorted(node["children"], key=lambda child: (child["from_step"], str(child["change"])))
    lines += [f"{below}{'│' if children else ' '}  {note}" for note in node["undone"]]
    for child in children:
        lines += _drawn(child, below + ("└─ " if child is children[-1] else "├─ "))
    return lines


def tree(home: RunFolder) -> Tree:
    """The run's whole family from its first ancestor down.

    {"id", "verb", "folder", "state", "from_step", "step", "change", "undone": [notes], "held_out", "children": [...]}
    """
    seen = {home.path}
    while (parent := home.call().get("parent")) and Path(parent["folder"]).is_dir() and Path(parent["folder"]) not in seen:
        home = RunFolder(parent["folder"])
        seen.add(home.path)
    family = [RunFolder(path.parent) for path in sorted(home.path.parent.glob("*/call.json"))]
    return _node(home, [(member, member.call()) for member in family])


def _node(home: RunFolder, family: list[tuple[RunFolder, dict[str, Any]]]) -> Tree:
    call, events = home.call(), home.all_events()
    held_out = [event["metrics"]["held_out"] for event in events if "held_out" in event["metrics"]]
    children = [member for member, theirs in family if (theirs.get("parent") or {}).get("id") == call["id"]]
    return Tree(
        {
            "id": call["id"],
            "verb": call["name"],
            "folder": str(home.path),
            "state": home.state()["state"],
            "from_step": (call.get("parent") or {}).get("step", 0),
            "step": events[-1]["done"] if events else 0,
            "change": call.get("change", {}),
            "undone": [entry["note"] for entry in undone(home)],
            "held_out": held_out[-1] if held_out else None,
            "children": [_node(child, family) for child in children],
        }
    )


def undone(home: RunFolder) -> list[dict[str, Any]]:
    """What was undone: {"note", "when", "events"}, the first undoing first."""
    try:
        lines = (home.path / "undone.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line]


def _settle(source: Path, target: Path, note: str, change: dict[str, Any] | None) -> None:
    """Put a copy of the checkpoint `source` in place, with what the verb must know when it goes on from there."""
    if source != target:
        _linked(source, target)
    about = json.loads((target / "state.json").read_text(encoding="utf-8"))
    about["state"] |= {"note": note, "change": change}
    write_text(target / "state.json", json.dumps(about))


def _linked(source: Path, target: Path) -> None:
    """A copy whose files share their bytes where the disk can. No file of a run is changed in place, so that is safe."""

    def link(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)

    with writing(target):
        shutil.copytree(source, target, copy_function=link)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
