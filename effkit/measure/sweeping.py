"""Speed over batches and prompt lengths: where throughput stops growing, and where waiting begins to cost more than it gives."""

from __future__ import annotations

from collections.abc import Sequence

from effkit.models.model import Model
from effkit.spec.errors import BadInput, OutOfMemory
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.record import Profile
from effkit.spec.serving import Missing, Sweep

from .checks import whole
from .latency import profile


@long_work
def sweep(
    model: Model,
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    contexts: Sequence[int] = (128, 512),
    new_tokens: int = 16,
    repeats: int = 3,
    warmup: int | None = None,
    compiled: bool = False,
    kv_bits: int | None = None,
    isolated: bool = False,
) -> Work[Sweep]:
    """`profile` for every batch with every prompt length, the cheapest combination first. The other arguments are profile's.

    batches:  prompts at once; contexts: tokens of the prompt
    A combination that runs out of memory, or that the model cannot read, is in `missing` with the reason; the rest goes on.
    """
    for name, values in (("batches", batches), ("contexts", contexts)):
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise BadInput(f"{name} is {values!r}", "Allowed: a list of whole numbers of at least 1")
        for value in values:
            whole(f"each of {name}", value, 1)
    grid = sorted({(batch, prompt) for batch in batches for prompt in contexts}, key=lambda pair: (pair[0] * pair[1], pair))
    profiles: list[Profile] = []
    missing: list[Missing] = []
    for done, (batch, prompt) in enumerate(grid):
        length = prompt + new_tokens if model.task == "causal-lm" else prompt
        if length > model.window:
            missing.append(Missing(batch=batch, prompt=prompt, why=f"{length} tokens, and this model reads at most {model.window} at once"))
            continue
        yield Progress("sweep", done, len(grid), "profiles", f"batch {batch}, prompt {prompt}")
        options = {"repeats": repeats, "warmup": warmup, "compiled": compiled, "kv_bits": kv_bits, "isolated": isolated}
        try:
            found = yield from profile.work(model, prompt=prompt, new_tokens=new_tokens, batch=batch, **options)  # type: ignore[arg-type]
        except OutOfMemory as error:
            missing.append(Missing(batch=batch, prompt=prompt, why=str(error)))
            continue
        profiles.append(found)
        speed = {"tokens_per_s": found.decode.value or found.prefill.value or 0.0}
        yield Progress("sweep", done + 1, len(grid), "profiles", f"batch {batch}, prompt {prompt}", speed)
    return Sweep(profiles=tuple(profiles), missing=tuple(missing))
