"""Options that several commands take, with the same words and defaults."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effkit.models.model import Model

WINDOW, PROMPT = 256, 128  # tokens


def add_base(parser: argparse.ArgumentParser) -> None:
    """Which model, on which text, on which device."""
    parser.add_argument("--model", default="smollm2-135m", help="built-in name, folder, .gguf file or hub id (default: %(default)s)")
    parser.add_argument("--text", metavar="FILE", help="text to measure on (default: technical English that comes with Python)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, npu, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)")


def add_windows(parser: argparse.ArgumentParser, fits: bool = False) -> None:
    """How much of the text. fits: where no window is given, it is the usual one or what the models can read."""
    default = f"{WINDOW}, or what the model reads" if fits else str(WINDOW)
    parser.add_argument("--window", type=int, default=None if fits else WINDOW, help=f"tokens a window (default: {default})")
    parser.add_argument("--windows", type=int, default=8, help="windows to measure on (default: %(default)s)")


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """How long the prompts are while speed is measured."""
    told = f"tokens of a prompt while its speed is measured (default: {PROMPT}, or what the model reads)"
    parser.add_argument("--prompt", type=int, help=told)


def measured_sizes(arguments: argparse.Namespace, base: Model, made: Model) -> dict[str, int]:
    """How base and model will be measured. What cannot be measured so is found before minutes are spent on the model: a text that is
    missing or too short, a window or a prompt that one of them cannot read. Without a wish, both are as long as they can be read."""
    from effkit.lab.records.measuring import refuse_measuring

    names = ("window", "windows", "prompt", "new_tokens", "repeats")
    sizes = {name: getattr(arguments, name) for name in names}
    decodes, room = base.task == "causal-lm", min(base.window, made.window)
    usual = {"window": (WINDOW, room if decodes else WINDOW), "prompt": (PROMPT, room - arguments.new_tokens if decodes else room)}
    for name, (wanted, most) in usual.items():
        if sizes[name] is None:
            sizes[name] = max(1, min(wanted, most))
            if sizes[name] < wanted:
                print(f"note: {name} is {sizes[name]} tokens, for base and model read at most {room} at once", file=sys.stderr)
    refuse_measuring(made, base, arguments.text and Path(arguments.text), **sizes)
    if not decodes and not arguments.text:
        print(
            "note: base and model are compared on technical English that comes with Python, which may be nothing to such a classifier; "
            "--text FILE names texts of its own kind, one a line",
            file=sys.stderr,
        )
    return sizes
