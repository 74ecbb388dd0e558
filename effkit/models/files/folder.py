"""A local folder: config.json, safetensors, a tokenizer. Everything that could run code is refused before it is opened."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.files import parsed
from effkit.spec.progress import Progress, Work

from ..building import BUILDING
from ..mean_bert import OWN
from ..model import Model
from .gguf import read_gguf
from .saving import MANIFEST, read_manifest, rebuilt

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "*.model", "spiece.*", "merges.txt")
HEADER_LIMIT = 100_000_000


def read_folder(folder: Path, source: str) -> Work[tuple]:
    """(module, tokenizer, facts) of an ordinary folder, or (None, None, {}, Model) of one that effkit saved."""
    if not (folder / "config.json").exists():
        files = sorted(folder.glob("*.gguf"))
        if len(files) == 1:
            return (yield from read_gguf(files[0]))
        if files:
            names = ", ".join(repr(file.name) for file in files)
            raise BadInput(f"{source} holds {len(files)} GGUF files", f"Allowed: one of {names}", "Give the path of the file")
        raise no_config(folder, source)
    config, cls = architecture(folder, source)
    saved = read_manifest(folder) if (folder / MANIFEST).exists() else None
    files = weight_files(folder, source)
    yield Progress("load", 1, 4, "steps", "reading the tokenizer")
    tokenizer = read_tokenizer(folder, source)
    tensors = yield from read_tensors(files, source)
    if saved is not None:
        module = rebuilt(cls, config, saved, tensors, source)
        _generation(module, folder)
        module.eval().requires_grad_(False)
        return None, None, {}, Model(module, tokenizer, saved["checkpoint"], saved["recipe"], saved["plans"])
    yield Progress("load", 3, 4, "steps", "building the model")
    module = built(cls, config, tensors, source)
    _generation(module, folder)
    return module, tokenizer, {"licence": licence(folder)}


def architecture(folder: Path, source: str) -> tuple[Any, Any]:
    """The transformers config and model class that config.json names; anything that effkit cannot serve is refused here."""
    try:
        data = parsed((folder / "config.json").read_text(encoding="utf-8"))
        kind, names = data.get("model_type"), data.get("architectures") or []
    except (ValueError, AttributeError, OSError) as error:
        raise BadInput(f"config.json of {source} cannot be read ({error})", "Allowed: the JSON of a transformers config") from None
    if kind not in CONFIG_MAPPING:
        if data.get("auto_map"):
            raise BadInput(
                f"{source} needs code of its own (auto_map in config.json names {next(iter(data['auto_map'].values()))!r})",
                "effkit never runs code from a checkpoint; allowed are architectures that transformers contains",
                "Look for a version of this model in transformers' own format",
            )
        raise BadInput(
            f"{source} has the model type {kind!r}",
            f"transformers {transformers.__version__} does not know it",
            "Update transformers, or choose another model",
        )
    causal = {name for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _each(value)}
    classes = {name for value in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values() for name in _each(value)}
    name = next((name for name in names if name in causal | classes | OWN.keys()), None)
    if name is None:
        raise BadInput(
            f"the architecture of {source} is {names[0] if names else None!r}",
            "Allowed: causal language models (...ForCausalLM, ...LMHeadModel) and sequence classifiers (...ForSequenceClassification)",
            "Choose a checkpoint of one of these kinds",
        )
    method = (data.get("quantization_config") or {}).get("quant_method")
    if method:
        raise BadInput(
            f"the weights of {source} are already quantized ({method})",
            "effkit starts from unquantized weights, so that what it measures is what it did",
            "Load the original checkpoint",
        )
    return CONFIG_MAPPING[kind].from_dict(data), OWN.get(name) or getattr(transformers, name)


def weight_files(folder: Path, source: str) -> list[Path]:
    """The safetensors files of a folder, whole; pickles are refused and never opened."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    elif index.exists():
        try:
            names = sorted(set(parsed(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise BadInput(f"{index.name} of {source} cannot be read ({error!r})", "Allowed: the index that transformers writes") from None
        files = [folder / Path(name).name for name in names]
        lost = [file.name for file in files if not file.exists()]
        if lost:
            raise BadInput(f"{source} lacks {', '.join(lost)}", f"{index.name} lists {len(files)} files", "Download the model again")
    else:
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            pickles = [file for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
            if pickles and not files:
                raise pickle_refused(pickles, folder)
            found = ", ".join(file.name for file in files) or "no safetensors file"
            raise BadInput(f"{source} holds {found}", "Allowed: model.safetensors, or model.safetensors.index.json and its files")
    for file in files:
        check_safetensors(file)
    return files


def check_safetensors(file: Path) -> None:
    """Raise BadInput unless the file's size is what its header says: a file cut in half is found before it is used."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        header = stream.read(length) if 0 < length <= min(HEADER_LIMIT, size) else b""
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and not header.startswith(b"{"):
        raise pickle_refused([file], file.parent)
    try:
        entries = {name: entry for name, entry in parsed(header).items() if name != "__metadata__"}
        needed = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        needed = None
    if needed != size:
        told = f"its header asks for {bytes_text(needed)}" if needed else "it has no valid header"
        raise _damaged(file, f"{bytes_text(size)}, {told}")


def _damaged(file: Path, why: object) -> BadInput:
    return BadInput(
        f"{file.name} in {str(file.parent)!r} is damaged ({why})", "Allowed: a whole safetensors file", "Download or save it again"
    )


def read_tensors(files: list[Path], source: str) -> Work[dict[str, torch.Tensor]]:
    """All tensors of the files, in memory of their own: the files may change or vanish afterwards."""
    tensors: dict[str, torch.Tensor] = {}
    total = 0
    for number, file in enumerate(files, 1):
        try:
            stored = safe_open(file, framework="pt", device="cpu")
        except SafetensorError as error:  # the sizes are right, what they are said to hold is not
            raise _damaged(file, error) from None
        with stored as opened:
            names = list(opened.keys())
            total += len(names)
            # a bar that knows the files but not yet the tensors of the later ones grows once a file
            estimate = max(total, round(total / number * len(files)))
            for name in names:
                tensors[name] = opened.get_tensor(name).clone()
                yield Progress("load", len(tensors), estimate, "tensors", f"reading {file.name}", details={"tensor": name})
    if not tensors:
        raise BadInput(f"the weights of {source} are empty", "Allowed: safetensors files that hold the model's tensors")
    return tensors


def built(cls: Any, config: Any, tensors: dict[str, torch.Tensor], source: str) -> Any:
    """The transformers model in the widest dtype of its tensors, so that casting comes later and loses nothing here."""
    kinds = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    dtype = next((d for d in (torch.float32, torch.bfloat16, torch.float16) if d in kinds), None)
    if {torch.bfloat16, torch.float16} <= set(kinds) or torch.float64 in kinds:
        dtype = torch.float32
    if dtype is None:
        raise BadInput(
            f"the weights of {source} are stored as {', '.join(sorted({str(t.dtype) for t in tensors.values()}))}",
            "Allowed: float32, bfloat16, float16",
            "Load the original checkpoint",
        )
    try:
        with quiet(), BUILDING:
            module, info = cls.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True)
    except (RuntimeError, ValueError, KeyError, ImportError) as error:
        raise BadInput(
            f"the weights of {source} do not fit its config.json ({str(error).strip().splitlines()[0]})",
            f"Allowed: the tensors of {cls.__name__} as this config describes them",
            "Download the model again",
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadInput(
            f"{source} lacks the weights {', '.join(missing[:3])}{more}",
            f"Allowed: all tensors of {cls.__name__}; a part filled with random numbers would measure nothing",
            "Download the model again, or choose a checkpoint that was trained for this task",
        )
    return module


def read_tokenizer(folder: Path, source: str) -> Any:
    """The tokenizer of a folder; without one no text can be read."""
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
        raise BadInput(
            f"{source} has no tokenizer",
            "A model's folder must hold tokenizer.json, or another of transformers' tokenizer files, beside config.json",
            "Save the tokenizer there: tokenizer.save_pretrained(folder)",
        )
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise BadInput(
                f"the tokenizer of {source} needs code of its own", "effkit never runs code from a checkpoint", "Choose another model"
            ) from None
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"the tokenizer of {source} cannot be read ({why})",
            "Allowed: tokenizer files that transformers reads",
            "Save the tokenizer again: tokenizer.save_pretrained(folder)",
        ) from error


def licence(folder: Path) -> str | None:
    """The licence that the model card (the head of README.md) names; None where there is none."""
    import yaml
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    try:
        data = (metadata_load(card) or {}) if card.exists() else {}
    except (ValueError, OSError, yaml.YAMLError):
        return None
    named = data.get("license")
    named = ", ".join(map(str, named)) if isinstance(named, list) else named
    return str(data.get("license_name") or named) if named else None


def pickle_refused(files: list[Path], folder: Path) -> BadInput:
    names = ", ".join(file.name for file in files[:3])
    return BadInput(
        f"{names} in {str(folder)!r} {'is a pickle' if len(files) == 1 else 'are pickles'}, which can run any code when opened",
        "Allowed: safetensors and GGUF",
        "Ask for the model in safetensors, or convert it where you trust its source: model.save_pretrained(folder)",
    )


def no_config(folder: Path, source: str) -> BadInput:
    if (folder / "adapter_config.json").exists():
        return BadInput(f"{source} is an adapter", "Allowed: a whole model", "Merge the adapter into its base model first")
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if pickles:
        return pickle_refused(pickles, folder)
    return BadInput(
        f"{source} holds no config.json", "Allowed: a folder with config.json, safetensors and tokenizer, or a .gguf file", "Check the path"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars and warnings: progress and refusals are told by effkit."""
    log = logging.getLogger("transformers")
    level, bars = log.level, transformers.utils.logging.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _each(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _generation(module: Any, folder: Path) -> None:
    if (folder / "generation_config.json").exists() and module.can_generate():
        with quiet():
            module.generation_config = transformers.GenerationConfig.from_pretrained(folder)
