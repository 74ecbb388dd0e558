"""A model's card: one line for the console, a small table for a notebook. Both say what it is, never where it lies in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effkit.spec.errors import bytes_text
from effkit.spec.intervals import three
from effkit.spec.visible import escaped

if TYPE_CHECKING:
    from .model import Model

STYLE = (
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;"
    "color:var(--jp-ui-font-color1,CanvasText);background:var(--jp-layout-color1,Canvas);"
    "border:1px solid var(--jp-border-color2,#8888);border-radius:4px;padding:10px 14px;max-width:640px"
)
TERM = "color:var(--jp-ui-font-color2,GrayText);padding:0 16px 0 0;text-align:left;font-weight:normal;vertical-align:top;background:none"
VALUE = "text-align:left;padding:0;background:none;overflow-wrap:anywhere"


def line(model: Model) -> str:
    """Model('smollm2-135m', LlamaForCausalLM, 135M weights, 538 MB, base, float32 on cpu)"""
    parts = (
        repr(model.checkpoint.source),
        model.checkpoint.architecture,
        f"{count_text(model.checkpoint.parameters)} weights",
        bytes_text(model.stored_bytes),
        model.recipe.label(),
        f"{dtype_name(model)} on {model.device}",
    )
    return f"Model({', '.join(parts)})"


def html(model: Model) -> str:
    """The card that a notebook shows."""
    point, ledger = model.checkpoint, model.ledger()
    shape = f"{count_text(point.parameters)} weights"
    if point.layers:
        shape += f" in {getattr(model.config, 'num_hidden_layers', point.layers)} layers"
    rows = [
        ("Architecture", f"{point.architecture} ({point.task.replace('-', ' ')})"),
        ("Size", shape),
        ("Stored", f"{bytes_text(ledger.total)}, {three(ledger.bits_per_weight)} bits per weight"),
        ("Recipe", model.recipe.label()),
        ("Runs in", f"{dtype_name(model)} on {model.device!r}"),
        ("Licence", point.licence or "unknown"),
        ("Revision", point.revision or "none"),
        ("Hash", point.hash[:16]),
        *(("Note", note) for note in point.notes),
    ]
    return table(point.source, rows)


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """A card of terms and values under a title, with everything escaped, and what would turn a line around shown."""
    body = "".join(
        f'<tr style="background:none"><th scope="row" style="{TERM}">{escaped(term)}</th><td style="{VALUE}">{escaped(value)}</td></tr>'
        for term, value in rows
    )
    head = f'<div style="font-weight:600;margin-bottom:6px;overflow-wrap:anywhere">{escaped(title)}</div>'
    return (
        f'<div class="effkit-card" style="{STYLE}">{head}<table style="border-collapse:collapse;border:none;margin:0">{body}</table></div>'
    )


def count_text(count: int) -> str:
    """A number of weights: 134515008 -> '135M'.

    >>> count_text(134515008), count_text(7241732096), count_text(950)
    ('135M', '7.24B', '950')
    """
    for letter, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{three(count / size)}{letter}"
    return str(count)


def dtype_name(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")
