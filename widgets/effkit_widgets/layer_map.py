"""Where bits should go: every module as a cell, a budget of bytes to drag, the predicted KL, and a measurement to verify it.

card = LayerMap(base, ek.sensitivity(base)); card
card.allocate(80_000_000)                # what the slider does: the best widths for so many bytes
card.set_bits("model.layers.0.self_attn.v_proj", 8)
card.bits, card.allocation               # as the card shows them now
card.verify(); small = await card        # quantize with these bits, and measure
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import traitlets as t

from effkit.compress.planning import plan as plan_of
from effkit.compress.quantization.planning import head_name
from effkit.compress.quantization.quantizing import quantize
from effkit.compress.quantization.sensitivity import sensitivity as find_sensitivity
from effkit.lab.runs.run import Run, start
from effkit.measure.fidelity import evaluate
from effkit.models.model import Model
from effkit.spec.allocation import Allocation, Sensitivity
from effkit.spec.errors import BadInput, EffkitError, choice
from effkit.spec.recipe import Quantize
from effkit.spec.record import Quality

from ._base import explained, place_of, refuse_unknown, script, short_name, style
from ._live import LiveCard, options_of, today

START_BITS = 4  # the budget stands first where every module would have so many bits


class LayerMap(LiveCard):
    """A map of the modules of one model, which it never changes: bits, rounding error, sensitivity.

    sensitivity: what ek.sensitivity found; None: the card's button finds it
    budget:      bytes of the whole model to begin with (None: those of 4 bits everywhere)
    on:          text to verify on (None: the offline default)
    quantizing:  more options for ek.quantize, such as {"method": "gptq"} (default: "search", which the predictions are made for,
                 with the sensitivity's groups); measuring: for ek.evaluate, such as {"windows": 4}

    choice:   {"bits": {module: bits}, "pinned": [modules set by hand], "budget": bytes or None}
    verified: one row a verification: {"bits", "bytes", "predicted", "kl": [value, low, high]}; the last one sets the scale of all
              predictions that follow
    Raises BadInput for no Model, a model already quantized, a sensitivity of other modules, an unknown option.
    """

    _esm = script("heat", "allocation", "live", "layer_grid", "layer_map")
    _css = style("live", "layer_grid", "layer_map")

    map = t.Dict().tag(sync=True)
    choice = t.Dict().tag(sync=True)
    verified = t.List(t.Dict()).tag(sync=True)

    def __init__(
        self,
        model: Model,
        sensitivity: Sensitivity | None = None,
        *,
        budget: int | None = None,
        on: Any = None,
        quantizing: Mapping[str, Any] | None = None,
        measuring: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("LayerMap", unknown, ("model", "sensitivity", "budget", "on", "quantizing", "measuring"))
        if not isinstance(model, Model):
            raise BadInput(f"the model is a {type(model).__name__}", "Allowed: a Model", "ek.load(...) gives one")
        if sensitivity is not None and not isinstance(sensitivity, Sensitivity):
            raise BadInput(f"the sensitivity is a {type(sensitivity).__name__}", "Allowed: what ek.sensitivity returns, or None")
        self._model, self._on, self._budget = model, on, budget
        self._acting = [m for m in plan_of(model, Quantize()).modules if m.action == "quantize"]
        self._sensitivity: Sensitivity | None = None
        self._quantizing = {"method": "search", **options_of(quantize, "quantizing", quantizing, ("model", "module_bits"))}
        self._measuring = options_of(evaluate, "measuring", measuring, ("model", "base", "on"))
        self._result: Model | None = None
        self._quality: Quality | None = None
        self._asked_bits: dict[str, int] = {}
        self._predicted: Allocation | None = None
        name = short_name(model.checkpoint.source)
        super().__init__(config={"name": name, "base_bytes": model.stored_bytes, "method": self._quantizing["method"]})
        self._where = {"device": repr(model.device), "date": today()}
        if sensitivity is not None:
            self._take_sensitivity(sensitivity)
        else:
            self.map = {"modules": [cell(m.module, m.kind, math.prod(m.shape), [], self._tied(m.kind)) for m in self._acting]}
        self.observe(lambda _: self._soon(self._chosen), names=["choice"])

    @property
    def sensitivity(self) -> Sensitivity | None:
        """What the map stands on; None until it is found."""
        return self._sensitivity

    @property
    def bits(self) -> dict[str, int]:
        """Bits of every module as the card shows them."""
        return dict(self.choice.get("bits", {}))

    @property
    def allocation(self) -> Allocation:
        """The bits that the card shows, with their bytes and predicted KL."""
        return self._known().at(self.bits)

    @property
    def result(self) -> Model | None:
        """The model of the last verification; None before."""
        return self._result

    @property
    def quality(self) -> Quality | None:
        """What the last verification measured; None before."""
        return self._quality

    def allocate(self, bytes: int) -> Allocation:
        """The best bits for `bytes` of the whole model; modules set by hand keep theirs. BadInput where they do not fit."""
        pinned = self.choice.get("pinned", [])
        found = self._known().allocate(bytes, {name: self.choice["bits"][name] for name in pinned})
        self._soon(lambda: self.set_trait("choice", {"bits": found.bits, "pinned": pinned, "budget": bytes}))
        return found

    def set_bits(self, module: str, bits: int | None) -> Allocation:
        """Set a module's bits by hand; the budget then leaves it alone. None lets the budget choose again."""
        known = self._known()
        pinned = [name for name in self.choice["pinned"] if name != module]
        if bits is None:
            budget = self.choice.get("budget") or self.allocation.bytes
            found = known.allocate(budget, {name: self.choice["bits"][name] for name in pinned})
            self._soon(lambda: self.set_trait("choice", {"bits": found.bits, "pinned": pinned, "budget": budget}))
            return found
        found = known.at({**self.bits, module: bits})
        self._soon(lambda: self.set_trait("choice", {"bits": found.bits, "pinned": [*pinned, module], "budget": None}))
        return found

    def verify(self, bits: Mapping[str, int] | None = None) -> Run:
        """Quantize with `bits` (None: as the card shows) and measure. Returns the quantize run at once; `await card` gives the model."""
        with self._starting:
            self._free()
            known = self._known()
            self._predicted = known.at(self.bits if bits is None else bits)
            self._asked_bits = dict(self._predicted.bits)
            form = {"group_size": known.group_size, "symmetric": known.symmetric}
            run = start(quantize, self._model, **{**form, **self._quantizing, "module_bits": self._asked_bits})
            self._result, self._quality = None, None
            return self._shown(run, 2)

    def find(self) -> Run:
        """Find the sensitivities, as ek.sensitivity does. Returns the run at once."""
        with self._starting:
            self._free()
            options = {name: self._quantizing[name] for name in ("group_size", "symmetric") if name in self._quantizing}
            return self._shown(start(find_sensitivity, self._model, **options), 1)

    def _free(self) -> None:
        if not self._at_rest:
            raise BadInput("a run is going on", "One run at a time", "Cancel it first, or wait for it")

    def _shown(self, run: Run, stages: int) -> Run:
        self._where = {"device": repr(self._model.device), "date": today()}
        self._show_run(run, stages)
        return run

    def _known(self) -> Sensitivity:
        if self._sensitivity is None:
            raise BadInput(
                "the sensitivities are not known yet", "They are needed for this", "Press the card's button, or give ek.sensitivity(model)"
            )
        return self._sensitivity

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what != "start":
            return super()._asked(what, values)
        self._show(None)
        if self._sensitivity is None:
            self.find()
        else:
            self.verify(values.get("choice", {}).get("bits"))

    def _take(self, event: dict[str, Any]) -> None:
        details = event["details"]
        at = self._index.get(details.get("module", "")) if event["task"] == "quantize" else None
        if at is not None and "error" in details:
            self._curves.add("error", at, details["error"])

    def _after(self, run: Run) -> Run | None:
        if isinstance(run.result, Sensitivity):
            self._take_sensitivity(run.result)
        elif isinstance(run.result, Model):
            self._result = run.result
            return start(evaluate, self._result, base=self._model, on=self._on, **{"floor": False, **self._measuring})
        else:
            self._quality = run.result
            assert self._quality is not None
            assert self._result is not None
            assert self._predicted is not None
            kl = self._quality.kl.mean if self._quality.kl else None
            row = {
                "bits": self._asked_bits,
                "bytes": self._result.stored_bytes,
                "predicted": self._predicted.kl,
                "kl": [kl.value, kl.low, kl.high] if kl else [None] * 3,
            }
            self.verified = [*(one for one in self.verified if one["bits"] != self._asked_bits), row]
            if kl is not None and kl.value is not None:
                self._sensitivity = self._known().calibrated(self._asked_bits, kl.value)
                self.map = {**self.map, "scale": self._sensitivity.scale}
        return None

    def _made(self, run: Run) -> Any:
        return self._sensitivity if isinstance(run.result, Sensitivity) else self._result

    def _take_sensitivity(self, found: Sensitivity) -> None:
        """Show a sensitivity and the bits of the budget to begin with. BadInput where it is of another model."""
        missing = sorted({m.module for m in found.modules} - {m.module for m in self._acting})
        if missing:
            what = f"the sensitivity of {short_name(found.source)} names {missing[0]!r}"
            raise BadInput(what, "Allowed: the modules of this model", "Find it anew for this model")
        budget = self._budget
        if budget is None:
            near = {m.module: min(m.choices, key=lambda c: (abs(c.bits - START_BITS), c.bits)).bits for m in found.modules}
            budget = found.at(near).bytes
        chosen = found.allocate(budget)
        self._sensitivity = found
        self._index = {m.module: i for i, m in enumerate(found.modules)}
        self.map = told_map(found, self._tied)
        self.choice = {"bits": chosen.bits, "pinned": [], "budget": budget}

    _index: Mapping[str, int] = {}

    def _tied(self, kind: str) -> bool:
        """Whether a module of this kind stands for the head as well: embeddings whose head is not quantized apart."""
        return kind == "embeddings" and head_name(self._model) not in (None, *(m.module for m in self._acting))

    def _chosen(self) -> None:
        """The browser, or Python, set the bits: refuse what cannot be."""
        if self._sensitivity is None:
            return
        try:
            self._sensitivity.at(self.choice.get("bits", {}))
            for name in self.choice.get("pinned", []):
                if name not in self._index:
                    raise choice("a pinned module", name, self._index)
        except EffkitError as error:
            self.problem = explained(error)
        else:
            self.problem = {}

    def __repr__(self) -> str:
        return f"LayerMap({self.config['name']!r})"


def told_map(found: Sensitivity, tied: Callable[[str], bool]) -> dict[str, Any]:
    """Sensitivities as the card draws and solves them. tied: whether a module of a kind stands for the head as well."""
    cells = [cell(m.module, m.kind, m.weights, [[c.bits, c.bytes, c.kl] for c in m.choices], tied(m.kind)) for m in found.modules]
    text = short_name(found.text) if found.text else ""
    return {"modules": cells, "fixed": found.fixed_bytes, "scale": found.scale, "text": text, "group": found.group_size}


def cell(module: str, kind: str, weights: int, choices: list[Any], tied: bool) -> dict[str, Any]:
    """A module as the card draws it: its row is its layer, its column what it is within a layer."""
    place = place_of(module)
    return {
        "name": module,
        "kind": kind,
        "weights": weights,
        "choices": choices,
        **place,
        **({"tied": tied} if place["layer"] is None else {}),
    }
