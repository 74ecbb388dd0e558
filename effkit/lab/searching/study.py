"""Which recipe to try next: Optuna's samplers over a space of recipes, in a journal that outlives its process.

"grid" tries all in order, "random" draws, "tpe" models where good ones lie (multi-objective tree-structured Parzen estimator:
Ozaki et al. 2022, doi:10.1613/jair.1.13188), "nsga2" breeds good ones (Deb et al. 2002, doi:10.1109/4235.996017). Optuna
(Akiba et al. 2019, arXiv:1907.10902) chooses values of open fields; a recipe that was tried is not made twice: the sampler
is told again what came of it. Every draw has a seed of its own, so that a search that was interrupted goes on as if it had
not been. `journal.log` is a study that Optuna's own plots and dashboard open.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effkit.spec.errors import BadInput, choice
from effkit.spec.files import content_hash, writing
from effkit.spec.frontier import FIGURES
from effkit.spec.space import WHICH, Draft, Point, Space, key_of

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "nsga2", "random", "grid")
JOURNAL = "journal.log"
LARGEST = 10_000  # points that are counted through, for a grid and to know that all were tried
DRAWS = 12  # of recipes that were tried already, before any other is taken


@dataclass
class Taken:
    """A point that is being tried or was: `number` is the trial's, `optuna` Optuna's own. values: None where it failed."""

    number: int
    point: Point
    draft: Draft
    optuna: int
    told: bool = False
    values: tuple[float, ...] | None = None


@dataclass
class Study:
    """Asks for recipes and is told what they are worth. population: of nsga2."""

    folder: Path
    space: Space
    objectives: tuple[str, ...]
    sampler: str
    population: int = 10
    taken: dict[str, Taken] = field(default_factory=dict)
    _again: list[tuple[int, Point]] = field(default_factory=list)
    _rest: list[Point] | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise choice("the sampler", self.sampler, SAMPLERS)
        self.countable = self.space.size <= LARGEST
        if self.sampler == "grid":
            next(self.space.points())  # refuses a range without steps
            if not self.countable:
                raise BadInput(
                    f"the grid has {self.space.size:.0f} recipes", f"Allowed: at most {LARGEST}", "Use the sampler 'tpe' or 'random'"
                )
        self._study = self._opened()

    def _opened(self) -> optuna.Study:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = self.folder / JOURNAL
        with writing(path):
            if path.exists():
                whole = path.read_bytes()
                if not whole.endswith(b"\n"):  # a line that a kill tore: what it said had not happened
                    path.write_bytes(whole[: whole.rfind(b"\n") + 1])
            storage = JournalStorage(JournalFileBackend(str(path), _Owned()))  # type: ignore[arg-type]
            with _quiet() as optuna:
                return optuna.create_study(
                    storage=storage,
                    study_name="effkit",
                    load_if_exists=True,
                    directions=["minimize" if FIGURES[name][2] == "down" else "maximize" for name in self.objectives],
                )

    # going on

    def recall(self, done: dict[int, tuple[Draft, tuple[float, ...] | None]]) -> None:
        """Bring the journal and the trials that are `done` (by number: the draft, its values or None) to one state.

        A trial that was being worked on will be asked for again, first of all.
        """
        from optuna.trial import TrialState

        again: dict[int, Point] = {}
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.tell(self._study.ask(), state=TrialState.FAIL)  # the end came between a point and the trial that asks for it
        for frozen in self._study.get_trials(deepcopy=False):
            number = frozen.user_attrs.get("number")
            if number is None or "repeats" in frozen.user_attrs:
                if not frozen.state.is_finished():
                    self._study.tell(frozen.number, state=TrialState.FAIL)
            elif number in done:
                draft, values = done[number]
                self.taken[key_of(draft)] = Taken(number, dict(frozen.params), draft, frozen.number, True, values)
                if not frozen.state.is_finished():
                    self.tell(number, values)
            else:
                again[number] = dict(frozen.params)
                if not frozen.state.is_finished():
                    self._study.tell(frozen.number, state=TrialState.FAIL)
        self._again = sorted(again.items())
        told = {taken.number for taken in self.taken.values()}
        for number, (draft, values) in sorted(done.items()):
            if number not in told:  # its line in the journal was lost
                self.taken[key_of(draft)] = Taken(number, {}, draft, -1, True, values)

    # asking and telling

    def ask(self, busy: Callable[[Draft], bool] = lambda draft: False) -> Taken | None:
        """The next recipe; None where all of the space was tried. A grid puts off those that are `busy`, while it has others."""
        if self._again:
            number, point = self._again.pop(0)
            return self._take(number, self._asked(number, 0, point))
        number = 1 + max((taken.number for taken in self.taken.values()), default=-1)
        if self.sampler != "grid":
            for attempt in range(DRAWS):
                if self.countable and len(self.taken) >= self.space.size:
                    break
                trial = self._asked(number, attempt)
                known = self.taken.get(key_of(self._draft(trial)))
                if known is None:
                    return self._take(number, trial)
                self._repeated(trial, known)
        if not self.countable:
            return None
        point = self._untried(busy)
        return None if point is None else self._take(number, self._asked(number, DRAWS, point))

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """What trial `number` is worth: the figures that were asked for, or None where it failed."""
        from optuna.trial import TrialState

        taken = next(t for t in self.taken.values() if t.number == number)
        taken.told, taken.values = True, None if values is None else tuple(values)
        if taken.optuna < 0:
            return
        with writing(self.folder / JOURNAL), _quiet():
            if values is None:
                self._study.tell(taken.optuna, state=TrialState.FAIL)
            else:
                self._study.tell(taken.optuna, list(values))

    def put_back(self, taken: Taken) -> None:
        """Do not try it now: it will be asked for before any other."""
        from optuna.trial import TrialState

        self._study.tell(taken.optuna, state=TrialState.FAIL)
        del self.taken[key_of(taken.draft)]
        self._again.insert(0, (taken.number, taken.point))

    def _asked(self, number: int, attempt: int, point: Point | None = None) -> optuna.Trial:
        """A trial of Optuna's with a value for each open field: those of `point`, the others drawn."""
        with writing(self.folder / JOURNAL), _quiet():
            self._study.sampler = self._drawing(int(content_hash([self.space.seed, number, attempt])[:8], 16))
            if point is not None:
                self._study.enqueue_trial(point)
            trial = self._study.ask()
            trial.set_user_attr("number", number)
            self._draft(trial)
            return trial

    def _draft(self, trial: optuna.Trial) -> Draft:
        which = 0
        if len(self.space.recipes) > 1:
            which = trial.suggest_categorical(WHICH, list(range(len(self.space.recipes))))
        point = self.space.start(which)
        for one in self.space.dimensions(which):
            span = one.range
            if span is None:
                point[one.name] = trial.suggest_categorical(one.name, one.keys())
            elif span.whole:
                point[one.name] = trial.suggest_int(one.name, int(span.low), int(span.high), step=int(span.by or 1), log=span.log)
            else:
                point[one.name] = trial.suggest_float(one.name, span.low, span.high, step=span.by, log=span.log)
        return self.space.draft(point)

    def _take(self, number: int, trial: optuna.Trial) -> Taken:
        taken = Taken(number, dict(trial.params), self._draft(trial), trial.number)
        self.taken[key_of(taken.draft)] = taken
        return taken

    def _repeated(self, trial: optuna.Trial, known: Taken) -> None:
        """Tell the sampler what it had been told of the same recipe."""
        from optuna.trial import TrialState

        with _quiet():
            trial.set_user_attr("repeats", known.number)
            if known.told and known.values is not None:
                self._study.tell(trial, list(known.values))
            else:
                self._study.tell(trial, state=TrialState.FAIL)

    def _untried(self, busy: Callable[[Draft], bool]) -> Point | None:
        """In a grid's order, or at random for the other samplers."""
        if self._rest is None:
            self._rest = list(self.space.points()) if self.sampler == "grid" else self.space.shuffled(self.space.seed)
        self._rest = [point for point in self._rest if key_of(self.space.draft(point)) not in self.taken]
        return next((point for point in self._rest if not busy(self.space.draft(point))), self._rest[0] if self._rest else None)

    def _drawing(self, seed: int) -> Any:
        from optuna import samplers

        if self.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        if self.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=self.population)
        return samplers.RandomSampler(seed=seed)


class _Owned:
    """Optuna's lock on its journal, where the folder has one owner anyhow: nothing to wait for, nothing that a kill leaves behind.
    (Its own, when a signal comes while it waits, raises that it was not held, in place of the signal.)"""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna without its lines on what it does, which are its caller's to tell; its setting is put back."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # choices that are no plain value are kept as JSON text already
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)
