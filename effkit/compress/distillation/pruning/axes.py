"""What each axis of each parameter runs over, by family of architectures: all that width pruning needs to know of them.

"q_proj": "heads hidden" reads: the rows of its weight are the channels of the query heads, its columns the residual stream's.
An axis that no pruning touches is "-". A name stands for every module that ends in it; the longest one counts.

    vocabulary  tokens                       hidden  the residual stream
    heads       query heads x head size      ffn     between the two halves of a feed-forward block
    groups      key-value heads x head size  pooled  what a classifier makes of the first token
    qkv         queries, keys and values in one matrix (GPT-2)
"""

from __future__ import annotations

from collections.abc import Mapping

from effkit.models.model import Model
from effkit.spec.errors import BadInput


def _table(modules: Mapping[str, str], outputs: int = 0) -> dict[str, str]:
    """Axes of weights by name, and of biases, which run over what the weight's axis `outputs` does."""
    found = {}
    for names, axes in modules.items():
        for name in names.split():
            found |= {f"{name}.weight": axes, f"{name}.bias": axes.split()[outputs]}
    return found


LLAMA = _table({
    "embed_tokens lm_head": "vocabulary hidden",
    "q_proj": "heads hidden", "k_proj v_proj": "groups hidden", "o_proj": "hidden heads", "q_norm k_norm": "-",
    "gate_proj up_proj": "ffn hidden", "down_proj": "hidden ffn",
    "input_layernorm post_attention_layernorm norm": "hidden", "score": "- hidden",
})  # fmt: skip

BERT = _table({
    "word_embeddings": "vocabulary hidden", "position_embeddings token_type_embeddings": "- hidden", "LayerNorm": "hidden",
    "query key value": "heads hidden", "attention.output.dense": "hidden heads",
    "intermediate.dense": "ffn hidden", "output.dense": "hidden ffn",
    "pooler.dense classifier.dense": "pooled hidden", "classifier classifier.out_proj": "- pooled",
})  # fmt: skip

MEAN_BERT = {**BERT, "classifier.weight": "- hidden"}  # reads the average of the residual stream

DISTILBERT = _table({
    "word_embeddings": "vocabulary hidden", "position_embeddings": "- hidden",
    "LayerNorm sa_layer_norm output_layer_norm": "hidden",
    "q_lin k_lin v_lin": "heads hidden", "out_lin": "hidden heads", "lin1": "ffn hidden", "lin2": "hidden ffn",
    "pre_classifier": "pooled hidden", "classifier": "- pooled",
})  # fmt: skip

GPT2 = _table(  # its matrices lie the other way round: inputs first
    {
        "wte lm_head": "vocabulary hidden", "wpe": "- hidden", "ln_1 ln_2 ln_f": "hidden",
        "c_attn": "hidden qkv", "attn.c_proj": "heads hidden", "c_fc": "hidden ffn", "mlp.c_proj": "ffn hidden", "score": "- hidden",
    },
    outputs=-1,
)  # fmt: skip

OWN_HEAD_SIZE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # the config holds head_dim, so heads x head_dim need not be hidden_size

FAMILIES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(OWN_HEAD_SIZE, LLAMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), BERT),
    "effkit-mean-bert": MEAN_BERT,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
}


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
