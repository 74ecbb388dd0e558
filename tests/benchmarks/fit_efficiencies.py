"""Fits the constants of the projection to measured serving latencies, and writes data/efficiencies.toml.

    python tests/benchmarks/fit_efficiencies.py FILE.csv [--configs DIR] [--write] [--cross]

Every constant is a base times a factor for the kind of format and one for the runtime, in logarithms with a normal prior around a
plausible value (maximum a posteriori: ridge regression on a formula that is not linear). The loss is bounded (arctan), because a few
rows are contradictory; a group (model, device, runtime, format, devices) counts as at most `CAP` rows, so that no sweep outvotes
the rest, and equal measurements under several ids count once. Only groups that served_rows.HELD_OUT leaves are used.
The constants have not seen the held-out groups, but the form of the formula (which terms, kernels a layer, bytes of a cached number,
which runtime speculates) was chosen with the whole file in view, among some thirty variants: a file of other devices or models is
the stricter test. Tried and left out, because none lowers the errors of groups, models and devices that a fit never saw: factors by
generation of devices (Hopper, Blackwell) on weights, kernels, reduces, prefill and cache; factors by runtime on the doubling of a
reduce, on weights or on arithmetic, by format on arithmetic; factors of expert parallelism; constants of its own for MXFP4; experts
chosen less evenly than at random.
--cross prints the errors of groups, models and devices that a fit never saw (all rows take part); --write writes the file.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reporting import shared
from scipy.optimize import least_squares
from served_rows import HELD_OUT, Row, configs_beside, read_rows

from effkit.hardware.projected.efficiencies import Efficiencies
from effkit.hardware.projected.projection import first_token, step_parts
from effkit.hardware.projected.serving import Demand

CAP = 6
NOISE, BOUND = 0.06, 0.25  # of log time: what a row may scatter, and from where a row counts as contradictory
FIRST_NOISE, FIRST_BOUND = 0.15, 0.4
# name: (plausible value, standard deviation of its logarithm)
PRIOR = {
    "weights": (0.72, 0.12), "experts": (0.6, 0.25), "cache": (0.7, 0.25), "arithmetic": (0.6, 0.3), "prefill": (0.6, 0.25),
    "prefill_experts": (0.4, 0.4), "prefill_core": (0.4, 0.3), "link": (0.5, 0.3), "kernel": (1.2e-6, 0.6),
    "expert_kernel": (2e-6, 0.6), "reduce": (8e-6, 0.4), "doubling": (2e-6, 0.6), "sequence": (8e-6, 0.8), "step": (3e-4, 0.7),
    "reread": (0.5, 0.4),
}  # fmt: skip
FIRST_PRIOR = {
    "wait": (0.02, 1.0), "eager": (3e-5, 1.0), "steps": (1.0, 0.7), "first": (1.0, 0.4), "queue": (0.05, 1.0), "apart": (0.5, 1.0),
}  # fmt: skip
# standard deviations of the logarithms of factors
FACTORS = {
    "kind": {"weights": 0.25, "experts": 0.3, "prefill": 0.2, "prefill_experts": 0.2, "kernel": 0.2, "expert_kernel": 0.2},
    "backend": {
        "prefill": 0.2, "cache": 0.2, "kernel": 0.3, "expert_kernel": 0.3, "reduce": 0.3, "sequence": 0.6, "step": 0.3, "experts": 0.2,
    },
}  # fmt: skip
FIRST_FACTORS = {"backend": dict.fromkeys(FIRST_PRIOR, 0.7)}
# Ascend: Qwen3-32B in bf16 on four 910B takes 53 to 56 ms a token at batch 1 (docs of vllm-ascend), of which reading the weights
# explains 13: about 0.6 ms a layer remain, over 11 kernels and two all-reduces.
# With the whole step as one graph: Qwen3-32B in W8A8 on four 910B and on four dies of 910C (nightly tests of vllm-ascend) take 67.6
# and 60.9 ms a token; 0.58 of the times above meets both within 7%.
STACKS = {
    "ascend": {"kernel": 4.5e-5, "expert_kernel": 4.5e-5, "reduce": 5.0e-5, "doubling": 1.0e-5, "eager": 1.0e-4},
    "ascend-graph": {"kernel": 2.6e-5, "expert_kernel": 2.6e-5, "reduce": 2.9e-5, "doubling": 5.8e-6, "eager": 1.0e-4},
}
WIDER = {"new_stack": 0.35, "new_backend": 0.08, "new_format": 0.12}  # judged, not fitted: there is nothing to fit them to


class Fit:
    """Constants as a vector, for a list of rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.kinds = np.array([row.setting.kind for row in rows])
        self.backends = np.array([row.backend for row in rows])
        self.asked = Demand.stacked([row.demand for row in rows])
        self.tpot, self.ttft = (np.array([getattr(row, name) for row in rows]) for name in ("tpot", "ttft"))
        same = [(row.group, row.setting, round(row.tpot, 6)) for row in rows]
        seen: set = set()
        self.single = np.array([key not in seen and not seen.add(key) for key in same])
        count = Counter(row.group for row, single in zip(rows, self.single, strict=True) if single)
        self.weight = np.array([math.sqrt(min(1.0, CAP / count[row.group])) if count[row.group] else 0.0 for row in rows])

    @property
    def levels(self) -> dict[str, np.ndarray]:
        return {"kind": self.kinds, "backend": self.backends}

    def fitted(self, use: np.ndarray) -> dict:
        """All constants from the rows where `use`: {"base": ..., "kind": ..., "backend": ...}."""
        use = use & self.single
        steps = self._solved(use, PRIOR, FACTORS, dict.fromkeys(FIRST_PRIOR, 0.0), self.tpot, NOISE, BOUND, whole=False)
        first = self._solved(use, FIRST_PRIOR, FIRST_FACTORS, self.spread_out(steps), self.ttft, FIRST_NOISE, FIRST_BOUND, whole=True)
        told: dict = {"base": {**steps["base"], **first["base"]}}
        for table in FACTORS:
            later = first.get(table, {})
            told[table] = {level: {**factors, **later.get(level, {})} for level, factors in steps.get(table, {}).items()}
        return told

    def _solved(self, use, prior, factors, given, goal, noise, bound, whole) -> dict:
        masks = {table: values[use] for table, values in self.levels.items()}
        names = [(name, "base", "") for name in prior]
        names += [(name, table, level) for table in factors for name in factors[table] for level in sorted(set(masks[table]))]
        tight = 1 / np.array([prior[name][1] if table == "base" else factors[table][name] for name, table, _ in names])
        asked = Demand(**{name: value[use] for name, value in vars(self.asked).items()})
        fixed = {name: (value[use] if isinstance(value, np.ndarray) else value) for name, value in given.items()}
        columns = {name: [] for name in prior}
        for number, (name, table, level) in enumerate(names):
            columns[name].append((number, 1.0 if table == "base" else (masks[table] == level).astype(float)))

        def times(vector: np.ndarray) -> np.ndarray:
            values = {
                name: np.exp(math.log(prior[name][0]) + sum(vector[number] * mask for number, mask in found))
                for name, found in columns.items()
            }
            reached = Efficiencies(**{**fixed, **values})
            return first_token(asked, reached) if whole else sum(step_parts(asked, reached).values())

        def loss(vector: np.ndarray) -> np.ndarray:
            off = np.log(times(vector) / goal[use])
            return np.concatenate([self.weight[use] * np.arctan(off / bound) * bound / noise, vector * tight])

        vector = least_squares(loss, np.zeros(len(names)), x_scale=1 / tight, max_nfev=40, xtol=1e-6, ftol=1e-6).x
        found: dict = {"base": {}, **{table: {} for table in factors}}
        for value, (name, table, level) in zip(vector, names, strict=True):
            if table == "base":
                found["base"][name] = prior[name][0] * math.exp(value)
            else:
                found[table].setdefault(level, {})[name] = math.exp(value)
        return found

    def spread_out(self, told: dict) -> dict[str, np.ndarray]:
        """The value of every constant for every row."""
        values = {name: np.full(len(self.tpot), value) for name, value in told["base"].items()}
        for table, levels in self.levels.items():
            for level, factors in told.get(table, {}).items():
                for name, factor in factors.items():
                    values[name] = np.where(levels == level, values[name] * factor, values[name])
        return values

    def predicted(self, told: dict) -> tuple[np.ndarray, np.ndarray]:
        reached = Efficiencies(**self.spread_out(told))
        return sum(step_parts(self.asked, reached).values()), first_token(self.asked, reached)


