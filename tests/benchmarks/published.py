"""Projections against published speeds: each row's error, and the median per stack.

    python tests/benchmarks/published.py [FILE.toml]

The rows lie in data/published.toml with their sources. Nothing that effkit ships was fitted to them, with one exception, which is
listed but not scored: use = "launch", the time that a kernel takes to start on Ascend, from the six rows at batch 1 of one page of
vllm-ascend's docs, and, where a step is one graph, from two of its nightly tests. `ascend_other_pages` leaves out the other rows of
that page too.

Errors are of times: a rate is turned into the time of a token first, so that half and twice as fast weigh the same way in all of
them. A `floor` is the least that a nightly test demands (95% or 97% of it), and is scored as if it were the figure itself.
A projection counts the prompts that others have read in between (continuous batching); a batch that starts at once reads as many
prompts before its first token, so that whole rates agree; rates without prefill, and servers that read prompts on other devices,
leave that part out. Times to first token of an engine called directly lack what a server adds, which projections hold.
The last line is one JSON object: rows, scored, the median and mean absolute error in percent of each stack, the share of rows
inside the projected interval, and the share of published rates that `ek.plausible` allows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from reporting import last_line

import effkit as ek
from effkit.hardware.projected.published import Published, published, read_published
from effkit.spec.intervals import Estimate

SAME_PAGE = "suffix_speculative_decoding"


def projected(row: Published) -> Estimate:
    """What the row measured, as time in ms: of an output token, to the first token, or of a token of the prompt."""
    p = ek.project(
        row.config,
        on=row.device,
        prompt=row.prompt,
        new_tokens=row.new_tokens,
        batch=row.batch,
        format=row.format,
        tensor_parallel=row.tensor_parallel,
        attention_data_parallel=row.attention_data_parallel,
        expert_parallel=row.expert_parallel,
        accepted=row.accepted,
        graph=row.graph,
        backend=row.backend if row.backend in ("vllm", "sglang", "trtllm") else None,
    )
    first, token = p.time_to_first_token, p.time_per_output_token
    if row.metric == "ttft_ms":
        return first
    if row.metric == "prefill_rate":
        return _scaled(first, 1 / row.prompt)
    if row.metric == "output_rate":
        ends = [(f + (row.new_tokens - 1) * t) / row.new_tokens for f, t in zip(_ends(first), _ends(token), strict=True)]
        return Estimate(value=ends[0], low=ends[1], high=ends[2], unit="ms", how="modelled")
    if row.metric == "decode_rate" or row.disaggregated:
        others = sum(value for name, value in p.parts.items() if name.startswith("prefill"))
        return _scaled(token, 1 - others / _ends(token)[0])
    return token


def measured(row: Published) -> float:
    """The published figure as such a time."""
    if row.metric in ("ttft_ms", "tpot_ms"):
        return row.value
    return 1000 / row.value if row.metric == "prefill_rate" else 1000 * row.batch / row.value


def allowed(row: Published) -> bool | None:
    """Whether the device's peaks allow the published rate; None for rows that are not of decoding alone."""
    if row.metric not in ("tpot_ms", "decode_rate") or row.expert_parallel:
        return None
    rate = row.value if row.metric == "decode_rate" else 1000 * row.batch / row.value
    answer = ek.plausible(
        rate, model=row.config, on=row.device, batch=row.batch, format=row.format, prompt=row.prompt, new_tokens=row.new_tokens,
        tensor_parallel=row.tensor_parallel,
    )  # fmt: skip
    return answer.possible


def _ends(e: Estimate) -> list[float]:
    return [x if x is not None else float(e.value or 0.0) for x in (e.value, e.low, e.high)]


def _scaled(e: Estimate, factor: float) -> Estimate:
    ends = [x * factor for x in _ends(e)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2], unit=e.unit, how="modelled")


def figures(errors: Sequence[float]) -> dict[str, float]:
    """Median and mean absolute error and the median signed one, in percent; nothing where there is no row."""
    if not errors:
        return {}
    sizes = [abs(error) for error in errors]
    return {
        "rows": len(errors),
        "median_ape": round(statistics.median(sizes), 1),
        "mape": round(statistics.fmean(sizes), 1),
        "median_signed": round(statistics.median(errors), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="published rows in the form of data/published.toml")
    rows = read_published(given) if (given := parser.parse_args().file) else published()
    errors: dict[int, float] = {}
    inside, possible = [], []
    for number, row in enumerate(rows):
        guess, true = projected(row), measured(row)
        error = 100 * (_ends(guess)[0] / true - 1)
        parallel = f" TP{row.tensor_parallel}" if row.tensor_parallel > 1 else ""
        what = f"{row.device:17s} {row.model:18s} {row.format:9s}{parallel:6s} batch {row.batch:5d} {row.prompt:5d}+{row.new_tokens:<5d}"
        told = f"{row.metric:12s} {row.value:9.2f}  projected {_ends(guess)[0]:8.2f} ms, published {true:8.2f} ms  {error:+7.1f}%"
        print(f"{what} {told}{f'  ({row.use}, not scored)' if row.use else ''}{'  floor' if row.floor else ''}")
        can = allowed(row)
        if can is not None:
            possible.append(can)
        if not row.use:
            errors[number] = error
            inside.append(_ends(guess)[1] <= true <= _ends(guess)[2])

    def of(chosen: Sequence[Published]) -> dict[str, float]:
        wanted = {id(row) for row in chosen}
        return figures([error for number, error in errors.items() if id(rows[number]) in wanted])

    stacks = {stack: of([row for row in rows if row.stack == stack]) for stack in ("cuda", "ascend")}
    last_line(
        {
            "rows": len(rows),
            "scored": len(errors),
            **{f"{stack}_{name}": value for stack, found in stacks.items() for name, value in found.items()},
            "ascend_other_pages": of([row for row in rows if row.stack == "ascend" and SAME_PAGE not in row.address]),
            "by_device": {name: of([row for row in rows if row.device == name]) for name in sorted({row.device for row in rows})},
            "by_metric": {name: of([row for row in rows if row.metric == name]) for name in sorted({row.metric for row in rows})},
            "inside_interval": round(100 * statistics.fmean(inside), 1),
            "plausible": round(100 * statistics.fmean(possible), 1) if possible else None,
        }
    )


if __name__ == "__main__":
    main()
