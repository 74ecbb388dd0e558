"""The tables behind the cards, made from a card's traits: for readers without JavaScript, for paper, for notebooks that were saved.

The card in the page has a table of its own, to copy and to save; this one says the same in fewer columns and needs no script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from effkit.lab.pages.parts import Table
from effkit.spec.errors import bytes_text
from effkit.spec.intervals import three

State = Mapping[str, Any]
UNKNOWN, NONE = "unavailable", (None, None, None)
MOST = 1000  # rows: a table that nobody scrolls through is no twin
CAPTIONS = {
    "ByteLedger": "Where the bytes lie",
    "CostCard": "What is kept and what it costs",
    "DistillLab": "A distillation",
    "FrontierBoard": "What each choice costs and keeps",
    "FrontierExplorer": "What each recipe costs and keeps",
    "LayerMap": "Where the bits should go",
    "MethodTable": "The methods side by side",
    "QuantizeLab": "A quantization",
    "Receipt": "What is needed to run it again",
    "Roofline": "What limits the model on a device",
    "RunMonitor": "A run",
    "StackCompare": "The model on two devices",
    "TimeBreakdown": "Where the time goes",
    "TokenLens": "Token by token",
}


def caption_of(widget: str) -> str:
    """The heading of a card's section."""
    return CAPTIONS.get(widget, widget)


def sentence_of(widget: str, state: State) -> str:
    """What the card says in words, where its traits hold it."""
    figures = state.get("figures")
    return str(state.get("sentence") or (figures.get("verdict") if isinstance(figures, Mapping) else "") or "")


def twin_of(widget: str, state: State) -> Table | None:
    """The card's table; None for a card without one, or whose traits are not as this version writes them."""
    make = _TWINS.get(widget)
    if make is None:
        return None
    try:
        return make(state)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None  # saved by another version: the card itself may still know how to draw it


def estimate(e: Any, unit: str = "") -> str:
    """[value, low, high] in words, as the cards write it."""
    if e is None or e[0] is None:
        return UNKNOWN
    show: Callable[[float], str] = bytes_text if unit == "bytes" else three
    end = f" {unit}" if unit and unit != "bytes" else ""
    return f"{show(e[0])}{end}" if e[1] is None or e[2] is None or e[1] == e[2] else f"{show(e[0])} [{show(e[1])}, {show(e[2])}]{end}"


def number(value: float | None, unit: str = "") -> str:
    return estimate([value, None, None], unit)


