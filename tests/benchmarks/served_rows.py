"""Reads a file of measured serving latencies (the columns of aiconfigurator's silicon_sample.csv) into settings of effkit.

Nothing here knows a prediction. A row is left out, and counted under its reason, where
- `disagg`: prefill and decode ran on separate pools; most such rows do not say how many workers there were nor their batch (0);
- `unknown model`: neither a config beside the file nor an entry of data/architectures.toml; `unknown device`: no catalogue entry;
- `unknown format`; `unknown figure`: the catalogue lacks the device's bandwidth, link or rate; `impossible setting`: degrees of
  parallelism that do not divide, no batch; `missing value`: no time or no length, or a number that is none;
- `queueing`: the time to the first token is above 1 s plus five times what the device needs, at its peak rates, to read the prompts
  of all requests in flight: such a request waited for something else than its neighbours' prompts;
- `prefix cache`: the time to the first token is below what the peak rates need to read its prompt once.

What the columns say, checked against the `tpN_epM` in the ids: rows with attention_dp_size and equal tensor and expert degrees above
1 list N devices as N x N (a b200_sxm node has eight), and so do rows with tp = dp and ep = tp x dp; there the devices are N.
`batch_size` is per attention group, so that the requests in flight are batch_size x attention_dp_size; the id says the same (`_c64_`).
Speculative decoding is not in the columns; of the runtimes, TensorRT-LLM 1.2.0rc6.post3 with a model that has a predictor
of further tokens is read as speculative (each of its rows is faster than the same setting in post2 by 1.2 to 2).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reporting import SHARED

from effkit.hardware.projected.architecture import Architecture
from effkit.hardware.projected.catalogue import Accelerator, accelerator
from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.efficiencies import backend_name
from effkit.hardware.projected.known import known_config, plain_name
from effkit.hardware.projected.serving import Demand, Setting, demand
from effkit.spec.errors import BadInput

SPECULATIVE = {("trtllm", "1.2.0rc6.post3")}
ACCEPTED = 1.7  # tokens a step of such a row yields (DeepSeek-V3's predictor: 85 to 90% of second tokens are accepted)
FORMATS = {
    "fp4": "nvfp4", "nvfp4": "nvfp4", "fp8": "fp8", "fp8_block": "fp8_block", "fp8_static": "fp8", "fp8_ootb": "fp8", "float8": "fp8",
    "w8a8_fp8": "fp8", "int4": "int4_g32", "int4_wo": "int4_g32", "w4a16": "int4_g128", "awq": "int4_g128", "gptq": "int4_g128",
    "w4afp8": "int4_g128", "w4a8": "int4_g128", "int8_wo": "int8", "int8": "int8", "sq": "int8", "w8a8": "int8", "w8a8_int8": "int8",
    "w8a16": "int8", "bf16": "bf16", "bfloat16": "bf16", "float16": "bf16", "fp16": "bf16", "half": "bf16", "auto": "bf16",
    "none": "bf16", "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4", "mxfp4": "mxfp4", "fp32": "fp32", "float32": "fp32",
}  # fmt: skip
HELD_OUT = (0, 1, 2)  # of ten parts, by a hash of the group
NEEDED = ("model_path", "system", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")  # columns without which no row can be scored


@dataclass(frozen=True)
class Row:
    """One measurement. tpot and ttft in seconds; group: what must not be split between fit and score."""

    id: str
    shape: Architecture
    device: Accelerator
    system: str
    backend: str
    setting: Setting
    demand: Demand
    tpot: float
    ttft: float
    group: str

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha1(self.group.encode()).hexdigest(), 16) % 10 in HELD_OUT

    @property
    def family(self) -> str:
        return f"{self.shape.family}-{self.shape.layers}x{self.shape.hidden}"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not scored, and why. moe, devices: as far as the row tells them."""

    id: str
    reason: str
    system: str
    moe: bool | None = None
    devices: int | None = None


def read_rows(path: Path, configs: Path | None) -> tuple[list[Row], Counter[str]]:
    """The rows that can be scored, and how many were left out for which reason; as `sorted_rows` otherwise."""
    rows, left_out = sorted_rows(path, configs)
    return rows, Counter(one.reason for one in left_out)


def sorted_rows(path: Path, configs: Path | None) -> tuple[list[Row], list[LeftOut]]:
    """The rows that can be scored, and those that are left out. configs: a folder of configs, besides those known.

    Raises BadInput for a file that cannot be read, that lacks a column, or for a row that fails in a way that no rule foresees.
    """
    files = sorted(configs.glob("*_config.json")) if configs else []
    files = [file for file in files if not file.name.endswith("_hf_quant_config.json")]
    known = {file.name.removesuffix("_config.json").split("--")[-1].lower(): file for file in files}
    known = {**{plain_name(name): file for name, file in reversed(known.items())}, **known}  # a release's own, else one of its shape
    shapes: dict[str, tuple[Architecture, bool, bool] | None] = {}
    rows, left_out = [], []
    for line, told in _lines(path):
        try:
            row = _row(told, known, shapes)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            name = f" ({told['id']})" if told.get("id") else ""
            raise BadInput(
                f"line {line} of {path.name}{name} cannot be read: {type(error).__name__}: {error}", "", "Leave it out"
            ) from error
        (rows if isinstance(row, Row) else left_out).append(row)
    return rows, left_out


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its line, cells by column) of every row; cells without a column are dropped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            columns = [(name or "").strip() for name in table.fieldnames or ()]
            missing = [name for name in NEEDED if name not in columns]
            if missing:
                raise BadInput(
                    f"{path.name} has no column {', '.join(map(repr, missing))}",
                    "Allowed: a CSV file with the columns of aiconfigurator's silicon_sample.csv",
                    f"Its first line names {', '.join(columns) or 'none'}",
                )
            for told in table:
                yield table.line_num, {key.strip(): (value or "").strip() for key, value in told.items() if key}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error})", "Allowed: a CSV file in UTF-8") from error


