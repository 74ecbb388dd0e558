"""The folder of a run: all that is needed to see it again, and to go on after its process was killed.

    call.json            the verb and its arguments (see arguments.py)
    inputs/              arguments that cannot be loaded again by name, saved some seconds into the run
    events.jsonl         one event a line: Progress as JSON and "t", seconds of work since the start
    snapshot-000012/     tensors.safetensors, state.json: the last point to go on from (taken after 12 events)
    kept-000009/         the same, kept for undo and branches (see tree.py, also for undone.jsonl)
    result/              the result: a model's folder or result.json; there only when the run is done
    state.json           how it stands: state, notes, error
    owner.lock           held (flock) by the process that works on it, with its pid inside

Every file is whole or absent, except the last line of events.jsonl after a crash, which is left out when read.
The lock falls with its process, however that ends, so a dead run is told from a live one without guessing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, CannotWrite
from effkit.spec.files import atomic_file, atomic_folder, write_text, writing
from effkit.spec.progress import Snapshot

VERSION = 1


class RunFolder:
    """Reads and writes one run folder. Raises CannotWrite for what the disk does, BadInput for what is no run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None
        self._seen: tuple[int, int] = (0, 0)  # inode and offset up to which events were read

    # the call and the state

    def create(self, call: Mapping[str, Any]) -> None:
        """Make the folder and take its lock. A folder that holds anything is refused, but for what a crash left before call.json."""
        if self.path.is_dir() and any(not re.fullmatch(r"owner\.lock|\.call\.json\..*\.part", file.name) for file in self.path.iterdir()):
            raise BadInput(
                f"the folder {str(self.path)!r} is not empty",
                "Allowed: a new or an empty folder",
                "ek.attach(folder) shows the run that it holds; or choose another folder",
            )
        with writing(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise CannotWrite(f"Cannot write {self.path}: it is a file. Choose another folder.") from error
        if not self.take():
            raise BadInput(f"another process begins a run in {str(self.path)!r}", "Allowed: a new or an empty folder")
        self.sweep()
        self.write_call(call)

    def write_call(self, call: Mapping[str, Any]) -> None:
        write_text(self.path / "call.json", json.dumps({"version": VERSION, **call}, indent=1))

    def call(self) -> dict[str, Any]:
        try:
            call = json.loads((self.path / "call.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{str(self.path)!r} holds no run ({type(error).__name__})", "Allowed: the folder of a run, as run.folder gives it"
            ) from None
        if call["version"] > VERSION:
            raise BadInput(f"the run in {str(self.path)!r} has version {call['version']}", f"This effkit reads {VERSION}", "Update effkit")
        return call

    def write_state(self, **state: Any) -> None:
        write_text(self.path / "state.json", json.dumps(state, indent=1))

    def state(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"state": "running"}

    # the lock

    def take(self, patience: float = 0.0) -> bool:
        """Become the one process that works on this run; False if another is. The lock falls when the process ends."""
        if self._lock is not None:
            return True
        until = time.monotonic() + patience
        with writing(self.path):
            handle = os.open(self.path / "owner.lock", os.O_RDWR | os.O_CREAT, 0o644)
        while not _flock(handle, exclusive=True):
            if time.monotonic() >= until:
                os.close(handle)
                return False
            time.sleep(0.02)
        try:
            with writing(self.path):
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps({"pid": os.getpid(), "since": time.time()}).encode())
        except BaseException:
            os.close(handle)
            raise
        self._lock = handle
        return True

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def owner(self) -> int | None:
        """The pid of the other process that works on this run, 0 if it cannot be told, None if none does."""
        if self._lock is not None:
            return None
        try:
            handle = os.open(self.path / "owner.lock", os.O_RDONLY)
        except OSError:
            return None
        try:
            if _flock(handle, exclusive=False):
                return None
            os.lseek(handle, 0, os.SEEK_SET)
            return int(json.loads(os.read(handle, 200) or b"{}").get("pid", 0))
        except ValueError:
            return 0
        finally:
            os.close(handle)

    # events

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add events in one write."""
        lines = "".join(json.dumps(event, default=_plain) + "\n" for event in events)
        if lines:
            with writing(self.path), (self.path / "events.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(lines)

    def new_events(self) -> tuple[list[dict[str, Any]], bool]:
        """The events added since the last call, and whether the file began anew, so that earlier ones no longer hold."""
        try:
            with (self.path / "events.jsonl").open("rb") as stream:
                status = os.fstat(stream.fileno())
                inode, offset = self._seen
                anew = (inode != 0 and inode != status.st_ino) or offset > status.st_size
                if anew:
                    offset = 0
                stream.seek(offset)
                data = stream.read()
        except OSError:
            return [], False
        whole = data[: data.rfind(b"\n") + 1]
        self._seen = (status.st_ino, offset + len(whole))
        events = []
        for line in whole.splitlines():
            with suppress(ValueError):  # a line torn by a crash, with a later one after it
                events.append(json.loads(line))
        return events, anew

    def all_events(self) -> list[dict[str, Any]]:
        self._seen = (0, 0)
        return self.new_events()[0]

    def rewrite_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Replace the events, as when a run goes on from a point before the last of them."""
        with atomic_file(self.path / "events.jsonl") as part:
            part.write_text("".join(json.dumps(event, default=_plain) + "\n" for event in events), encoding="utf-8")
            part.chmod(0o644)

    # snapshots

    def save_snapshot(self, snapshot: Snapshot, events: int, seconds: float) -> Path:
        """Write `snapshot`, taken after so many events and seconds, as the last one. A crash meanwhile leaves the one before."""
        from effkit.models.files.stamp import write_tensors

        tensors, ties = _untied(snapshot.tensors)
        state = json.dumps({"version": VERSION, "events": events, "t": seconds, "ties": ties, "state": snapshot.state})
        needs = sum(t.numel() * t.element_size() for t in tensors.values()) + len(state)
        target = self.path / f"snapshot-{events:06d}"
        with atomic_folder(target, needs) as part:
            write_tensors(tensors, part / "tensors.safetensors")
            (part / "state.json").write_text(state, encoding="utf-8")
        for old in self.snapshots():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        return target

    def load_snapshot(self) -> tuple[Snapshot | None, dict[str, Any]]:
        """The last snapshot (its tensors on the CPU) and what was written about it; None if there is none."""
        from safetensors.torch import load_file

        found = self.snapshots()
        if not found:
            return None, {"events": 0, "t": 0.0}
        about = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(found[-1] / "tensors.safetensors")
        for name, owner in about.pop("ties").items():
            tensors[name] = tensors[owner]
        return Snapshot(tensors=tensors, state=about.pop("state")), about

    def sweep(self, everything: bool = False) -> None:
        """Remove what a crash left half-written; `everything`: also snapshots and inputs, which a finished run does not need."""
        for stray in self.path.glob(".*.*"):
            if stray.suffix in (".part", ".old"):
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        if everything:
            kept = any(self.path.glob("kept-*"))  # these can still be branched from, for which the inputs are needed
            for folder in (*self.snapshots(), *([] if kept else [self.path / "inputs"])):
                shutil.rmtree(folder, ignore_errors=True)

    def snapshots(self) -> list[Path]:
        """Their folders, the last one last."""
        return sorted(p for p in self.path.glob("snapshot-*") if re.fullmatch(r"snapshot-\d+", p.name))

    # large values

    def inputs(self, name: str) -> Path:
        """Where to keep the argument `name`."""
        return self._place("inputs", name)

    def save_result(self, encode: Callable[[Callable[[str], Path]], Any]) -> None:
        """Write result/ whole or not at all; `encode(keep)` gives its JSON."""
        with atomic_folder(self.path / "result") as part:
            data = encode(lambda name: part / name)
            (part / "result.json").write_text(json.dumps(data), encoding="utf-8")

    def result(self, decode: Callable[[Any, Path], Any]) -> Any:
        folder = self.path / "result"
        return decode(json.loads((folder / "result.json").read_text(encoding="utf-8")), folder)

    def _place(self, room: str, name: str) -> Path:
        with writing(self.path):
            (self.path / room).mkdir(exist_ok=True)
        return self.path / room / name


def _untied(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors as safetensors takes them: on the CPU, contiguous, each storage once; `ties` maps the others to their owner."""
    owners: dict[tuple, str] = {}
    kept: dict[str, Any] = {}
    ties: dict[str, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape))
        if tensor.numel() and key in owners:
            ties[name] = owners[key]
            continue
        owners[key] = name
        # a part of a larger storage is copied: safetensors refuses tensors that share memory
        kept[name] = tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() else tensor.clone()
    return kept, ties


def _plain(value: Any) -> Any:
    """JSON for a number of numpy or torch in an event."""
    return value.item() if hasattr(value, "item") else str(value)


def _flock(handle: int, exclusive: bool) -> bool:
    """Lock without waiting; closing the handle, or the end of the process, unlocks."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(handle, 1 << 20, os.SEEK_SET)  # far behind the text, which others must be able to read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
