"""GGUF files: checked to be whole, then opened by transformers and de-quantized to float32.

Layout (ggml's docs/gguf.md): magic, version, counts, metadata, tensor infos with offsets, then aligned tensor data.
A file cut anywhere shows it by an offset beyond its end.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.progress import Progress, Work

MAGIC = b"GGUF"
VERSIONS = (2, 3)


def read_gguf(path: Path) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of a .gguf file, in float32 on the CPU."""
    yield Progress("load", 0, 4, "steps", f"checking {path.name}")
    fields = check_gguf(path)
    import transformers

    from .folder import quiet

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        yield Progress("load", 1, 4, "steps", f"reading the tokenizer of {path.name}")
        with quiet(), redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
        yield Progress("load", 2, 4, "steps", f"reading the weights of {path.name}")
        with quiet(), redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
            module: Any = transformers.AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, trust_remote_code=False, local_files_only=True, **_dequantize()
            )
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(
            f"{path.name} cannot be read (architecture {fields.get('general.architecture')!r}: {_first_line(error)})",
            "Allowed: a GGUF file of a causal language model that transformers can convert",
            "Load the original checkpoint instead",
        ) from error
    shed_quantizer_(module)
    yield Progress("load", 3, 4, "steps", "read")
    return module, tokenizer, {"licence": fields.get("general.license")}


def check_gguf(path: Path) -> dict[str, Any]:
    """The scalar metadata of a whole GGUF file. Raises BadInput for another format, another version, or a file cut short."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
    if head[:4] != MAGIC:
        raise BadInput(f"{path.name} does not begin with {MAGIC!r} but with {head[:4]!r}", "Allowed: a GGUF file", "Download it again")
    version = int.from_bytes(head[4:8], "little")
    if version not in VERSIONS:
        raise BadInput(f"the GGUF version of {path.name} is {version}", f"Allowed: {VERSIONS}", "Convert the model again")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        end = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise cut(path, size, _first_line(error)) from None
    if not reader.tensors or end > size:
        raise cut(path, size, f"its tensors end at {bytes_text(end)}" if reader.tensors else "it holds no tensors")
    return {name: field.contents() for name, field in reader.fields.items() if field.types and field.types[0].name != "ARRAY"}


def cut(path: Path, size: int, why: str) -> BadInput:
    return BadInput(f"{path.name} is damaged or cut short ({bytes_text(size)}; {why})", "Allowed: a whole GGUF file", "Download it again")


def shed_quantizer_(module: Any) -> None:
    """Make a de-quantized model an ordinary one again: it would otherwise refuse to be cast or saved."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(module):
            delattr(module, name)
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config


def _dequantize() -> dict[str, Any]:
    # some transformers keep the blocks packed and fetch kernels from a hub for them; effkit wants plain weights and no network
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
