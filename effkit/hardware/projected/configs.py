"""From a transformers config (an object, a dict, a config.json or a folder) to an `Architecture`, without torch.

Names of fields are transformers' own; families differ in biases, norms and positions, which the tables below say.
A family that is not in them is read as a Llama, the most copied shape, and marked `known=False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, choice
from effkit.spec.files import parsed

from .architecture import Architecture, Core, Group, Matrix
from .known import known_config, known_models

GATED = {
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3",
    "kimi_k2", "glm_moe_dsa", "glm4_moe", "glm4_moe_lite", "deepseek_v32", "minimax_m2", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next",
    "qwen3_vl_text", "qwen3_vl_moe_text", "llama4_text", "smollm3", "olmo2", "phi3",
}  # fmt: skip
PLAIN = {"gpt2", "gpt_neox", "phi", "opt", "bert", "roberta"}
HEAD_NORMS = {
    "qwen3", "qwen3_moe", "gemma3_text", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen3_vl_text", "qwen3_vl_moe_text",
}  # fmt: skip
WIDE_NORMS = {"minimax_m2", "olmo2"}
NORMS_PER_LAYER = {"gemma2": 4, "gemma3_text": 4, "phi": 1}
OUTPUT_GATES = {"qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"}
ENCODERS = {"bert", "roberta"}


def architecture(source: Any, name: str = "") -> Architecture:
    """The shape behind a config.

    source: a transformers config, a dict, a config.json, the folder of a model, or the name of a model of known.py
    """
    config = _fields(source)
    own = name or str(config.get("_name_or_path") or "") or (Path(source).stem if isinstance(source, (str, Path)) else "")
    if isinstance(config.get("text_config"), Mapping):
        outer, config = config, dict(config["text_config"])
        for key in ("tie_word_embeddings", "quantization_config", "architectures"):
            if config.get(key) is None and key in outer:
                config[key] = outer[key]
    family = str(config.get("model_type", ""))
    if not (_get(config, "num_hidden_layers", "n_layer") and _get(config, "hidden_size", "n_embd")):
        given = f"a config of model_type {family!r} without a number of layers or a hidden size"
        raise BadInput(given, "Allowed: the config of a transformer", "Give a config.json or a transformers config")
    return _plain(config, family, own) if family in PLAIN else _gated(config, family, own)


def _fields(source: Any) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    if hasattr(source, "to_dict"):
        return source.to_dict()
    if isinstance(source, (str, Path)):
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        if path.is_file():
            try:
                fields = parsed(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BadInput(f"{str(path)!r} cannot be read ({error})", "Allowed: the JSON of a transformers config") from None
            if isinstance(fields, dict):
                return fields
        if isinstance(source, Path) or source.endswith(".json") or source.startswith((".", "/", "~")):
            raise BadInput(f"no config at {str(source)!r}", "Allowed: a config.json or the folder of a model")
        known = known_config(source)
        if known is not None:
            return {"_name_or_path": source, **known}
        raise choice("the model", source, known_models())
    raise BadInput(f"a {type(source).__name__}", "Allowed: a transformers config, a dict, a config.json or the folder of a model")


def _get(config: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """The first of the names that holds a value; transformers and older checkpoints name the same thing differently."""
    return next((config[name] for name in names if config.get(name) is not None), default)


def _gated(config: Mapping[str, Any], family: str, name: str) -> Architecture:
    hidden, count = int(config["hidden_size"]), int(config["num_hidden_layers"])
    kinds = _layer_kinds(config, count)
    groups: list[Group] = []
    for number in range(count):
        core, matrices, vectors = _attention(config, family, kinds[number])
        feed, more = _feed_forward(config, family, number)
        norms = NORMS_PER_LAYER.get(family, 2) * hidden
        group = Group(1, core, (*matrices, *feed), norms + vectors + more)
        groups.append(group)
    vocabulary = int(config["vocab_size"])
    return Architecture(
        family=family,
        hidden=hidden,
        vocabulary=vocabulary,
        groups=_merged(groups),
        embedding=vocabulary * hidden,
        head=(Matrix("head", hidden, vocabulary),),
        tied=bool(config.get("tie_word_embeddings", family.startswith("gemma"))),
        final=hidden,
        max_context=int(config.get("max_position_embeddings") or 0),
        kept=_kept(config),
        name=name,
        known=family in GATED,
    )


def _layer_kinds(config: Mapping[str, Any], count: int) -> list[str]:
    if config.get("layer_types"):
        return list(config["layer_types"])
    if config.get("full_attention_interval"):
        every = int(config["full_attention_interval"])
        return ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(count)]
    if config.get("sliding_window") and config.get("sliding_window_pattern"):
        every = int(config["sliding_window_pattern"])
        return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(count)]
    windowed = bool(config.get("sliding_window")) and config.get("use_sliding_window", True)
    return ["sliding_attention" if windowed else "full_attention"] * count


def _attention(config: Mapping[str, Any], family: str, kind: str) -> tuple[Core, list[Matrix], int]:
    if config.get("kv_lora_rank"):
        return _latent(config)
    if kind == "linear_attention":
        return _linear(config)
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or hidden // heads)
    bias = bool(config.get("attention_bias", False))
    gate = 2 if config.get("attn_output_gate") or family in OUTPUT_GATES else 1
    matrices = [
        Matrix("attention", hidden, heads * width * gate, bias=bias or family == "qwen2"),
        Matrix("attention", hidden, kv_heads * width, 2, 2, bias=bias or family == "qwen2"),
        Matrix("attention", heads * width, hidden, bias=bias and family != "glm4_moe"),
    ]
    normed = family in HEAD_NORMS or (family == "glm4_moe" and config.get("use_qk_norm"))
    vectors = 2 * width if normed else (heads + kv_heads) * width if family in WIDE_NORMS else 0
    vectors += heads if family == "gpt_oss" else 0  # attention sinks: one learned logit a head
    window = int(config.get("sliding_window") or 0) if kind == "sliding_attention" else 0
    core = Core("window" if window else "full", heads, width, width, kv_heads, cached=2 * kv_heads * width, window=window)
    return core, matrices, vectors


def _latent(config: Mapping[str, Any]) -> tuple[Core, list[Matrix], int]:
    """Multi-head latent attention; with an indexer where the config has one (DeepSeek sparse attention, GLM-5)."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    rank, rope = int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"])
    plain, value = int(config["qk_nope_head_dim"]), int(config["v_head_dim"])
    q_rank, bias = int(config.get("q_lora_rank") or 0), bool(config.get("attention_bias", False))
    matrices, vectors = [], rank
    if q_rank:
        matrices += [Matrix("attention", hidden, q_rank, bias=bias), Matrix("attention", q_rank, heads * (plain + rope))]
        vectors += q_rank
    else:
        matrices += [Matrix("attention", hidden, heads * (plain + rope))]
    matrices += [
        Matrix("attention", hidden, rank + rope, bias=bias),
        Matrix("attention", rank, heads * (plain + value)),
        Matrix("attention", heads * value, hidden, bias=bias),
    ]
    cached, top, scanned = rank + rope, 0, 0
    if config.get("index_topk"):
        width, index_heads, top = int(config["index_head_dim"]), int(config["index_n_heads"]), int(config["index_topk"])
        matrices += [Matrix("attention", q_rank, index_heads * width), Matrix("attention", hidden, width)]
        matrices += [Matrix("attention", hidden, index_heads)]
        vectors += 2 * width
        scanned = width
        cached += scanned
    read = {"latent_key": rank + rope, "latent_value": rank, "top": top, "scanned": scanned}
    core = Core("latent", heads, plain + rope, value, 1, cached=cached, **read)
    return core, matrices, vectors


