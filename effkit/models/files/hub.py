"""Models of a hub: only the files that effkit reads are fetched, into the cache that all Hugging Face libraries share.

HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and HF_HOME are honoured by huggingface_hub. No pickle and no Python file is downloaded.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, CannotWrite, Unavailable, choice
from effkit.spec.files import writing
from effkit.spec.progress import Progress, Work

from ..default import BUILT_IN

WANTED = (
    "config.json", "generation_config.json", "effkit.json", "README.md", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "spiece.*", "chat_template*", "model.safetensors.index.json",
)  # fmt: skip


def download(name: str, revision: str | None) -> Work[tuple[Path, dict[str, Any]]]:
    """(folder, facts) of a hub model, from the network or, offline, from the cache."""
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, is_offline_mode

    if is_offline_mode():
        return _cached(name, revision, "HF_HUB_OFFLINE is set")
    try:
        yield Progress("load", 0, 1, "files", f"asking {constants.ENDPOINT} for {name}")
        info = HfApi().model_info(name, revision=revision)
        names = wanted_files([file.rfilename for file in info.siblings or ()], name)
        folder = None
        for done, file in enumerate(names):
            yield Progress("load", done, len(names), "files", f"fetching {file}")
            with writing(Path(constants.HF_HUB_CACHE)):
                folder = Path(hf_hub_download(name, file, revision=info.sha)).parent
        assert folder is not None
        if revision != info.sha:  # so that the same name is found in the cache when there is no network
            hf_hub_download(name, names[0], revision=revision)
        return folder, {"revision": info.sha}
    except CannotWrite:
        raise
    except errors.GatedRepoError:
        raise Unavailable(
            f"{name} is gated", f"{constants.ENDPOINT} gives it only to people who accepted its terms", "Accept them there and set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{name} has no revision {revision!r}", "Allowed: a branch, tag or commit of that model") from None
    except errors.RepositoryNotFoundError:
        raise unknown(name, f"{constants.ENDPOINT} does not know it (or asks for a token)") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 404:
            raise unknown(name, f"{constants.ENDPOINT} does not know it") from None
        raise Unavailable(
            f"{name} could not be fetched",
            f"{constants.ENDPOINT} answered {status or 'with an error'}",
            "Try again later, or check HF_TOKEN",
        ) from error
    # HTTPError is the root of the HTTP library's errors; which library that is depends on huggingface_hub's version
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        folder, facts = _cached(name, revision, f"{constants.ENDPOINT} could not be reached ({_first_line(error)})", error)
        return folder, {**facts, "more_notes": ("The hub could not be reached: this is the copy in the cache.",)}


def wanted_files(files: list[str], name: str) -> list[str]:
    """Which of a repository's files to fetch: configuration and tokenizer, then safetensors (or the one GGUF file)."""
    here = [file for file in files if "/" not in file]
    weights = [file for file in here if file.endswith(".safetensors")]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    elif "model.safetensors.index.json" in here:
        weights = [file for file in weights if file.startswith("model-")]
    if not weights:
        ggufs = [file for file in here if file.endswith(".gguf")]
        pickles = [file for file in here if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if len(ggufs) == 1:
            return ggufs
        if ggufs:
            raise BadInput(
                f"{name} holds {len(ggufs)} GGUF files ({', '.join(ggufs[:4])}, ...)",
                "Allowed: a hub model with safetensors or with one GGUF file",
                "Download one file and give its path",
            )
        what = f"only pickles ({', '.join(pickles[:3])}), which can run any code when opened" if pickles else "no weights"
        raise BadInput(f"{name} holds {what}", "Allowed: safetensors and GGUF", "Look for a version in safetensors")
    return sorted({file for file in here for pattern in WANTED if fnmatch.fnmatch(file, pattern)}) + sorted(weights)


def unknown(name: str, why: str) -> BadInput:
    known = choice("the model", name, BUILT_IN)
    return BadInput(
        f"there is no model {name!r}: it is not built in, there is no such folder, and {why}",
        known.allowed + ", a folder, a .gguf file, or a Hugging Face id such as 'org/name'",
        known.todo or "Check the spelling",
    )


def _cached(name: str, revision: str | None, why: str, cause: BaseException | None = None) -> tuple[Path, dict[str, Any]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise Unavailable(
            f"the model {name!r} is not on this machine",
            f"It is not built in ({', '.join(BUILT_IN)}), there is no such folder, it is not in the cache, and {why}",
            "Connect to the network, load it once, and it works offline afterwards; or use a built-in model",
        ) from cause
    return folder, {"revision": folder.name}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
