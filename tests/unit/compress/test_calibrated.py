"""Quantizing on calibration text: what each layer reads, going on in the middle, and what every method of that kind owes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

import effkit as ek
from effkit.compress.quantization.calibration import calibration, split
from effkit.compress.quantization.streaming import Stream, plain
from effkit.models.model import wrap
from effkit.models.stored.packed import PackedLinear
from effkit.spec.errors import BadInput, Cancelled
from effkit.spec.progress import Snapshot, finish

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))
OTHER = "A wing was found cracked near the left bolt; smoke was seen during flight and the oil had leaked away. " * 4
FEW = {"calibration": TEXT, "samples": 6, "window": 64, "group_size": 32, "learn_steps": 12}
THREE = {"bits": 3, "group_size": 32, "embedding_bits": None}
STREAMED = ["gptq", "search", "awq", "learned"]
ALL = [*STREAMED, "smooth"]


def few(method: str) -> dict:
    """Arguments for a quick run of a method."""
    return {**FEW, "group_size": None} if method == "smooth" else {**FEW, "bits": 3}


def kl(p, q):
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def same(a: ek.Model, b: ek.Model) -> bool:
    ours, theirs = a.module.state_dict(), b.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def driven(work, until) -> Snapshot:
    """The snapshot of the first event for which `until` is true, as a run's folder would keep it; the work is closed."""
    for event in work:
        if until(event):
            kept = event.snapshot()
            work.close()
            return Snapshot({k: t.clone() for k, t in kept.tensors.items()}, kept.state)
    raise AssertionError("it ended first")


@pytest.fixture(scope="module")
def stories(stories15m):
    base = ek.load(str(stories15m), device="cpu")
    """The trained model, text to calibrate on, other text's ids, its exact logits and the KL of 3-bit round to nearest."""
    whole = (stories15m.parents[1] / "eval" / "tinystories-sample" / "tinystories_sample.txt").read_text()
    ids = torch.tensor([base.tokens(whole[-9000:])[:768]]).reshape(-1, 256)
    exact = base.logits(ids)
    nearest = kl(exact, ek.quantize(base, "rtn", **THREE).logits(ids))
    return base, whole[: len(whole) // 2], ids, exact, nearest


@pytest.mark.parametrize("method", STREAMED)
def test_calibration_text_makes_it_better_than_rounding_to_nearest(stories, method):
    base, text, ids, exact, nearest = stories
    ours = ek.quantize(base, method, calibration=text, samples=12, window=128, learn_steps=15, **THREE)
    assert kl(exact, ours.logits(ids)) < 0.85 * nearest
    assert ours.stored_bytes == ours.plans[-1].bytes_after


@pytest.mark.parametrize("method", ALL)
def test_what_every_method_owes(tiny_llama, tmp_path, method):
    before = {name: t.clone() for name, t in tiny_llama.module.state_dict().items()}
    ids = torch.tensor([tiny_llama.tokens(OTHER)[:100]])
    small = ek.quantize(tiny_llama, method, **few(method))
    assert small.plans[-1].bytes_after == small.stored_bytes < tiny_llama.stored_bytes
    assert 0 < kl(tiny_llama.logits(ids), small.logits(ids)) < 0.2
    for name, tensor in tiny_llama.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = ek.load(str(small.save(tmp_path / "small")), device="cpu")
    assert torch.equal(again.logits(ids), small.logits(ids))
    assert same(ek.quantize(tiny_llama, method, **few(method)), small)  # and it is no matter of chance


@pytest.mark.parametrize("method", ALL)
def test_going_on_in_the_middle_gives_the_same_bits(tiny_llama, method):
    whole = ek.quantize(tiny_llama, method, **few(method))
    kept = driven(ek.quantize.work(tiny_llama, method, **few(method)), lambda e: e.done >= 10)
    assert 10 <= len(kept.state["specs"]) < 22
    assert same(ek.quantize(tiny_llama, method, resume=kept, **few(method)), whole)


@pytest.mark.parametrize("method", ALL)
def test_a_run_is_cancelled_within_a_module_and_goes_on(tiny_llama, tmp_path, method):
    whole = ek.quantize(tiny_llama, method, **few(method))
    run = ek.start(ek.quantize, tiny_llama, method, folder=tmp_path / "run", **few(method))
    deadline = time.monotonic() + 60
    while not (run.progress and run.progress.done >= 4) and time.monotonic() < deadline and run.state in ("running", "starting"):
        time.sleep(0.002)
    if run.state != "finished":  # a slow machine may look too late
        run.cancel(keep=True)
        try:
            run.wait(60)
        except Cancelled:
            run.resume()
    assert same(run.wait(120), whole)


def test_a_driver_keeps_its_own_gradients(tiny_llama):
    """Work that is driven step by step beside other work must not switch gradients off for it."""
    assert torch.is_grad_enabled()
    for _ in ek.quantize.work(tiny_llama, "gptq", **FEW):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["llama", "classifier", "gpt2"])
