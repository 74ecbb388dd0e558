"""`explore`: a space of recipes searched for the best trade-offs, live, and gone on with where it was.

    found = ek.explore(base, {"steps": [{"step": "quantize", "method": ["rtn", "gptq"], "bits": [3, 4, 8]}]}, trials=6)
    found.front(); found.frontier().verdict(0.9, 0.25)

Every trial is a recipe; its record goes into the store as soon as it ends, whatever it is worth. What begins alike is made once
(bench.py), a search has a folder from which it goes on (search.py), and Optuna chooses what is tried (study.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from effkit.measure.material import material_for
from effkit.models.model import Model
from effkit.models.texts.datasets import Text, read_text
from effkit.spec.errors import BadInput
from effkit.spec.exploration import TIMED, Budget, Exploration, check_objectives
from effkit.spec.files import content_hash, write_text
from effkit.spec.places import data_folder
from effkit.spec.progress import Progress, Snapshot, Work, long_work
from effkit.spec.recipe import validated
from effkit.spec.space import Space

from ..records.measuring import shelf_of
from ..records.store import Store
from .bench import Bench, Found, Job, Measuring
from .search import Executor, Search

TRIALS = 40  # of a search without a limit of its own


@long_work
def explore(
    base: Model,
    space: Any,
    objective: str | Sequence[str] = ("bytes", "retained"),
    budget: float | Budget | Mapping[str, float] | None = None,
    trials: int | None = None,
    *,
    sampler: Literal["tpe", "nsga2", "random", "grid"] = "tpe",
    halving: Sequence[int] = (),
    eta: float = 3.0,
    on: str | Path | Sequence[str] | Text | None = None,
    text: str | Path | Sequence[str] | Text | None = None,
    window: int = 256,
    windows: int = 8,
    prompt: int = 128,
    new_tokens: int = 32,
    repeats: int = 5,
    speed: bool | None = None,
    cluster: Any = None,
    study: str | Path | None = None,
    store: Store | str | Path | bool | None = None,
    resume: Snapshot | None = None,
) -> Work[Exploration]:
    """Search `space` for the recipes with the best trade-offs between the objectives; all trials, with what failed and why.

    space:     recipes with lists of choices: a dict, the path of a JSON file, a Space, or a list of Recipes
    objective: names of figures (`effkit.spec.frontier.FIGURES`), each with its own better direction
    budget:    minutes of work, or a Budget (minutes, a price with its price per hour). No trial is begun that would not end
               within it by what trials took so far; what runs is finished
    trials:    how many in all; None: the whole grid, until the budget ends, or 40
    sampler:   "tpe", "nsga2", "random" or "grid" (all, in order)
    halving:   windows of the cheap measurements, such as (2,): only the best 1/eta of all trials so far go on to the next
    on, window, windows, prompt, new_tokens, repeats: as for `ek.measure`; text: for steps that read text and name none
    speed:     measure speed too; None: where an objective asks for it. Of models of one layout it is measured once
    cluster:   True for a Dask cluster on this machine, a number of workers, an address, or a `distributed` Client
    study:     the folder of the search; None: one of its own for this call in the user's data folder. The same call goes on there
    store:     as for `ek.measure`

    A trial's quality, bytes and weights equal those of the same recipe made and measured alone. Cancelled, killed or out of
    budget: all trials that ended are kept. Raises BadInput (space, objectives, budget, a folder with another search), Unavailable.
    """
    if not isinstance(base, Model):
        raise BadInput(f"the base is a {type(base).__name__}", "Allowed: a model", "ek.load(name) gives one")
    if base.recipe.steps:
        raise BadInput(f"the base was already made by {base.recipe.label()!r}", "Allowed: a base model", "Load the base again")
    space, objectives = Space.of(space), check_objectives(objective)
    how = Measuring(window, windows, prompt, new_tokens, repeats, isolated="peak_memory" in objectives)
    timed = any(name in TIMED for name in objectives)
    if speed is False and timed:
        raise BadInput("speed is False and an objective is a speed", "Allowed: either", "Leave speed out")
    told, read = read_text(on), None if text is None else read_text(text, part="train")
    material_for(base, base, told, window, windows)
    rungs = _rungs(halving, windows, eta)
    facts = {
        "base": base.checkpoint.hash,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device.type,
        "space": space.model_dump(mode="json"),
        "objectives": list(objectives),
        "sampler": sampler,
        "halving": list(rungs[:-1]),
        "eta": eta,
        "text": told.hash,
        "text to learn from": read.hash if read else None,
        "way to measure": [window, windows, prompt, new_tokens, repeats, bool(timed if speed is None else speed)],
    }
    shelf = shelf_of(store)
    if shelf is not None:
        shelf.check()
    search = Search(
        folder=Path(study).expanduser().absolute() if study else data_folder() / "explorations" / content_hash(facts),
        facts=facts,
        space=space,
        objectives=objectives,
        sampler=sampler,
        rungs=rungs,
        eta=eta,
        budget=_budget(budget),
        trials=_limit(trials, sampler, budget),
        speed=timed if speed is None else speed,
        store=shelf,
    )
    search.open()
    try:
        yield from search.clock.counted(_explored(search, base, told, read, how, cluster))
        return search.exploration()
    finally:
        search.close()


def _explored(search: Search, base: Model, on: Text, text: Text | None, how: Measuring, cluster: Any) -> Work[None]:
    yield search.progress(message="reading the text")
    bench = Bench(base, on, text, how, search.folder / "made")
    executor: Executor = Here(bench)
    if cluster is not None and cluster is not False:
        from .cluster import Cluster

        executor = Cluster(cluster, bench)  # before the base is measured: an address where nobody answers is found at once
    try:
        if search.base is None:
            record = yield from _told(search, bench.measured_base(search.id, search.speed))
            write_text(search.folder / "base.json", record.to_json())
            search.base = record
            search.keep(record)
        yield from search.run(executor)
    finally:
        executor.close()


def _told(search: Search, work: Work[Any]) -> Work[Any]:
    """The base's measurement in the words of the search."""
    while True:
        try:
            event: Progress = next(work)
        except StopIteration as end:
            return end.value
        yield search.progress(message=_said("the base", event))


