"""Reading a prompt and then one token at a time, with the cache of keys and values that is asked for.

    decoder = Decoder(model, length=192, compiled=True)
    logits = decoder.read(prompt)        # [batch, vocabulary] after the last token of the prompt
    logits = decoder.step(token)         # [batch, vocabulary] after one more

Plain decoding grows a cache and runs eagerly. Compiled decoding keeps a cache of fixed size and compiles the forward pass
of one token with torch.compile, which removes most of what Python adds to each layer; it needs a C++ compiler on a CPU
and takes from seconds to minutes once, so it is off unless asked for. Where it fails, decoding goes on eagerly and
`how.note` says why.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effkit.spec.errors import BadInput
from effkit.spec.record import Decoding

from .model import Model
from .stored.kvcache import cache_bytes, rounded_cache
from .stored.packed import PackedLinear


def greedy(model: Model, ids: Sequence[int], new_tokens: int, *, compiled: bool = False, kv_bits: int | None = None) -> list[int]:
    """The most likely token `new_tokens` times after the prompt `ids`, or until the model ends its text (that token is last)."""
    decoder = _decoder_for(model, len(ids) + new_tokens, compiled, kv_bits)
    ends = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    stops = set(ends if isinstance(ends, list) else [ends])
    whole = torch.tensor([list(ids)], device=model.device.torch)
    made: list[int] = []
    with torch.inference_mode():
        logits = decoder.read(whole)
        while True:
            token = logits.argmax(-1, keepdim=True)
            made.append(int(token))
            if made[-1] in stops or len(made) == new_tokens:
                return made
            whole = torch.cat([whole, token], dim=1)
            logits = decoder.step(token) if decoder.caches else decoder.read(whole)


def _decoder_for(model: Model, length: int, compiled: bool, kv_bits: int | None) -> Decoder:
    """A new decoder; a compiled one is kept as long as its model, and compiled again only for longer texts."""
    if not compiled:
        return Decoder(model, length=length, kv_bits=kv_bits)
    kept = model._decoder
    if kept is None or kept.length < length or kept.kv_bits != kv_bits:
        room = min(max(256, 1 << (length - 1).bit_length()), model.window)
        kept = model._decoder = Decoder(model, length=room, compiled=True, kv_bits=kv_bits)
    return kept


class Decoder:
    """Decodes with `model` batches of `batch` prompts of the same length, one batch after another.

    length: the most tokens that a sequence will have, prompt included
    """

    def __init__(self, model: Model, *, length: int, batch: int = 1, compiled: bool = False, kv_bits: int | None = None) -> None:
        if model.task != "causal-lm":
            raise BadInput(f"{model.checkpoint.source} is a sequence classifier", "Decoding works for causal language models")
        self.model, self.length, self.batch, self.kv_bits = model, length, batch, kv_bits
        self.cache: Any = None
        self.caches = True  # whether the architecture gives a cache of keys and values; known after the first token
        self.how = Decoding(cache="dynamic" if kv_bits is None else f"int{kv_bits}", engines=model.execution().engines)
        accepted = inspect.signature(model.module.forward).parameters
        # What generate() asks for too: only the last position's logits, instead of prompt x vocabulary of them.
        self._last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._compiled: Any = None
        if kv_bits is not None:
            rounded_cache(model.config, kv_bits)  # refused here, before a token is read
        if compiled:
            self._compile()

    def read(self, ids: Tensor) -> Tensor:
        """Prompts [batch, time], after forgetting what was read before -> logits [batch, vocabulary] of what comes next."""
        self.cache = self._fresh()
        return self._forward(ids, self._last)

    def step(self, ids: Tensor) -> Tensor:
        """One more token of each sequence [batch, 1] -> logits [batch, vocabulary]."""
        if self._compiled is not None:
            return self._compiled(ids, self.cache)
        return self._forward(ids, {})

    @property
    def cache_bytes(self) -> int | None:
        """Bytes of the cache as it is now; None before a token was read and for an architecture without one."""
        return None if self.cache is None else cache_bytes(self.cache)

    def _forward(self, ids: Tensor, given: dict[str, Any]) -> Tensor:
        out = self.model.module(input_ids=ids, past_key_values=self.cache, use_cache=True, **given)
        self.cache = getattr(out, "past_key_values", None)
        self.caches = self.cache is not None
        return out.logits[:, -1]

    def _fresh(self) -> Any:
        if self._compiled is not None:
            self._static.reset()
            return self._static
        return None if self.kv_bits is None else rounded_cache(self.model.config, self.kv_bits)

    def _compile(self) -> None:
        reason = self._why_eager()
        if reason is None:
            begun = time.perf_counter()
            try:
                self._try_compiled()
            except (RuntimeError, TypeError, ValueError, AttributeError, ImportError, OSError) as error:
                # torch.compile fails in many ways, none of which is the user's doing: eager decoding still works
                self._compiled = None
                reason = f"torch.compile failed: {_why(error)}"
            else:
                self.how = self.how.model_copy(update={"cache": "static", "compiled": True, "compile_seconds": time.perf_counter() - begun})
        if reason is not None:
            self.how = self.how.model_copy(update={"note": f"decoded eagerly: {reason}"})

    def _why_eager(self) -> str | None:
        if self.kv_bits is not None:
            return "a rounded cache grows token by token, and compiling wants one of fixed size"
        if self.model.device.type not in ("cpu", "cuda"):
            return f"torch.compile is not used on {self.model.device.type}"
        if not getattr(self.model.module, "_can_compile_fullgraph", False):
            return f"transformers does not offer {type(self.model.module).__name__} for compilation"
        return None

    def _try_compiled(self) -> None:
        from transformers import StaticCache

        module = self.model.module
        for part in module.modules():
            if isinstance(part, PackedLinear):
                part.prepare(self.model.dtype)  # the choice of an engine is not traced

        def one(ids: Tensor, cache: Any) -> Tensor:
            return module(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]

        # a function of its own: all that share one code count together towards the few times that torch._dynamo compiles it anew
        one.__code__ = one.__code__.replace()
        self._static = StaticCache(config=self.model.config, max_cache_len=self.length)
        mode = None if self.model.device.is_cpu else "reduce-overhead"  # on a GPU: replayed as a CUDA graph
        compiled = torch.compile(one, dynamic=False, fullgraph=True, mode=mode)
        ids = torch.zeros(self.batch, 2, dtype=torch.long, device=self.model.device.torch)
        with torch.inference_mode():
            module(input_ids=ids, past_key_values=self._static, use_cache=True, **self._last)
            for _ in range(3):  # the second call may compile again, a CUDA graph is recorded on it
                compiled(ids[:, :1], self._static)
        self.model.device.synchronize()
        self._compiled = compiled


def _why(error: Exception) -> str:
    """What torch.compile raised, in a line: its first sentence, and the first line of a compiler's own output."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    if "Output:" in lines[:-1]:
        said += f": {lines[lines.index('Output:') + 1]}"
    if re.search(r"\s", torch.__path__[0]):
        said += f". torch lies in a folder whose path has a space ({torch.__path__[0]}), which its compiler cannot read"
    return f"{type(error).__name__}: {said[:400]}"
