"""Two parts of reliability.py: a disk that is full, and a clock that jumps. Neither is a mock: the kernel refuses the bytes, and the
C library tells the wrong time to everything in the process."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
FREE = (0, 4_096, 65_536, 300_000)  # bytes that are left when something is written
DISK = 64_000_000
YEARS = 10 * 365 * 86_400


# --- a full disk ---


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A tmpfs of 64 MB at `place`; False where it may not be mounted."""
    place.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    mounted = mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "effkit", place], check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def filled(disk: Path, free: int) -> Iterator[None]:
    """All of the disk but `free` bytes is taken by a file that is gone afterwards."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        os.truncate(filler, max(0, filler.stat().st_size - free))
        yield
    finally:
        filler.unlink()


def full_disk(home: Path) -> dict[str, Any]:
    with small_disk(home / "disk") as mounted:
        if not mounted:
            return {"tried": 0, "lost": 0, "skipped": "no tmpfs may be mounted here: run as root"}
        tries = Tries()
        with_space_again(home, home / "disk", tries)
        return tries.found


class Tries:
    """Counts what was tried, and what was lost with its reason."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"tried": 0, "lost": 0, "refused": 0, "why": []}

    def count(self, what: str, *well: tuple[str, bool]) -> None:
        """One try; what should hold, and whether it did."""
        self.found["tried"] += 1
        wrong = [name for name, fine in well if not fine]
        if wrong:
            self.found["lost"] += 1
            self.found["why"].append(f"{what}: {', '.join(wrong)}")

    def refused(self, what: str, write: Callable[[], Any]) -> bool:
        """Whether `write` was refused with an error that says that the disk is full; all else but success is a loss."""
        from effkit.spec.errors import CannotWrite

        try:
            write()
        except CannotWrite as error:
            self.found["refused"] += 1
            self.count(f"{what}: the error", ("does not say what to do", "free" in str(error).lower()))
            return True
        return False


def with_space_again(home: Path, disk: Path, tries: Tries) -> None:
    """Everything that writes, on a disk with little or nothing free; then the same with space."""
    from reliability import TEXT, call_of, made_record  # isort: skip
    from conftest import random_llama  # isort: skip

    import effkit as ek
    import effkit.lab.runs.worker as worker
    from effkit.lab.records.store import Store
    from effkit.models.checks import weights_hash
    from effkit.spec import files

    model = random_llama(home / "tiny", layers=4)
    (home / "text.txt").write_text(TEXT)
    verb, positional, named = call_of("quantize", model, home)
    small = verb(*positional, **named)
    wanted = weights_hash(small.module)
    before = weights_hash(positional[0].module)

    def no_strays() -> tuple[str, bool]:
        return "half-written files are left", not [file for file in disk.rglob(".*") if file.suffix in (".part", ".old")]

    for free in FREE:
        # a run whose disk fills up after it has begun: it goes on in memory, and can be taken up again from its last snapshot
        worker.SNAPSHOT_SECONDS = 0.3
        run = ek.start(verb, *positional, folder=disk / f"run-{free}", **named)
        while not run.done() and not list(run.folder.glob("snapshot-*")):
            time.sleep(0.01)
        with filled(disk, free):
            result = run.wait()
            run.saved.wait()
        tries.count(
            f"a run with {free} bytes free", ("another result", weights_hash(result.module) == wanted),
            ("the base was changed", weights_hash(positional[0].module) == before), no_strays(),
        )  # fmt: skip
        again = ek.attach(disk / f"run-{free}")
        if again.state != "done":
            again.resume()
        tries.count(
            f"the same run, taken up with space again ({again.state})", ("another result", weights_hash(again.wait().module) == wanted)
        )
        again.saved.wait()

        # records: what was there stays, what was refused goes in later
        store = Store(disk / f"records-{free}.sqlite")
        store.add(made_record("before"))
        long = made_record("long").model_copy(update={"environment": {"n": "x" * 400_000}})
        with filled(disk, free):
            tries.refused(f"a record with {free} bytes free", lambda store=store, long=long: store.add(long))
            tries.count(f"reading with {free} bytes free", ("the earlier record", "before" in {record.id for record in store.records()}))
        store.add(long)
        ids = {record.id for record in store.records()}
        tries.count(f"the store with space again, {free}", ("records are missing", ids == {"before", "long"}), no_strays())

        # models, exports, records as files: whole or not at all
        writes: dict[str, Callable[[Path], Any]] = {
            "model": small.save,
            "exported": lambda path: ek.export(small, path, "compressed-tensors"),
            "exported.gguf": lambda path: ek.export(small, path, "gguf"),
            "records.json": lambda path, long=long: ek.write_records(long, path),
            "records.zip": lambda path: ek.write_records([made_record(str(i)) for i in range(400)], path),
        }
        for name, write in writes.items():
            path = disk / f"{free}-{name}"
            # once as it is, refused before anything is written; once as if another program took the space a moment later
            for free_bytes in (files.free_bytes, lambda _: 1 << 40):
                with filled(disk, free), mock.patch.object(files, "free_bytes", free_bytes):
                    refused = tries.refused(f"{name} with {free} bytes free", lambda write=write, path=path: write(path))
                    tries.count(f"{name} with {free} bytes free", ("half of it is there", path.exists() != refused), no_strays())
                if not refused:
                    subprocess.run(["rm", "-r", path], check=True)
            write(path)
            if name == "model":
                tries.count("the saved model", ("other weights", weights_hash(ek.load(str(path), device="cpu").module) == wanted))
            subprocess.run(["rm", "-r", path], check=True)
        subprocess.run(["rm", "-r", disk / f"run-{free}"], check=True)

    # measuring keeps the base's answers for the next time, where there is space for them
    os.environ["EFFKIT_HOME"] = str(disk / "home")
    with filled(disk, 0):
        quality = ek.evaluate(small, positional[0], str(home / "text.txt"), window=64, windows=4)
    tries.count("measuring with a full cache", ("no result", quality.kl is not None), no_strays())


