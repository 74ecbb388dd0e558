"""What each token of a text would have been to two models: the KL divergence there, and what both thought likely.

The KL of position i is that of the distributions that predict token i, given all tokens before it; so the first token has
none. A mean hides where a compressed model differs: this shows the places, in nats, with both models' first choices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effkit.hardware.attached.memory import guard
from effkit.models.model import Model
from effkit.models.vocabulary import in_part, part_of
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Noun
from effkit.spec.progress import Progress, Work, long_work

from .checks import evaluating, whole
from .divergence import Scores, score

MOST = 1024  # tokens: more than anyone reads, and two models' logits of 200 MB each at a vocabulary of 50,000


class Candidate(Noun):
    """A token that one of the two models thought likely, with the probability that each gave it."""

    token: int
    text: str
    base: float
    model: float


class TokenFidelity(Noun):
    """One token of the text. `kl`, `base_nll`, `nll` (nats) are None for the first token, which nothing predicts.

    candidates: the union of both models' first choices, the base's likeliest first
    agree:      whether both would have said the same
    """

    token: int
    text: str
    kl: float | None = None
    base_nll: float | None = None
    nll: float | None = None
    agree: bool | None = None
    candidates: tuple[Candidate, ...] = ()


class TokenComparison(Noun):
    """All tokens of a text in their order; `base` and `model` name what was compared."""

    base: str
    model: str
    tokens: tuple[TokenFidelity, ...]

    @property
    def mean_kl(self) -> float:
        """Nats a token, over the tokens that are predicted."""
        found = [one.kl for one in self.tokens if one.kl is not None]
        return sum(found) / len(found)

    @property
    def agreement(self) -> float:
        """The share of predicted tokens where both models' first choice is the same."""
        found = [one.agree for one in self.tokens if one.agree is not None]
        return sum(found) / len(found)


@long_work
def compare_tokens(model: Model, base: Model, text: str, *, top: int = 5) -> Work[TokenComparison]:
    """Compare `model` with `base` on every token of `text`: KL(base || model) and the `top` likeliest tokens of each.

    Its mean KL is what ek.evaluate finds on the same tokens read as one window; a model against itself has 0 everywhere. A model with
    a part of its base's vocabulary is compared as there: in its own tokens, among the tokens that both know.
    Raises BadInput: a classifier, another vocabulary, fewer than two tokens or more than 1024 (or the model's own limit).
    """
    whole("top", top, 1, 50)
    ids, mapping = shared_tokens(model, base, text), part_of(model, base)
    name = lambda m: m.recipe.label() if m.recipe.steps else m.checkpoint.source  # noqa: E731
    batch, targets = torch.tensor([ids]), torch.tensor(ids[1:])
    with evaluating(model.module, base.module):
        yield Progress("compare", 0, 2, "models", "the base reads the text")
        theirs = (base.logits(batch) if mapping is None else in_part(base, batch, mapping))[0, :-1]
        yield Progress("compare", 1, 2, "models", "the compressed model reads the text")
        ours = model.logits(batch)[0, :-1]
        if ours.shape != theirs.shape:
            raise BadInput(
                f"the model gives {ours.shape[-1]} choices and the base {theirs.shape[-1]}",
                "Both must have the same vocabulary",
                "Compare with the model that this one was made from",
            )
        with guard(model.device, "comparing tokens"):
            before, after = score(theirs, targets), score(ours, targets, base=theirs.to(ours.device))
            _finite(before, after)
            likely = _likely(theirs, ours, top)
    assert before.nll is not None
    assert after.nll is not None
    assert after.kl is not None
    tokens = [TokenFidelity(token=ids[0], text=token_text(model.tokenizer, ids[0]))]
    for i, token in enumerate(ids[1:]):
        tokens.append(
            TokenFidelity(
                token=token,
                text=token_text(model.tokenizer, token),
                kl=float(after.kl[i]),
                base_nll=float(before.nll[i]),
                nll=float(after.nll[i]),
                agree=bool(before.top[i] == after.top[i]),
                candidates=tuple(Candidate(token=t, text=token_text(model.tokenizer, t), base=p, model=q) for t, p, q in likely[i]),
            )
        )
    yield Progress("compare", 2, 2, "models", "compared")
    return TokenComparison(base=name(base), model=name(model), tokens=tuple(tokens))


def token_text(tokenizer, token: int) -> str:
    """The text of one token with the space before it, which decoding a SentencePiece token by itself would drop."""
    piece = tokenizer.convert_ids_to_tokens(token)
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return " " + text.lstrip(" ") if isinstance(piece, str) and piece.startswith("▁") else text


def shared_tokens(model: Model, base: Model, text: str) -> list[int]:
    """The model's token ids of `text`, the same in the base or known to it, and not too many; BadInput as `compare_tokens`."""
    for who, m in (("model", model), ("base", base)):
        if m.task != "causal-lm":
            raise BadInput(f"the {who} is a {m.task} model", "Tokens are compared for causal language models")
    if not isinstance(text, str):
        raise BadInput(f"the text is a {type(text).__name__}", "Allowed: a string")
    ids = model.tokens(text)
    if base.tokens(text) != ids and part_of(model, base) is None:
        raise BadInput(
            "the model and the base cut the text into different tokens",
            "Both must have the same vocabulary, or the model a part of the base's",
            "Compare with the model that this one was made from",
        )
    most = min(MOST, model.window, base.window)
    if not 2 <= len(ids) <= most:
        todo = "Give more text" if len(ids) < 2 else "Give a part of it"
        raise BadInput(f"the text has {len(ids)} tokens", f"Allowed: 2 to {most}", todo)
    return ids


def _finite(*both: Scores) -> None:
    for who, scores in zip(("base", "model"), both, strict=True):
        if not scores.finite:
            raise BadInput(f"the {who} gives logits that are not finite numbers", "They must be finite to be compared", "Check its weights")


def _likely(theirs: Tensor, ours: Tensor, top: int) -> list[list[tuple[int, float, float]]]:
    """For each position the union of both models' `top` tokens: (token, probability by the base, by the model)."""
    p, q = theirs.float().softmax(-1).cpu(), ours.float().softmax(-1).cpu()
    top = min(top, p.shape[-1])
    out = []
    for p_row, q_row in zip(p, q, strict=True):
        union = {*p_row.topk(top).indices.tolist(), *q_row.topk(top).indices.tolist()}
        rows = [(token, float(p_row[token]), float(q_row[token])) for token in union]
        out.append(sorted(rows, key=lambda row: (-row[1], -row[2], row[0])))
    return out
