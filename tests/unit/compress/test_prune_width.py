"""Width: what is not used goes first and leaves the logits as they were, in every family; shapes, plans and files agree."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.pruning.axes import width_axes
from effkit.compress.distillation.pruning.width import measure
from effkit.models.mean_bert import MeanBertConfig, MeanBertForSequenceClassification
from effkit.models.model import wrap
from effkit.spec.errors import BadInput

TEXT = [f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar. " * 2 for i in range(30)]
IDS = [[5, 60, 7, 81, 90, 12]]


def made(family, tokenizer):
    """A random model of a family: 2 layers, 4 heads of 16, FFN 96."""
    import transformers as t

    torch.manual_seed(5)
    vocabulary = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common = {**vocabulary, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    grouped = {**common, "num_key_value_heads": 2, "max_position_embeddings": 256}
    encoder = {**common, "max_position_embeddings": 140, "num_labels": 3, "initializer_range": 0.1}
    distil = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "num_labels": 3, "initializer_range": 0.1}
    module = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**grouped, tie_word_embeddings=True)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**grouped)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**grouped)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**grouped, head_dim=16)),
        "qwen2-classifier": lambda: t.Qwen2ForSequenceClassification(t.Qwen2Config(**grouped, num_labels=3)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**vocabulary, n_embd=64, n_layer=2, n_head=4, n_inner=96, n_positions=256)),
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**encoder)),
        "mean-bert": lambda: MeanBertForSequenceClassification(MeanBertConfig(**encoder)),
        "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**encoder)),
        "distilbert": lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(**vocabulary, **distil)),
    }[family]()
    for name, p in module.named_parameters():
        if name.endswith("bias") and "classifier" not in name:
            p.data.normal_(std=0.1)
    return wrap(module.eval().requires_grad_(False), tokenizer, f"tiny-{family}")


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "qwen2-classifier", "gpt2", "bert", "mean-bert", "roberta", "distilbert"]
GROUPED = FAMILIES[:5]


def silenced(model, label, gone):
    """A copy in which the channels `gone` along axes called `label` are all zero, so that nothing depends on them."""
    new = model.clone()
    for name, labels in width_axes(new).items():
        for axis, found in enumerate(labels):
            if found == label:
                new.module.get_parameter(name).data.index_fill_(axis, torch.tensor(gone), 0.0)
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_unused_ffn_channels_go_and_logits_stay(family, tiny_llama):
    gone = list(range(3, 96, 2))[:40]
    model = silenced(made(family, tiny_llama.tokenizer), "ffn", gone)
    small = ek.prune(model, ffn=56, text=TEXT)
    assert torch.allclose(small.logits(IDS), model.logits(IDS), atol=1e-5)
    assert small.plans[-1].bytes_after == small.stored_bytes < model.stored_bytes
    assert not torch.allclose(ek.prune(model, ffn=56, by="random", text=TEXT).logits(IDS), model.logits(IDS), atol=1e-3)


@pytest.mark.parametrize("family", GROUPED)
def test_an_unused_group_of_heads_goes_and_logits_stay(family, tiny_llama):
    model = made(family, tiny_llama.tokenizer).clone()
    for layer, group in enumerate((0, 1)):
        model.module.base_model.layers[layer].self_attn.o_proj.weight.data[:, 32 * group : 32 * (group + 1)] = 0
    small = ek.prune(model, heads=2, text=TEXT)
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (2, 1, 16)
    assert torch.allclose(small.logits(IDS), model.logits(IDS), atol=1e-5)
    assert small.plans[-1].bytes_after == small.stored_bytes


@pytest.mark.parametrize("family", GROUPED)
def test_unused_hidden_channels_go_and_logits_stay(family, tiny_llama):
    gone = list(range(0, 64, 2))[:16]
    model = silenced(made(family, tiny_llama.tokenizer), "hidden", gone)
    for part in model.module.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 0.0
    model.config.rms_norm_eps = 1e-12
    small = ek.prune(model, hidden_size=48, text=TEXT)
    assert (small.config.hidden_size, small.config.num_attention_heads) == (48, 4)
    assert torch.allclose(small.logits(IDS), model.logits(IDS), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert", "mean-bert", "roberta", "distilbert"])
def test_layer_norms_are_corrected(family, tiny_llama):
    """Channels that are constant zero still enter a LayerNorm's mean and spread: without correction all others would move."""
    gone = list(range(0, 64, 4))
    model = silenced(made(family, tiny_llama.tokenizer), "hidden", gone)
    for layer in model.module.modules():  # the heads that will go say nothing
        if type(layer).__name__ in ("BertSelfOutput", "RobertaSelfOutput"):
            layer.dense.weight.data[:, 16:32] = 0
        if type(layer).__name__ == "DistilBertSdpaAttention" or hasattr(layer, "out_lin"):
            layer.out_lin.weight.data[:, 16:32] = 0
        if type(layer).__name__ == "GPT2Attention":
            layer.c_proj.weight.data[16:32] = 0
    if family != "gpt2":
        silence_pooled(model)
    small = ek.prune(model, hidden_size=48, text=TEXT)
    assert (small.config.hidden_size, small.config.num_attention_heads) == (48, 3)
    plain = ek.prune(model, hidden_size=48, text=TEXT)
    for name, part in plain.module.named_modules():
        if isinstance(part, torch.nn.LayerNorm):
            index = [i for i in range(64) if i not in gone]
            old = model.module.get_submodule(name)
            part.weight.data, part.bias.data = old.weight.data[index], old.bias.data[index]
    error = [(m.logits(IDS) - model.logits(IDS)).abs().max() for m in (small, plain)]
    spread = model.logits(IDS).std()
    assert error[0] < 0.25 * spread
    assert error[0] < 0.5 * error[1]


