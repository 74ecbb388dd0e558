"""What each axis of each parameter runs over, by family of architectures: all that width pruning needs to know of them.

"q_proj.weight": "heads hidden" reads: its rows are the channels of the query heads, its columns the residual stream's.
An axis that no pruning touches is "-". A name stands for every parameter that ends in it; the longest one counts.

    vocabulary  tokens                       hidden  the residual stream
    heads       query heads x head size      ffn     between the two halves of a feed-forward block
    groups      key-value heads x head size  pooled  what a classifier makes of the first token
    qkv         queries, keys and values in one matrix (GPT-2)
"""

from __future__ import annotations

from collections.abc import Mapping

from effkit.models.model import Model
from effkit.spec.errors import BadInput

LLAMA = {
    "embed_tokens.weight": "vocabulary hidden",
    "q_proj.weight": "heads hidden", "q_proj.bias": "heads",
    "k_proj.weight": "groups hidden", "k_proj.bias": "groups",
    "v_proj.weight": "groups hidden", "v_proj.bias": "groups",
    "o_proj.weight": "hidden heads", "o_proj.bias": "hidden",
    "q_norm.weight": "-", "k_norm.weight": "-",
    "gate_proj.weight": "ffn hidden", "gate_proj.bias": "ffn",
    "up_proj.weight": "ffn hidden", "up_proj.bias": "ffn",
    "down_proj.weight": "hidden ffn", "down_proj.bias": "hidden",
    "input_layernorm.weight": "hidden", "post_attention_layernorm.weight": "hidden", "norm.weight": "hidden",
    "lm_head.weight": "vocabulary hidden", "score.weight": "- hidden",
}  # fmt: skip

BERT = {
    "word_embeddings.weight": "vocabulary hidden", "position_embeddings.weight": "- hidden", "token_type_embeddings.weight": "- hidden",
    "LayerNorm.weight": "hidden", "LayerNorm.bias": "hidden",
    "query.weight": "heads hidden", "query.bias": "heads",
    "key.weight": "heads hidden", "key.bias": "heads",
    "value.weight": "heads hidden", "value.bias": "heads",
    "attention.output.dense.weight": "hidden heads", "attention.output.dense.bias": "hidden",
    "intermediate.dense.weight": "ffn hidden", "intermediate.dense.bias": "ffn",
    "output.dense.weight": "hidden ffn", "output.dense.bias": "hidden",
    "pooler.dense.weight": "pooled hidden", "pooler.dense.bias": "pooled",
    "classifier.weight": "- pooled", "classifier.bias": "-",
    "classifier.dense.weight": "pooled hidden", "classifier.dense.bias": "pooled",
    "classifier.out_proj.weight": "- pooled", "classifier.out_proj.bias": "-",
}  # fmt: skip

MEAN_BERT = {**BERT, "classifier.weight": "- hidden"}  # reads the average of the residual stream

DISTILBERT = {
    "word_embeddings.weight": "vocabulary hidden", "position_embeddings.weight": "- hidden",
    "LayerNorm.weight": "hidden", "LayerNorm.bias": "hidden",
    "q_lin.weight": "heads hidden", "q_lin.bias": "heads",
    "k_lin.weight": "heads hidden", "k_lin.bias": "heads",
    "v_lin.weight": "heads hidden", "v_lin.bias": "heads",
    "out_lin.weight": "hidden heads", "out_lin.bias": "hidden",
    "sa_layer_norm.weight": "hidden", "sa_layer_norm.bias": "hidden",
    "lin1.weight": "ffn hidden", "lin1.bias": "ffn",
    "lin2.weight": "hidden ffn", "lin2.bias": "hidden",
    "output_layer_norm.weight": "hidden", "output_layer_norm.bias": "hidden",
    "pre_classifier.weight": "pooled hidden", "pre_classifier.bias": "pooled",
    "classifier.weight": "- pooled", "classifier.bias": "-",
}  # fmt: skip

GPT2 = {  # its matrices lie the other way round: inputs first
    "wte.weight": "vocabulary hidden", "wpe.weight": "- hidden",
    "ln_1.weight": "hidden", "ln_1.bias": "hidden", "ln_2.weight": "hidden", "ln_2.bias": "hidden",
    "ln_f.weight": "hidden", "ln_f.bias": "hidden",
    "c_attn.weight": "hidden qkv", "c_attn.bias": "qkv",
    "attn.c_proj.weight": "heads hidden", "attn.c_proj.bias": "hidden",
    "c_fc.weight": "hidden ffn", "c_fc.bias": "ffn",
    "mlp.c_proj.weight": "ffn hidden", "mlp.c_proj.bias": "hidden",
    "lm_head.weight": "vocabulary hidden", "score.weight": "- hidden",
}  # fmt: skip

FAMILIES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), LLAMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), BERT),
    "effkit-mean-bert": MEAN_BERT,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
}
OWN_HEAD_SIZE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # the config holds head_dim, so heads x head_dim need not be hidden_size


def width_axes(model: Model) -> dict[str, tuple[str, ...]]:
    """Parameter name -> what its axes run over, for every parameter. BadInput for a family that is not in the table."""
    kind = model.config.model_type
    table = FAMILIES.get(kind, {})
    axes = {name: _longest(name, table) for name, _ in model.module.named_parameters(remove_duplicate=False)}
    unknown = next((name for name, found in axes.items() if found is None), None)
    if unknown is not None:
        raise BadInput(
            f"the width of {model.checkpoint.architecture} cannot be pruned ({kind}: what {unknown} runs over is not known)",
            f"Allowed for it: layers and vocabulary; width for {', '.join(FAMILIES)}",
        )
    return {name: tuple(found.split()) for name, found in axes.items() if found is not None}


def _longest(name: str, table: Mapping[str, str]) -> str | None:
    fitting = [ending for ending in table if name == ending or name.endswith(f".{ending}")]
    return table[max(fitting, key=len)] if fitting else None
