"""Against TextBrewer: the same teacher, student, data, order, steps and optimizer; whose student is better, whose step is faster?

    python tests/benchmarks/peers/textbrewer.py [--steps N] [--seeds N] [--environment FOLDER] [--quick]

The task is real: effkit's "healthcare", ICD-10-CM descriptions to chapters, split so that no test description has a sibling in
training. The teacher is a BERT of 4 layers trained here from scratch on the labels, the student its layers 0 and 3. Both
libraries minimise the KL to the teacher at the same temperature with fused AdamW, warm-up and clipping alike; neither is shown
the labels.

TextBrewer (Yang et al. 2020, arXiv:2002.12620) runs in an environment of its own, which this script makes once (pip, in
--environment) with the versions of torch and transformers that run here. Weights go over as safetensors and batches as
JSON, already tokenized for TextBrewer (effkit's step reads its texts itself and is timed with that). The two take turns, a
block of steps each, the first one changing: `step_ratio` is the median over the blocks of the ratio of effkit's median time
a step to TextBrewer's. macro-F1 and KL are of the same test texts, computed by one function.

--no-dropout: dropout is all that the two draw for themselves; without it they must come to the same student, and `apart` is the
largest difference between their logits on the test texts.

The last line is one JSON object; with several seeds figures are means, `..._spread` standard deviations.
Goals: our macro-F1 no worse than theirs by more than the spread of the seeds, step_ratio at most 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]  # this is not textbrewer

from reporting import last_line, spread, summed_up  # noqa: E402

print = functools.partial(print, flush=True)

BLOCK, WINDOW, TEMPERATURE = 10, 32, 2.0


def environment(folder: Path) -> Path:
    """The Python of an environment that holds TextBrewer and the versions of torch and transformers that run here."""
    import torch
    import transformers

    python = folder / "bin" / "python"
    wanted = [torch.__version__.split("+")[0], transformers.__version__]
    ask = "import importlib.metadata as m; import textbrewer; print(m.version('torch').split('+')[0], m.version('transformers'))"
    if python.exists():
        told = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True)
        if told.stdout.split() == wanted:
            return python
    print(f"making the environment {folder} (once)")
    venv.create(folder, with_pip=True, clear=True)
    packages = [f"torch=={wanted[0]}", f"transformers=={wanted[1]}", "safetensors", "textbrewer"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    return python


def untrained(folder: Path, texts: list[str], classes: int) -> None:
    """A folder with a BERT of 4 layers that has learnt nothing yet, and a WordPiece tokenizer made from `texts`."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=4000, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **named).save_pretrained(folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, num_labels=classes, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)


