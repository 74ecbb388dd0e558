"""`calibrate`: what the attached device does in half a minute, and with it what a model should take here.

The pieces that need only torch come from hardware/attached/calibration.py; compressed products run on the engines that models run
on, and the cost of a layer around its products is that of a real one: random Llamas of two depths decode, and what the
deeper one takes longer is its layers (so Python, the norms, rotary embeddings and the cache are in it as they are).
"""

from __future__ import annotations

import datetime
import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from effkit.hardware.attached import calibration as pieces
from effkit.hardware.attached.clock import Clock
from effkit.hardware.attached.device import Device
from effkit.hardware.attached.device import device as find_device
from effkit.hardware.attached.energy import ProcessorTime
from effkit.hardware.attached.environment import versions
from effkit.hardware.attached.memory import guard
from effkit.models.decoding import Decoder
from effkit.models.layers import layer_list
from effkit.models.model import Model, compute_dtype, wrap
from effkit.models.stored.packed import PackedLinear, PackedWeight
from effkit.spec.calibration import Calibration, Layer, Linear, Product
from effkit.spec.errors import BadInput, choice
from effkit.spec.progress import Progress, Work, long_work

BITS = {"int8": 8, "int4": 4}
GROUP = 64
MLP = 3  # width of the MLP over that of the layer
MOST_WEIGHTS = 256  # of one shape that take turns: making packed ones takes time
WIDTHS, DEPTHS, CONTEXTS, STEPS, ROUNDS, ROWS = (256, 1024), (2, 4), (32, 1024), 10, 4, 128
TIMED = 0.8  # share of the seconds that products get


@long_work
def calibrate(
    device: str | torch.device | Device = "auto", *, formats: Sequence[str] | None = None, dtype: str | None = None, seconds: float = 15.0
) -> Work[Calibration]:
    """Measure the device for up to about 30 seconds: copy rate, products per format over shapes, launches, layers, cached tokens.

    formats: of weights: "float32", "bfloat16", "float16", "int8", "int4"; None: all that the device has, float16 not on a CPU
    dtype:   what layers, and products of int8 and int4, compute in; None: float32 on a CPU, else bfloat16 where it has it

    seconds: how long to time altogether; preparing comes on top of it

    A simulated device gives a calibration that says so: its figures mean nothing.
    """
    on = find_device(device)
    usual = "float32" if on.is_cpu else "bfloat16" if "bfloat16" in on.dtypes else on.dtypes[0]
    kind = compute_dtype(dtype or usual, on)
    own = [d for d in on.dtypes if not (on.is_cpu and d == "float16")]
    wanted = [*own, *BITS] if formats is None else list(formats)
    for name in wanted:
        if name not in (*on.dtypes, *BITS):
            raise choice("format", name, [*on.dtypes, *BITS])
    plain = str(kind).removeprefix("torch.")
    if plain not in wanted:
        wanted.insert(0, plain)  # layers are measured beside products of what they compute in
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise BadInput(f"seconds is {seconds!r}", "Allowed: a number above 0", "15 gives steady figures")
    budget = TIMED * seconds / (len(wanted) * sum(len(sizes) ** 2 for *_, sizes in pieces.cases(on)))
    begun, total, products = time.perf_counter(), len(wanted) + 2, []
    yield Progress("calibrate", 0, total, "parts", "copies and launches")
    processor = ProcessorTime()
    processor.begin()
    Clock(on).check()
    with guard(on, "calibrating"):
        copied, launch = pieces.copies(on, budget), pieces.launch_seconds(on)
    for done, name in enumerate(wanted):
        for rows, working_set, sizes in pieces.cases(on):
            yield Progress("calibrate", 1 + done, total, "parts", f"{name}: {rows} {'row' if rows == 1 else 'rows'}")
            with guard(on, "calibrating"):
                if name in BITS:
                    products += _packed_products(on, name, kind, rows, working_set, sizes, budget)
                else:
                    products += pieces.dense_products(on, getattr(torch, name), rows, working_set, sizes, budget)
    yield Progress("calibrate", total - 1, total, "parts", "layers")
    with guard(on, "calibrating"):
        layers, overhead, cache, number = yield from _layers(
            on, kind, total, max(p.flops / p.seconds for p in products if p.format == plain)
        )
    processor.end()
    return Calibration(
        device=repr(on),
        device_type=on.type,
        simulated=on.simulated,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions=versions(("torch", "torch_npu", "transformers")),
        threads=torch.get_num_threads() if on.is_cpu else None,
        timing=Clock(on).how,
        dtype=plain,
        copies=tuple(copied),
        products=tuple(products),
        launch_seconds=launch,
        layers=tuple(layers),
        step_overhead_seconds=overhead,
        cache_seconds_per_byte=cache,
        number_seconds=number,
        overlaps=not on.is_cpu,
        processor_share=processor.share,
        seconds=time.perf_counter() - begun,
    )


