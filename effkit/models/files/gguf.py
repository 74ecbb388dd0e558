"""GGUF files of any architecture that transformers converts: checked to be whole, then de-quantized to float32."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work

from ..building import BUILDING
from .header import read_header


def read_gguf(path: Path) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of a .gguf file, in float32 on the CPU."""
    yield Progress("load", 0, 4, "steps", f"checking {path.name}")
    fields = read_header(path).fields
    import transformers

    from .folder import quiet

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        yield Progress("load", 1, 4, "steps", f"reading the tokenizer of {path.name}")
        with quiet(), redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where, trust_remote_code=False, local_files_only=True)
        yield Progress("load", 2, 4, "steps", f"reading the weights of {path.name}")
        with quiet(), redirect_stderr(io.StringIO()), BUILDING:
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
