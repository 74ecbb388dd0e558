"""`profile` in a process of its own, over the same code: what this process holds, runs or has fragmented is not measured.

The model is saved to a temporary folder and loaded there, bit for bit; events come back as JSON lines and the result as
JSON. An error that effkit raised there is raised here as what it is; a process that the system killed says so. The folder
and the process are gone when the work ends or is cancelled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effkit.models.model import Model
from effkit.spec.errors import BadInput, EffkitError, OutOfMemory, Unavailable
from effkit.spec.progress import Progress, Work
from effkit.spec.record import Profile

MARK = "effkit-profile "  # before each line that is ours: a library may print too
ERRORS: Mapping[str, tuple[type[EffkitError], tuple[str, ...]]] = {
    "BadInput": (BadInput, ("given", "allowed", "todo")),
    "Unavailable": (Unavailable, ("what", "why", "todo")),
    "OutOfMemory": (OutOfMemory, ("doing", "device", "asked", "free", "total", "allocated")),
}


def profile_isolated(model: Model, compared: Sequence[Model], **options: Any) -> Work[Profile]:
    """What `ek.profile(model, base, **options)` gives in a fresh process."""
    import torch

    with tempfile.TemporaryDirectory(prefix="effkit-profile-") as folder:
        names = ["model", "base"][: 1 + len(compared)]
        for name, each in zip(names, (model, *compared), strict=True):
            each.save(Path(folder, name))
        call = {"models": names, "device": str(model.device), "threads": torch.get_num_threads(), "options": options}
        Path(folder, "call.json").write_text(json.dumps(call), encoding="utf-8")
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "EFFKIT_PROGRESS": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        with tempfile.TemporaryFile() as said:
            command = [sys.executable, "-m", "effkit.measure.isolated", folder]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
            try:
                answer = yield from _answer(child)
            finally:
                child.kill()
                child.wait()
                assert child.stdout is not None
                child.stdout.close()
            said.seek(0)
            if answer is None:
                raise _died(child.returncode, said.read().decode(errors="replace"))
    if "error" in answer:
        kind, fields = ERRORS[answer["error"]]
        raise kind(*(answer["fields"][name] for name in fields))
    return Profile.model_validate(answer["profile"])


def _answer(child: subprocess.Popen[str]) -> Work[dict[str, Any] | None]:
    """Events as they come, then what the process found; None where it ended without a word."""
    assert child.stdout is not None
    for line in child.stdout:
        if not line.startswith(MARK):
            continue
        said = json.loads(line.removeprefix(MARK))
        if "task" not in said:
            child.wait()
            return said
        yield Progress(**said)
    child.wait()
    return None


def _died(code: int, said: str) -> EffkitError:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    if code == -9:
        why = "The system killed it, most likely because memory ran out"
        return Unavailable("the process that profiled ended before its result", why, "Choose a smaller batch or prompt")
    return Unavailable(
        f"the process that profiled ended with code {code} before its result", last, "Profile without isolated=True to see more"
    )


def main(folder: str) -> int:
    """The other side: load, profile, say what was found."""
    import torch

    from effkit.measure.latency import profile
    from effkit.models.loading import load

    call = json.loads(Path(folder, "call.json").read_text(encoding="utf-8"))
    torch.set_num_threads(call["threads"])

    def say(what: Mapping[str, Any]) -> None:
        print(MARK + json.dumps(what), flush=True)

    try:
        models = [load(Path(folder, name), device=call["device"]) for name in call["models"]]
        work = profile.work(*models, **call["options"])
        while True:
            try:
                say(next(work).as_json())
            except StopIteration as end:
                say({"profile": end.value.model_copy(update={"isolated": True}).model_dump(mode="json")})
                return 0
    except (BadInput, Unavailable, OutOfMemory) as error:
        name = next(name for name, (kind, _) in ERRORS.items() if isinstance(error, kind))
        say({"error": name, "fields": {field: getattr(error, field) for field in ERRORS[name][1]}})
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