def test_the_stream_equals_a_plain_forward_of_what_is_quantized_so_far(request, kind):
    if kind == "gpt2":
        torch.manual_seed(0)
        base = wrap(GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=64, n_head=4, vocab_size=300, n_positions=64)), None, "random GPT-2")
        batches = [{"input_ids": torch.randint(300, (2, 20))} for _ in range(2)]
    else:
        base = request.getfixturevalue(f"tiny_{kind}")
        texts = TEXT if kind == "llama" else [OTHER[:n] for n in (10, 25, 40, 60, 90)]
        batches = finish(calibration(base, texts, 5, 32, batch=3))
    stream = Stream(base, batches)
    for _ in stream.begin():
        pass
    small = ek.quantize(base, bits=2, group_size=32, embedding_bits=None)
    done = {name: m for name, m in small.module.named_modules() if isinstance(m, PackedLinear)}
    assert done
    for index in range(len(stream.layers)):
        layer = stream.working_copy(index, done)
        for _ in stream.advance(layer, index):
            pass
    seen: list[torch.Tensor] = []
    handle = small.module.get_submodule(f"{stream.name}.{len(stream.layers) - 1}").register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        for batch in batches:
            small.module(**batch)
    handle.remove()
    for ours, theirs in zip(stream.hidden, seen, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_modules_that_read_the_same_form_a_group_and_come_in_running_order(tiny_llama):
    stream = Stream(tiny_llama, finish(calibration(tiny_llama, TEXT, 2, 16)))
    list(stream.begin())
    wanted = {f"model.layers.1.{name}" for name in stream.inside(stream.layers[1])}
    assert stream.groups(1, wanted) == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]


def test_second_moments_are_those_of_what_the_module_reads(tiny_llama):
    batches = finish(calibration(tiny_llama, TEXT, 5, 32, batch=2))
    stream = Stream(tiny_llama, batches)
    list(stream.begin())
    seen = finish(stream.see(stream.working_copy(0, {}), 0, ["mlp.down_proj"]))
    read: list[torch.Tensor] = []
    handle = tiny_llama.module.get_submodule("model.layers.0.mlp.down_proj").register_forward_pre_hook(lambda m, a: read.append(a[0]))
    for batch in batches:
        tiny_llama.logits(batch["input_ids"])
    handle.remove()
    x = torch.cat([r.reshape(-1, 160) for r in read])
    assert seen.tokens == len(x) == 5 * 32
    assert torch.allclose(seen.hessian, x.t() @ x, atol=1e-5)
    assert torch.allclose(seen.mean_square, x.square().mean(0), atol=1e-6)


