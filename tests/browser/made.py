"""Records made by hand: a base and trials of a search that look like one, the same ones every time."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from widgets.records import estimate
from widgets.records import record as by_hand

from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe
from effkit.spec.record import Blocks, Checkpoint, Cost

BITS, METHODS = (2, 3, 4, 5, 6, 8), ("rtn", "search", "hqq", "gptq")
FROM = Checkpoint(source="smollm2-135m", hash="0" * 16, architecture="LlamaForCausalLM")
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def rounded(layer, part, bits):
    """A module as a plan tells it: two bits more for the last half of an MLP."""
    more = 2 if part == "mlp.down_proj" and bits < 6 else 0
    kind = "mlp" if part.startswith("mlp") else "attention"
    return ModulePlan(
        module=f"model.layers.{layer}.{part}", kind=kind, shape=(64, 64), action="quantize", bits=bits + more, bytes_before=4, bytes_after=1
    )


def record(number, recipe, size, kept, rate, noise):
    """A record made by hand, as unit tests make them, but for its blocks with the given noise, the ledger and the plan."""
    name = f"trial {number}" if recipe.steps else "base"
    plain = by_hand(name, recipe, retained=kept, decode=rate)
    kl, draw = 1 / kept - 1, random.Random(noise)
    nll = tuple(3 - math.log(kept) + draw.gauss(0, 0.002) for _ in range(16))
    blocks = Blocks(tokens=64, nll=nll, kl=tuple(max(0.0, kl + draw.gauss(0, 0.002)) for _ in range(16)))
    rounds = [step for step in recipe.steps if isinstance(step, Quantize)]
    layers = next((step.layers for step in recipe.steps if isinstance(step, Prune) and isinstance(step.layers, int)), 6)
    ledger = {"embeddings": size // 5, "attention": size // 4, "mlp": size // 2, "scales": size // 20}
    changed = {
        "id": f"r{number}",
        "checkpoint": FROM,
        "plans": tuple(
            Plan(step=step, modules=tuple(rounded(n, part, step.bits) for n in range(layers) for part in PARTS)) for step in rounds[-1:]
        ),
        "quality": plain.quality.model_copy(update={"text_source": "stories, test", "blocks": blocks}),
        "profile": plain.profile.model_copy(
            update={"device": "cpu (made by hand)", "time_to_first_token": estimate(300 / rate, unit="ms")}
        ),
        "cost": Cost(bytes=sum(ledger.values()), base_bytes=538_000_000, bits_per_weight=8.0 * size / 134_500_000, ledger=ledger),
        "created": f"2026-11-25T12:{number % 60:02d}:00+00:00",
    }
    return plain.model_copy(update=changed)


def trial(number):
    """The record of trial `number`: rounded, or pruned, distilled and then rounded."""
    draw = random.Random(number)
    bits, method, group = draw.choice(BITS), draw.choice(METHODS), draw.choice((32, 64, 128))
    step, size = Quantize(method=method, bits=bits, group_size=group), 538_000_000 * (bits + 16 / group) / 32
    lost = 2.2 * 0.42**bits * (1.05 if method == "gptq" else 0.6) * (1 + group / 400) * draw.uniform(0.9, 1.1)
    if draw.random() < 0.7:
        return record(number, Recipe(steps=(step,)), int(size), 1 / (1 + lost), 28 + 14 / bits, number // 2)
    layers, steps = draw.choice((3, 4, 5)), draw.choice((50, 100, 200, 400))
    kept = 1 / (1 + lost + (6 - layers) * 0.16 * (50 / steps) ** 0.3)
    recipe = Recipe(steps=(Prune(layers=layers), Distill(steps=steps), step))
    return record(number, recipe, int(size * (0.3 + 0.7 * layers / 6)), kept, 28 + 90 / layers, number // 2)


def made(count):
    """A base and so many trials less one, the same ones every time."""
    return [record(0, Recipe(), 538_000_000, 1.0, 30.0, 0), *(trial(number) for number in range(1, count))]
