"""Interactive cards for JupyterLab over effkit: run, compare, choose. `effkit` itself never imports this package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "ByteLedger": "byte_ledger",
    "CostCard": "cost_card",
    "DistillLab": "distill_lab",
    "FrontierBoard": "frontier_board",
    "FrontierExplorer": "frontier_explorer",
    "LayerMap": "layer_map",
    "MethodTable": "method_table",
    "QuantizeLab": "quantize_lab",
    "Receipt": "receipt",
    "Roofline": "roofline",
    "RunMonitor": "run_monitor",
    "StackCompare": "stack_compare",
    "TimeBreakdown": "time_breakdown",
    "TokenLens": "token_lens",
}

__all__ = [
    "ByteLedger",
    "CostCard",
    "DistillLab",
    "FrontierBoard",
    "FrontierExplorer",
    "LayerMap",
    "MethodTable",
    "QuantizeLab",
    "Receipt",
    "Roofline",
    "RunMonitor",
    "StackCompare",
    "TimeBreakdown",
    "TokenLens",
]

if TYPE_CHECKING:
    from .byte_ledger import ByteLedger
    from .cost_card import CostCard
    from .distill_lab import DistillLab
    from .frontier_board import FrontierBoard
    from .frontier_explorer import FrontierExplorer
    from .layer_map import LayerMap
    from .method_table import MethodTable
    from .quantize_lab import QuantizeLab
    from .receipt import Receipt
    from .roofline import Roofline
    from .run_monitor import RunMonitor
    from .stack_compare import StackCompare
    from .time_breakdown import TimeBreakdown
    from .token_lens import TokenLens


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'effkit_widgets' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"effkit_widgets.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