class Idle(nn.Module):
    """A layer with a linear that its forward never calls, as an expert that no token chose."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.idle = layer, nn.Linear(64, 64, bias=False)

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


def test_a_module_that_no_text_reaches_is_rounded_to_nearest(tiny_llama):
    torch.manual_seed(1)
    for i, layer in enumerate(tiny_llama.module.model.layers):
        tiny_llama.module.model.layers[i] = Idle(layer)
        tiny_llama.module.model.layers[i].attention_type = "full_attention"
    tiny_llama.module.requires_grad_(False)
    small = ek.quantize(tiny_llama, "gptq", **FEW)
    assert small.plans[-1].bytes_after == small.stored_bytes
    idle = small.module.get_submodule("model.layers.1.idle")
    assert isinstance(idle, PackedLinear)
    exact = tiny_llama.module.get_submodule("model.layers.1.idle").weight
    assert float((idle.weight - exact).norm() / exact.norm()) < 0.1


def test_a_classifier_is_calibrated_on_texts(tiny_classifier, tmp_path):
    texts = [OTHER[i : i + 20 + 3 * i] for i in range(12)]
    small = ek.quantize(tiny_classifier, "gptq", bits=4, group_size=32, calibration=texts, samples=10)
    assert small.plans[-1].bytes_after == small.stored_bytes
    ids = torch.tensor([tiny_classifier.tokens(OTHER)[:60]])
    assert 0 < float((small.logits(ids) - tiny_classifier.logits(ids)).abs().max()) < 0.5
    assert isinstance(small.module.get_submodule("bert.encoder.layer.1.output.dense"), PackedLinear)
    # padding of shorter texts changes nothing for the longest: whole texts are read, in batches of about one length
    batches = finish(calibration(tiny_classifier, texts, 10, 64))
    assert sum(len(b["input_ids"]) for b in batches) == 10
    assert all(b["attention_mask"].any(1).all() for b in batches)


def albert() -> ek.Model:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 3, "embedding_size": 64}
    return wrap(AlbertForSequenceClassification(AlbertConfig(vocab_size=259, **sizes)), None, "random ALBERT")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"method": "gptq", "calibration": "generated"}, r"calibration is 'generated'\. A classifier writes no text"),
        ({"tune": "scales"}, r"tune is 'scales'\. Tuning compares the next token's probabilities"),
        ({"rotate": True}, r"rotate is asked for \w+\. Allowed: decoders with RMS norms"),
        ({"method": "gptq"}, r"the layers of AlbertForSequenceClassification were not found"),
    ],
    ids=str,
)
def test_what_a_classifier_cannot_do_is_found_by_the_plan(tiny_classifier, step, message):
    model = albert() if "layers of Albert" in message else tiny_classifier
    with pytest.raises(BadInput, match=message):
        ek.plan(model, ek.Quantize(**step))
    with pytest.raises(BadInput, match=message):
        ek.quantize(model, **step)


def test_what_the_model_writes_is_its_own_and_follows_the_seed(tiny_llama):
    ids = [finish(calibration(tiny_llama, "generated", 4, 24, seed=s))[0]["input_ids"] for s in (0, 0, 1)]
    assert ids[0].shape == (4, 24)
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    # drawn at temperature 1: its own text is likelier to the model than tokens drawn evenly
    even = torch.randint(3, 259, (4, 24), generator=torch.Generator().manual_seed(0))

    def surprise(x):
        return float(nn.functional.cross_entropy(tiny_llama.logits(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()))

    assert surprise(ids[0]) < surprise(even)
    tiny_llama.tokenizer.add_tokens([f"<{n}>" for n in range(2000)])  # more than the model knows: it begins with none of them
    assert finish(calibration(tiny_llama, "generated", 4, 3))[0]["input_ids"].max() < 259
    small = ek.quantize(tiny_llama, "gptq", calibration="generated", samples=4, window=24, group_size=32)
    assert small.recipe.steps[0].calibration == "generated"


def test_a_recipe_names_the_file_that_was_read(tiny_llama, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(TEXT, encoding="utf-8")
    by_path, by_name, by_text = (ek.quantize(tiny_llama, "gptq", **{**FEW, "calibration": given}) for given in (path, str(path), TEXT))
    assert by_path.recipe == by_name.recipe
    assert by_path.recipe.steps[0].calibration == str(path)
    assert by_text.recipe.steps[0].calibration is None
    assert same(by_path, by_text)


def test_text_shorter_than_a_window_is_refused_and_windows_are_held_out(tiny_llama):
    with pytest.raises(BadInput, match=r"has 9 tokens, fewer than one window of 64"):
        ek.quantize(tiny_llama, "gptq", calibration="too short", window=64)
    train, held = split([{"input_ids": torch.arange(12).reshape(12, 1)}])
    assert sorted(int(x) for x in (*train, *held)) == list(range(12))
    assert len(held) == 1
    with pytest.raises(BadInput, match=r"the calibration text fills 1 window\. Tuning needs at least 2"):
        split([{"input_ids": torch.zeros(1, 4)}])


def test_less_text_than_was_asked_for_is_told(tiny_llama):
    short = ek.quantize(tiny_llama, "gptq", calibration=TEXT[:700], window=64, group_size=32)
    said = "the calibration text holds 10 of the 64 windows of 64 tokens that were asked for"
    assert said in short.plans[-1].notes
    kept = driven(ek.quantize.work(tiny_llama, "gptq", calibration=TEXT[:700], window=64, group_size=32), lambda e: e.done == 22)
    again = ek.quantize(tiny_llama, "gptq", resume=kept, calibration=TEXT[:700], window=64, group_size=32)
    assert again.plans == short.plans
    assert not any("asked for" in note for note in ek.quantize(tiny_llama, "gptq", **FEW).plans[-1].notes)


def test_a_window_that_the_model_cannot_read_is_told_in_advance(tiny_llama):
    said = "calibration windows have 256 tokens instead of 300: this model reads no more at once"
    assert said in ek.plan(tiny_llama, ek.Quantize(method="gptq", window=300)).notes
    assert said in ek.plan(tiny_llama, ek.Quantize(tune="scales", window=300)).notes
    assert said not in ek.plan(tiny_llama, ek.Quantize(window=300)).notes


def test_tuning_that_trains_only_norms_is_told_in_advance(tiny_llama):
    said = "nf4 stores no scales of groups, so in the layers tuning trains the norms alone"
    assert said in ek.plan(tiny_llama, ek.Quantize(method="nf4", tune="scales")).notes
    assert not any("norms alone" in note for note in ek.plan(tiny_llama, ek.Quantize(method="hqq", tune="scales")).notes)


def test_bits_of_single_modules(tiny_llama):
    names = {"model.layers.0.mlp.down_proj": 8, "model.layers.1.self_attn.q_proj": 16, "model.embed_tokens": 6}
    small = ek.quantize(tiny_llama, "gptq", bits=3, module_bits=names, **FEW)
    assert small.plans[-1].bytes_after == small.stored_bytes
    assert small.module.get_submodule("model.layers.0.mlp.down_proj").packed.bits == 8
    assert isinstance(small.module.get_submodule("model.layers.1.self_attn.q_proj"), nn.Linear)
    assert small.module.get_submodule("model.embed_tokens").packed.bits == 6
    assert small.module.get_submodule("model.layers.1.self_attn.k_proj").packed.bits == 3
    assert "mixed" in small.recipe.steps[0].label()
    for given, message in (
        ({"model.layers.9": 4}, r"module_bits names 'model.layers.9'"),
        ({"model.layers.0.mlp.down_proj": 9}, r"module_bits of model.layers.0.mlp.down_proj is 9"),
    ):
        with pytest.raises(BadInput, match=message):
            ek.quantize(tiny_llama, module_bits=given)


def test_a_plain_linear_stands_for_the_packed_one(tiny_llama):
    packed = ek.quantize(tiny_llama, bits=3, group_size=32).module.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain(packed)(x), packed(x), atol=1e-6)
    assert plain(linear := nn.Linear(3, 3)) is linear


def test_a_model_without_a_cache_of_keys_writes_with_all_that_it_wrote_before(tiny_llama):
    torch.manual_seed(0)
    module = MambaForCausalLM(MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=8))
    base = wrap(module, tiny_llama.tokenizer, "random Mamba")
    ids = finish(calibration(base, "generated", 4, 12, seed=3))[0]["input_ids"]
    draw = torch.Generator().manual_seed(3)
    torch.randint(256, (4, 1), generator=draw)
    for length in range(1, 12):
        chances = torch.softmax(base.logits(ids[:, :length])[:, -1], dim=-1)
        assert torch.equal(torch.multinomial(chances, 1, generator=draw), ids[:, length : length + 1])