def configs_beside(path: Path) -> Path | None:
    """The folder of configs beside a file of rows, or the one beside the checkout, if there is one."""
    return next((place for place in (path.parent / "model_configs", SHARED / "validation" / "model_configs") if place.is_dir()), None)


def _shape(name: str, known: dict[str, Path]) -> tuple[Architecture, bool, bool] | None:
    """The shape of a model, whether its 8-bit release scales blocks, and whether it has a predictor of further tokens."""
    try:
        file = known.get(name) or known.get(plain_name(name))
        config = json.loads(file.read_text(encoding="utf-8")) if file else known_config(name)
        if config is None:
            return None
        text = json.dumps(config)
        predicts = re.search(r'"(num_nextn_predict_layers|mtp_num_hidden_layers|num_mtp_modules)": [1-9]', text) is not None
        return architecture(config, name), '"weight_block_size"' in text, predicts
    except (BadInput, ValueError, KeyError, TypeError):  # a config of a family that has other fields
        return None


def _row(told: dict[str, str], known: dict[str, Path], shapes: dict) -> Row | LeftOut:
    """The row, or why it is left out."""
    name = told.get("model_path", "").rstrip("/").split("/")[-1].lower()
    if name not in shapes:
        shapes[name] = _shape(name, known)
    shape, blocks, predicts = shapes[name] or (None, False, False)
    system, backend = told.get("system", ""), backend_name(told.get("backend"))
    setting = None

    def left_out(reason: str) -> LeftOut:
        return LeftOut(told.get("id", ""), reason, system, shape and shape.moe, setting and setting.devices)

    mode = told.get("mode", "").lower() or "agg"
    if mode != "agg":
        return left_out(mode)
    if shape is None:
        return left_out("unknown model")
    try:
        device = accelerator(system)
    except BadInput:
        return left_out("unknown device")
    try:
        tpot, ttft = (float(told.get(f"silicon_{which}_ms") or "nan") / 1000 for which in ("tpot", "ttft"))
        format = _format(told, shape, blocks)
        if format is None:
            return left_out("unknown format")
        setting = _setting(told, format, predicts and (backend, told.get("backend_version")) in SPECULATIVE)
    except BadInput:
        return left_out("impossible setting")
    except (ValueError, OverflowError):
        return left_out("missing value")
    if not (0 < tpot < math.inf and 0 < ttft < math.inf and told.get("isl") and told.get("osl")):
        return left_out("missing value")
    try:
        asked = demand(shape, device, setting)
    except BadInput:
        return left_out("unknown figure")
    least = asked.prefill_flops + asked.prefill_expert_flops + asked.prefill_core
    if ttft > 1 + 5 * least * setting.batch:
        return left_out("queueing")
    if ttft < least:
        return left_out("prefix cache")
    family = f"{shape.family}-{shape.layers}x{shape.hidden}"
    group = f"{family} {system} {backend} {setting.kind} {setting.tensor_parallel}"
    return Row(told.get("id", ""), shape, device, system, backend, setting, asked, tpot, ttft, group)


def _format(told: dict[str, str], shape: Architecture, blocks: bool) -> str | None:
    """What weights are rounded to: of the products where the file says it, else what the row calls its precision. Where only experts
    are rounded, their format: of such releases the shape says what is left whole."""
    experts = FORMATS.get(told.get("moe_quant_mode", "").lower(), "bf16") if shape.moe else "bf16"
    if experts != "bf16" and FORMATS.get(told.get("gemm_quant_mode", "").lower()) == "bf16":
        return experts
    named = [word for word in (told.get(column, "").lower() for column in ("gemm_quant_mode", "precision")) if word]
    format = next((FORMATS[word] for word in named if word in FORMATS), None if named else "bf16")
    if shape.family == "gpt_oss" and format not in ("bf16", None):
        return "mxfp4"
    if format == "fp8" and (blocks or "block" in told.get("moe_quant_mode", "")):
        return "fp8_block"
    return format


def _setting(told: dict[str, str], format: str, speculative: bool) -> Setting:
    def number(column: str) -> int:
        return int(float(told.get(column) or 0))

    tensor, data = max(number("tp_size"), 1), number("attention_dp_size")
    slices, experts = max(number("moe_tp_size"), 1), max(number("moe_ep_size"), 1)
    in_flight = re.search(r"_c(\d+)_", told.get("id", ""))
    batch = number("batch_size") or (int(in_flight[1]) // max(data, 1) if in_flight else 0)
    devices = tensor * max(data, 1)
    if data and slices == experts > 1:
        devices = slices
    elif data > 1 and tensor == data and experts == tensor * data:
        devices = tensor
    groups = devices if data > 1 and tensor == 1 else 1
    flying = batch * max(data, 1)
    if not data and in_flight:  # the degree of attention is not told, but both numbers of requests are
        flying = int(in_flight[1])
        groups = max(1, flying // max(batch, 1))
    if devices % groups:
        groups = 1
    return Setting(
        format=format,
        prompt=number("isl"),
        new_tokens=max(number("osl"), 1),
        batch=flying,
        tensor_parallel=devices,
        attention_data_parallel=groups,
        expert_parallel=experts > 1,
        pipeline_parallel=max(number("pp_size"), 1),
        accepted=ACCEPTED if speculative else 1.0,
    )