def _table(caption: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    kept = [tuple(map(str, row)) for row in rows]  # a saved notebook may hold anything
    more = f" (the first {MOST:,} of {len(kept):,} rows)" if len(kept) > MOST else ""
    return Table(f"{caption}{more}", tuple(map(str, columns)), tuple(kept[:MOST]))


def _frontier(state: State) -> Table | None:
    points, figures = state["points"], state["config"]["figures"]
    if not points:
        return None
    names = [name for name in figures if any(point["figures"].get(name, NONE)[0] is not None for point in points)]
    columns: list[tuple[str, list[str]]] = [("model", [point["name"] for point in points])]
    if any(point["recipe"] != point["name"] for point in points if point["kind"] != "base"):
        columns.append(("recipe", [point["recipe"] for point in points]))
    for name in names:
        unit = figures[name]["unit"]
        columns.append(
            (
                _headed(figures[name]["label"], unit),
                [estimate(point["figures"].get(name, NONE), unit if unit == "bytes" else "") for point in points],
            )
        )
    if any(point.get("state") for point in points):
        columns.append(("status", [f"{point['state']}: {point['reason']}" if point.get("state") else "measured" for point in points]))
    where = [("device", [point["device"] for point in points]), ("measured on", [point["date"][:10] for point in points])]
    columns += [column for column in where if len(set(column[1])) > 1]
    told = ", ".join(cells[0] for _, cells in where if len(set(cells)) == 1)
    caption = "Measured models; an interval holds the true value with 95% confidence" + (f"; all on {told}" if told else "")
    return _table(caption, [head for head, _ in columns], zip(*[cells for _, cells in columns], strict=True))


def _headed(label: str, unit: str) -> str:
    """A column's head: what is measured and in which unit; bytes are written with theirs."""
    return label.partition(" (")[0] + (f", {unit}" if unit and unit != "bytes" else "")


def _methods(state: State) -> Table:
    words = {"same": "not distinguishable", "different": "different", "unknown": "not compared", None: ""}
    rows = [
        [row["name"], row["recipe"], bytes_text(row["bytes"]), number(row["bits"]), estimate(row["kl"]), estimate(row["ratio"]),
         estimate(row["agreement"]), number(row["seconds"], "s"), words[row["next"]]]
        for row in state["rows"]
    ]  # fmt: skip
    heads = ["model", "recipe", "bytes", "bits a weight", "KL, nats", "perplexity / base", "agreement", "made in", "against the next row"]
    if all(row["recipe"] == row["name"] for row in state["rows"]):
        heads, rows = [heads[0], *heads[2:]], [[row[0], *row[2:]] for row in rows]
    return _table("Methods by their KL to the base, least first", heads, rows)


def _layers(state: State) -> Table | None:
    modules, chosen = state["map"]["modules"], state["choice"].get("bits", {})
    if not chosen:
        return None
    scale, pinned = state["map"].get("scale", 1.0), set(state["choice"].get("pinned", ()))
    rows = []
    for module in modules:
        bits = chosen.get(module["name"])
        size, kl = next(((b, k) for width, b, k in module["choices"] if width == bits), (None, None))
        words = "as it is" if bits == 16 else str(bits)
        rows.append(
            [module["name"], module["kind"], words, "by hand" if module["name"] in pinned else "", bytes_text(size),
             number(None if kl is None else scale * kl)]
        )  # fmt: skip
    return _table("Every module with its bits as first shown", ["module", "kind", "bits", "set", "bytes", "adds KL, nats"], rows)


def _cost(state: State) -> Table:
    config = state["config"]
    heads = [
        "model",
        config["sides"][0]["score_name"],
        "bytes",
        "peak memory",
        "latency, ms",
        "queries a second",
        "energy a query, J",
        "device",
    ]
    rows = [
        [side["name"], estimate(side["quality"]), bytes_text(side["bytes"]), bytes_text(side["memory"]), estimate(side["latency"]),
         estimate(side["throughput"]), estimate(side["energy"]), side["device"]]
        for side in config["sides"]
    ]  # fmt: skip
    return _table(f"Teacher first, then the student; a query is {config['query'] or 'not described'}", heads, rows)


def _roofline(state: State) -> Table:
    found = state["figures"]
    rows = [
        [p["phase"], p["part"], p["how"], number(p["intensity"]), number(p["rate"]), f"{three(100 * p['share'])}%",
         number(1e3 * p["seconds"], "ms")]
        for p in found["points"]
    ]  # fmt: skip
    caption = f"{found['device']}, {found['format']}, batch {found['batch']}, prompt {found['prompt']} ({found['source']})"
    return _table(caption, ["phase", "part", "how known", "operations a byte", "operations a second", "of the roof", "time"], rows)


def _stacks(state: State) -> Table:
    found = state["figures"]
    left, right = found["left"], found["right"]
    units = {"first": ("Time to first token", "ms"), "each": ("Time per output token", "ms"), "rate": ("Throughput", "tokens/s")}
    units |= {
        "cost": ("Price per 1000 queries, $", ""),
        "input": ("Per million input tokens, $", ""),
        "output": ("Per million output tokens, $", ""),
    }
    rows = [[label, estimate(left[key], unit), estimate(right[key], unit)] for key, (label, unit) in units.items()]
    rows.append(["Memory needed on each", bytes_text(left["needed"]), bytes_text(right["needed"])])
    rows.append(["Devices of a replica", str(left["devices"]), str(right["devices"])])
    return _table("Projected, not measured", ["figure", left["device"], right["device"]], rows)


def _ledger(state: State) -> Table:
    models, categories = state["config"]["models"], state["config"]["categories"]
    rows = [[name, *(bytes_text(model["categories"].get(name, 0)) for model in models)] for name in categories]
    rows.append(["in all", *(bytes_text(model["total"]) for model in models)])
    return _table("Bytes really stored", ["used for", *(model["name"] for model in models)], rows)


def _times(state: State) -> Table:
    rows: list[list[str]] = []

    def walk(phase: str, part: State, whole: float) -> None:
        rows.append(
            [phase, part["name"] or "whole model", part["category"], number(part["total"], "ms"), f"{three(100 * part['total'] / whole)}%"]
        )
        for child in part["parts"]:
            walk(phase, child, whole)

    for one in state["config"]["passes"]:
        walk(one["phase"], one["root"], one["root"]["total"] or 1.0)
    return _table("Every module with its time, per pass", ["pass", "module", "kind", "time", "share"], rows)


def _tokens(state: State) -> Table | None:
    rows = [
        [repr(text), number(kl), number(base), number(own), "yes" if agree else "no"] for text, kl, base, own, agree, _ in state["tokens"]
    ]
    heads = ["token", "KL, nats", "loss of the base", "loss of the model", "both choose the same"]
    return _table(state["text"], heads, rows) if rows else None


def _receipts(state: State) -> Table:
    rows = [
        [one["name"], one["device"], one["date"][:10], one["base"], one["recipe_hash"], str(one["seed"]), one["weights"][:16] or UNKNOWN,
         one["text"][:16] or UNKNOWN]
        for one in state["receipts"]
    ]  # fmt: skip
    heads = ["model", "recorded on", "day", "base", "recipe's hash", "seed", "weights' hash", "text's hash"]
    return _table("Everything that a replay compares stands in the records that this page holds", heads, rows)


def _runs(state: State) -> Table | None:
    return _frontier(state) if state.get("points") else None


_TWINS: dict[str, Callable[[State], Table | None]] = {
    "ByteLedger": _ledger, "CostCard": _cost, "FrontierBoard": _frontier, "FrontierExplorer": _frontier, "LayerMap": _layers,
    "MethodTable": _methods,
    "QuantizeLab": _runs, "Receipt": _receipts, "Roofline": _roofline, "StackCompare": _stacks, "TimeBreakdown": _times,
    "TokenLens": _tokens,
}  # fmt: skip
