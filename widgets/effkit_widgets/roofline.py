"""The roofline of a device with the parts of a model under it: what limits them, and how far below the limit they run.

card = Roofline(model, on="h100-sxm", batch=8); card
Roofline(model, on="attached", calibration=calibrate(), breakdowns=[decode, prefill])   # measured beside predicted
card.found.point("decode", "mlp").rate                                                  # operations a second
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from effkit.hardware.projected.catalogue import accelerator
from effkit.hardware.projected.roofline import RooflineFound, calibrated_roofline, roofline
from effkit.hardware.projected.stacks import WIDTHS, format_on
from effkit.spec.breakdown import Breakdown
from effkit.spec.calibration import Calibration
from effkit.spec.errors import BadInput, choice

from ._base import refuse_unknown, script, style
from ._projected import BATCHES, COMMON, PROMPTS, ProjectedCard

ATTACHED = "attached"
OPTIONS = ("batch", "breakdowns", "calibration", "format", "name", "on", "prompt")


class Roofline(ProjectedCard):
    """Operations a second against operations a byte, both logarithmic: the device's roof, and a model's parts under it.

    model:   an effkit model, an Architecture, a transformers config, a config.json or the folder of a model
    on:      a device of the catalogue, or "attached" where there is a calibration
    calibration: of the attached device, from effkit.measure.calibrating.calibrate; adds it to the picker, with predicted points
    breakdowns:  measured points, from effkit.measure.breakdown.breakdown; shown on the device that they were measured on
    format:  "16-bit", "8-bit" or "4-bit"; on the attached device the format that it was calibrated in

    settings: {"on", "batch", "prompt", "format"}, as the fields set them; figures: what Python computed for them
    Raises BadInput for no model, an unknown device or option, a number that cannot be.
    """

    _esm = script("stack_fields", "roofline")
    _css = style("live", "roofline")
    _recorded: ClassVar = {"batch": BATCHES, "prompt": PROMPTS, "format": tuple(WIDTHS), "on": COMMON}

    def __init__(
        self,
        model: Any,
        on: str | None = None,
        *,
        batch: int = 1,
        prompt: int = 1024,
        format: str = "16-bit",
        calibration: Calibration | None = None,
        breakdowns: Iterable[Breakdown] = (),
        name: str = "",
        **unknown: Any,
    ) -> None:
        refuse_unknown("Roofline", unknown, ("model", *OPTIONS))
        if calibration is not None and not isinstance(calibration, Calibration):
            raise BadInput(f"the calibration is a {type(calibration).__name__}", "Allowed: what calibrate() returns, or None")
        self._measured = (breakdowns,) if isinstance(breakdowns, Breakdown) else tuple(breakdowns)
        if not all(isinstance(one, Breakdown) for one in self._measured):
            raise BadInput("breakdowns hold something else", "Allowed: what effkit.measure.breakdown.breakdown returns")
        self._calibration = calibration
        where = on or ("h100-sxm" if calibration is None else ATTACHED)
        settings = {"on": where if where == ATTACHED else accelerator(where).name, "batch": batch, "prompt": prompt, "format": format}
        attached = {"attached": calibration.device} if calibration else {}
        super().__init__(model, name, settings, ("batch", "prompt"), attached)

    @property
    def found(self) -> RooflineFound:
        """What the card shows."""
        return self._found

    def _at(self, settings: dict[str, Any]) -> RooflineFound:
        if settings["format"] not in WIDTHS:
            raise choice("format", settings["format"], WIDTHS)
        size = {"batch": settings["batch"], "prompt": settings["prompt"]}
        if settings["on"] != ATTACHED:
            device = accelerator(settings["on"])
            return roofline(self._shape, device, format=format_on(device, settings["format"]), breakdowns=self._measured, **size)
        if self._calibration is None:
            raise BadInput("on is 'attached'", "Allowed: with a calibration of the attached device", "calibration=calibrate()")
        return calibrated_roofline(self._shape, self._calibration, breakdowns=self._measured, **size)

    def _told(self, found: RooflineFound, settings: dict[str, Any]) -> dict[str, Any]:
        points = [
            {**one.model_dump(), "intensity": one.intensity, "rate": one.rate, "share": one.rate / found.ceiling(one.intensity)}
            for one in found.points
        ]
        head = found.model_dump(exclude={"points"})
        return {**head, "ridge": found.ridge, "points": points, "verdict": str(found), "settings": settings}

    def __repr__(self) -> str:
        return f"Roofline({self._shape.name!r}, {self._found.device!r}, batch={self._found.batch})"
