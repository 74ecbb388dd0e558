"""TextBrewer's side of `textbrewer.py`, run in TextBrewer's own environment, which has no effkit: `worker.py FOLDER`.

Trains FOLDER/student towards FOLDER/teacher as TextBrewer's documentation shows (BasicDistiller, AdamW, LambdaLR). Commands
come one a line on stdin, as JSON; answers go out likewise. The data loader waits for "go" before each block of steps, so
that the other library can work in between; the time of a step is that between two batches it takes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# The protocol has the real stdout for itself: whatever a library prints goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import safetensors.torch  # noqa: E402
import textbrewer  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def say(**answer: object) -> None:
    ANSWERS.write(json.dumps(answer) + "\n")


def heard() -> dict:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the other side has gone")
    return json.loads(line)


class Loader:
    """Batches in the order given; a block of them for each "go"."""

    def __init__(self, batches: list[dict], block: int) -> None:
        self.batches = [{name: torch.tensor(value) for name, value in batch.items()} for batch in batches]
        self.block, self.times = block, []

    def __iter__(self) -> Iterator[dict]:
        for i, batch in enumerate(self.batches):
            if i % self.block == 0:
                if i:
                    self.told()
                assert heard()["do"] == "go"
            start = time.perf_counter()
            yield batch
            self.times.append(time.perf_counter() - start)

    def told(self) -> None:
        say(median=statistics.median(self.times))
        self.times = []


def train(folder: Path, command: dict) -> None:
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    teacher, student = load(folder / "teacher").eval(), load(folder / "student")
    loader = Loader(json.loads((folder / f"batches-{command['seed']}.json").read_text()), command["block"])
    steps, temperature = len(loader.batches), command["temperature"]

    def adaptor(batch, outputs):
        return {"logits": outputs.logits}

    torch.manual_seed(command["seed"])
    with tempfile.TemporaryDirectory() as output:
        distiller = textbrewer.BasicDistiller(
            textbrewer.TrainingConfig(device="cpu", output_dir=output, ckpt_steps=10**9),
            # its cross-entropy has no factor of temperature squared; given as a weight, both sides descend the same gradient
            textbrewer.DistillationConfig(temperature=temperature, kd_loss_weight=temperature**2, hard_label_weight=0.0),
            teacher, student, adaptor, adaptor,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(student.parameters(), lr=command["rate"], weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        warm_up = max(1, round(steps * 0.1))
        schedule = {"lr_lambda": lambda step: min(1.0, (step + 1) / warm_up)}
        with distiller:
            distiller.train(
                optimizer, loader, num_steps=steps, max_grad_norm=1.0,
                scheduler_class=torch.optim.lr_scheduler.LambdaLR, scheduler_args=schedule,
            )  # fmt: skip
    loader.told()
    student.eval()
    with torch.inference_mode():
        tests = json.loads((folder / "test.json").read_text())
        logits = [student(**{name: torch.tensor(value) for name, value in batch.items()}).logits for batch in tests]
    safetensors.torch.save_file({"logits": torch.cat(logits)}, folder / f"theirs-{command['seed']}.safetensors")
    say(done=True)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    say(torch=torch.__version__, transformers=transformers.__version__)
    while (command := heard())["do"] == "train":
        train(folder, command)


if __name__ == "__main__":
    main()
