"""Where every stored byte of a model goes, and where compression found its savings.

ByteLedger(small, base=base)
"""

from __future__ import annotations

from typing import Any

from effkit.models.ledger import CATEGORIES, Ledger, layer_of
from effkit.models.model import Model
from effkit.spec.errors import BadInput

from ._base import Card, refuse_unknown, script, short_name, style


class ByteLedger(Card):
    """A stacked bar by category and one column a layer, of a Model or a Ledger; beside its `base` where one is given.

    Raises BadInput for anything else, or for an unknown option.
    """

    _esm = script("byte_ledger")
    _css = style()

    def __init__(self, model_or_ledger: Model | Ledger, base: Model | Ledger | None = None, **unknown: Any) -> None:
        refuse_unknown("ByteLedger", unknown, ("model_or_ledger", "base"))
        shown = [_told(model_or_ledger, "model_or_ledger")]
        if base is not None:
            shown.insert(0, _told(base, "base"))
        if len(shown) == 2 and shown[0]["name"] == shown[1]["name"]:
            shown[0]["name"], shown[1]["name"] = "base", "compressed"
        self._made = f"ByteLedger({shown[-1]['name']!r}" + (f", base={shown[0]['name']!r})" if base is not None else ")")
        super().__init__(config={"models": shown, "categories": list(CATEGORIES)})

    def __repr__(self) -> str:
        return self._made


def _told(given: Any, field: str) -> dict[str, Any]:
    """What the card draws: totals, bytes by category, and by layer and category."""
    if isinstance(given, Model):
        ledger, name = given.ledger(), short_name(given.checkpoint.source) if not given.recipe.steps else given.recipe.label()
    elif isinstance(given, Ledger):
        ledger, name = given, "model"
    else:
        todo = "ek.load(...) gives a Model, model.ledger() its Ledger"
        raise BadInput(f"{field} is a {type(given).__name__}", "Allowed: a Model or a Ledger", todo)
    layers: dict[int, dict[str, int]] = {}
    for entry in ledger.entries:
        layer = layer_of(entry.module)
        if layer is not None:
            row = layers.setdefault(layer, {})
            row[entry.category] = row.get(entry.category, 0) + entry.bytes
    return {
        "name": name,
        "total": ledger.total,
        "bits": ledger.bits_per_weight,
        "categories": ledger.by_category(),
        "layers": [[layer, layers[layer]] for layer in sorted(layers)],
    }