def _linear(config: Mapping[str, Any]) -> tuple[Core, list[Matrix], int]:
    """The gated delta rule of Qwen3-Next and Qwen3.5: a state of key x value a head instead of a cache."""
    hidden = int(config["hidden_size"])
    key_heads, value_heads = int(config["linear_num_key_heads"]), int(config["linear_num_value_heads"])
    key, value = int(config["linear_key_head_dim"]), int(config["linear_value_head_dim"])
    kernel = int(config["linear_conv_kernel_dim"])
    mixed = 2 * key_heads * key + value_heads * value
    matrices = [
        Matrix("attention", hidden, mixed + value_heads * value + 2 * value_heads),
        Matrix("attention", value_heads * value, hidden),
    ]
    vectors = mixed * kernel + 2 * value_heads + value  # depthwise convolution, decay and time step, norm
    core = Core("linear", value_heads, key, value, value_heads, state=value_heads * key * value + mixed * (kernel - 1))
    return core, matrices, vectors


def _feed_forward(config: Mapping[str, Any], family: str, number: int) -> tuple[list[Matrix], int]:
    """The matrices of a gated feed-forward layer or of its experts, and the numbers in vectors beside them."""
    hidden = int(config["hidden_size"])
    experts = int(_get(config, "num_experts", "num_local_experts", "n_routed_experts", default=0))
    dense = number < int(config.get("first_k_dense_replace") or 0) or number in (config.get("mlp_only_layers") or [])
    every = int(config.get("interleave_moe_layer_step") or 1)
    dense = dense or (number + 1) % every != 0
    if not experts or dense:
        wide, bias = int(_get(config, "intermediate_size_mlp", "intermediate_size")), bool(config.get("mlp_bias", False))
        return [Matrix("mlp", hidden, wide, 2, 2, bias), Matrix("mlp", wide, hidden, bias=bias)], 0
    used = int(_get(config, "num_experts_per_tok", "experts_per_token", default=1))
    wide = int(_get(config, "moe_intermediate_size", "intermediate_size"))
    bias = family == "gpt_oss"
    matrices = [
        Matrix("router", hidden, experts, bias=bias),
        Matrix("experts", hidden, 2 * wide, experts, used, bias),
        Matrix("experts", wide, hidden, experts, used, bias),
    ]
    shared = int(config.get("shared_expert_intermediate_size") or 0) or int(config.get("n_shared_experts") or 0) * wide
    shared = shared or (wide if family == "llama4_text" else 0)
    if shared:
        matrices += [Matrix("mlp", hidden, shared, 2, 2), Matrix("mlp", shared, hidden)]
    if config.get("shared_expert_intermediate_size"):
        matrices += [Matrix("router", hidden, 1)]  # the gate of the shared expert
    return matrices, 0  # a router's selection bias is a buffer, not a parameter


