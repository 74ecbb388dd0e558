"""Models that are known by their name: the few fields of their transformers configs that decide bytes and operations.

    known_config("meta-llama/Llama-3.1-70B-Instruct")      # {"model_type": "llama", "num_hidden_layers": 80, ...}
    ek.project("Qwen3-32B", on="h200-sxm", batch=16)

They lie in `data/architectures.toml`, each with its source, so that a published model can be projected without a network. Releases
that differ in training, vocabulary of tokens or rounding alone share a shape, and so a name.
"""

from __future__ import annotations

import functools
import re
import tomllib
from typing import Any

from effkit.spec.errors import BadInput
from effkit.spec.places import shipped_file

# What a release's name adds to a shape's: its training, its rounding, its date.
_ADDED = (
    "instruct|chat|base|hf|it|thinking|reasoning|preview|turbo|dynamic|quantized|turbomind|exp|terminus|speciale|abliterated|"
    r"fp8|fp4|nvfp4|fp4-v2|nvfp4-v2|nvfp4a16|bf16|fp16|mxfp4|awq|gptq|int4|int8|w8a8|w4a16|w4a8|w8a16|w8a8sc|w4afp8|4bit|8bit|kv|mtp|"
    r"eagle3?|block|tensor|modelopt|quark|\d{4,8}|v0\.\d|1m|128k|4k"
)
SUFFIX = re.compile(rf"[-_.]({_ADDED})$")
OWNERS = ("meta-", "nvidia-", "redhatai-", "unsloth-", "moe-")
SAME_SHAPE = {
    "llama-3.3-70b": "llama-3.1-70b", "llama-3-70b": "llama-3.1-70b", "llama-3.1-nemotron-70b": "llama-3.1-70b",
    "llama-3-8b": "llama-3.1-8b", "deepseek-r1": "deepseek-v3", "deepseek-v3.1": "deepseek-v3", "kimi-k2.6": "kimi-k2.5",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b", "deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    "deepseek-r1-distill-qwen-1.5b": "qwen2.5-1.5b", "deepseek-r1-distill-qwen-7b": "qwen2.5-7b",
    "deepseek-r1-distill-qwen-14b": "qwen2.5-14b", "deepseek-r1-distill-qwen-32b": "qwen2.5-32b",
    "deepseek-r1-0528-qwen3-8b": "qwen3-8b", "qwen3-235b": "qwen3-235b-a22b", "gptoss-20b": "gpt-oss-20b",
    "gptoss-120b": "gpt-oss-120b", "qwq-32b": "qwen2.5-32b", "qwen2.5-coder-7b": "qwen2.5-7b", "qwen2.5-coder-14b": "qwen2.5-14b",
    "qwen2.5-coder-32b": "qwen2.5-32b", "qwen3-coder-30b-a3b": "qwen3-30b-a3b",
    "qwen3-vl-235b-a22b": "qwen3-235b-a22b", "glm-4.5": "glm-4.7", "glm-4.6": "glm-4.7",
    "minimax-m2": "minimax-m2.5", "minimax-m2.1": "minimax-m2.5", "phi-4-reasoning-plus": "phi-4", "codellama-70b": "llama-2-70b",
}  # fmt: skip


def plain_name(name: str) -> str:
    """A model's name without what does not change its shape: 'meta-llama/Meta-Llama-3.1-8B-Instruct-FP8' -> 'llama-3.1-8b'."""
    own = name.rstrip("/").replace("\\", "/").split("/")[-1].strip().lower().replace("_", "-")
    for owner in OWNERS:
        own = own.removeprefix(owner)
    own = re.sub(r"^(llama|phi|gemma|glm|mixtral)-?(?=\d)", r"\1-", own)
    own = re.sub(r"^qwen-(?=\d)", "qwen", own)
    while SUFFIX.search(own):
        own = SUFFIX.sub("", own)
    return SAME_SHAPE.get(own, own)


def known_config(name: str) -> dict[str, Any] | None:
    """The fields of a model's config by its name, or None for one that is not in the table."""
    found = known_models().get(plain_name(name))
    return None if found is None else {key: value for key, value in found.items() if key != "source"}


def known_models() -> dict[str, dict[str, Any]]:
    """The table: a name for the fields of its config, and `source`, the title of who says so."""
    return {name: dict(fields) for name, fields in _table().items()}


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    told = tomllib.loads(shipped_file("architectures.toml").read_text(encoding="utf-8"))
    for name, fields in told["models"].items():
        if fields.get("source") not in told["sources"]:
            raise BadInput(f"the model {name!r} of architectures.toml has no source", "Allowed: a key of its [sources]")
    return {name: {**fields, "source": told["sources"][fields["source"]]["title"]} for name, fields in told["models"].items()}
