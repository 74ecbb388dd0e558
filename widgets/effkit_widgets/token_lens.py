"""The same text through the base and the compressed model: where do they differ, and what would each have said?

lens = TokenLens(base, small, "The pump began to leak, so the engineer"); lens
found = await lens                       # an effkit.measure.tokenwise.TokenComparison
lens.start("another text")               # what the button does
"""

from __future__ import annotations

from typing import Any

import traitlets as t

from effkit.lab.runs.run import Run, start
from effkit.measure.tokenwise import TokenComparison, compare_tokens, shared_tokens
from effkit.models.model import Model
from effkit.spec.errors import BadInput

from ._base import refuse_unknown, script, short_name, style
from ._live import LiveCard, today


class TokenLens(LiveCard):
    """Every token of a text coloured by its KL divergence; the token with the focus shows both models' first choices.

    text: what is read; it can be changed in the card. top: how many choices of each model are shown
    The work begins at once, as a run, so the cell returns before it is done.

    tokens: one row a token: [text, KL, base NLL, NLL, whether both choose the same, [[candidate, base, compressed], ...]]
    Raises BadInput for anything that is no Model, models that cut the text into different tokens, 1 token or more than 1024.
    """

    _esm = script("heat", "live", "token_lens")
    _css = style("live", "token_lens")

    text = t.Unicode().tag(sync=True)
    tokens = t.List().tag(sync=True)

    def __init__(self, base: Model, compressed: Model, text: str, *, top: int = 5, **unknown: Any) -> None:
        refuse_unknown("TokenLens", unknown, ("base", "compressed", "text", "top"))
        for name, model in (("base", base), ("compressed", compressed)):
            if not isinstance(model, Model):
                raise BadInput(f"{name} is a {type(model).__name__}", "Allowed: a Model", "ek.load(...) and ek.quantize(...) give one")
        shared_tokens(compressed, base, text)
        self._base, self._compressed, self._top = base, compressed, top
        self._comparison: TokenComparison | None = None
        label = compressed.recipe.label() if compressed.recipe.steps else short_name(compressed.checkpoint.source)
        super().__init__(config={"base": short_name(base.checkpoint.source), "model": label}, text=text)
        self.start(text)

    @property
    def comparison(self) -> TokenComparison | None:
        """What was found last; None until it is."""
        return self._comparison

    def start(self, text: str | None = None) -> Run:
        """Compare on `text` (None: the text that the card shows). Returns the run at once."""
        with self._starting:
            if not self._at_rest:
                raise BadInput("a comparison is going on", "One at a time", "Cancel it first, or wait for it")
            chosen = self.text if text is None else text
            shared_tokens(self._compressed, self._base, chosen)  # a mistake is found here, not in the worker
            self._where = {"device": repr(self._base.device), "date": today()}
            run = start(compare_tokens, self._compressed, self._base, chosen, top=self._top)
            self._soon(lambda: self.set_trait("text", chosen))
            self._show_run(run)
            return run

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what == "start":
            self._show(None)
            self.start(values.get("text"))
        else:
            super()._asked(what, values)

    def _after(self, run: Run) -> Run | None:
        found = self._comparison = run.result
        self.tokens = [
            [one.text, one.kl, one.base_nll, one.nll, one.agree, [[c.text, c.base, c.model] for c in one.candidates]]
            for one in found.tokens
        ]
        return None

    def __repr__(self) -> str:
        return f"TokenLens({self.config['base']!r}, {self.config['model']!r})"