def _plain(config: Mapping[str, Any], family: str, name: str) -> Architecture:
    """GPT-2, GPT-NeoX, Phi, OPT and BERT: layer norms with biases, two matrices in the feed-forward layer."""
    hidden = int(_get(config, "hidden_size", "n_embd"))
    heads, count = int(_get(config, "num_attention_heads", "n_head")), int(_get(config, "num_hidden_layers", "n_layer"))
    wide = int(_get(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    width, vocabulary = hidden // heads, int(config["vocab_size"])
    bias = bool(config.get("attention_bias", True)) if family == "gpt_neox" else bool(config.get("enable_bias", True))
    matrices = (
        Matrix("attention", hidden, hidden + 2 * kv_heads * width, bias=bias),
        Matrix("attention", hidden, hidden, bias=bias),
        Matrix("mlp", hidden, wide, bias=bias),
        Matrix("mlp", wide, hidden, bias=bias),
    )
    core = Core("full", heads, width, width, kv_heads, cached=2 * kv_heads * width)
    positions = {"gpt2": int(_get(config, "n_positions", "max_position_embeddings", default=0))}.get(family, 0)
    positions = int(config["max_position_embeddings"]) + 2 if family == "opt" else positions
    embedding, final, head = (vocabulary + positions) * hidden, 2 * hidden, (Matrix("head", hidden, vocabulary, bias=family == "phi"),)
    head_vectors = 0
    if family in ENCODERS:
        types = int(config.get("type_vocab_size") or 0)
        embedding = (vocabulary + int(config["max_position_embeddings"]) + types) * hidden
        head, head_vectors = _encoder_head(config, hidden, vocabulary)
    return Architecture(
        family=family,
        hidden=hidden,
        vocabulary=vocabulary,
        groups=(Group(count, core, matrices, NORMS_PER_LAYER.get(family, 2) * 2 * hidden),),
        embedding=embedding,
        head=head,
        tied=bool(config.get("tie_word_embeddings", family in ("gpt2", "opt", "bert", "roberta"))) and bool(head)
        and head[-1].outputs == vocabulary,
        final=final,
        head_vectors=head_vectors,
        max_context=int(_get(config, "n_positions", "max_position_embeddings", default=0)),
        kept=_kept(config),
        name=name,
    )  # fmt: skip


def _encoder_head(config: Mapping[str, Any], hidden: int, vocabulary: int) -> tuple[tuple[Matrix, ...], int]:
    """What stands on a BERT: a masked-word head, a classifier over the pooled first token, or the pooler alone."""
    purpose = str((config.get("architectures") or [""])[0])
    transform = Matrix("head", hidden, hidden, bias=True)
    if purpose.endswith("ForMaskedLM"):
        return (transform, Matrix("head", hidden, vocabulary, bias=True)), 2 * hidden
    if purpose.endswith("ForSequenceClassification"):
        labels = int(config.get("num_labels") or len(config.get("id2label") or {}) or 2)
        return (transform, Matrix("head", hidden, labels, bias=True)), 0
    return (transform,), 0


def _kept(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts that the model's own quantized release leaves at 16 bits, by what its config says of modules."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return ()
    spared = " ".join(str(entry) for entry in _get(settings, "modules_to_not_convert", "ignore", "ignored_layers", default=[]) or [])
    found = [part for part, words in (("attention", "self_attn"), ("mlp", "shared_experts")) if words in spared]
    return tuple(found)


def _merged(groups: list[Group]) -> tuple[Group, ...]:
    """Equal layers as one group with their number, in the order in which each first appears."""
    counts: dict[Group, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    return tuple(Group(count, group.core, group.matrices, group.vectors) for group, count in counts.items())