# --- a clock that jumps ---


def clock_jumps(home: Path) -> dict[str, Any]:
    """Drive this file in a process whose clock is moved ten years forth and back, over and over, and ask it what it saw."""
    library, offset = home / "clock_shim.so", home / "offset"
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, HERE / "clock_shim.c"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"tried": 0, "lost": 0, "skipped": f"the clock's shim was not compiled: {error}"}
    offset.write_bytes(bytes(8))
    environment = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset), "EFFKIT_HOME": str(home / "home")}
    words = [sys.executable, __file__, str(home), str(offset)]
    said = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(said.stdout.splitlines()[-1])


class Clock:
    """The offset of this process's clock, in a file that its shim reads."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as stream:
            self.place = mmap.mmap(stream.fileno(), 8)
        self.jumps = 0

    def jump(self) -> None:
        self.jumps += 1
        self.place[:8] = (0, YEARS, -YEARS)[self.jumps % 3].to_bytes(8, "little", signed=True)


def under_the_clock(home: Path, offset: Path) -> dict[str, Any]:
    from reliability import TEXT, call_of, made_record  # isort: skip
    from conftest import random_llama  # isort: skip

    import effkit as ek
    from effkit.lab.records.store import Store
    from effkit.models.checks import weights_hash
    from effkit.spec.progress import follow

    tries, clock = Tries(), Clock(offset)
    real = time.time() - time.monotonic()
    clock.jump()
    tries.count("the shim", ("the clock did not move", abs(time.time() - time.monotonic() - real - YEARS) < 60))
    model = random_llama(home / "tiny", layers=4)
    (home / "text.txt").write_text(TEXT)
    verb, positional, named = call_of("distill", model, home)
    wanted = weights_hash(verb(*positional, **named).module)
    store, folders = Store(), set()
    for number in range(6):
        clock.jump()
        begun = time.monotonic()
        run = ek.start(verb, *positional, **named)
        left: list[float] = []
        while not run.done():
            clock.jump()
            time.sleep(0.05)
            left += [run.seconds_left] if run.seconds_left is not None else []
        lasted = time.monotonic() - begun
        run.saved.wait()
        folders.add(run.folder)
        times = [event["t"] for event in run.events]
        tries.count(
            f"run {number}", ("another result", weights_hash(run.wait().module) == wanted), ("events go back", times == sorted(times)),
            ("the time worked is wrong", 0 <= times[-1] <= run.elapsed <= lasted + 1), ("a note", not run.notes),
            (f"the time left is wrong: {max(left, default=0)}", bool(left) and min(left) >= 0 and max(left) < 60 * (lasted + 1)),
        )  # fmt: skip
        again = ek.attach(run.folder)
        tries.count(f"run {number}, seen again", ("not done", again.state == "done"), ("other events", again.events == run.events))
        for i in range(20):
            clock.jump()
            store.add(made_record(f"{number}-{i}"))
    tries.count("folders", ("two runs share one", len(folders) == 6))
    tries.count("records", ("some are missing", {r.id for r in store} == {f"{n}-{i}" for n in range(6) for i in range(20)}))

    moving: list[float] = []
    begun = time.monotonic()
    few = {"prompt": 8, "new_tokens": 8, "repeats": 3}
    profile = follow(ek.profile.work(positional[0], **few), lambda event: (clock.jump(), moving.append(event.done)))
    figures = [profile.time_to_first_token.value, profile.time_per_output_token.value]
    fine = all(value is not None and 0 < value < 1000 * (time.monotonic() - begun) for value in figures)
    tries.count("a profile", ("a time that cannot be", fine))
    return {**tries.found, "jumps": clock.jumps}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(under_the_clock(Path(sys.argv[1]), Path(sys.argv[2]))))
