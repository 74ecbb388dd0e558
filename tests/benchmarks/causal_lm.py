"""Does the teacher help? A language model with a quarter of its layers, distilled on domain text, against learning alone.

    python tests/benchmarks/causal_lm.py [--model NAME_OR_PATH] [--layers N | --keep I,J,...] [--text FILE] [--steps N] [--quick]

The student keeps some of the teacher's layers and learns for the same steps, from the same windows in the same order,
twice: from its teacher's probabilities, and alone, from the next tokens (hard labels). Each way gets the learning rate of
--rates that gives it the lower perplexity on text held out for this choice, with the first seed. What is reported
is measured on a third text, the test, that neither training nor the choice has seen: by default the parts "train",
"held-out" and "test" of the technical English that effkit carries; of a FILE the first 85%, the next 5% and the last 10%.
The pruned student is the same in every run: seeds differ in the order of the windows.

Figures: KL to the teacher (nats a token) and perplexity of the teacher, the pruned student, the distilled one and the one
that learned alone; `compute_ratio`: the student's share of the teacher's layers, that is of their compute (embedding and
head stay; with the head it is `compute_ratio_with_head`). With three seeds each figure is their mean, `..._spread` their
standard deviation. The last line is one JSON object. --quick takes stories15m (beside the checkout in shared/, or --model).
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from typing import Any

from reporting import against, last_line, shared, summed_up

print = functools.partial(print, flush=True)


def parts_of(file: str | None) -> tuple[Any, Any, Any]:
    """Text to train on, to choose the learning rate on, and to test on: disjoint."""
    from effkit.models.texts.datasets import read_text

    if file is None:
        return read_text(None, "train"), read_text(None, "held-out"), read_text(None, "test")
    text = read_text(file).text
    cuts = [text.find("\n", int(len(text) * share)) for share in (0.85, 0.9)]
    if min(cuts) < 0:
        raise SystemExit(f"{file} has no line ends where it could be cut into training, held-out and test text")
    return text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="name or folder of the teacher (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=7, help="how many layers the student keeps (default: %(default)s)")
    parser.add_argument("--keep", help="which layers it keeps instead, such as 0,1,2,3,4,28,29")
    parser.add_argument("--text", help="a text file of the domain (default: effkit's offline technical English)")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--hard", type=float, help="weight of the next tokens beside the teacher (default: effkit's)")
    parser.add_argument("--hidden", type=float, default=0.0, help="weight of hidden-state transfer (default: %(default)s)")
    parser.add_argument("--top-k", type=int, help="keep only so many of the teacher's tokens (default: all)")
    parser.add_argument("--train", default="blocks", choices=["blocks", "all"], help="which weights learn (default: %(default)s)")
    parser.add_argument("--rates", default="5e-4,1e-3", help="learning rates that each way may choose from (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-windows", type=int, default=24, help="windows of the test text (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="stories15m, one of its 6 layers, 30 steps, one learning rate: about a minute")
    arguments = parser.parse_args()
    if arguments.quick:
        if arguments.model == parser.get_default("model"):
            arguments.model = str(shared("models/stories15m", "--model FOLDER"))
        arguments.layers, arguments.steps, arguments.test_windows, arguments.rates = 1, 30, 16, "1e-3"

    import torch

    import effkit as ek

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    begun = time.perf_counter()
    teacher = ek.load(arguments.model, device="cpu")
    student = ek.prune(teacher, layers=[int(i) for i in arguments.keep.split(",")] if arguments.keep else arguments.layers)
    train, choice, test = parts_of(arguments.text)
    rates = [float(rate) for rate in arguments.rates.split(",")]
    seeds = list(range(arguments.seeds))
    common = {name: getattr(arguments, name) for name in ("steps", "window", "batch", "train")}
    ways: dict[str, dict[str, Any]] = {
        "distilled": {name: getattr(arguments, name) for name in ("temperature", "hard", "hidden", "top_k")},
        "alone": {"objective": "hard-labels"},
    }

    measured = against(teacher, arguments.window)

    def trained(way: str, rate: float, seed: int) -> tuple[Any, float]:
        """The student after its steps, and seconds a step."""
        start = time.perf_counter()
        model = ek.distill(teacher, student, train, learning_rate=rate, seed=seed, **common, **ways[way])
        return model, (time.perf_counter() - start) / arguments.steps

    _, teacher_perplexity = measured(teacher, test, arguments.test_windows)
    pruned_kl, pruned_perplexity = measured(student, test, arguments.test_windows)
    print(f"teacher: perplexity {teacher_perplexity:.2f}; pruned to {student.config.num_hidden_layers} of "
          f"{teacher.config.num_hidden_layers} layers: KL {pruned_kl:.3f}, perplexity {pruned_perplexity:.4g}")  # fmt: skip

    found: dict[str, list[float]] = {}
    chosen: dict[str, float] = {}
    for way in ways:
        tried = {}
        for rate in rates:
            model, pace = trained(way, rate, seeds[0])
            tried[rate] = (measured(model, choice, 8)[1], model, pace)
            print(f"{way}, learning rate {rate:g}: held-out perplexity {tried[rate][0]:.2f}, {pace:.2f} s a step")
        chosen[way] = min(tried, key=lambda rate: tried[rate][0])
        for seed in seeds:
            _, model, pace = tried[chosen[way]] if seed == seeds[0] else (0.0, *trained(way, chosen[way], seed))
            kl, perplexity = measured(model, test, arguments.test_windows)
            for name, value in ((f"{way}_kl", kl), (f"{way}_perplexity", perplexity), (f"{way}_step_seconds", pace)):
                found.setdefault(name, []).append(value)
            print(f"{way}, seed {seed}: test KL {kl:.4f}, perplexity {perplexity:.2f}")

    layers, vocabulary = (_matrix_weights(m) for m in (student, teacher)), teacher.config.hidden_size * teacher.config.vocab_size
    ours, theirs = layers
    helped = sum(a < b for a, b in zip(found["distilled_kl"], found["alone_kl"], strict=True))
    helped_perplexity = sum(a < b for a, b in zip(found["distilled_perplexity"], found["alone_perplexity"], strict=True))
    result = {
        "teacher_perplexity": round(teacher_perplexity, 3), "pruned_kl": round(pruned_kl, 4),
        "pruned_perplexity": round(pruned_perplexity, 2), **summed_up(found),
        "compute_ratio": round(ours / theirs, 4), "compute_ratio_with_head": round((ours + vocabulary) / (theirs + vocabulary), 4),
        "seeds_where_the_teacher_helps_kl": helped, "seeds_where_the_teacher_helps_perplexity": helped_perplexity,
        "distilled_rate": chosen["distilled"], "alone_rate": chosen["alone"], "rates": rates, "steps": arguments.steps,
        "window": arguments.window, "batch": arguments.batch, "seeds": len(seeds), "model": teacher.checkpoint.source,
        "layers": student.config.num_hidden_layers, "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    last_line(result)
    return 0


def _matrix_weights(model: Any) -> int:
    """Weights of the matrices inside the layers: each costs one multiplication a token."""
    return sum(p.numel() for name, p in model.module.named_parameters() if ".layers." in name and p.dim() == 2)


if __name__ == "__main__":
    sys.exit(main())
