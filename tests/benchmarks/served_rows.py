"""Reads a file of measured serving latencies (the columns of aiconfigurator's silicon_sample.csv) into settings of effkit.

Nothing here knows a prediction. A row is left out, and counted under its reason, where
- `disagg`: prefill and decode ran on separate pools; most such rows do not say how many workers there were nor their batch (0);
- `unknown model`, `unknown device`: no config or no catalogue entry;
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
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from reporting import shared

from effkit.hardware.architecture import Architecture
from effkit.hardware.catalogue import Accelerator, accelerator
from effkit.hardware.configs import architecture
from effkit.hardware.serving import Demand, Setting, demand
from effkit.spec.errors import BadInput

SPECULATIVE = {("trtllm", "1.2.0rc6.post3")}
ACCEPTED = 1.7  # tokens a step of such a row yields (DeepSeek-V3's predictor: 85 to 90% of second tokens are accepted)
FORMATS = {
    "fp4": "nvfp4", "nvfp4": "nvfp4", "fp8": "fp8", "fp8_block": "fp8_block", "int4": "int4_g32", "int4_wo": "int4_g32",
    "int8_wo": "int8", "int8": "int8", "bf16": "bf16", "bfloat16": "bf16", "float16": "bf16", "fp16": "bf16", "": "bf16",
    "w4a16_mxfp4": "mxfp4", "mxfp4": "mxfp4", "w4afp8": "int4_g128",
}  # fmt: skip
SUFFIXES = re.compile(r"-(instruct|chat|base|hf|fp8|fp4|nvfp4|bf16|mxfp4|awq|gptq|int4|int8|w8a8|w4a16|dynamic|\d{4}|v0\.\d)$")
SAME_SHAPE = {"llama-3.3-70b": "llama-3.1-70b", "llama-3-70b": "llama-3.1-70b", "llama-3-8b": "llama-3.1-8b"}
HELD_OUT = (0, 1, 2)  # of ten parts, by a hash of the group


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


def read_rows(path: Path, configs: Path) -> tuple[list[Row], Counter[str]]:
    """The rows that can be scored, and how many were left out for which reason."""
    files = [file for file in sorted(configs.glob("*_config.json")) if not file.name.endswith("_hf_quant_config.json")]
    known = {plain(file.name.removesuffix("_config.json").split("--")[-1]): file for file in files}
    shapes: dict[str, tuple[Architecture, bool, bool]] = {}
    rows, left_out = [], Counter()
    with path.open(newline="", encoding="utf-8") as stream:
        for told in csv.DictReader(stream):
            row = _row(told, known, shapes, left_out)
            if row is not None:
                rows.append(row)
    return rows, left_out


def configs_beside(path: Path) -> Path:
    """The folder of configs beside a file of rows, or the one beside the checkout."""
    own = path.parent / "model_configs"
    return own if own.is_dir() else shared("validation/model_configs", "--configs DIR")


def plain(name: str) -> str:
    """A model's name without what does not change its shape: 'Meta-Llama-3.1-8B-Instruct' -> 'llama-3.1-8b'."""
    name = name.split("/")[-1].lower().removeprefix("meta-")
    while SUFFIXES.search(name):
        name = SUFFIXES.sub("", name)
    return SAME_SHAPE.get(name, name)


def _row(told: dict[str, str], known: dict[str, Path], shapes: dict, left_out: Counter[str]) -> Row | None:
    if told["mode"] != "agg":
        left_out[told["mode"] or "no mode"] += 1
        return None
    name = plain(told["model_path"])
    if name not in known:
        left_out["unknown model"] += 1
        return None
    if name not in shapes:
        config = json.loads(known[name].read_text(encoding="utf-8"))
        text = json.dumps(config)
        predicts = re.search(r'"(num_nextn_predict_layers|mtp_num_hidden_layers|num_mtp_modules)": [1-9]', text) is not None
        shapes[name] = architecture(config, name), '"weight_block_size"' in text, predicts
    shape, blocks, predicts = shapes[name]
    try:
        device = accelerator(told["system"])
        setting = _setting(told, shape, blocks, predicts)
        asked = demand(shape, device, setting)
        tpot, ttft = float(told["silicon_tpot_ms"]) / 1000, float(told["silicon_ttft_ms"]) / 1000
    except BadInput:
        left_out["unknown device"] += 1
        return None
    except ValueError:
        left_out["missing value"] += 1
        return None
    if not (tpot > 0 and ttft > 0):
        left_out["missing value"] += 1
        return None
    least = asked.prefill_flops + asked.prefill_expert_flops + asked.prefill_core
    if ttft > 1 + 5 * least * setting.batch:
        left_out["queueing"] += 1
        return None
    if ttft < least:
        left_out["prefix cache"] += 1
        return None
    family = f"{shape.family}-{shape.layers}x{shape.hidden}"
    group = f"{family} {told['system']} {told['backend']} {setting.kind} {setting.tensor_parallel}"
    return Row(told["id"], shape, device, told["system"], told["backend"], setting, asked, tpot, ttft, group)


def _setting(told: dict[str, str], shape: Architecture, blocks: bool, predicts: bool) -> Setting:
    def number(column: str) -> int:
        return int(float(told.get(column) or 0))

    tensor, data = max(number("tp_size"), 1), number("attention_dp_size")
    slices, experts = max(number("moe_tp_size"), 1), max(number("moe_ep_size"), 1)
    batch, in_flight = number("batch_size"), re.search(r"_c(\d+)_", told["id"])
    devices = tensor * max(data, 1)
    if data and slices == experts > 1:
        devices = slices
    elif data > 1 and tensor == data and experts == tensor * data:
        devices = tensor
    groups = devices if data > 1 and tensor == 1 else 1
    flying = batch * max(data, 1)
    if not data and in_flight:  # the degree of attention is not told, but both numbers of requests are
        flying = int(in_flight[1])
        groups = max(1, flying // batch)
    if devices % groups:
        groups = 1
    format = FORMATS[told["gemm_quant_mode"] if told["gemm_quant_mode"] in FORMATS and told["gemm_quant_mode"] else told["precision"]]
    if shape.family == "gpt_oss" and format != "bf16":
        format = "mxfp4"
    if format == "fp8" and (blocks or "block" in told["moe_quant_mode"]):
        format = "fp8_block"
    return Setting(
        format=format,
        prompt=number("isl"),
        new_tokens=max(number("osl"), 1),
        batch=flying,
        tensor_parallel=devices,
        attention_data_parallel=groups,
        expert_parallel=experts > 1,
        pipeline_parallel=max(number("pp_size"), 1),
        accepted=ACCEPTED if predicts and (told["backend"], told["backend_version"]) in SPECULATIVE else 1.0,
    )
