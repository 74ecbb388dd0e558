"""The kinds of modules that may stand in for a linear layer or an embedding, by name.

Each keeps everything it needs in parameters and buffers, says in `storage_spec()` how to build an empty one, and
`build` makes it again from that. A third party adds a kind through the entry-point group "effkit.storage".
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from effkit.spec.errors import choice
from effkit.spec.plugins import imported, table

KINDS = {
    "packed-linear": "effkit.models.stored.packed:PackedLinear",
    "packed-embedding": "effkit.models.stored.packed:PackedEmbedding",
    "int8-linear": "effkit.models.stored.int8:Int8Linear",
    "bnb-4bit": "effkit.models.stored.bnb:BnbLinear4bit",
    "bnb-int8": "effkit.models.stored.bnb:BnbLinear8bit",
}


@cache
def kinds() -> dict[str, str]:
    """Name -> "module:attribute" of every kind, built in or brought by a plug-in."""
    return table("effkit.storage", KINDS)


def build(spec: dict[str, Any]) -> nn.Module:
    """An empty module (meta tensors) for a storage spec, to be filled from a state dict. Unknown kind: BadInput."""
    known = kinds()
    if spec.get("kind") not in known:
        raise choice(
            "the storage kind of a saved module", spec.get("kind"), sorted(known), "Update effkit or install the plug-in that made it"
        )
    return imported(known[spec["kind"]]).build(spec)


def is_replaced(module: nn.Module) -> bool:
    """Whether `module` stands in for an original one."""
    return hasattr(module, "storage_spec")
