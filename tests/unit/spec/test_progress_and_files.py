"""The long-work mechanism and whole-or-nothing writing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from effkit.spec.errors import BadInput, CannotWrite, OutOfMemory, bytes_text, choice
from effkit.spec.files import atomic_file, atomic_folder, write_text
from effkit.spec.progress import Progress, drive, finish, long_work


@long_work(knobs=("speed",))
def count(n, closed=None):
    speed = 1
    try:
        for i in range(n):
            change = yield Progress("count", i, n, details={"speed": speed})
            speed = (change or {}).get("speed", speed)
        return n * speed
    finally:
        if closed is not None:
            closed.append(True)


def test_a_long_verb_is_called_or_driven():
    assert count(3) == 3
    assert finish(count.work(3)) == 3
    work = count.work(3)
    next(work)
    assert work.send({"speed": 5}).details == {"speed": 5}
    assert (count.name, count.knobs, count.resumable) == ("count", ("speed",), False)


def test_an_unknown_knob_is_named():
    with pytest.raises(BadInput, match=r"the knob of count is 'sped'. Allowed: 'speed'. Did you mean 'speed'\?"):
        count.check_knobs({"sped": 1})


def test_interrupting_closes_the_work(monkeypatch):
    closed: list[bool] = []
    work = count.work(10, closed)

    def interrupted():
        for event in work:
            yield event
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(interrupted())
    work.close()
    assert closed == [True]


def fail_halfway(writer, path):
    with writer(path) as part:
        (part / "a" if part.is_dir() else part).write_text("half")
        raise RuntimeError


def test_an_error_leaves_nothing_behind(tmp_path):
    (tmp_path / "kept").write_text("old")
    for writer, name in ((atomic_file, "kept"), (atomic_folder, "new")):
        with pytest.raises(RuntimeError):
            fail_halfway(writer, tmp_path / name)
    assert (tmp_path / "kept").read_text() == "old"
    assert os.listdir(tmp_path) == ["kept"]


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "f") as part:
            (part / text).write_text(text)
    assert os.listdir(tmp_path / "f") == ["two"]
    assert os.listdir(tmp_path) == ["f"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    message = r"it needs .* TB and .* are free. Free some space or choose another folder"
    with pytest.raises(CannotWrite, match=message), atomic_file(tmp_path / "big", needs=10**18):
        pass
    assert os.listdir(tmp_path) == []


def test_a_part_of_the_path_that_is_a_file_is_said(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(CannotWrite, match="a part of the path is a file"):
        write_text(tmp_path / "file" / "below", "x")


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path):
    """A real full disk is an error from write(); a limit on the file's size gives the same in a process of its own."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from effkit.spec.files import atomic_file
try:
    with atomic_file({str(tmp_path / "out")!r}) as part:
        part.write_bytes(b"x" * 200_000)
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("OSError", "CannotWrite")
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 100_000


def test_numpys_short_write_is_a_full_disk(tmp_path):
    with pytest.raises(CannotWrite, match="the disk is full"), atomic_file(tmp_path / "a"):
        raise OSError("5760 requested and 3360 written")  # as numpy.ndarray.tofile says it, without the system's number
    assert not list(tmp_path.iterdir())


def test_words():
    assert bytes_text(79_700_000) == "79.7 MB"
    assert bytes_text(None) == "unavailable"
    assert bytes_text(512) == "512 B"
    assert bytes_text(999_900) == "1 MB" or bytes_text(999_900) == "1000 kB"
    assert "Did you mean 'rtn'?" in str(choice("method", "rtm", ["rtn", "nf4"]))
    text = str(OutOfMemory("quantizing", "npu:0", asked=2 * 10**9, free=10**9, total=None))
    assert text.startswith("Out of memory on npu:0 while quantizing (asked for 2 GB, free 1 GB).")
    assert "the base model is as it was" in text
