"""Packed weights against dense ones: tokens a second at batch 1, in bfloat16, on a random model of a known shape.

    python tests/benchmarks/decode.py [--shape 1b|8b|tiny] [--device cpu|cuda] [--group 64] [--repeats 5] [--compiled]

Random weights cost what trained ones cost. The model is quantized to 4 bits by rounding to nearest (embeddings and head to
8), then it and the dense model decode in turns, a prompt each (`ek.profile` with a base), so that a busy moment hits both.
`speed_ratio` has an interval over the repeats. The copy speed is that of a tensor much larger than any cache, measured in
the same run; `bandwidth_percent` is the bytes that a token reads (all stored weights, the embedding table only where it is
the head too) over the time of a token, in percent of it. A derived form is as large as the stored one, so stored bytes count.
`dense_bandwidth_percent` is the same of the dense model. With --compiled both decode compiled, with a cache of fixed size.

The last line is one JSON object. Goals: on a CPU (1b) speed_ratio at least 1.5; on CUDA (8b) at least 2.5, and with --compiled
dense_bandwidth_percent at least 70.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

from reporting import last_line

print = functools.partial(print, flush=True)

SHAPES: dict[str, dict[str, Any]] = {
    # Llama 3.2 1B, Llama 3.1 8B, and one for a look at the script itself
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 1024, "tie_word_embeddings": True},
}


def random_model(shape: str, device: str) -> Any:
    """A model of this shape in bfloat16, its weights drawn where they will lie. shape: of SHAPES, or a name of architectures.toml."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from effkit.hardware.projected.known import known_config
    from effkit.models.model import wrap

    fields: dict[str, Any] = {"model_type": "llama", "max_position_embeddings": 4096}
    if shape in SHAPES:
        wide = SHAPES[shape]["hidden_size"] >= 2048
        fields |= {**SHAPES[shape], "num_attention_heads": 32 if wide else 4, "num_key_value_heads": 8 if wide else 2}
    else:
        fields |= known_config(shape) or {}
    config: Any = AutoConfig.for_model(fields.pop("model_type"), **fields, dtype=torch.bfloat16)
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    module = module.to_empty(device=device)
    module.model.rotary_emb = type(module.model.rotary_emb)(config).to(device)  # computed, not drawn
    module.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.fill_(1.0) if "norm" in name else tensor.normal_(0.0, 0.02, generator=generator)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(1000)}, unk_token="w0"))
    return wrap(module, PreTrainedTokenizerFast(tokenizer_object=words), f"random-{shape}", hash="random")


def copy_speed(device: Any) -> float:
    """Bytes a second read and written while a gigabyte is copied; the best of ten."""
    import torch

    from effkit.hardware.attached.clock import Clock

    source = torch.ones(1 << 28, dtype=torch.float32, device=device.torch)
    target, clock, best = torch.empty_like(source), Clock(device), 0.0
    for _ in range(10):
        with clock.measure() as span:
            target.copy_(source)
        best = max(best, 2 * source.numel() * source.element_size() / span.seconds)
    return best


def read_bytes(model: Any) -> int:
    """Stored bytes that one token reads: all but an embedding table of which it reads one row."""
    embedding, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()
    held = {id(t) for t in (*head.parameters(), *head.buffers())}
    apart = sum(t.numel() * t.element_size() for t in (*embedding.parameters(), *embedding.buffers()) if id(t) not in held)
    return model.stored_bytes - apart


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--shape", choices=SHAPES, default=None)
    ask.add_argument("--device", default="auto")
    ask.add_argument("--group", type=int, default=64)
    ask.add_argument("--prompt", type=int, default=32)
    ask.add_argument("--new-tokens", type=int, default=16)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--compiled", action="store_true", help="compile the pass of a token, for both models")
    given = ask.parse_args()

    import torch

    import effkit as ek

    device = ek.device(given.device)
    shape = given.shape or ("1b" if device.is_cpu else "8b")
    print(f"a random {shape} model in bfloat16 on {device!r}")
    base = random_model(shape, str(device))
    begun = time.perf_counter()
    packed = ek.quantize(base, method="rtn", bits=4, group_size=given.group)
    print(f"{base.stored_bytes / 1e9:.2f} GB quantized to {packed.stored_bytes / 1e9:.2f} GB in {time.perf_counter() - begun:.0f} s")
    print(packed.execution())
    speed = ek.profile(
        packed, base, prompt=given.prompt, new_tokens=given.new_tokens, repeats=given.repeats, warmup=1, compiled=given.compiled
    )
    lengths = {"prompt": given.prompt, "new_tokens": given.new_tokens}
    dense = ek.profile(base, **lengths, repeats=given.repeats, warmup=1, compiled=given.compiled)
    copied = copy_speed(device)
    ratio, decode = speed.speed_ratio, speed.decode.value or 0.0
    print(f"packed {speed.decode}; {ratio} times as fast as dense; copy {copied / 1e9:.1f} GB/s")
    last_line(
        {
            "shape": shape,
            "device": repr(device),
            "dtype": speed.dtype,
            "group": given.group,
            "threads": torch.get_num_threads(),
            "packed_tokens_per_s": round(decode, 2),
            "dense_tokens_per_s": round(dense.decode.value or 0.0, 2),
            "speed_ratio": round(ratio.value or 0.0, 3),
            "speed_ratio_interval": [ratio.low, ratio.high],
            "stored_bytes": packed.stored_bytes,
            "dense_bytes": base.stored_bytes,
            "derived_bytes": packed.execution().extra_bytes,
            "copy_gb_per_s": round(copied / 1e9, 1),
            "bandwidth_percent": round(100 * read_bytes(packed) * decode / copied, 1),
            "dense_bandwidth_percent": round(100 * read_bytes(base) * (dense.decode.value or 0.0) / copied, 1),
            "decoding": speed.decoding.model_dump() if speed.decoding else None,
            "dense_decoding": dense.decoding.model_dump() if dense.decoding else None,
            "goal": 1.5 if device.is_cpu else 2.5,
            "goal_dense_bandwidth_percent": 70.0 if given.compiled and not device.is_cpu else None,
        }
    )


if __name__ == "__main__":
    main()
