"""A language model with its tokenizer and its history: where the weights came from and what was done to them.

A `Model` is never changed by effkit's verbs: each returns a new one. Its `module` is an ordinary transformers model,
in which compression has replaced some linears and embeddings by modules that store fewer bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from effkit.hardware.attached.device import Device
from effkit.hardware.attached.device import device as find_device
from effkit.hardware.attached.memory import guard
from effkit.spec.errors import BadInput
from effkit.spec.plan import Plan
from effkit.spec.recipe import Recipe
from effkit.spec.record import Checkpoint

from .checks import weights_hash
from .ledger import Ledger, ledger_of
from .stored.storage import is_replaced

if TYPE_CHECKING:
    from .execution.table import Execution

NO_LIMIT = 1 << 30
# What a checkpoint's generation_config.json may ask for otherwise (transformers fills in whatever is not given): the
# probabilities are the model's own, neither cut nor penalised.
UNCHANGED: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


@dataclass(eq=False, repr=False)
class Model:
    """A causal language model or a sequence classifier.

    module:     the transformers model, in eval mode, without gradients
    checkpoint: of the base weights, whatever was done since
    recipe:     the steps already applied; empty for a base
    plans:      what each of those steps did to each module
    """

    module: nn.Module
    tokenizer: Any
    checkpoint: Checkpoint
    recipe: Recipe = field(default_factory=Recipe)
    plans: tuple[Plan, ...] = ()
    origin: dict[str, Any] | None = field(default=None)
    _decoder: Any = field(default=None, init=False)  # the compiled one, kept for the next text

    @property
    def task(self) -> str:
        """ "causal-lm" or "sequence-classification"."""
        return self.checkpoint.task

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def device(self) -> Device:
        return find_device(_first_tensor(self.module).device)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: the type of its first floating parameter."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def window(self) -> int:
        """The most tokens that it can read at once; 2**30 where its architecture sets no limit."""
        return window_of(self.config, self.tokenizer, self.task)

    @property
    def stored_bytes(self) -> int:
        """Bytes of every stored tensor, a tied one once."""
        return self.ledger().total

    @property
    def reload_hint(self) -> dict[str, Any] | None:
        """Arguments with which `load` gives this model again, or None where only saving it can."""
        return dict(self.origin) if self.origin and not self.recipe.steps else None

    def ledger(self) -> Ledger:
        """Where every stored byte goes."""
        return ledger_of(self.module)

    def execution(self) -> Execution:
        """What each linear layer runs on when a few tokens are read (decoding), and why."""
        from .execution.table import execution_of

        return execution_of(self.module, self.dtype)

    def logits(
        self, ids: torch.Tensor | Sequence[Sequence[int]], attention_mask: torch.Tensor | None = None, kv_bits: int | None = None
    ) -> torch.Tensor:
        """Token ids [batch, time] -> logits [batch, time, vocabulary], or [batch, classes] for a classifier.

        kv_bits: 8 or 4: attention sees keys and values rounded to so many bits
        """
        device = _first_tensor(self.module).device
        ids = torch.as_tensor(ids, dtype=torch.long, device=device)
        if ids.dim() != 2 or ids.shape[1] == 0:
            raise BadInput(f"the shape of the token ids is {tuple(ids.shape)}", "Allowed: [batch, time] with at least one token")
        if ids.shape[1] > self.window:
            raise BadInput(f"the text has {ids.shape[1]} tokens", f"This model reads at most {self.window} at once", "Use shorter windows")
        given: dict[str, Any] = {} if attention_mask is None else {"attention_mask": attention_mask.to(device)}
        if self.task == "causal-lm":
            given["use_cache"] = kv_bits is not None
        if kv_bits is not None:
            from .stored.kvcache import rounded_cache

            given["past_key_values"] = rounded_cache(self.config, kv_bits)
        with torch.inference_mode(), guard(device, "computing logits"):
            return self.module(input_ids=ids, **given).logits

    def tokens(self, text: str) -> list[int]:
        """Token ids of `text`: plain for a language model, with the special tokens that a classifier expects."""
        special = self.task == "sequence-classification"
        return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]

    def text(self, ids: torch.Tensor | Sequence[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def generate(self, prompt: str, new_tokens: int = 64, *, compiled: bool = False, kv_bits: int | None = None) -> str:
        """The continuation of `prompt` by the most likely token each time (without the prompt).

        compiled: compile the forward pass of a token first: seconds to minutes once a model, then faster
        kv_bits:  8 or 4: keep keys and values rounded to so many bits
        """
        if self.task != "causal-lm":
            raise BadInput(f"{self.checkpoint.source} is a sequence classifier", "generate works for causal language models")
        ids = self.tokens(prompt) or [t for t in (self.tokenizer.bos_token_id,) if t is not None]
        if not ids or new_tokens < 1:
            raise BadInput(f"the prompt has {len(ids)} tokens and new_tokens is {new_tokens}", "Allowed: at least one of each")
        if len(ids) + new_tokens > self.window:
            raise BadInput(
                f"the prompt has {len(ids)} tokens and new_tokens is {new_tokens}",
                f"This model reads at most {self.window} in all",
                "Shorten the prompt or ask for fewer tokens",
            )
        from .decoding import greedy

        with guard(self.device, "generating"):
            return self.text(greedy(self, ids, new_tokens, compiled=compiled, kv_bits=kv_bits))

    def clone(self, without: Collection[str] = ()) -> Model:
        """A copy that shares nothing. Tensors held only by the modules named in `without` (or inside them) are not
        copied: they become empty meta tensors, to be replaced. Tied weights stay tied; random states are untouched."""
        names = tuple(without)
        known = dict(self.module.named_modules())
        for name in names:
            if name not in known:
                raise BadInput(f"there is no module {name!r}", f"Allowed: the names of this model's modules, such as {list(known)[1:4]}")
        inside = {path for path in known if any(path == name or path.startswith(f"{name}.") for name in names)}
        owners: dict[int, set[bool]] = {}
        for path, module in self.module.named_modules(remove_duplicate=False):
            for tensor in _own_tensors(module):
                owners.setdefault(id(tensor), set()).add(path in inside)

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            dropped = owners.get(id(tensor)) == {True}
            return torch.empty_like(tensor, device="meta") if dropped else tensor.detach().clone()

        with guard(self.device, "copying the model"):
            return replace(self, module=copied(self.module, convert), origin=None)

    def to(self, device: Any = None, dtype: torch.dtype | str | None = None) -> Model:
        """A new model on another device or computing in another dtype. What compression stored keeps its bits."""
        target = self.device if device is None else find_device(device)
        kind = None if dtype is None else compute_dtype(dtype, target)
        with guard(target, "moving the model"):
            module = moved(self.module, target.torch, kind)
        return replace(self, module=module, origin=None if kind not in (None, self.dtype) else self.origin)

    def save(self, path: str | Path) -> Path:
        """Write a folder that `load` reads back to the same logits, bit for bit. Whole or not at all; no pickle in it.

        Raises CannotWrite: no space, read-only. An existing folder there is replaced if effkit wrote it, else refused.
        """
        from .files.saving import save

        return save(self, Path(path))

    def __repr__(self) -> str:
        from .card import line

        return line(self)

    def _repr_html_(self) -> str:
        from .card import html

        return html(self)


def wrap(module: nn.Module, tokenizer: Any, source: str, **facts: Any) -> Model:
    """A Model around a transformers model that is already in memory. `facts`: revision, licence, notes of its Checkpoint."""
    config: Any = module.config
    classes = type(module).__name__.endswith("ForSequenceClassification")
    module.eval().requires_grad_(False)
    checkpoint = Checkpoint(
        source=source,
        hash=facts.pop("hash", None) or weights_hash(module),
        architecture=type(module).__name__,
        task="sequence-classification" if classes else "causal-lm",
        layers=getattr(config, "num_hidden_layers", None),
        hidden_size=getattr(config, "hidden_size", None),
        vocabulary=getattr(config, "vocab_size", None),
        parameters=sum(p.numel() for p in module.parameters()),
        **facts,
    )
    return Model(module, tokenizer, checkpoint)


def window_of(config: Any, tokenizer: Any, task: str) -> int:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"):
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            # RoBERTa counts two more positions than it can use; its tokenizer knows
            known = getattr(tokenizer, "model_max_length", NO_LIMIT)
            return min(limit, known) if task == "sequence-classification" else limit
    return NO_LIMIT


def compute_dtype(dtype: torch.dtype | str, device: Device) -> torch.dtype:
    """A torch dtype from its name, refused where `device` cannot compute in it."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16") or name not in device.dtypes:
        raise BadInput(f"dtype is {dtype!r}", f"Allowed on {device}: " + ", ".join(repr(d) for d in ("auto", *device.dtypes)))
    return getattr(torch, name)


