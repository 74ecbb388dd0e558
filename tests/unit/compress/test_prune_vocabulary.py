"""Vocabulary: on text of kept tokens nothing changes (tokens, logits), no text becomes impossible, and it saves and loads."""

from __future__ import annotations

import math

import pytest
import torch

import effkit as ek
from effkit.models.model import wrap
from effkit.models.texts.datasets import read_text, windows
from effkit.models.vocabulary import vocabulary_map
from effkit.spec.errors import BadInput

STORY = "Once upon a time there was a little girl named Lily. She loved her big red ball.\n" * 3
REPORTS = [f"Oil leak at the left engine pump, found on day {i}; seal {'worn' if i % 2 else 'cracked'}." for i in range(40)]
STRANGE = "Zürich 漢字 🦜 def f(x):\n\treturn qwertz"


def wordpiece(**config):
    """A random BERT classifier with a trained WordPiece tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

    def empty(vocabulary):
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        return tokenizer

    texts = [*REPORTS, STORY, "Corrosion of the landing gear, replaced and inspected", "abcdefghijklmnopqrstuvwxyz"]
    trained = empty({})
    trained.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    learnt = sorted(
        trained.get_vocab(), key=lambda token: (token in special, -len(token), token)
    )  # special tokens last: their ids will move
    inner = empty({token: id for id, token in enumerate(learnt)})
    inner.add_special_tokens(special)
    ends = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{f"{token.strip('[]').lower()}_token": token for token in special})
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}
    config = BertConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=128, initializer_range=0.1, **shape
    )
    module = BertForSequenceClassification(config)
    return wrap(module.eval().requires_grad_(False), tokenizer, "tiny-wordpiece")


def unigram():
    """A random Llama with a trained Unigram tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.train_from_iterator(
        [*REPORTS, STORY, "corrosion found"], trainers.UnigramTrainer(vocab_size=200, special_tokens=["<s>", "<unk>"], unk_token="<unk>")
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return wrap(LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer, "tiny-unigram")


def strings(model, text):
    return model.tokenizer.convert_ids_to_tokens(model.tokens(text))


@pytest.mark.parametrize("wanted", ["used", 3000])
def test_a_decoder_is_the_same_on_kept_tokens(stories15m, wanted):
    teacher = ek.load(str(stories15m), device="cpu")
    student = ek.prune(teacher, vocabulary=wanted, text=STORY)
    assert wanted == "used" or student.config.vocab_size == wanted
    assert student.config.vocab_size == len(student.tokenizer) < 0.1 * teacher.config.vocab_size
    for text in (STORY, STORY[40:90], "a little ball named Lily"):
        assert strings(student, text) == strings(teacher, text)
    back = vocabulary_map(student, teacher)
    assert back is not None
    ids = torch.tensor([student.tokens(STORY)])
    assert torch.equal(back[ids], torch.tensor([teacher.tokens(STORY)]))
    assert torch.allclose(student.logits(ids), teacher.logits(back[ids])[..., back], atol=1e-5)
    assert student.text(student.tokens(STRANGE)) == STRANGE
    assert student.plans[-1].bytes_after == student.stored_bytes


def test_it_saves_loads_and_generates(stories15m, tmp_path):
    teacher = ek.load(str(stories15m), device="cpu")
    student = ek.prune(teacher, layers=4, vocabulary="used", text=STORY)
    loaded = ek.load(student.save(tmp_path / "student"))
    for text in (STORY, STRANGE):
        assert loaded.tokens(text) == student.tokens(text)
    assert torch.equal(loaded.logits([loaded.tokens(STORY)]), student.logits([student.tokens(STORY)]))
    assert loaded.generate("Once upon", 8) == student.generate("Once upon", 8)
    assert loaded.tokenizer.get_vocab() == student.tokenizer.get_vocab()
    assert loaded.module.get_output_embeddings().weight is loaded.module.get_input_embeddings().weight
    again = ek.prune(loaded, layers=3)
    assert again.config.vocab_size == student.config.vocab_size


def test_an_encoder_is_the_same_on_kept_tokens(tmp_path):
    teacher = wordpiece()
    before = teacher.logits([teacher.tokens(REPORTS[0])])
    student = ek.prune(teacher, vocabulary="used", text=REPORTS)
    assert student.config.vocab_size < teacher.config.vocab_size
    assert student.config.pad_token_id == student.tokenizer.pad_token_id < teacher.config.pad_token_id
    for text in (REPORTS[3], "the left seal leak", "worn pump"):
        assert strings(student, text) == strings(teacher, text)
        assert torch.allclose(student.logits([student.tokens(text)]), teacher.logits([teacher.tokens(text)]), atol=1e-6)
    pair = student.tokenizer.convert_ids_to_tokens(student.tokenizer("oil", "seal")["input_ids"])
    assert pair == [*strings(student, "oil"), *strings(student, "seal")[1:]]
    assert "[UNK]" not in strings(student, "girl corroded by landing gears")  # unknown words are spelt
    loaded = ek.load(student.save(tmp_path / "student"))
    assert torch.equal(loaded.logits([loaded.tokens(REPORTS[0])]), student.logits([student.tokens(REPORTS[0])]))
    assert torch.equal(teacher.logits([teacher.tokens(REPORTS[0])]), before)


def test_unigram_is_the_same_on_kept_tokens(tmp_path):
    teacher = unigram()
    last = len(teacher.tokenizer) - 1
    teacher.module.generation_config.eos_token_id = [0, last]
    student = ek.prune(teacher, vocabulary="used", text=REPORTS)
    assert student.config.vocab_size < teacher.config.vocab_size
    assert student.module.generation_config.eos_token_id == [0, student.config.vocab_size - 1]
    assert student.tokenizer.convert_ids_to_tokens(student.config.vocab_size - 1) == teacher.tokenizer.convert_ids_to_tokens(last)
    assert teacher.module.generation_config.eos_token_id == [0, last]
    assert strings(student, REPORTS[5]) == strings(teacher, REPORTS[5])
    back = vocabulary_map(student, teacher)
    assert back is not None
    ids = torch.tensor([student.tokens(REPORTS[5])])
    assert torch.allclose(student.logits(ids), teacher.logits(back[ids])[..., back], atol=1e-6)
    assert ek.load(student.save(tmp_path / "student")).tokens(STORY) == student.tokens(STORY)


def test_a_part_of_the_vocabulary_is_compared_with_its_base_on_that_part(tmp_path):
    """KL and losses of the definition, on the tokens that both know; a text with others says how much of it they are."""
    teacher = unigram()
    student = ek.prune(teacher, vocabulary="used", text=REPORTS)
    text = " ".join(REPORTS)
    same = ek.evaluate(student, teacher, on=text, window=16, windows=3)
    assert (same.vocabulary, same.covered) == (student.config.vocab_size, 1.0)
    assert same.kl.mean.value < 1e-6
    assert same.perplexity_ratio.value == pytest.approx(1, abs=1e-6)
    assert (same.agreement.value, same.indistinguishable) == (1.0, True)

    worse = ek.quantize(student, bits=2, group_size=32)
    found = ek.evaluate(worse, teacher, on=text, window=16, windows=3)
    ids = windows(read_text(text), student, 16, 3)
    back = vocabulary_map(student, teacher)
    p, q = (torch.log_softmax(x[:, :-1].double(), -1) for x in (teacher.logits(back[ids])[..., back], worse.logits(ids)))
    assert found.kl.mean.value == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    loss = float(-p.gather(-1, ids[:, 1:, None]).mean())
    assert found.base_perplexity.value == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.agreement.value < 1

    strange = ek.evaluate(student, teacher, on=STORY, window=16, windows=3)
    assert 0 < strange.covered < 1
    lens = ek.compare_tokens(worse, teacher, text[:60])
    assert [one.text for one in lens.tokens] == [one.text for one in ek.compare_tokens(student, student, text[:60]).tokens]
    assert lens.mean_kl > ek.compare_tokens(student, teacher, text[:60]).mean_kl >= 0
    with pytest.raises(BadInput, match=r"the model's vocabulary|cut the same text into different tokens"):
        ek.evaluate(teacher, student, on=text, window=16, windows=3)  # the base lacks tokens of the model


def test_bytes_stay_and_config_ids_move(tiny_llama):
    with pytest.raises(BadInput, match=r"vocabulary is 258. Allowed for this tokenizer: 259"):
        ek.prune(tiny_llama, vocabulary=258)
    same = ek.prune(tiny_llama, vocabulary="used", text="abc")
    assert same.config.vocab_size == 259  # each of its tokens is a byte
    assert vocabulary_map(same, tiny_llama) is None
    teacher = wordpiece()
    student = ek.prune(teacher, vocabulary="used", text=REPORTS)
    assert student.tokenizer.convert_ids_to_tokens(student.config.pad_token_id) == "[PAD]"


@pytest.mark.parametrize("wrong", [0, -1, True, "all", 1.5])
def test_wrong_numbers_are_named(tiny_llama, wrong):
    with pytest.raises(BadInput, match=r"vocabulary is .*Allowed: a whole number of tokens, 'used'"):
        ek.prune(tiny_llama, vocabulary=wrong)


def test_a_recipe_plans_what_it_makes(stories15m):
    teacher = ek.load(str(stories15m), device="cpu")
    recipe = ek.Recipe(steps=(ek.Prune(layers=2, vocabulary="used"), ek.Prune(layers=1), ek.Quantize(bits=4)))
    from effkit.compress.pipeline import compress

    made = compress(teacher, recipe, text=STORY)
    assert [plan.bytes_after for plan in ek.plan(teacher, recipe, STORY)] == [plan.bytes_after for plan in made.plans]
    assert made.plans[-1].bytes_after == made.stored_bytes
    assert ek.Recipe.from_json(recipe.to_json()) == recipe


def test_a_student_with_fewer_tokens_learns_from_its_teacher(stories15m):
    """With all layers and only tokens taken away, the student starts where its teacher is: there is (almost) nothing to learn."""
    teacher = ek.load(str(stories15m), device="cpu")
    way = {"text": STORY * 4, "steps": 2, "window": 24, "batch": 2}
    held = []
    for shape in ({}, {"layers": 3}):
        student = ek.prune(teacher, vocabulary="used", text=STORY, **shape)
        held.append(next(ek.distill.work(teacher, student, **way)).metrics["held_out"])
        made = ek.distill(teacher, student, **way)
        assert made.config.vocab_size == student.config.vocab_size
    assert held[0] < 1e-5 < held[1]