class Here:
    """One job at a time, in this process."""

    dashboard = ""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.job: Job | None = None

    def capacity(self) -> int:
        return 1

    def submit(self, job: Job) -> None:
        self.job = job

    def wait(self) -> Generator[str, None, list[Found]]:
        assert self.job is not None
        work = self.bench.found(self.job)
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return [end.value]
            yield _said(f"trial {self.job.number}, {self.job.name}", event)

    def close(self) -> None:
        self.job = None


def _said(what: str, event: Progress) -> str:
    return f"{what}: {event.task}, {event.done} of {event.total} {event.unit}"


def _rungs(halving: Sequence[int], windows: int, eta: float) -> tuple[int, ...]:
    if isinstance(halving, str) or not isinstance(halving, Sequence):
        raise BadInput(f"halving is {halving!r}", "Allowed: rising numbers of windows, such as (2,)")
    rungs = (*halving, windows)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in rungs)
    if not whole or list(rungs) != sorted(set(rungs)):
        raise BadInput(f"halving is {list(halving)}", f"Allowed: rising numbers of windows from 1 to less than the {windows} of windows")
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not eta > 1:
        raise BadInput(f"eta is {eta!r}", "Allowed: a number above 1, such as 3")
    return rungs


def _budget(given: Any) -> Budget:
    if given is None:
        return Budget()
    if isinstance(given, Budget):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = {"minutes": given}
    if isinstance(given, Mapping):
        return validated(Budget, dict(given), "the budget")
    raise BadInput(f"the budget is {given!r}", "Allowed: minutes, or {'minutes': 30}, or {'price': 2, 'price_per_hour': 3.5}")


def _limit(trials: Any, sampler: str, budget: Any) -> int | None:
    if trials is None:
        return None if sampler == "grid" or budget is not None else TRIALS
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise BadInput(f"trials is {trials!r}", "Allowed: a whole number of at least 1")
    return trials
