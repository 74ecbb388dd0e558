"""The list of equal layers that a transformer is made of, whatever its architecture calls it."""

from __future__ import annotations

from torch import nn

from effkit.spec.errors import BadInput

from .model import Model


def layer_list(model: Model) -> tuple[str, nn.ModuleList]:
    """The list of transformer layers and its name, e.g. 'model.layers'. BadInput where there is none to find."""
    count = getattr(model.config, "num_hidden_layers", None)
    for name, part in model.module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return name, part
    raise BadInput(
        f"the layers of {model.checkpoint.architecture} were not found",
        "This needs a list of num_hidden_layers equal layers, as Llama, GPT-2 or BERT have",
    )