def report(label: str, ratio: np.ndarray, first: np.ndarray, rows: Sequence[Row], use: np.ndarray) -> None:
    dense = np.array([not row.shape.moe for row in rows])
    one = dense & np.array([row.setting.devices == 1 for row in rows])
    for name, part in (("all", use), ("dense_single_device", use & one), ("dense", use & dense), ("moe", use & ~dense)):
        if part.any():
            off, wait = 100 * np.abs(ratio[part] - 1), 100 * np.abs(first[part] - 1)
            print(
                f"{label:34s} {name:20s} {part.sum():5d} rows  tpot median {np.median(off):5.1f} mean {off.mean():5.1f}"
                f"  ttft median {np.median(wait):5.1f} mean {wait.mean():5.1f}",
                flush=True,
            )


def crossed(fit: Fit, rows: Sequence[Row], levels: Sequence[str], label: str, each: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ratios predicted / measured of every row, from a fit without the rows of its own level."""
    levels = np.array(levels)
    ratio, first = np.zeros(len(rows)), np.zeros(len(rows))
    for level in sorted(set(levels)):
        part = levels == level
        tpot, ttft = fit.predicted(fit.fitted(~part))
        ratio[part], first[part] = (tpot / fit.tpot)[part], (ttft / fit.ttft)[part]
        if each:
            report(f"{label} {level}", ratio, first, rows, part)
    report(label, ratio, first, rows, np.ones(len(rows), dtype=bool))
    return ratio, first


def scale(ratio: np.ndarray) -> float:
    """A standard deviation of the logarithms such that 1.96 of it hold 95% of them."""
    return float(np.quantile(np.abs(np.log(ratio)), 0.95) / 1.96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--configs", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cross", action="store_true")
    args = parser.parse_args()
    path = args.file or shared("validation/served_latency_h100_b200.csv", "FILE.csv")
    rows, left_out = read_rows(path, args.configs or configs_beside(path))
    print(f"{len(rows)} rows; left out: {dict(left_out)}")
    fit, begun = Fit(rows), time.perf_counter()
    part = np.array([not row.held_out for row in rows])
    told = fit.fitted(part)
    tpot, ttft = fit.predicted(told)
    ratio, first = tpot / fit.tpot, ttft / fit.ttft
    report("fitted part", ratio, first, rows, part)
    report("held-out part", ratio, first, rows, ~part)
    print(f"fitted in {time.perf_counter() - begun:.1f} s")
    if args.cross or args.write:
        fold = [str(int(hashlib.sha1(row.group.encode()).hexdigest(), 16) % 4) for row in rows]
        by_group, by_group_first = crossed(fit, rows, fold, "four parts of groups", each=False)
        by_model, _ = crossed(fit, rows, [row.family for row in rows], "without its model", each=True)
        by_device, _ = crossed(fit, rows, [row.system for row in rows], "without its device", each=True)
    if args.write:
        moe = np.array([row.shape.moe for row in rows])
        base = {"dense": scale(by_group[~moe]), "moe": scale(by_group[moe]), "first_token": scale(by_group_first)}
        more = {
            name: math.sqrt(max(scale(r) ** 2 - scale(by_group) ** 2, 0.03**2))
            for name, r in (("new_model", by_model), ("new_device", by_device))
        }
        seen = [row for row, used in zip(rows, part, strict=True) if used]
        write(told, {**base, **more, **WIDER}, seen)


def write(told: dict, wide: dict[str, float], seen: Sequence[Row]) -> None:
    def table(name: str, values: dict[str, float], digits: int = 4) -> list[str]:
        return [f"\n[{name}]", *(f"{key} = {float(f'{value:.{digits}g}')!r}" for key, value in values.items())]

    lines = [
        "# How close devices come to their peaks when they serve. Made by tests/benchmarks/fit_efficiencies.py; read by",
        "# effkit/hardware/projected/efficiencies.py, which says what each is. base: between all; kind and backend: factors on it.",
        "# Fitted to measured times per output token and to the first token of the rows `agg` in aiconfigurator's silicon_sample.csv",
        "# (github.com/ai-dynamo/aiconfigurator, commit 095f58a, Apache-2.0), of which only the groups (model, device, runtime, format,",
        f"# devices) whose SHA-1 modulo 10 is not in {HELD_OUT} took part: {len(seen)} rows. Maximum a posteriori; priors in the script.",
        "# stack.ascend: from what vllm-ascend's documentation gives for Qwen3-32B on four 910B at batch 1 (about 0.6 ms a layer);",
        "# ascend-graph: from two of its nightly tests that start a step as one graph.",
        "# spread: standard deviations of log(predicted / measured) such that 1.96 of them hold 95% of the rows that a fit never saw:",
        "# dense, moe and first_token by group; new_model and new_device: what leaving out a whole model or device adds. The other",
        "# three are judged.",
    ]
    lines += table("base", told["base"])
    for name in ("kind", "backend"):
        for level, factors in told[name].items():
            lines += table(f"{name}.{level}", factors, 3)
    for level, values in STACKS.items():
        lines += table(f"stack.{level}", values)
    lines += table("spread", wide, 3)
    listed = {
        "devices": {row.device.name for row in seen},
        "families": {row.shape.family for row in seen},
        "kinds": {row.setting.kind for row in seen},
        "backends": {row.backend for row in seen},
        "stacks": {row.device.stack for row in seen},
    }
    lines += ["\n[seen]", *(f"{key} = {sorted(values)!r}".replace("'", '"') for key, values in listed.items())]
    path = Path(__file__).resolve().parents[2] / "data" / "efficiencies.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
