"""Options that several commands take, with the same words and defaults."""

from __future__ import annotations

import argparse


def add_base(parser: argparse.ArgumentParser) -> None:
    """Which model, on which text, on which device."""
    parser.add_argument("--model", default="smollm2-135m", help="built-in name, folder, .gguf file or hub id (default: %(default)s)")
    parser.add_argument("--text", metavar="FILE", help="text to measure on (default: technical English that comes with Python)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, npu, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)")


WINDOW, PROMPT = 256, 128  # tokens


def add_windows(parser: argparse.ArgumentParser, fits: bool = False) -> None:
    """How much of the text. fits: where no window is given, it is the usual one or what the models can read."""
    default = f"{WINDOW}, or what the model reads" if fits else str(WINDOW)
    parser.add_argument("--window", type=int, default=None if fits else WINDOW, help=f"tokens a window (default: {default})")
    parser.add_argument("--windows", type=int, default=8, help="windows to measure on (default: %(default)s)")
