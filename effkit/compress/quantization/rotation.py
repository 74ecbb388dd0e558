"""Orthogonal rotations folded into the weights before rounding: the model computes the same, its outliers are spread.

Two kinds (Ashkboos et al. 2024, arXiv:2404.00456; Liu et al. 2024, arXiv:2405.16406):
residual: hidden states turn by Q. An RMS norm without a weight turns along, so each norm's weight g moves into the linears
    that read it (W diag(g) Q), those that write turn back (Q' W), the embedding becomes E Q and the head H diag(g) Q.
values: in every layer, each head's values turn by one R, and the attention's output turns them back.

A head that shares the embedding's table cannot have g of the last norm of its own, so such a model gets the second kind
only: two tables would cost more bytes than a rotation gains. Which modules read and write is known for decoders that name
them as Llama does; whether the logits are what they were is then measured, for every model, before anything is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from effkit.models.layers import layer_list
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput

from .planning import embedding_name, head_name, tied_head

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
}
WRITERS = ("self_attn.o_proj", "mlp.down_proj")
KNOWN = "Allowed: decoders with RMS norms and modules named as Llama's (Llama, Mistral, Qwen, SmolLM, Phi-3)"
PROBE = 24  # tokens on which the logits are compared
EXACT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}  # of the logits' spread


def orthogonal(n: int, seed: int, device: torch.device) -> Tensor:
    """A random orthogonal matrix [n, n], float32: a Hadamard matrix of the power of two in n, with random signs, times (Kronecker)
    a random one of the odd rest. One large input is spread over at least as many as that power of two: 64 of 576."""
    draw = torch.Generator().manual_seed(seed)
    two = n & -n
    hadamard = torch.ones(1, 1)
    while len(hadamard) < two:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    rest = torch.linalg.qr(torch.randn(n // two, n // two, generator=draw, dtype=torch.float64)).Q.float().contiguous()
    signs = torch.randint(0, 2, (n, 1), generator=draw) * 2.0 - 1.0
    return (signs * torch.kron(hadamard / two**0.5, rest)).to(device)


def rotated(model: Model, seed: int = 0) -> tuple[Model, str]:
    """A copy of `model` with rotated weights and the same logits, and a sentence that says what was rotated.

    Raises BadInput: no decoder of a known form, or one whose logits would change.
    """
    check_known(model)
    new = model.clone()
    layers = layer_list(new)[1]
    tied = tied_head(model) is not None
    with torch.no_grad():
        values = _rotate_values_(new, seed + 1)
        if not tied:
            _rotate_residual_(new, orthogonal(_residual_width(layers[0]), seed, model.device.torch))
        _same_logits(model, new)
    kinds = [*([] if tied else ["hidden states"]), *(["values"] if values else [])]
    if not kinds:
        raise BadInput(f"rotate finds nothing to turn in {model.checkpoint.architecture}", KNOWN, "Leave it out")
    why = "; its head shares the embedding's table, so hidden states are not" if tied else ""
    return replace(new, origin=None), f"rotated before rounding: {' and '.join(kinds)}{why}"


def check_known(model: Model) -> None:
    """BadInput where the model is no decoder of a known form; what its logits then do shows only when it is rotated."""
    if model.task != "causal-lm":
        raise BadInput(f"rotate is asked for {model.checkpoint.architecture}", KNOWN, "Leave it out")
    if any(is_replaced(m) for m in model.module.modules()):
        raise BadInput("rotate is asked for a model that holds weights in few bits", "Allowed: a model of full weights", "Leave it out")
    inner = {name for name, _ in layer_list(model)[1][0].named_modules()}
    if not {*READERS, *WRITERS} <= inner:
        raise BadInput(f"rotate is asked for {model.checkpoint.architecture}, whose layers are not known", KNOWN, "Leave it out")


def _residual_width(layer: nn.Module) -> int:
    weight: Tensor = layer.get_submodule("input_layernorm").weight  # type: ignore[assignment]
    return len(weight)


def _rotate_residual_(model: Model, q: Tensor) -> None:
    for layer in layer_list(model)[1]:
        for norm, readers in READERS.items():
            _fold_norm_(layer.get_submodule(norm), _present(layer, readers), q)
        for writer in _present(layer, WRITERS):
            writer.weight.copy_(q.t() @ writer.weight.float())
            if writer.bias is not None:
                writer.bias.copy_(writer.bias.float() @ q)
    head = head_name(model)
    last = next((m for n, m in model.module.named_modules() if n.rpartition(".")[2] in ("norm", "final_layernorm")), None)
    if head is None or last is None:
        raise BadInput(f"rotate finds no last norm in {model.checkpoint.architecture}", KNOWN, "Leave it out")
    _fold_norm_(last, [model.module.get_submodule(head)], q)
    embedding = model.module.get_submodule(embedding_name(model))
    embedding.weight.copy_(embedding.weight.float() @ q)  # type: ignore[operator, union-attr]


def _fold_norm_(norm: nn.Module, readers: Iterable[nn.Module], q: Tensor) -> None:
    """The norm's weight moves into the linears that read it, whose inputs turn."""
    g: Tensor = norm.weight.float()  # type: ignore[operator]
    for reader in readers:
        reader.weight.copy_((reader.weight.float() * g) @ q)  # type: ignore[operator, union-attr]
    norm.weight.fill_(1.0)  # type: ignore[operator, union-attr]


def _rotate_values_(model: Model, seed: int) -> bool:
    """Turn every head's values where they have a projection of their own."""
    config: Any = model.module.config
    heads = getattr(config, "num_attention_heads", 0)
    size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    r = orthogonal(size, seed, model.device.torch)
    for layer in layer_list(model)[1]:
        found = _present(layer, ("self_attn.v_proj", "self_attn.o_proj"))
        if len(found) < 2:
            return False
        value, out = found
        value.weight.copy_((r.t() @ value.weight.float().reshape(-1, size, value.weight.shape[1])).reshape(value.weight.shape))
        if value.bias is not None:
            value.bias.copy_((value.bias.float().reshape(-1, size) @ r).reshape(-1))
        out.weight.copy_((out.weight.float().reshape(out.weight.shape[0], -1, size) @ r).reshape(out.weight.shape))
    return True


def _present(layer: nn.Module, names: Iterable[str]) -> list[nn.Linear]:
    known = dict(layer.named_modules())
    return [known[name] for name in names if isinstance(known.get(name), nn.Linear)]  # type: ignore[misc]


def _same_logits(base: Model, new: Model) -> None:
    ids = torch.arange(PROBE, device=base.device.torch).unsqueeze(0) * 37 % (base.checkpoint.vocabulary or PROBE)
    before, after = (one.module(input_ids=ids).logits.float() for one in (base, new))
    if not float((after - before).abs().max()) <= EXACT[base.dtype] * float(before.std()):
        raise BadInput(f"rotating {base.checkpoint.architecture} would change its logits", KNOWN, "Leave rotate out")