def silence_pooled(model):
    for name, labels in width_axes(model).items():
        if labels == ("-", "pooled"):
            model.module.get_parameter(name).data[:, 50:] = 0
            model.module.get_parameter(name).data[:, 48:50] = 0


@pytest.mark.parametrize("family", FAMILIES)
def test_all_at_once_is_planned_saved_and_loaded(family, tiny_llama, tmp_path):
    model = made(family, tiny_llama.tokenizer)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    heads = {"heads": 2} if family in GROUPED else {}
    shape = {"layers": 1, "hidden_size": 48, "ffn": 40, **heads}
    planned = ek.plan(model, ek.Prune(**shape), TEXT)
    small = ek.prune(model, **shape, text=TEXT)
    assert planned == small.plans[-1]
    assert (planned.bytes_before, planned.bytes_after) == (model.stored_bytes, small.stored_bytes)
    assert {"cut", "remove"} <= {m.action for m in planned.modules} <= {"cut", "remove", "keep"}
    assert any(note.startswith("hidden_size 64 -> 48, ffn 96 -> 40, heads 4 -> ") for note in planned.notes)
    loaded = ek.load(small.save(tmp_path / "small"))
    assert torch.equal(loaded.logits(IDS), small.logits(IDS))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert not {t.data_ptr() for t in small.module.state_dict().values()} & {t.data_ptr() for t in model.module.state_dict().values()}
    if model.task == "causal-lm":
        assert loaded.generate("hello", 6) == small.generate("hello", 6)
        tied = model.module.get_output_embeddings().weight is model.module.get_input_embeddings().weight
        assert (small.module.get_output_embeddings().weight is small.module.get_input_embeddings().weight) == tied


def test_scores_are_mean_activation_times_norm(tiny_llama):
    ids = torch.tensor(IDS)
    found = measure(tiny_llama, width_axes(tiny_llama), [ids])
    seen = {}
    layer = tiny_llama.module.model.layers[1]
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.setdefault("ffn", args[0])),
        layer.input_layernorm.register_forward_hook(lambda _, args, out: seen.setdefault("norm", out)),
    ]
    tiny_llama.logits(ids)
    for hook in hooks:
        hook.remove()
    expected = seen["ffn"].abs().mean((0, 1)) * layer.mlp.down_proj.weight.norm(dim=0)
    assert torch.allclose(found.scores["ffn", 1], expected, rtol=1e-4)
    assert torch.allclose(found.after["model.layers.1.input_layernorm"], seen["norm"].abs().mean((0, 1)), rtol=1e-4)
    assert sorted(found.scores) == [("ffn", 0), ("ffn", 1), ("ffn", 2), ("heads", 0), ("heads", 1), ("heads", 2)]


def test_importance_beats_chance_on_a_trained_model(stories15m):
    """A trained model's own choice of FFN channels keeps it closer to itself than any of three random ones."""
    teacher = ek.load(str(stories15m), device="cpu")
    story = "Once upon a time there was a little girl named Lily. She loved to play outside with her friend Tom.\n" * 8
    ids = torch.tensor([teacher.tokens(story)[:120]])
    base = teacher.logits(ids).log_softmax(-1)

    def divergence(student):
        return float((base.exp() * (base - student.logits(ids).log_softmax(-1))).sum(-1).mean())

    for shape in ({"ffn": 512}, {"hidden_size": 264}, {"heads": 4}):
        chosen = divergence(ek.prune(teacher, **shape, text=story))
        assert chosen < min(divergence(ek.prune(teacher, **shape, by="random", seed=seed, text=story)) for seed in range(3)), shape


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("llama", {"ffn": 97}, "ffn is 97. Allowed: 1 to 96, what the model has"),
        ("llama", {"heads": 3}, r"heads is 3. Allowed: multiples of 2 up to 4 \(groups of 2\)"),
        ("llama", {"hidden_size": 128}, "hidden_size is 128. Allowed: 1 to 64"),
        ("llama", {"hidden_size": 50}, "the new shape is not one that llama allows .*multiple of the number of attention heads"),
        ("bert", {"heads": 2}, "heads is 2 for a bert and hidden_size is not given. Allowed: heads together with.*Give hidden_size=32 too"),
        ("bert", {"hidden_size": 50}, "hidden_size is 50. Allowed in a bert: hidden_size = heads x 16, up to 64"),
        ("gpt2", {"hidden_size": 32, "heads": 4}, "hidden_size is 32 and heads is 4. Allowed in a gpt2"),
    ],
)  # fmt: skip
def test_what_a_family_cannot_have_is_named(family, shape, message, tiny_llama):
    model = made(family, tiny_llama.tokenizer)
    with pytest.raises(BadInput, match=message):
        ek.plan(model, ek.Prune(**shape), TEXT)


def test_an_unknown_family_keeps_layers_and_vocabulary(tiny_llama):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=259, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    model = wrap(GPTNeoXForCausalLM(config).eval().requires_grad_(False), tiny_llama.tokenizer, "tiny-neox")
    assert ek.prune(model, 1).config.num_hidden_layers == 1
    with pytest.raises(
        BadInput, match=r"the width of GPTNeoXForCausalLM cannot be pruned .*Allowed for it: layers and vocabulary; width for llama"
    ):
        ek.prune(model, ffn=10, text=TEXT)