class Worker:
    """TextBrewer's process."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        script = Path(__file__).with_name("textbrewer_worker.py")
        self.log = (folder / "textbrewer.log").open("w+")
        self.process = subprocess.Popen(
            [python, "-I", script, folder, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.versions = self.heard()

    def say(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"TextBrewer's process has ended:\n{self.log.read()[-4000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Ours:
    """effkit's distillation, driven step by step."""

    def __init__(self, work: Any) -> None:
        self.work = work
        next(work)  # the held-out text is read before the first step
        self.model: Any = None

    def block(self, steps: int) -> float:
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            next(self.work)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def end(self) -> Any:
        try:
            while True:
                next(self.work)
        except StopIteration as end:
            return end.value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each student (default: %(default)s)")
    parser.add_argument("--teacher-steps", type=int, default=1500, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of both (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both (default: %(default)s)")
    parser.add_argument("--environment", type=Path, help="where TextBrewer's environment is made (default: in the user's cache folder)")
    parser.add_argument("--no-dropout", action="store_true", help="train the student without dropout: both must then end alike")
    parser.add_argument("--quick", action="store_true", help="a teacher of 150 steps, students of 60, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.teacher_steps, arguments.seeds = 60, 150, 1

    if arguments.steps % BLOCK or arguments.steps < 3 * BLOCK:
        parser.error(f"--steps is {arguments.steps}; allowed: a multiple of {BLOCK}, at least {3 * BLOCK}")

    import platformdirs
    import torch
    import transformers
    from safetensors.torch import load_file
    from sklearn.metrics import f1_score

    import effkit as ek
    from effkit.compress.distillation.losses import forward_kl
    from effkit.compress.distillation.material import texts_for
    from effkit.compress.distillation.training import Training
    from effkit.models.texts.labelled import read_labelled, split
    from effkit.spec.recipe import Distill

    begun = time.perf_counter()
    torch.set_num_threads(arguments.threads)
    python = environment(arguments.environment or Path(platformdirs.user_cache_dir("effkit")) / "benchmarks" / "textbrewer")
    parts = split(read_labelled("healthcare"))
    texts, labels, test = list(parts.train.texts), list(parts.train.labels), parts.test
    classes = len(parts.train.classes)

    with tempfile.TemporaryDirectory(prefix="effkit-textbrewer-") as home:
        folder = Path(home)
        untrained(folder / "untrained", texts, classes)
        blank = ek.load(str(folder / "untrained"), device="cpu")
        way = {"train": "all", "window": WINDOW, "batch": arguments.batch, "learning_rate": arguments.rate}
        start = time.perf_counter()
        teacher = ek.distill(blank, blank, texts, labels=labels, objective="hard-labels", steps=arguments.teacher_steps, **way)
        print(f"teacher: {teacher.checkpoint.parameters} parameters, {classes} chapters, {time.perf_counter() - start:.0f} s")
        student = ek.prune(teacher, layers=2)
        if arguments.no_dropout:
            student.config.hidden_dropout_prob = student.config.attention_probs_dropout_prob = 0.0
            for part in student.module.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0

        def coded(these: Sequence[str]) -> dict[str, Any]:
            return dict(teacher.tokenizer(list(these), padding=True, truncation=True, max_length=WINDOW))

        tests = [coded(test.texts[i : i + 64]) for i in range(0, len(test), 64)]
        (folder / "test.json").write_text(json.dumps([{k: b[k] for k in ("input_ids", "attention_mask")} for b in tests]))
        for model, name in ((teacher, "teacher"), (student, "student")):
            model.module.save_pretrained(folder / name)

        def logits(model: Any) -> torch.Tensor:
            return torch.cat([model.logits(b["input_ids"], torch.tensor(b["attention_mask"])) for b in tests])

        truth, wanted = test.labels, logits(teacher)

        def judged(said: torch.Tensor) -> tuple[float, float]:
            """macro-F1, and KL to the teacher in nats a text."""
            return float(f1_score(truth, said.argmax(-1).tolist(), average="macro")), float(forward_kl(said, wanted))

        teacher_f1, pruned = judged(wanted)[0], judged(logits(student))
        print(f"test: {len(test)} descriptions; macro-F1 of the teacher {teacher_f1:.3f}, of the pruned student {pruned[0]:.3f}")

        def batches(seed: int) -> list[dict[str, Any]]:
            """What effkit's step reads, in its order, as TextBrewer reads it."""
            step = Distill(steps=arguments.steps, temperature=TEMPERATURE, **way)
            training = Training.begin((teacher,), student.clone(), step, texts_for(texts, None, classes), seed)
            found = []
            for training.done in range(arguments.steps):
                found.append({k: v for k, v in coded(training.batch().texts).items() if k in ("input_ids", "attention_mask")})
            return found

        worker = Worker(python, folder, arguments.threads)
        found: dict[str, list[float]] = {}
        ratios: list[float] = []
        apart: list[float] = []
        try:
            for seed in range(arguments.seeds):
                (folder / f"batches-{seed}.json").write_text(json.dumps(batches(seed)))
                worker.say(do="train", seed=seed, block=BLOCK, temperature=TEMPERATURE, rate=arguments.rate)
                ours = Ours(ek.distill.work(teacher, student, texts, steps=arguments.steps, temperature=TEMPERATURE, seed=seed, **way))
                times: dict[str, list[float]] = {"ours": [], "theirs": []}
                for turn in range(arguments.steps // BLOCK):
                    for who in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                        if who == "theirs":
                            worker.say(do="go")
                        times[who].append(ours.block(BLOCK) if who == "ours" else worker.heard()["median"])
                assert worker.heard()["done"]
                # the first block warms both up
                ratios += [a / b for a, b in zip(times["ours"][1:], times["theirs"][1:], strict=True)]
                both = {"ours": logits(ours.end()), "theirs": load_file(folder / f"theirs-{seed}.safetensors")["logits"]}
                apart.append(float((both["ours"] - both["theirs"]).abs().max()))
                for who, said in both.items():
                    f1, kl = judged(said)
                    milliseconds = 1000 * statistics.median(times[who][1:])
                    for name, value in ((f"{who}_f1", f1), (f"{who}_kl", kl), (f"{who}_step_ms", milliseconds)):
                        found.setdefault(name, []).append(value)
                    print(f"seed {seed}, {who}: macro-F1 {f1:.4f}, KL {kl:.4f}, {milliseconds:.1f} ms a step")
        finally:
            worker.close()

    quartiles = statistics.quantiles(ratios, n=4)
    result = {
        **summed_up(found), "step_ratio": round(statistics.median(ratios), 4), "step_ratio_quartiles": [round(quartiles[0], 4),
        round(quartiles[2], 4)], "teacher_f1": round(teacher_f1, 4), "pruned_f1": round(pruned[0], 4), "pruned_kl": round(pruned[1], 4),
        "test": len(test), "steps": arguments.steps, "batch": arguments.batch, "temperature": TEMPERATURE, "rate": arguments.rate,
        "seeds": arguments.seeds, "threads": arguments.threads, "torch": torch.__version__, "transformers": transformers.__version__,
        "their_torch": worker.versions["torch"], "their_transformers": worker.versions["transformers"],
    }  # fmt: skip
    noise = max(spread(found["ours_f1"]), spread(found["theirs_f1"]))
    mean = {who: statistics.fmean(found[f"{who}_f1"]) for who in ("ours", "theirs")}
    if arguments.no_dropout:
        result["apart"] = max(apart)
    result["within_goals"] = mean["ours"] >= mean["theirs"] - noise and statistics.median(ratios) <= 1.0
    result["seconds"] = round(time.perf_counter() - begun, 1)
    last_line(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
