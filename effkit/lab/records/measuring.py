"""`measure`: quality, speed and bytes of a model as one Record, kept in the store."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effkit.hardware.attached.environment import environment
from effkit.measure.fidelity import evaluate, measured_on
from effkit.measure.latency import profile, refuse_profile
from effkit.models.checks import weights_hash
from effkit.models.model import Model
from effkit.models.texts.datasets import read_text
from effkit.spec.errors import BadInput, CannotWrite
from effkit.spec.intervals import Estimate
from effkit.spec.progress import Work, long_work
from effkit.spec.recipe import Recipe
from effkit.spec.record import Cost, Fingerprint, Profile, Quality, Record
from effkit.spec.sharing import texts_of

from .store import Store

SETTLED = 2.0  # seconds since a file was written


@long_work
def measure(
    model: Model,
    base: Model | None = None,
    on: str | Path | Sequence[str] | None = None,
    *,
    name: str | None = None,
    window: int = 256,
    windows: int = 8,
    prompt: int = 128,
    new_tokens: int = 32,
    batch: int = 1,
    repeats: int = 5,
    kv_bits: int | None = None,
    seed: int | None = None,
    store: Store | str | Path | bool | None = None,
) -> Work[Record]:
    """What `model` keeps of `base` on the text `on`, how fast it is, and where its bytes go: one Record, added to the store.

    base:  what to compare with; None compares a base with itself (retained 1), and leaves a compressed model uncompared
    name:  how charts call it; None: the label of its recipe
    batch: prompts at once while its speed is measured
    seed:  kept in the record; None: the recipe's
    kv_bits: 8 or 4: quality and speed with keys and values kept in so many bits
    store: None: the user's store; a Store or a path; False: none
    The other arguments are those of ek.evaluate and ek.profile, and so are the errors, all of them raised before the work begins;
    so is that of a store that cannot be written.
    """
    shelf = shelf_of(store)
    if shelf is not None:
        shelf.check()
    compared = model if base is None and not model.recipe.steps else base
    sizes = {"prompt": prompt, "new_tokens": new_tokens, "batch": batch, "repeats": repeats}
    refuse_measuring(model, compared, on, window=window, windows=windows, **sizes, kv_bits=kv_bits)
    quality = yield from evaluate.work(model, compared, on, window=window, windows=windows, kv_bits=kv_bits)
    faster_than = compared if model.recipe.steps else None  # a base has nothing to be slower than
    speed = yield from profile.work(model, faster_than, prompt=prompt, new_tokens=new_tokens, batch=batch, repeats=repeats, kv_bits=kv_bits)
    record = recorded(model, compared, quality, speed, name=name, seed=seed)
    if shelf is not None:
        try:
            shelf.add(record)
        except (CannotWrite, BadInput) as error:
            # the disk filled up meanwhile: minutes of measuring are not thrown away for that
            warnings.warn(f"The record was measured but not stored: {error} Keep it with Store(path).add(record).", stacklevel=2)
    return record


def refuse_measuring(
    model: Model,
    base: Model | None,
    on: Any,
    *,
    window: int,
    windows: int,
    prompt: int,
    new_tokens: int,
    batch: int = 1,
    repeats: int = 1,
    kv_bits: int | None = None,
) -> None:
    """Raise what `measure` would, before anything is made: a model without weights will do, and a base is a model too."""
    measured_on(model, base, on, window, windows, kv_bits)
    compared = [] if base is None or base is model else [base]
    refuse_profile(model, compared, prompt, new_tokens, batch, repeats, kv_bits=kv_bits)


def recorded(
    model: Model, base: Model | None, quality: Quality | None, profile: Profile | None, *, name: str | None = None, seed: int | None = None
) -> Record:
    """The Record of what was measured, with the surroundings of this moment."""
    return Record(
        name=name or model.recipe.label(),
        checkpoint=model.checkpoint,
        recipe=model.recipe,
        plans=model.plans,
        quality=quality,
        profile=profile,
        cost=cost_of(model, base, profile),
        environment=environment(),
        seed=model.recipe.seed if seed is None else seed,
        fingerprint=Fingerprint(
            steps=model.recipe.steps_hash(),
            seed=model.recipe.seed,
            weights=weights_hash(model.module),
            device=repr(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            texts=texts_read(model.recipe),
        ),
    )


def texts_read(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each text that the steps read, by its name; one that is gone meanwhile is left out."""
    found = {}
    for name in texts_of(recipe):
        path = Path(name).expanduser()
        with contextlib.suppress(BadInput, OSError):
            state = path.stat()
            # what was written just now may change again without looking newer: a clock of files ticks every few milliseconds
            settled = time.time() - state.st_mtime > SETTLED
            hash_of = _hash_of if settled else _hash_of.__wrapped__
            found[name] = hash_of(path, state.st_ino, state.st_size, state.st_mtime_ns)
    return found


@functools.lru_cache(maxsize=256)
def _hash_of(path: Path, *state: int) -> str:
    """Of the text in a file; `state` differs where its content does. A search makes thousands of records that read one file."""
    return read_text(path).hash


def cost_of(model: Model, base: Model | None = None, profile: Profile | None = None) -> Cost:
    """Bytes of `model` as its tensors really hold them, beside what its plan foretold and what its base holds, and the energy of a
    query as its profile metered it."""
    ledger = model.ledger()
    if model.plans:
        base_bytes = model.plans[0].bytes_before
    else:
        base_bytes = ledger.total if base is None or base is model else base.stored_bytes
    return Cost(
        bytes=ledger.total,
        predicted_bytes=model.plans[-1].bytes_after if model.plans else None,
        base_bytes=base_bytes,
        bits_per_weight=ledger.bits_per_weight,
        ledger=ledger.by_category(),
        energy_per_query=profile.energy.per_query if profile and profile.energy else Estimate.unavailable("J"),
    )


def shelf_of(store: Store | str | Path | bool | None) -> Store | None:
    """The store that a person means: None or True their own, False none."""
    if store is False:
        return None
    if store is None or store is True:
        return Store()
    return store if isinstance(store, Store) else Store(store)
