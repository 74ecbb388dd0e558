"""How far are projections from measured serving latencies? Times per output token and to the first token, as percentage errors.

    python tests/benchmarks/projection.py [FILE.csv] [--configs DIR] [--rows]

FILE has the columns of aiconfigurator's silicon_sample.csv; configs of the models lie in `model_configs/` beside it, in DIR, or are
known by the models' names (data/architectures.toml).
Only the constants that the project ships take part (data/efficiencies.toml); nothing is fitted here. Which rows are left out, and
why, is written in served_rows.py, and counted. The last line is one JSON object: percentage errors, each also for dense models on
one device, dense, mixture-of-experts, each device, each number of devices, and the parts that the fit did and did not see.
Goals: dense on one device, time per output token, median at most 5%, mean at most 8%; all rows, median at most 10%, mean at most 15%.
`inside_interval` is the share of rows whose time per output token lies in the interval shown. `excluded` of a part counts the rows
left out that are known to belong to it: of an unknown model nobody can tell whether it is dense.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from reporting import last_line, shared
from served_rows import LeftOut, Row, configs_beside, sorted_rows

from effkit.hardware.projected.projection import Projection, project
from effkit.spec.errors import BadInput


def projected(row: Row) -> Projection:
    s = row.setting
    return project(
        row.shape, on=row.device, prompt=s.prompt, new_tokens=s.new_tokens, batch=s.batch, format=s.format,
        tensor_parallel=s.tensor_parallel, attention_data_parallel=s.attention_data_parallel, expert_parallel=s.expert_parallel,
        pipeline_parallel=s.pipeline_parallel, accepted=s.accepted, cache_bytes=s.cache_bytes, backend=row.backend,
    )  # fmt: skip


def errors(rows: Sequence[Row], found: Sequence[Projection]) -> dict[str, float | None]:
    """Median and mean absolute percentage errors; None where there is no row."""
    token, first, inside = [], [], []
    for row, projection in zip(rows, found, strict=True):
        tpot, ttft = projection.time_per_output_token, projection.time_to_first_token
        assert tpot.value is not None
        assert ttft.value is not None
        assert tpot.low is not None
        assert tpot.high is not None
        token.append(100 * abs(tpot.value / 1000 / row.tpot - 1))
        first.append(100 * abs(ttft.value / 1000 / row.ttft - 1))
        inside.append(tpot.low <= 1000 * row.tpot <= tpot.high)

    def of(summary: Callable[..., float], values: Sequence[float], digits: int = 2) -> float | None:
        return round(summary(values), digits) if values else None

    return {
        "rows": len(rows),
        "tpot_median_ape": of(statistics.median, token),
        "tpot_mape": of(statistics.fmean, token),
        "ttft_median_ape": of(statistics.median, first),
        "ttft_mape": of(statistics.fmean, first),
        "inside_interval": of(statistics.fmean, inside, 3),
    }


def excluded(left_out: Sequence[LeftOut], name: str) -> int:
    """How many of the rows left out are known to be of one of ALWAYS, or of this device."""
    dense = [one for one in left_out if one.moe is False]
    kinds = {"dense": dense, "moe": [one for one in left_out if one.moe], "dense_single_device": [one for one in dense if one.devices == 1]}
    return len(kinds.get(name, [one for one in left_out if one.system == name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--configs", type=Path, help="a folder of ORG--NAME_config.json; default: model_configs beside the file")
    parser.add_argument("--rows", action="store_true", help="also print every row's measured and projected times")
    args = parser.parse_args()
    path = args.file or shared("validation/served_latency_h100_b200.csv", "FILE.csv")
    try:
        rows, left_out = sorted_rows(path, args.configs or configs_beside(path))
    except BadInput as error:
        raise SystemExit(str(error)) from None
    found = [projected(row) for row in rows]
    if args.rows:
        for row, projection in zip(rows, found, strict=True):
            print(f"{row.id}\t{1000 * row.tpot:.3f}\t{projection.time_per_output_token}\t{1000 * row.ttft:.1f}\t{projection.bound}")
        for one in left_out:
            print(f"{one.id}\tleft out: {one.reason}")
    systems = sorted({one.system for one in (*rows, *left_out) if one.system})
    splits = {
        "dense_single_device": lambda row: not row.shape.moe and row.setting.devices == 1,
        "dense": lambda row: not row.shape.moe,
        "moe": lambda row: row.shape.moe,
        "fitted_part": lambda row: not row.held_out,
        "held_out_part": lambda row: row.held_out,
        **{f"held_out_{name}": rule for name, rule in HELD_OUT_SPLITS.items()},
        **{system: lambda row, own=system: row.system == own for system in systems},
        **{f"{n}_devices": lambda row, own=n: row.setting.devices == own for n in sorted({row.setting.devices for row in rows})},
        **{name: lambda row, own=name: row.backend == own for name in sorted({row.backend for row in rows})},
        **{f"model {name}": lambda row, own=name: row.family == own for name in sorted({row.family for row in rows})},
    }
    because = Counter(one.reason for one in left_out)
    result: dict[str, object] = {**errors(rows, found), "excluded": len(left_out), "excluded_because": dict(because)}
    for name, rule in splits.items():
        chosen = [index for index, row in enumerate(rows) if rule(row)]
        whole = name in ALWAYS or name in systems
        if chosen or whole:
            part: dict[str, object] = {**errors([rows[index] for index in chosen], [found[index] for index in chosen])}
            if whole:
                part["excluded"] = excluded(left_out, name)
            result[name] = part
            print(f"{name:32s} " + "  ".join(f"{key} {value}" for key, value in part.items()))
    last_line(result)


ALWAYS = ("dense_single_device", "dense", "moe")  # also where no row is of that kind: null then
HELD_OUT_SPLITS = {
    "dense_single_device": lambda row: row.held_out and not row.shape.moe and row.setting.devices == 1,
    "dense": lambda row: row.held_out and not row.shape.moe,
    "moe": lambda row: row.held_out and row.shape.moe,
}


if __name__ == "__main__":
    main()
