"""The state of a distillation and one step of it, in pieces between which it may be paused or left.

Everything random follows from the seed and the step's number, so that a run resumed from a snapshot goes on bit for
bit (on CPU with the same number of threads): the order of what is read is drawn anew for each pass from (seed, pass),
and dropout and sampling from (seed, step, piece). A step that was left in the middle is done again from its beginning.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from effkit.hardware.attached.device import Device
from effkit.hardware.attached.memory import guard
from effkit.hardware.attached.processes import Crew, crew
from effkit.models.model import Model
from effkit.spec.errors import EffkitError
from effkit.spec.progress import Snapshot, Work
from effkit.spec.recipe import Distill, step_of

from ..fitting import hidden_words
from ..weights import Weights, rate_at, working
from .losses import forward_kl, hard_labels, objective
from .material import NO_LABEL, Batch, Material, Texts
from .planning import hard_weight, trained_parameters
from .rounded import RoundedForward
from .sampling import continued
from .teachers import Teachers
from .transfer import Transfer, attending

PIECE = 1.8e10  # tokens x parameters of one piece of work on a CPU: about half a second on two cores
ANSWERS = 64_000_000  # logits of a classifier's teachers that are remembered, in four bytes each
ROLLBACKS = 3  # how often a diverging run is taken back, with half the learning rate each time
MIX = {"jensen-shannon": 0.5, "skew-kl": 0.1}


@dataclass
class Training:
    """All that changes while training, and what it is made from."""

    teachers: Teachers
    student: Model
    step: Distill
    material: Material
    seed: int
    weights: Weights
    transfer: Transfer | None = None
    forward: RoundedForward | None = None
    crew: Crew = field(default_factory=Crew)
    done: int = 0
    changes: list[str] = field(default_factory=list)
    rollbacks: int = 0
    _good: Snapshot | None = None
    _held: list[tuple[Batch, Tensor]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, teachers: Sequence[Model], student: Model, step: Distill, material: Material, seed: int, shared: bool = False
    ) -> Training:
        parameters = trained_parameters(student, step.train)
        student.module.requires_grad_(False)
        transfer = Transfer(teachers[0], student, step.layer_map, seed) if step.hidden or step.attention else None
        if transfer is not None:
            parameters |= {f"transfer.{name}": p for name, p in transfer.maps.named_parameters()}
        weights = Weights(parameters, student.device, step.autocast, betas=(0.9, 0.98))
        forward = RoundedForward(student, step.quantize) if step.quantize else None
        kept = Teachers(teachers, student, step.window, step.top_k, shared)
        return cls(kept, student, step, material, seed, weights, transfer, forward, crew(student.device))

    @cached_property
    def device(self) -> Device:
        """The student's, found once: asking for it reads what memory there is from files."""
        return self.student.device

    @property
    def piece(self) -> int:
        """Windows or texts that are worked on between two yields: all of a batch, except by a large model on a CPU."""
        if self.device.type != "cpu":
            return self.step.batch
        largest = max(m.checkpoint.parameters for m in (*self.teachers.models, self.student))
        return max(1, min(self.step.batch, int(PIECE / (self.step.window * max(1, largest)))))

    @property
    def hard(self) -> float:
        """Weight of the cross-entropy with the next token or the class."""
        return hard_weight(self.step, self.student.task)

    def ask_(self) -> Work[None]:
        """Where every text of a classifier will be read twice or more, its teachers are asked once, now."""
        step, material = self.step, self.material
        look = step.hidden or step.attention or step.top_k is not None or step.objective == "hard-labels"
        if look or not isinstance(material, Texts) or step.steps * step.batch < 2 * material.count:
            return
        if material.count * int(self.student.config.num_labels) * self.teachers.passes <= ANSWERS:
            yield from self.teachers.ask_(material.train, step.autocast)

    def read_(self) -> Iterator[None]:
        """Tokenize what a classifier's steps will read, so that none waits for it; yields now and then."""
        if isinstance(self.material, Texts):
            models = [self.student, *(() if self.teachers.asked else self.teachers.models)]
            ahead = min(self.material.count, (self.step.steps - self.done) * self.step.batch)
            yield from self.material.read_(self._rows(self.done * self.step.batch, ahead), models, self.step.window)

    def batch(self) -> Batch:
        """What the next step reads. Everything is read once before anything is read twice."""
        return self.material.batch(self._rows(self.done * self.step.batch, self.step.batch))

    def _rows(self, first: int, many: int) -> list[int]:
        """So many rows of the material in the order of reading, from position `first` on."""
        count = self.material.count
        return [int(_order(count, self.seed, p // count)[p % count]) for p in range(first, first + many)]

    def rate(self) -> float:
        return self.step.learning_rate * rate_at(self.done, self.step.steps, self.step.schedule == "linear")

    # one step

    def train_(self) -> Iterator[None]:
        """One step of AdamW, in pieces; yields between them. The loss before the step is in `loss` afterwards."""
        batch = self.batch()
        size = min(self.piece, math.ceil(len(batch) / self.crew.size))
        mine, pieces = 0.0, self.crew.share(list(enumerate(batch.parts(size))))
        self.weights.clear_()
        for at, part in pieces:
            with working(self.student, self.device, "distilling", _number(self.seed, self.done, at)):
                loss = self._loss(self._read(part, at), _number(self.seed, self.done, at)) * (len(part) / len(batch))
                value = float(loss.detach())
                if not math.isfinite(value) and self.crew.size == 1:  # with others all must hear of it: their sum tells them
                    return self._diverged_()
                self.weights.backward(loss)
                mine += value
            if at != pieces[-1][0]:
                yield
        outcome, total = self.weights.step_(self.rate(), mine, self.crew)
        if outcome == "again":
            return (yield from self.train_())
        if outcome == "diverged":
            return self._diverged_()
        self.done += 1
        self.loss = total

    loss = math.nan

    def _read(self, part: Batch, at: int) -> Batch:
        if self.step.source == "text" or part.ids is None:
            return part
        writer = self.teachers.models[0] if self.step.source == "teacher" else self.student
        return continued(writer, part, seed=_number(self.seed, self.done, at))

    def _loss(self, part: Batch, number: int) -> Tensor:
        step, inside = self.step, self.transfer is not None
        look = {"output_hidden_states": True} if inside and step.hidden else {}
        look |= {"output_attentions": True} if inside and step.attention else {}
        inputs = part.inputs(self.student, step.window)
        hidden = {"attention_mask": hidden_words(inputs["attention_mask"], step.word_dropout, number)} if step.word_dropout else {}
        extra = {"use_cache": False} if self.student.task == "causal-lm" else {}
        see = attending(self.student, self.teachers.models[0]) if inside and step.attention else contextlib.nullcontext()
        with see, self.weights.autocast():
            forward: Any = self.forward or self.student.module
            output = forward(**{**inputs, **hidden}, **extra, **look)
            logits, theirs_inside = output.logits, None
            loss = logits.new_zeros((), dtype=torch.float32)
            if step.objective != "hard-labels":
                said = self.teachers.say(part, step.temperature, look)
                theirs_inside = said.inside
                ours, theirs = said.same_outcomes(logits, step.temperature), said.logits.to(logits.device)
                if part.scored is not None:
                    ours, theirs = ours[part.scored], theirs[part.scored.to(theirs.device)]
                mix = step.mix or MIX.get(step.objective, 0.5)
                loss = loss + objective(step.objective)(ours, theirs, step.temperature, mix)
            if self.hard:
                loss = loss + self.hard * self._hard(logits, part)
            if self.transfer is not None and look:
                theirs_inside = theirs_inside or self.teachers.inside(part, look)
                loss = loss + self._inside(output, theirs_inside, inputs.get("attention_mask"))
        return loss

    def _hard(self, logits: Tensor, part: Batch) -> Tensor:
        if part.ids is None:
            assert part.labels is not None
            return hard_labels(logits, part.labels.to(logits.device))
        following = part.ids[:, 1:].to(logits.device)
        if part.scored is not None:
            following = torch.where(part.scored[:, :-1].to(logits.device), following, NO_LABEL)
        return hard_labels(logits[:, :-1], following)

    def _inside(self, output: Any, theirs: Any, mask: Tensor | None) -> Tensor:
        assert self.transfer is not None
        loss = output.logits.new_zeros((), dtype=torch.float32)
        if self.step.hidden:
            loss = loss + self.step.hidden * self.transfer.hidden(output.hidden_states, theirs.hidden_states, mask)
        if self.step.attention:
            loss = loss + self.step.attention * self.transfer.attention(output.attentions, theirs.attentions, mask)
        return loss

    # held-out text

    def measure_(self) -> Iterator[None]:
        """KL to the teacher at temperature 1 on what is never trained on, in `held_out`; yields between two windows."""
        total, count = 0.0, 0
        if not self._held:
            for batch in self.material.held():
                self._held.append((batch, self.teachers.all(batch)))
                yield
        with torch.no_grad(), guard(self.student.device, "rounding the student"):
            rounded = self.forward.weights() if self.forward else {}
        for batch, theirs in self._held:
            inputs = batch.inputs(self.student, self.step.window)
            with torch.no_grad(), guard(self.device, "measuring the student"):
                if self.forward is None:
                    ours = self.student.logits(inputs["input_ids"], inputs.get("attention_mask"))
                else:
                    ours = self.forward.call(rounded, **inputs).logits
                total += float(forward_kl(ours, theirs)) * len(batch)
            count += len(batch)
            yield
        self.held_out = total / count
        if self.step.patience is not None:
            self.weights.judge_(self.held_out)
        self._good = self.snapshot()

    held_out = math.nan

    def references(self) -> dict[str, float]:
        """What held-out losses mean: 0 is the teacher; always saying its average is what a student learns without reading."""
        logs = [torch.log_softmax(theirs.float(), -1).flatten(0, -2) for _, theirs in self._held]
        average = torch.stack([log.exp().sum(0) for log in logs]).sum(0) / sum(len(log) for log in logs)
        lost = sum(float((log.exp() * (log - average.clamp_min(1e-30).log())).sum()) for log in logs)
        return {"teacher": 0.0, "constant answer": lost / sum(len(log) for log in logs)}

    @property
    def stalled(self) -> bool:
        return self.step.patience is not None and self.weights.waited >= self.step.patience

    # snapshots, knobs, and what goes wrong

    def snapshot(self) -> Snapshot:
        return self.weights.snapshot(
            done=self.done, step=self.step.model_dump(mode="json"), seed=self.seed, changes=list(self.changes), rollbacks=self.rollbacks
        )

    def restore_(self, snapshot: Snapshot) -> None:
        state = snapshot.state
        self.weights.restore_(snapshot)
        self.step = Distill.model_validate(state["step"])
        self.done, self.seed, self.changes = int(state["done"]), int(state["seed"]), list(state["changes"])
        self.rollbacks = int(state["rollbacks"])
        if note := state.get("note"):
            self.changes.append(note)
        if change := state.get("change"):
            self.change_(change)

    def change_(self, knobs: Mapping[str, Any]) -> None:
        fields = self.step.model_dump() | dict(knobs)
        self.step = step_of(Distill, **fields)
        told = {name: "its default" if value is None else f"{value:g}" for name, value in dict(knobs).items()}
        self.changes += [f"{name} became {value} after step {self.done}" for name, value in told.items()]

    def _diverged_(self) -> None:
        """Go back to the last good point with half the learning rate; after a few times, say that it does not work."""
        self.weights.clear_()
        failed, rate = self.done + 1, self.step.learning_rate
        if self._good is None or self.rollbacks >= ROLLBACKS:
            again = f", also after it was halved {self.rollbacks} times" if self.rollbacks else ""
            raise EffkitError(
                f"The loss is not finite at step {failed}: training diverged. "
                f"Lower the learning rate (it is {rate:g}{again}) and start again; the student is as it was."
            )
        rollbacks, changes, step = self.rollbacks + 1, self.changes, self.step
        self.restore_(self._good)
        self.rollbacks, self.changes, self.step = rollbacks, changes, step  # knobs that were turned since stay
        self.change_({"learning_rate": rate / 2})
        self.changes[-1] = f"the loss was not finite at step {failed}: back to step {self.done} with learning_rate {rate / 2:g}"


@lru_cache(maxsize=2)  # a batch lies in at most two passes; drawing one for each unit took as long as a small step
def _order(count: int, seed: int, epoch: int) -> Any:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).numpy()


def _number(seed: int, step: int, piece: int) -> int:
    """A seed for one piece of one step; the first piece's is the step's."""
    return seed * 1_000_003 + step + piece * 7_919_000_003
