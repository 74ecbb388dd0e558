"""Vocabulary pruning: the tokenizer cut to what a domain uses, the embedding's rows and the head with it.

No text becomes impossible: every added and special token stays, and of the rest what spells anything (all bytes of a
byte-level or byte-fallback BPE, else all single characters). A kept token of a BPE brings along all that its merges
build it from, so that text made only of kept tokens is cut into the very same tokens as before. Greedy WordPiece and
Unigram have that property for any subset. (For the idea: Ushio et al. 2023, arXiv:2305.15020.)
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import pre_tokenizers

from effkit.models.files.folder import read_tokenizer
from effkit.models.model import Model
from effkit.spec.errors import BadInput

KINDS = ("BPE", "WordPiece", "Unigram")


def kept_tokens(model: Model, wanted: int | Literal["used"], documents: Iterable[str]) -> tuple[torch.Tensor, str]:
    """(ids that stay, in ascending order; a sentence on what they cover). BadInput: a number too small or too large."""
    data = _tokenizer_json(model.tokenizer)
    strings = {id: token for token, id in model.tokenizer.get_vocab().items()}
    rows = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    required = {id for id in _required(data, model) if id < rows}
    parts = _ingredients(data)
    counts = Counter(id for document in documents for id in model.tokens(document))
    by_use = sorted(counts, key=lambda id: (-counts[id], id))
    if counts and max(counts) >= rows:
        raise BadInput(f"the tokenizer made the token {max(counts)}", f"This model knows tokens 0 to {rows - 1}")
    kept = set(required)
    if wanted == "used":
        for id in by_use:
            kept |= parts(id)
    else:
        if not len(required) <= wanted <= len(strings):
            raise BadInput(
                f"vocabulary is {wanted}",
                f"Allowed for this tokenizer: {len(required)} (its special tokens and all that spells any text) to {len(strings)}",
                "Choose a number between, or 'used' for all that the text uses",
            )
        # unused tokens fill up what is left, in the tokenizer's own order, which is mostly that of their frequency in its training
        unused = (id for id in sorted(strings) if id not in counts and id < rows)
        for id in (*by_use, *unused):
            more = parts(id) - kept
            if len(kept) + len(more) <= wanted:
                kept |= more
            if len(kept) == wanted:
                break
    covered = sum(count for id, count in counts.items() if id in kept) / max(1, sum(counts.values()))
    note = (
        f"{len(kept)} of {len(strings)} tokens stay; the text uses {len(counts)} different ones, and {covered:.2%} of its tokens stay whole"
    )
    return torch.tensor(sorted(kept)), note


def vocabulary_axes(model: Model) -> dict[str, tuple[str, ...]]:
    """The parameters that have a row for each token: the embedding, the head and its bias. BadInput if their rows differ."""
    table, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()  # type: ignore[operator]
    rows = table.weight.shape[0]
    holders = [table, head if model.task == "causal-lm" else None]
    ids = {id(p) for part in holders if part is not None for p in part.parameters()}
    axes = {name: ("vocabulary",) for name, p in model.module.named_parameters(remove_duplicate=False) if id(p) in ids}
    wrong = [name for name in axes if model.module.get_parameter(name).shape[0] != rows]
    if wrong or rows != model.config.vocab_size:
        raise BadInput(
            f"{model.checkpoint.architecture} has {rows} rows in its embedding and a vocabulary of {model.config.vocab_size}",
            "Allowed: models whose embedding and head have one row a token",
        )
    return axes


def vocabulary_changes(model: Model, kept: torch.Tensor) -> dict[str, Any]:
    """What changes in the config: the number of tokens and every id that it names."""
    place = {old: new for new, old in enumerate(kept.tolist())}
    changes = {"vocab_size": len(place), **_renumbered(model.config, place)}
    pad = getattr(model.config, "pad_token_id", None)
    counted = model.config.model_type in ("roberta", "xlm-roberta", "camembert")  # positions are counted from the padding's id
    if counted and changes.get("pad_token_id", pad) != pad:
        raise BadInput(
            f"the id of the padding token of {model.checkpoint.source} would change",
            "RoBERTa counts positions from it",
            "Keep its vocabulary",
        )
    return changes


def renumber_generation_(module: Any, kept: torch.Tensor) -> None:
    """The ids in a generation config, where there is one."""
    generation = getattr(module, "generation_config", None)
    if generation is not None:
        for name, value in _renumbered(generation, {old: new for new, old in enumerate(kept.tolist())}).items():
            setattr(generation, name, value)


def cut_tokenizer(tokenizer: Any, kept: torch.Tensor) -> Any:
    """A tokenizer of the kept tokens alone, numbered anew in the old order; all else in it as it was."""
    data = _tokenizer_json(tokenizer)
    place = {old: new for new, old in enumerate(kept.tolist())}
    names = {token: place[id] for token, id in tokenizer.get_vocab().items() if id in place}
    model = data["model"]
    if model["type"] == "Unigram":
        unknown = model.get("unk_id")
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in place]
        model["unk_id"] = None if unknown is None else place[unknown]
    else:
        model["vocab"] = {token: place[id] for token, id in sorted(model["vocab"].items(), key=lambda item: item[1]) if id in place}
    if model["type"] == "BPE":
        known = model["vocab"]
        model["merges"] = [[a, b] for a, b in _merges(model) if a in known and b in known and a + b in known]
    data["added_tokens"] = [{**token, "id": place[token["id"]]} for token in data["added_tokens"]]
    _renumber_processor_(data["post_processor"], names)
    if data.get("padding"):
        data["padding"]["pad_id"] = names[data["padding"]["pad_token"]]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in Path(folder).iterdir():  # the old vocabulary in other forms
            if file.name not in ("tokenizer.json", "tokenizer_config.json") and file.suffix in (".json", ".txt", ".model"):
                file.unlink()
        (Path(folder) / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        settings = Path(folder) / "tokenizer_config.json"
        settings.write_text(json.dumps(_settings(json.loads(settings.read_text(encoding="utf-8")), place)), encoding="utf-8")
        new = read_tokenizer(Path(folder), "the pruned vocabulary")
    new.name_or_path = tokenizer.name_or_path
    if new.get_vocab() != names:
        raise BadInput(
            f"a {type(tokenizer).__name__} with fewer tokens does not come back as it was written",
            "Allowed: tokenizers that are all in tokenizer.json",
            "Keep the vocabulary of this model",
        )
    return new


def _tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"the tokenizer is a {type(tokenizer).__name__}", "Allowed: fast tokenizers, whose parts are in tokenizer.json")
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = data["model"].get("type")
    affixes = [data["model"].get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if kind not in KINDS or (kind == "BPE" and any(affixes)):
        raise BadInput(
            f"the tokenizer's model is {kind}{' with affixes' if any(affixes) else ''}",
            f"Allowed for vocabulary pruning: {', '.join(KINDS)} (BPE without affixes)",
            "Keep the vocabulary of this model",
        )
    return data


def _required(data: dict[str, Any], model: Model) -> set[int]:
    """Ids without which some text, or the model itself, could not be written."""
    vocabulary, kind = model.tokenizer.get_vocab(), data["model"]["type"]
    kept = {token["id"] for token in data["added_tokens"]} | {id for id in model.tokenizer.all_special_ids if id is not None}
    for config in (model.config, getattr(model.module, "generation_config", None)):
        kept |= {id for ids in _named_ids(config).values() for id in (ids if isinstance(ids, list) else [ids]) if id >= 0}
    if kind == "Unigram" and data["model"].get("unk_id") is not None:
        kept.add(data["model"]["unk_id"])
    elif data["model"].get("unk_token") in vocabulary:
        kept.add(vocabulary[data["model"]["unk_token"]])
    if _byte_level(data):
        return kept | {vocabulary[byte] for byte in pre_tokenizers.ByteLevel.alphabet() if byte in vocabulary}
    if data["model"].get("byte_fallback"):
        return kept | {vocabulary[byte] for n in range(256) if (byte := f"<0x{n:02X}>") in vocabulary}
    prefix = data["model"].get("continuing_subword_prefix") or ""
    return kept | {id for token, id in vocabulary.items() if len(token.removeprefix(prefix) if prefix else token) == 1}


def _byte_level(data: dict[str, Any]) -> bool:
    return any('"ByteLevel"' in json.dumps(data[part]) for part in ("pre_tokenizer", "normalizer") if data.get(part))


def _ingredients(data: dict[str, Any]):
    """id -> the ids that must stay with it, itself included: for a BPE, every step of the merges that build it."""
    model = data["model"]
    if model["type"] != "BPE":
        return lambda id: {id}
    vocabulary: dict[str, int] = model["vocab"]
    strings = {id: token for token, id in vocabulary.items()}
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(_merges(model))))}

    def parts(id: int) -> set[int]:
        token = strings.get(id)
        if token is None or (model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x")):
            return {id}
        pieces, found = list(token), {id}
        found.update(vocabulary[piece] for piece in pieces if piece in vocabulary)
        while len(pieces) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(pieces)))
            if rank == len(ranks):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            found.add(vocabulary[pieces[at]])
        return found

    return parts


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]  # type: ignore[misc]


def _named_ids(config: Any) -> dict[str, Any]:
    """Every token id that a config names, e.g. {"eos_token_id": 2}; lists as they are."""
    found = {}
    for name, value in (config.to_dict() if config is not None else {}).items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if name.endswith("_token_id") and (whole or (isinstance(value, list) and all(isinstance(id, int) for id in value))):
            found[name] = value
    return found


def _renumbered(config: Any, place: Mapping[int, int]) -> dict[str, Any]:
    return {
        name: [place.get(id, id) for id in value] if isinstance(value, list) else place.get(value, value)
        for name, value in _named_ids(config).items()
    }


def _renumber_processor_(part: Any, names: Mapping[str, int]) -> None:
    """Ids in a post-processor: templates hold {"ids": [..], "tokens": [..]}, BERT's and RoBERTa's own ["[SEP]", 102]."""
    if not isinstance(part, dict):
        return
    for inner in part.get("processors", ()):
        _renumber_processor_(inner, names)
    if isinstance(part.get("special_tokens"), dict):
        for entry in part["special_tokens"].values():
            entry["ids"] = [names[token] for token in entry["tokens"]]
    for end in ("sep", "cls"):
        if isinstance(part.get(end), list):
            part[end][1] = names[part[end][0]]


def _settings(settings: dict[str, Any], place: Mapping[int, int]) -> dict[str, Any]:
    """tokenizer_config.json, which may list the added tokens by id."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return settings
    return {**settings, "added_tokens_decoder": {str(place[int(id)]): token for id, token in listed.items() if int(id) in place}}