def copied(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A deep copy in which each tensor is `convert` of the old one, called once a tensor: what is tied stays tied."""
    memo: dict[int, Any] = {}
    kept: list[torch.Tensor] = []
    for part in module.modules():
        for tensor in _own_tensors(part):
            if id(tensor) in memo or type(tensor) not in (torch.Tensor, nn.Parameter):
                continue
            new = convert(tensor)
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = new
            kept.append(tensor)  # an id must not be used again while the memo lives
    return copy.deepcopy(module, memo)


def moved(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A copy on `device` whose floating parameters have `dtype`.

    Buffers keep their type: rotary frequencies in bfloat16 would move every position. Replaced modules keep what they
    store, and compute in their attribute `dtype`.
    """
    fixed = {*(getattr(module, "_keep_in_fp32_modules", None) or ()), *(getattr(module, "_keep_in_fp32_modules_strict", None) or ())}
    exact = {id(p) for name, p in module.named_parameters() if fixed.intersection(name.split("."))}
    for part in filter(is_replaced, module.modules()):
        scales = part.scale_tensors()  # type: ignore[operator]
        exact |= {id(p) for name, p in part.named_parameters() if name in scales}

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        cast = dtype if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and id(tensor) not in exact else None
        return tensor.detach().to(device=device, dtype=cast, copy=True)

    new = copied(module, convert).to(device)
    if dtype is not None:
        for part in filter(is_replaced, new.modules()):
            for inner in part.modules():
                if isinstance(vars(inner).get("dtype"), torch.dtype):
                    inner.dtype = dtype  # type: ignore[assignment]
        config: Any = new.config
        config.dtype = dtype
    return new


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _first_tensor(module: nn.Module) -> torch.Tensor:
    for tensor in module.parameters():
        return tensor
    return next(module.buffers())
