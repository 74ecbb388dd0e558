"""What a GGUF file says beside its tensors: the architecture's sizes, the tokenizer, where it comes from.

Two kinds of tokenizer are written: byte-level BPE ("gpt2", with the rule by which text is cut first, which llama.cpp knows
by name) and SentencePiece-like BPE with byte fallback ("llama", whose merges become scores). Another rule is refused:
llama.cpp would cut text otherwise and say nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import gguf

from effkit.spec.errors import BadInput

from ..files.exporting import Placed
from ..model import Model

MARK = "effkit.recipe"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
# The regular expressions by which Llama 3 and Qwen 2 cut text before merging; they differ in how many digits stay together.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {_WORDS % "{1,3}": "llama-bpe", _WORDS % "": "qwen2"}


def add_metadata(writer: gguf.GGUFWriter, model: Model, plan: tuple[Placed, ...]) -> None:
    """Everything but the tensors."""
    config, checkpoint = model.config, model.checkpoint
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    of = dict(getattr(config, "rope_parameters", None) or {})
    writer.add_name(checkpoint.source.rstrip("/").rsplit("/", 1)[-1])
    if checkpoint.licence:
        writer.add_license(checkpoint.licence)
    writer.add_string(MARK, model.recipe.model_dump_json())
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    kinds = _kinds(plan)
    writer.add_file_type(FILE_TYPES[max(kinds, key=kinds.__getitem__)])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(float(of.get("rope_theta", 10000.0)))
    if of.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(of["factor"]))
    _tokenizer(writer, model)


def _kinds(plan: tuple[Placed, ...]) -> Counter[str]:
    """Bytes of each type, matrices of the layers only."""
    found: Counter[str] = Counter()
    for placed in plan:
        found[placed.kind] += placed.bytes if placed.name.startswith("blk.") else 1
    return found


def _tokenizer(writer: gguf.GGUFWriter, model: Model) -> None:
    tokenizer, size = model.tokenizer, model.config.vocab_size
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": type(tokenizer).__name__}}
    inner = told["model"]
    if inner["type"] != "BPE":
        raise BadInput(
            f"the tokenizer of {model.checkpoint.source} is {inner['type']}",
            "Allowed for gguf: byte-level BPE, and SentencePiece-like BPE with byte fallback",
            "Export as 'compressed-tensors' instead",
        )
    ids = {id: token for token, id in tokenizer.get_vocab().items() if id < size}
    added = {token["id"]: token for token in told["added_tokens"]}
    tokens = [ids.get(i, f"[PAD{i}]") for i in range(size)]
    kinds = [_kind(i, ids, added, inner) for i in range(size)]
    merges = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in inner["merges"]]
    if inner.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_token_types(kinds)
        writer.add_add_space_prefix(_space_prefix(told))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_rule(told, model.checkpoint.source))
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges([" ".join(merge) for merge in merges])
    _special(writer, model)


def _kind(i: int, ids: dict[int, str], added: dict[int, Any], inner: dict[str, Any]) -> int:
    if i not in ids:
        return UNUSED
    token = ids[i]
    if inner.get("byte_fallback"):
        if token == inner.get("unk_token"):
            return UNKNOWN
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return BYTE
    if i in added:
        return CONTROL if added[i]["special"] else USER_DEFINED
    return NORMAL


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """llama.cpp merges the pair whose result scores highest; a result of an earlier merge scores higher."""
    rank: dict[str, int] = {}
    for merge in merges:
        rank.setdefault("".join(merge), len(rank))
    return [-float(rank[token]) if token in rank else -1e6 for token in tokens]


def _space_prefix(told: dict[str, Any]) -> bool:
    """Whether a text gets a space before its first word."""
    steps = [step for part in ("normalizer", "pre_tokenizer") for step in _steps(told.get(part))]
    return any(s["type"] == "Prepend" or (s["type"] == "Metaspace" and s.get("prepend_scheme") != "never") for s in steps)


def _rule(told: dict[str, Any], source: str) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts text before merging."""
    steps = _steps(told.get("pre_tokenizer"))
    kinds = [step["type"] for step in steps]
    plain = not _steps(told.get("normalizer")) or [s["type"] for s in _steps(told["normalizer"])] == ["NFC"]
    byte_level = steps[-1] if kinds[-1:] == ["ByteLevel"] else None
    if plain and byte_level and not byte_level.get("add_prefix_space"):
        cuts = byte_level.get("use_regex", True)
        if kinds == ["ByteLevel"] and cuts:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and cuts and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not cuts and (rule := RULES.get(steps[0]["pattern"].get("Regex", ""))):
            return rule
    raise BadInput(
        f"the tokenizer of {source} cuts text by {' then '.join(kinds) or 'no rule'}, in a way that llama.cpp has no known name for",
        "Allowed for gguf: the rules of GPT-2, SmolLM, Llama 3 and Qwen 2, and SentencePiece-like BPE with byte fallback",
        "Export as 'compressed-tensors' instead",
    )


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not part:
        return []
    for inner in ("normalizers", "pretokenizers"):
        if inner in part:
            return [step for each in part[inner] for step in _steps(each)]
    return [part]


def _special(writer: gguf.GGUFWriter, model: Model) -> None:
    tokenizer = model.tokenizer
    roles = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id,
    }  # fmt: skip
    for role, add in roles.items():
        if (number := getattr(tokenizer, f"{role}_token_id", None)) is not None:
            add(int(number))
    coded = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(coded) and coded[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(coded) and coded[-1] == tokenizer.eos_token_id)
    if isinstance(getattr(tokenizer, "chat_template", None), str):
        writer.add_chat_template(tokenizer.chat_template)