def linears_of(model: Model, only: nn.Module | None = None) -> list[Linear]:
    """The linear layers that a token passes through, by shape and format, for `Calibration.step_seconds`. only: those inside it."""
    counted: Counter[tuple[str, int, int, int]] = Counter()
    for part in (only or model.module).modules():
        if isinstance(part, PackedLinear):
            name = "int8" if part.packed.bits > 4 else "int4"  # the kernels of neighbouring widths take as long
            stored = sum(t.numel() * t.element_size() for t in part.packed.buffers())
            counted[name, part.in_features, part.out_features, stored] += 1
        elif isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D":
            weight: Any = part.weight
            outputs, inputs = weight.shape if isinstance(part, nn.Linear) else weight.shape[::-1]
            counted[str(weight.dtype).removeprefix("torch."), inputs, outputs, weight.numel() * weight.element_size()] += 1
    return [Linear(format=name, inputs=i, outputs=o, bytes=stored, count=n) for (name, i, o, stored), n in counted.items()]


def cached_bytes(model: Model, context: int, batch: int = 1) -> int:
    """Bytes of keys and values of `context` tokens in the model's dtype; a layer with a window keeps no more than that."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    seen = sum(min(context, window) if window and "sliding" in kind else context for kind in kinds)
    return 2 * batch * seen * heads * width * torch.empty(0, dtype=model.dtype).element_size()


def expected_step_seconds(model: Model, calibration: Calibration, *, context: int, batch: int = 1) -> float:
    """What one decoding step of `model` should take on the calibrated device, `context` tokens being cached."""
    layers = int(model.config.num_hidden_layers)
    return calibration.step_seconds(linears_of(model), layers, cached_bytes(model, context, batch), batch)


def _packed_products(
    on: Device, name: str, dtype: torch.dtype, rows: int, working_set: int, sizes: Sequence[int], budget: float
) -> list[Product]:
    """Products of compressed weights with random integers, on the engine that a model's layer would take."""
    clock, bits, found = Clock(on), BITS[name], []
    for inputs, outputs in itertools.product(sizes, sizes):
        x = pieces.noise(on, dtype, 1, rows, inputs)
        first = _packed(on, bits, inputs, outputs, dtype)
        stored = sum(t.numel() * t.element_size() for t in first.packed.buffers())
        count = max(2, min(working_set // stored, MOST_WEIGHTS))
        layers = [first, *(_packed(on, bits, inputs, outputs, dtype, like=first) for _ in range(count - 1))]
        with torch.inference_mode():
            for layer in layers:
                layer.prepare(dtype)
            seconds = pieces.seconds_each(clock, [lambda layer=layer, x=x: layer(x) for layer in layers], budget)
        chosen = first.choice(dtype)
        usable = chosen.engine is not None and rows <= chosen.engine.most_rows
        found.append(
            Product(
                format=name, engine=chosen.name if usable else "dequantize", rows=rows, inputs=inputs, outputs=outputs,
                bytes=stored, working_set=working_set, seconds=seconds,
            )
        )  # fmt: skip
    return found


def _packed(on: Device, bits: int, inputs: int, outputs: int, dtype: torch.dtype, like: PackedLinear | None = None) -> PackedLinear:
    """A layer of random integers; `like`: with the same ones in a place of its own, which is quicker than drawing them again."""
    packed = PackedWeight(outputs, inputs, bits, GROUP, True, dtype, device=on.torch)
    if like is None:
        packed.integers.random_(0, 256, generator=torch.Generator(on.torch).manual_seed(0))
        packed.scales.fill_(0.01)
    else:
        packed.integers.copy_(like.packed.integers)
        packed.scales.copy_(like.packed.scales)
    return PackedLinear(packed)


def _layers(on: Device, dtype: torch.dtype, total: int, rate: float) -> Work[tuple[list[Layer], float, float, float]]:
    """(layers by their bytes, seconds of a step around them, for each cached byte, for each number of a further row) of random Llamas."""
    found, overheads, cache, numbers = [], [], 0.0, []
    for width in WIDTHS if on.is_cpu else WIDTHS[:1]:  # where work is queued, a small layer shows all that the host does
        models = [_small_llama(on, dtype, depth, width) for depth in DEPTHS]
        cases = [(models[0], CONTEXTS[0]), (models[1], CONTEXTS[0]), (models[1], CONTEXTS[1])]
        spans: list[list[float]] = [[] for _ in cases]
        for round_ in range(ROUNDS):
            yield Progress("calibrate", total - 1, total, "parts", f"layers of width {width}: round {round_ + 1}")
            for (model, context), times in zip(cases, spans, strict=True):
                steps, alone = _decoded(model, context)
                times += [] if round_ == 0 else [step - (0.0 if not on.is_cpu else alone) for step in steps]
        few, many, long = (float(np.quantile(times, pieces.QUIET)) for times in spans)
        layer = max((many - few) / (DEPTHS[1] - DEPTHS[0]), 0.0)
        element = torch.empty(0, dtype=dtype).element_size()
        found.append(Layer(weight_bytes=(4 + 3 * MLP) * width * width * element, seconds=layer))
        overheads.append(max(few - DEPTHS[0] * layer, 0.0))
        if on.is_cpu:  # where work is queued, starting it hides what so little of it takes
            cache = max((long - many) / DEPTHS[1] / (2 * width * element * (CONTEXTS[1] - CONTEXTS[0])), 0.0)
            numbers.append(_number_seconds(models, rate))
    if not on.is_cpu:
        cache = pieces.cache_seconds(on, dtype, (1, 1, 64, 16) if on.simulated else pieces.CACHE)
    return found, float(np.mean(overheads)), cache, float(np.mean(numbers or [0.0]))


class _Passed(nn.Module):
    """Stands for a linear layer and takes no time: the same numbers come out, whatever goes in."""

    def __init__(self, on: Device, dtype: torch.dtype, outputs: int) -> None:
        super().__init__()
        self.out = pieces.noise(on, dtype, 1, ROWS, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out[:, : x.shape[1]]


def _number_seconds(models: Sequence[Model], rate: float) -> float:
    """What a layer does to further rows besides products, a number of them: both depths read ROWS tokens, and one, without products.

    The models' linear layers are gone afterwards. rate: of products, at which pairs of tokens are counted elsewhere.
    """
    clock, config = Clock(models[0].device), models[0].config
    linears = [part for part in layer_list(models[0])[1][0].modules() if isinstance(part, nn.Linear)]
    passing = sum(part.in_features + part.out_features for part in linears)
    pairs = 2 * config.num_attention_heads * 2 * config.head_dim * (ROWS * (ROWS + 1) / 2) / rate
    for model in models:
        for name, part in list(model.module.named_modules()):
            if isinstance(part, nn.Linear):
                model.module.set_submodule(name, _Passed(model.device, model.dtype, part.out_features))
    spans: dict[tuple[int, int], list[float]] = {}
    with torch.inference_mode():
        for _ in range(3 * ROUNDS):
            for depth, model in zip(DEPTHS, models, strict=True):
                for rows in (1, ROWS):
                    ids, decoder = torch.ones(1, rows, dtype=torch.long, device=model.device.torch), Decoder(model, length=rows)
                    with clock.measure() as span:
                        decoder.read(ids)
                    spans.setdefault((depth, rows), []).append(span.seconds)
    seconds = {case: float(np.quantile(times, pieces.QUIET)) for case, times in spans.items()}
    one, many = ((seconds[DEPTHS[1], rows] - seconds[DEPTHS[0], rows]) / (DEPTHS[1] - DEPTHS[0]) for rows in (1, ROWS))
    return max(many - one - pairs, 0.0) / (ROWS - 1) / passing


def _decoded(model: Model, context: int) -> tuple[list[float], float]:
    """Seconds of each decoding step after `context` tokens, and of all products of a step by themselves, in the same moment."""
    clock, on = Clock(model.device), model.device.torch
    config, linears = model.config, [part for part in model.module.modules() if isinstance(part, nn.Linear)]
    inputs = {n: pieces.noise(model.device, model.dtype, 1, 1, n) for n in {part.in_features for part in linears}}
    decoder, ids = Decoder(model, length=context + STEPS), torch.ones(1, 1, dtype=torch.long, device=on)
    steps, alone = [], []
    with torch.inference_mode():
        decoder.cache = DynamicCache(config=config)
        shape = (1, config.num_key_value_heads, context, config.head_dim)
        for layer in range(config.num_hidden_layers):
            decoder.cache.update(*(pieces.noise(model.device, model.dtype, *shape) for _ in range(2)), layer)
        for _ in range(STEPS):
            with clock.measure() as span:
                ids = decoder.step(ids).argmax(-1, keepdim=True)
            steps.append(span.seconds)
            with clock.measure() as span:
                for part in linears:
                    part(inputs[part.in_features])
            alone.append(span.seconds)
    return steps, float(np.quantile(alone, pieces.QUIET))


def _small_llama(on: Device, dtype: torch.dtype, depth: int, width: int) -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=MLP * width, num_hidden_layers=depth, num_attention_heads=width // 64,
        num_key_value_heads=width // 64, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    state = torch.get_rng_state()
    with torch.device("meta"):  # drawing a hundred million numbers as a trained model would takes seconds
        module: Any = LlamaForCausalLM(config)
    rotary = LlamaForCausalLM(LlamaConfig(**{**config.to_diff_dict(), "num_hidden_layers": 0, "vocab_size": 8})).model.rotary_emb
    torch.set_rng_state(state)
    module = module.to(dtype).to_empty(device=on.torch)
    module.model.rotary_emb = rotary.to(on.torch)
    drawn = pieces.noise(on, dtype, 1 << 16).mul_(0.02)
    for name, parameter in module.named_parameters():
        flat = parameter.data.view(-1)
        flat.copy_(drawn.repeat(len(flat) // len(drawn) + 1)[: len(flat)]) if "norm" not in name else flat.fill_(1.0)
    return wrap(module, None, f"calibration-{depth}", hash="random")
