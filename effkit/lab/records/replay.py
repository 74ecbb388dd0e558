"""`replay`: a stored record run again from its checkpoint, recipe and seed, and the verdict on each of its figures.

The base is loaded from where the record says it came from, the recipe is applied with its seed, and what is measured is
measured with the same text, windows and prompts; nothing is taken from what earlier measurements kept. What differs then
is the data, the device or a version, and `effkit.spec.replay` says which and whether it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effkit.compress.pipeline import compress
from effkit.hardware.attached.device import device as find_device
from effkit.hardware.attached.device import devices
from effkit.measure.fidelity import evaluate
from effkit.measure.latency import profile
from effkit.measure.material import material_for
from effkit.models.loading import load, locate
from effkit.models.model import Model
from effkit.models.texts.datasets import SUFFIXES, read_text
from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.places import short_name
from effkit.spec.progress import Work, long_work
from effkit.spec.record import Profile, Quality, Record
from effkit.spec.replay import Replay, compared
from effkit.spec.sharing import renamed, texts_of

from .exchange import read_records
from .measuring import recorded

DEFAULT_TEXT = "pydoc_data.topics"


@long_work
def replay(
    record: Record | str | Path,
    model: Model | str | Path | None = None,
    on: str | Path | Sequence[str] | None = None,
    *,
    text: Any = None,
    data: str | Path | Sequence[str | Path] = (),
    seed: int | None = None,
    device: str | None = None,
    speed: bool = True,
) -> Work[Replay]:
    """Run `record` again and say of each figure whether it is the same, within tolerance, not distinguishable or different, and why.

    record: a Record, or a file or folder that holds one (`effkit.lab.records.exchange.read_records`)
    model:  the base, loaded or where it lies; None: where the record says it came from
    on:     the text it was measured on; None: the default text, or the file that the record names. A text that was given as a
            string is not in the record
    text:   for steps of the recipe that read text which they do not name
    data:   files that the recipe or the measurement read, or folders with them: what a record that was shared says of neither is
            where it lies. A text is known by its hash, where the record has none by its name
    seed:   another seed than the record's, to see what hangs on it
    device: None: of the record's kind where one is attached, else the best there is
    speed:  measure speed again too

    Raises BadInput (no such checkpoint or text, more than one record), and what its parts raise.
    """
    record = record if isinstance(record, Record) else _only(read_records(record), record)
    base = yield from _base(record, model, device)
    if base.recipe.steps:
        raise BadInput(f"the model was already made by {base.recipe.label()!r}", "Allowed: the base that the record began with")
    here = _candidates(data, on)
    text_measured = _text(record, on, here)
    if record.quality is not None:  # found before minutes are spent on the recipe
        material_for(base, base, text_measured, record.quality.window, record.quality.windows)
    places = {name: _place(record, name, here) for name in texts_of(record.recipe)}
    recipe = renamed(record.recipe, places)
    recipe = recipe if seed is None else recipe.model_copy(update={"seed": seed})
    made = (yield from compress.work(base, recipe, text)) if recipe.steps else base
    quality = None if record.quality is None else (yield from _quality(record.quality, made, base, text_measured))
    timed = None if record.profile is None or not speed else (yield from _profile(record.profile, made, base))
    again = renamed(recorded(made, base, quality, timed, name=record.name), {place: name for name, place in places.items()})
    return compared(record, again, speed=speed)


def _only(records: tuple[Record, ...], where: Any) -> Record:
    if not records:
        raise BadInput(f"{str(where)!r} holds no record", "Allowed: a file or folder that holds one")
    first, *more = records
    if more:
        listed = ", ".join(f"{record.id[:12]} ({record.name})" for record in records[:3]) + (", ..." if len(records) > 3 else "")
        raise BadInput(
            f"{str(where)!r} holds {len(records)} records: {listed}",
            "Allowed: one at a time",
            "Read them with ek.read_records and replay each, or name one: effkit replay FILE --record ID",
        )
    return first


def _base(record: Record, model: Model | str | Path | None, device: str | None) -> Work[Model]:
    if isinstance(model, Model):
        return model
    checkpoint, speed = record.checkpoint, record.profile
    attached = {d.type for d in devices()}
    kind = device or (speed.device_type if speed is not None and speed.device_type in attached else "auto")
    target = find_device(kind)
    dtype = speed.dtype if speed is not None and speed.dtype in target.dtypes else "auto"
    source = checkpoint.source if model is None else model
    try:
        revision = checkpoint.revision if model is None and locate(source)[0] == "hub" else None  # others' cannot be asked for
        return (yield from load.work(source, device=target, dtype=dtype, revision=revision))
    except (BadInput, Unavailable) as error:
        if model is not None:
            raise
        raise BadInput(
            f"the checkpoint of {record.name!r} cannot be loaded from where it came from: {error}",
            f"Allowed: a base whose hash is {checkpoint.hash[:16]}...",
            "Say where it lies: replay(record, model=...), or effkit replay FILE --model PLACE",
        ) from error


def _candidates(data: str | Path | Sequence[str | Path], on: Any) -> dict[Path, str]:
    """The text files that were given, with the hash of what each holds. BadInput where one is not there."""
    found: dict[Path, str] = {}
    for place in [data] if isinstance(data, str | Path) else data:
        path = Path(place).expanduser()
        if path.is_dir():
            found |= {file: "" for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()}
        else:
            found[path] = read_text(path).hash
    found |= {on: ""} if isinstance(on, Path) else {}
    return {path: hash or read_text(path).hash for path, hash in found.items()}


def _place(record: Record, name: str, here: dict[Path, str]) -> str:
    """Where the text lies that the recipe calls `name`. Another one of that name is taken where there is no better: its hash shows."""
    hash = record.fingerprint.texts.get(name) if record.fingerprint is not None else None
    given = [path for path, own in here.items() if own == hash] or [path for path in here if path.name == short_name(name)]
    if given or Path(name).expanduser().is_file():
        return str(given[0]) if given else name
    raise BadInput(
        f"the text {short_name(name)!r}, which the recipe of {record.name!r} reads, is not here",
        f"Allowed: {f'the text whose hash is {hash[:16]}...' if hash else 'a text file of that name'}",
        "Say where it lies: replay(record, data=...), or effkit replay FILE --data FILE",
    )


def _text(record: Record, on: Any, here: dict[Path, str]) -> Any:
    """The text to measure on. A file that is gone or changed shows by its hash."""
    if on is not None or record.quality is None:
        return on
    source = record.quality.text_source
    if not source or source.startswith(DEFAULT_TEXT):
        return None
    given = next((path for path in here if path.name == short_name(source)), Path(source).expanduser())
    if given.is_file():
        return given
    raise BadInput(
        f"the text of {record.name!r} is not here ({source})",
        f"Allowed: the text whose hash is {record.quality.text[:16]}...",
        "Give it: replay(record, on=...), or effkit replay FILE --text TEXT",
    )


def _quality(then: Quality, model: Model, base: Model, on: Any) -> Work[Quality]:
    against = base if then.kl is not None else None
    floor = then.floor is not None
    quality = yield from evaluate.work(
        model, against, on, window=then.window, windows=then.windows, kv_bits=then.kv_bits, floor=floor, fresh=True
    )
    return quality


def _profile(then: Profile, model: Model, base: Model) -> Work[Profile]:
    kept = then.decoding.cache if then.decoding is not None else "dynamic"
    speed = yield from profile.work(
        model,
        base if then.speed_ratio.value is not None and model is not base else None,
        prompt=then.prompt,
        new_tokens=then.new_tokens or 1,  # a classifier's are 0, and none are asked for
        batch=then.batch,
        repeats=then.repeats,
        warmup=then.warmup if then.warmup_how == "asked for" else None,
        compiled=then.decoding.compiled if then.decoding is not None else False,
        kv_bits=int(kept.removeprefix("int")) if kept.startswith("int") else None,
        isolated=then.isolated,
    )
    return speed
