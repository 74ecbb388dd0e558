"""Fixtures for all sessions: small real models, and a home of its own for every test."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

import effkit.hardware.preflight  # noqa: F401  (before anything imports torch)

os.environ.setdefault("EFFKIT_PROGRESS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# An example may take long where the machine is busy. The same examples every time, so that a change is judged by itself;
# EFFKIT_FUZZ=N tries N new ones of each property instead.
FUZZ = int(os.environ.get("EFFKIT_FUZZ", "0"))
settings.register_profile(
    "effkit", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not FUZZ, max_examples=FUZZ or 100
)
settings.load_profile("effkit")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A fresh EFFKIT_HOME, so that no test reads or writes the user's records; and no run goes on beside the next test."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EFFKIT_HOME", str(folder))
    yield folder
    workers = sys.modules.get("effkit.lab.runs.worker")
    for worker in list(workers._working) if workers else ():
        worker.ask("cancel")
        worker.saved.wait(30)


@pytest.fixture
def children():
    """children(word) -> the running processes below this one with `word` in their command line; earlier tests may have left others."""
    import psutil

    def running(word: str) -> list[psutil.Process]:
        found = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has just ended, and a zombie has no command line
                found += [child] if word in " ".join(child.cmdline()) else []
        return found

    return running


@pytest.fixture(scope="module")
def processor_time():
    """Clocks read this process's processor time, on one thread: what else runs on the machine lengthens nothing."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effkit.hardware.attached.clock.time", SimpleNamespace(perf_counter=time.process_time))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def stories15m() -> Path:
    """A trained 15M-parameter Llama (TinyStories), where the shared data lies beside the checkout."""
    folder = SHARED / "models" / "stories15m"
    if not folder.exists():
        pytest.skip("the shared model stories15m is not beside this checkout")
    return folder


def byte_tokenizer(folder: Path):
    """A real fast tokenizer whose tokens are bytes: any text, no training, 259 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory) -> Path:
    """A folder with a random-weight Llama: 3 layers, hidden 64, grouped-query attention, tied head, 259 byte tokens."""
    return random_llama(tmp_path_factory.mktemp("models") / "tiny-llama", layers=3)


def random_llama(folder: Path, layers: int) -> Path:
    """The new folder `folder` with a random-weight Llama and its tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    byte_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=259, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.08,
    )  # fmt: skip
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_classifier_folder(tmp_path_factory) -> Path:
    """A folder with a random-weight BERT classifier: 2 layers, hidden 64, 3 classes, 259 byte tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-classifier"
    folder.mkdir()
    byte_tokenizer(folder)
    config = BertConfig(
        vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
        num_labels=3, pad_token_id=0, initializer_range=0.08,
    )  # fmt: skip
    torch.manual_seed(8)
    BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def tiny_llama(tiny_llama_folder):
    """The tiny Llama as an effkit Model on the CPU, float32."""
    import effkit as ek

    return ek.load(str(tiny_llama_folder), device="cpu")


@pytest.fixture
def tiny_classifier(tiny_classifier_folder):
    """The tiny classifier as an effkit Model on the CPU, float32."""
    import effkit as ek

    return ek.load(str(tiny_classifier_folder), device="cpu")


WORDS = [
    "pump",
    "valve",
    "leak",
    "oil",
    "wing",
    "crack",
    "rust",
    "bolt",
    "engine",
    "fire",
    "smoke",
    "heat",
    "the",
    "a",
    "of",
    "was",
    "found",
    "near",
    "left",
    "right",
    "during",
    "flight",
]


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory) -> Path:
    """A folder with a random-weight BERT that averages its tokens: 2 layers, hidden 32, WordPiece over 22 words and letters."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *(w for w in WORDS if len(w) > 1)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(9)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder, safe_serialization=True)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


@pytest.fixture(scope="session")
def reports():
    """240 short reports of three classes, told apart by two words each, half of which stand in any one report."""
    import random

    from effkit.models.texts.labelled import read_labelled

    draw = random.Random(0)
    kinds = {"leak": ["pump", "oil"], "crack": ["wing", "bolt"], "fire": ["smoke", "heat"]}
    rows = []
    for i in range(240):
        kind = list(kinds)[i % 3]
        words = [draw.choice(kinds[kind]), *draw.sample(WORDS[12:], 5), f"{i}"]
        draw.shuffle(words)
        rows.append((" ".join(words), kind))
    return read_labelled(rows)


@pytest.fixture
def planted():
    """A function that makes the calibration of a machine whose speeds are known."""
    from effkit.spec.calibration import Calibration, Copy, Layer, Product

    def make(device: str = "cpu", bandwidth: float = 1e10, rate: float = 5e10) -> Calibration:
        """A machine whose products take the longer of bytes over bandwidth and operations over rate, and nothing else takes time."""
        products = [
            Product(format="float32", engine="dense", rows=rows, inputs=i, outputs=o, bytes=4 * i * o, working_set=1 << 30,
                    seconds=max(4 * i * o / bandwidth, 2 * rows * i * o / rate))
            for rows in (1, 8, 64) for i in (16, 8192) for o in (16, 8192)
        ]  # fmt: skip
        return Calibration(
            device=device, device_type="cpu", date="2026-11-25", timing="planted", dtype="float32", products=tuple(products),
            copies=(Copy(bytes=1 << 27, rate=bandwidth),), launch_seconds=0.0, layers=(Layer(weight_bytes=1, seconds=0.0),),
            step_overhead_seconds=0.0, cache_seconds_per_byte=0.0,
        )  # fmt: skip

    return make
