"""effkit: distill, quantize and profile language models live, and see what each choice costs and keeps.

    import effkit as ek

    base = ek.load("smollm2-135m")
    small = ek.quantize(base, method="rtn", bits=4)
    record = ek.measure(small, base=base)

Names are imported when first used, so that `import effkit` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Calibration": "spec.calibration",
    "Capability": "spec.capability",
    "Checkpoint": "spec.record",
    "Claim": "spec.claim",
    "Cost": "spec.record",
    "Distill": "spec.recipe",
    "EffkitError": "spec.errors",
    "Estimate": "spec.intervals",
    "Exploration": "spec.exploration",
    "Exported": "models.files.exporting",
    "Frontier": "spec.frontier",
    "Model": "models.model",
    "Plan": "spec.plan",
    "Profile": "spec.record",
    "Progress": "spec.progress",
    "Prune": "spec.recipe",
    "Quality": "spec.record",
    "Quantize": "spec.recipe",
    "Recipe": "spec.recipe",
    "Record": "spec.record",
    "Replay": "spec.replay",
    "Run": "lab.runs.run",
    "Space": "spec.space",
    "Store": "lab.records.store",
    "Student": "spec.recipe",
    "accelerator": "hardware.projected.catalogue",
    "accelerators": "hardware.projected.catalogue",
    "architecture": "hardware.projected.configs",
    "attach": "lab.runs.run",
    "best_format": "compress.quantization.sensitivity",
    "bottleneck": "measure.bottleneck",
    "break_even_price": "hardware.projected.price",
    "breakdown": "measure.breakdown",
    "calibrate": "measure.calibrating",
    "claim": "lab.claim",
    "classifier": "models.classifying",
    "compare_tokens": "measure.tokenwise",
    "device": "hardware.attached.device",
    "devices": "hardware.attached.device",
    "distill": "compress.distillation.distilling",
    "evaluate": "measure.fidelity",
    "explore": "lab.searching.explore",
    "export": "models.files.exporting",
    "finetune": "compress.teaching",
    "fleet": "hardware.projected.fleet",
    "load": "models.loading",
    "measure": "lab.records.measuring",
    "plan": "compress.planning",
    "plausible": "hardware.projected.projection",
    "price": "hardware.projected.price",
    "profile": "measure.latency",
    "project": "hardware.projected.projection",
    "prune": "compress.distillation.students",
    "quantize": "compress.quantization.quantizing",
    "read_labelled": "models.texts.labelled",
    "read_records": "lab.records.exchange",
    "replay": "lab.records.replay",
    "sensitivity": "compress.quantization.sensitivity",
    "share": "lab.share",
    "start": "lab.runs.run",
    "student": "compress.distillation.students",
    "sweep": "measure.sweeping",
    "write_records": "lab.records.exchange",
}

__all__ = [
    "Calibration",
    "Capability",
    "Checkpoint",
    "Claim",
    "Cost",
    "Distill",
    "EffkitError",
    "Estimate",
    "Exploration",
    "Exported",
    "Frontier",
    "Model",
    "Plan",
    "Profile",
    "Progress",
    "Prune",
    "Quality",
    "Quantize",
    "Recipe",
    "Record",
    "Replay",
    "Run",
    "Space",
    "Store",
    "Student",
    "accelerator",
    "accelerators",
    "architecture",
    "attach",
    "best_format",
    "bottleneck",
    "break_even_price",
    "breakdown",
    "calibrate",
    "claim",
    "classifier",
    "compare_tokens",
    "device",
    "devices",
    "distill",
    "evaluate",
    "explore",
    "export",
    "finetune",
    "fleet",
    "load",
    "measure",
    "plan",
    "plausible",
    "price",
    "profile",
    "project",
    "prune",
    "quantize",
    "read_labelled",
    "read_records",
    "replay",
    "sensitivity",
    "share",
    "start",
    "student",
    "sweep",
    "write_records",
]

if TYPE_CHECKING:
    from .compress.distillation.distilling import distill
    from .compress.distillation.students import prune, student
    from .compress.planning import plan
    from .compress.quantization.quantizing import quantize
    from .compress.quantization.sensitivity import best_format, sensitivity
    from .compress.teaching import finetune
    from .hardware.attached.device import device, devices
    from .hardware.projected.catalogue import accelerator, accelerators
    from .hardware.projected.configs import architecture
    from .hardware.projected.fleet import fleet
    from .hardware.projected.price import break_even_price, price
    from .hardware.projected.projection import plausible, project
    from .lab.claim import claim
    from .lab.records.exchange import read_records, write_records
    from .lab.records.measuring import measure
    from .lab.records.replay import replay
    from .lab.records.store import Store
    from .lab.runs.run import Run, attach, start
    from .lab.searching.explore import explore
    from .lab.share import share
    from .measure.bottleneck import bottleneck
    from .measure.breakdown import breakdown
    from .measure.calibrating import calibrate
    from .measure.fidelity import evaluate
    from .measure.latency import profile
    from .measure.sweeping import sweep
    from .measure.tokenwise import compare_tokens
    from .models.classifying import classifier
    from .models.files.exporting import Exported, export
    from .models.loading import load
    from .models.model import Model
    from .models.texts.labelled import read_labelled
    from .spec.calibration import Calibration
    from .spec.capability import Capability
    from .spec.claim import Claim
    from .spec.errors import EffkitError
    from .spec.exploration import Exploration
    from .spec.frontier import Frontier
    from .spec.intervals import Estimate
    from .spec.plan import Plan
    from .spec.progress import Progress
    from .spec.recipe import Distill, Prune, Quantize, Recipe, Student
    from .spec.record import Checkpoint, Cost, Profile, Quality, Record
    from .spec.replay import Replay
    from .spec.space import Space


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'effkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"effkit.{home}"), name)
    globals()[name] = value
    return value


class _Front(ModuleType):
    """Importing the room effkit.measure would put it in the place of the verb `measure`; the verb stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
