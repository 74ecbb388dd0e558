"""What is needed to get a result again, read off its record: checkpoint, recipe, text, seeds, versions, machine; and how to ask for it.

A record holds all of that; a receipt is the part that a reader copies into a report or looks up before trusting a figure. What the
record does not say is named as missing, because a replay will then have to be given it. The list follows what the machine-learning
reproducibility checklist asks for (Pineau et al. 2021, JMLR 22:164).
"""

from __future__ import annotations

import json

from .intervals import Noun
from .places import is_local, short_name
from .record import Record
from .sharing import shareable, texts_of

FILE = "record.json"
UNNAMED = "not in the record"


class Receipt(Noun):
    """One record's receipt. groups: (heading, ((label, value), ...)), in the order in which they matter.

    command, code: how to run it again, in a shell and in Python; missing: what a replay must be given, in sentences
    """

    id: str
    name: str
    device: str
    date: str
    base: str
    recipe: str
    recipe_hash: str
    seed: int
    weights: str
    text: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    command: str
    code: str
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The whole receipt as plain text, to be pasted into a report."""
        lines = [f"{self.name}, recorded on {self.device}, {self.date[:10]}"]
        for heading, rows in self.groups:
            width = max(len(label) for label, _ in rows)
            lines += ["", heading, *(f"  {label.ljust(width)}  {value}" for label, value in rows)]
        lines += ["", "To run it again", f"  {self.command}"]
        return "\n".join([*lines, *(f"Needed besides: {sentence}" for sentence in self.missing)]) + "\n"


def receipt_of(record: Record, file: str = FILE) -> Receipt:
    """The receipt of `record`; `file` is what its reader calls the file that holds it."""
    record = shareable(record)  # a receipt is copied into reports
    device, dtype = _where(record)
    quality, made = record.quality, record.fingerprint
    groups = [("Base model", _checkpoint(record)), ("Recipe", _recipe(record)), ("Text", _text(record)), ("Speed", _speed(record))]
    groups += [("Machine", _machine(record, device, dtype)), ("Versions", _versions(record))]
    return Receipt(
        id=record.id,
        name=record.name,
        device=device or "an unknown device",
        date=record.created,
        base=short_name(record.checkpoint.source),
        recipe=record.recipe.label(),
        recipe_hash=record.recipe.hash(),
        seed=record.recipe.seed,
        weights=made.weights if made else "",
        text=quality.text if quality else "",
        groups=tuple((heading, rows) for heading, rows in groups if rows),
        command=f"effkit replay {_quoted(file)}" + (f" --record {record.id[:12]}" if file != FILE else ""),
        code=_code(record, file),
        missing=tuple(_missing(record)),
    )


def _code(record: Record, file: str) -> str:
    read = f"ek.read_records({file!r})"
    if file == FILE:
        return f"import effkit as ek\n\nprint(ek.replay({file!r}))\n"
    return f"import effkit as ek\n\nrecord = next(r for r in {read} if r.id == {record.id!r})\nprint(ek.replay(record))\n"


def _quoted(file: str) -> str:
    return file if all(c.isalnum() or c in "._-/" for c in file) else "'" + file.replace("'", "'\\''") + "'"


def _where(record: Record) -> tuple[str | None, str | None]:
    where = record.profile or record.fingerprint
    return (where.device, where.dtype) if where is not None else (None, None)


Rows = tuple[tuple[str, str], ...]


def _rows(*pairs: tuple[str, object]) -> Rows:
    return tuple((label, str(value)) for label, value in pairs if value not in (None, "", ()))


def _checkpoint(record: Record) -> Rows:
    c = record.checkpoint
    return _rows(
        ("name", short_name(c.source)), ("revision", c.revision), ("licence", c.licence or "not stated"), ("architecture", c.architecture),
        ("tensors, SHA-256", c.hash), *(("note", note) for note in c.notes),
    )  # fmt: skip


def _recipe(record: Record) -> Rows:
    made = record.fingerprint
    return _rows(
        ("steps", record.recipe.label()), ("seed", record.recipe.seed), ("hash", record.recipe.hash()),
        ("as JSON", _short_json(record) if record.recipe.steps else None),
        ("weights, SHA-256", made.weights if made else UNNAMED),
        *((f"{short_name(name)}, SHA-256", hash) for name, hash in (made.texts if made else {}).items()),
    )  # fmt: skip


def _short_json(record: Record) -> str:
    """The recipe as `effkit run` reads it, without what is as usual."""
    steps = [{"step": step.step, **step.model_dump(mode="json", exclude_defaults=True)} for step in record.recipe.steps]
    return json.dumps({"version": record.recipe.version, "steps": steps, "seed": record.recipe.seed})


def _text(record: Record) -> Rows:
    q = record.quality
    if q is None:
        return ()
    return _rows(
        ("source", short_name(q.text_source) or UNNAMED), ("SHA-256", q.text),
        ("windows", f"{q.windows} of {q.window} tokens, {q.tokens} scored"),
        ("keys and values", f"{q.kv_bits} bits" if q.kv_bits else None),
    )  # fmt: skip


def _speed(record: Record) -> Rows:
    p = record.profile
    if p is None:
        return ()
    query = f"{p.prompt} tokens in, {p.new_tokens} out, batch {p.batch}, {p.repeats} repeats after {p.warmup}"
    return _rows(
        ("query", query), ("timing", p.timing), ("simulated", "yes: these times say nothing of the device" if p.simulated else None)
    )


def _machine(record: Record, device: str | None, dtype: str | None) -> Rows:
    e = record.environment
    return _rows(
        ("device", device or "unknown"), ("computed in", dtype), ("processor", e.get("processor")), ("cores", e.get("cores")),
        ("threads", e.get("threads")), ("system", e.get("system")), ("machine", e.get("machine")),
    )  # fmt: skip


def _versions(record: Record) -> Rows:
    e = record.environment
    packages = e.get("packages") if isinstance(e.get("packages"), dict) else {}
    own = (("effkit", e.get("effkit")), ("git revision", e.get("revision")), ("python", e.get("python")))
    return _rows(*own, *sorted((packages or {}).items()))


def _missing(record: Record) -> list[str]:
    """What `ek.replay` cannot find out by itself."""
    told = []
    source, quality = record.checkpoint.source, record.quality
    if is_local(source):
        told.append(f"the base {short_name(source)!r}, which lay in a folder of its author: --model FOLDER")
    if quality is not None and (quality.text_source in ("", "a string") or quality.text_source.startswith("a list of ")):
        told.append("the text it was measured on, which was given as a string: --text FILE")
    elif quality is not None and is_local(quality.text_source):
        told.append(f"the text {short_name(quality.text_source)!r}, a file of its author: --text FILE")
    told += [
        f"the text {short_name(name)!r}, which the recipe reads, a file of its author: --data FILE" for name in texts_of(record.recipe)
    ]
    if record.fingerprint is None:
        told.append("nothing more, but whether the weights come out bit for bit cannot be said: the record is older than that check")
    return told
