"""A student of a BERT-like classifier whose tokens are the domain's words, not pieces of them: `Student(embeddings="words")`.

A model of one layer cannot put a rare word together from its pieces, but its teacher can: each frequent word of the domain
becomes one token, whose first embedding is the teacher's answer to that word alone (its pooled last layer, as Model2Vec does:
Tulkens & van Dongen 2024), projected on its main directions. That is most of what the student will ever know about words that
no label names. Macro-F1 on healthcare after distillation: 0.591 from random embeddings, 0.646 from the teacher's.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effkit.measure.coder import in_batches
from effkit.models.mean_bert import MeanBertConfig
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work
from effkit.spec.recipe import Student

from .scratch import new_config

SEEN = 3  # how often a word must occur to become a token
LONGEST = 40  # characters of a word
TABLE = "bert.embeddings.word_embeddings"
DROPOUT = 0.1


def words_config(teacher: Model, step: Student, words: Sequence[str]) -> MeanBertConfig:
    """The shape of a student with these tokens, which averages what it reads. BadInput as `new_config`."""
    shape = new_config(teacher, step)
    return MeanBertConfig(
        vocab_size=len(words),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=step.window or shape.max_position_embeddings,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        pad_token_id=words.index(teacher.tokenizer.pad_token),
        id2label=dict(teacher.config.id2label),
        label2id=dict(teacher.config.label2id),
    )


def refuse_teacher(teacher: Model) -> None:
    """Raise BadInput for a teacher that can have no student whose tokens are words."""
    backend: Any = getattr(teacher.tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "WordPiece" or not hasattr(teacher.module, "bert"):
        raise BadInput(
            f"the teacher is {teacher.checkpoint.source}, a {teacher.checkpoint.architecture}",
            "Allowed: a BERT with a WordPiece tokenizer",
            "Make other students with embeddings 'random' or 'project', or by pruning",
        )


def domain_words(teacher: Model, texts: Sequence[str], most: int) -> list[str]:
    """Tokens of the student: special ones, single characters, the pieces that the teacher uses on `texts`, frequent whole words."""
    backend = teacher.tokenizer.backend_tokenizer
    used: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for text in texts:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            whole[word] += 1
    known = teacher.tokenizer.get_vocab()
    for word, count in whole.items():
        for piece in backend.encode(word, add_special_tokens=False).tokens:
            used[piece] += count
    special = [token for token in known if token in set(teacher.tokenizer.all_special_tokens)]
    special.sort(key=lambda token: known[token])
    single = sorted((token for token in known if len(token.removeprefix("##")) == 1 and ord(token[-1]) < 0x250), key=lambda t: known[t])
    chosen = dict.fromkeys([*special, *single])
    pieces = [token for token, _ in sorted(used.items(), key=lambda item: (-item[1], item[0])) if token not in chosen]
    chosen |= dict.fromkeys(pieces[: max(0, most - len(chosen))])
    often = sorted(
        (w for w, count in whole.items() if count >= SEEN and len(w) <= LONGEST and w not in chosen), key=lambda w: (-whole[w], w)
    )
    chosen |= dict.fromkeys(often[: max(0, most - len(chosen))])
    return list(chosen)


def embedded(teacher: Model, words: Sequence[str], size: int) -> Work[Tensor]:
    """The teacher's mean last hidden state of each token read alone, in its `size` main directions, [tokens, size], of spread 1."""
    backend = teacher.tokenizer.backend_tokenizer
    known = teacher.tokenizer.get_vocab()
    before, after = teacher.tokenizer.cls_token_id, teacher.tokenizer.sep_token_id
    coded = []
    for word in words:
        inner = [known[word]] if word in known else backend.encode(word, add_special_tokens=False).ids
        coded.append([before, *inner, after])
    out = torch.zeros(len(words), int(teacher.config.hidden_size))
    done = 0
    for rows in in_batches(coded, 256):
        longest = max(len(coded[i]) for i in rows)
        ids = torch.tensor([coded[i] + [0] * (longest - len(coded[i])) for i in rows], device=teacher.device.torch)
        mask = torch.tensor([[1] * len(coded[i]) + [0] * (longest - len(coded[i])) for i in rows], device=teacher.device.torch)
        with torch.inference_mode():
            encoder: Any = teacher.module.bert
            hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        out[rows] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu()
        done += len(rows)
        yield Progress("student", done, len(words), "tokens", "asking the teacher for each word")
    out = out - out.mean(0)
    _, _, directions = torch.linalg.svd(out, full_matrices=False)
    size_known = min(size, len(directions))
    table = torch.zeros(len(words), size)
    table[:, :size_known] = out @ directions[:size_known].T
    return table / table[:, :size_known].std()


def own_tokenizer(tokenizer: Any, words: Sequence[str], window: int) -> Any:
    """The teacher's tokenizer over other tokens: same normalisation, same special tokens, longest match first."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    index = {word: i for i, word in enumerate(words)}
    own = Tokenizer(WordPiece(index, unk_token=tokenizer.unk_token, max_input_chars_per_word=100))
    own.normalizer, own.pre_tokenizer, own.decoder = (
        copy.deepcopy(x) for x in (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    )
    first, last = tokenizer.cls_token, tokenizer.sep_token
    own.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=[(first, index[first]), (last, index[last])]
    )
    names = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=own, model_max_length=window, **{name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name)}
    )
