"""effkit cache | doctor | explore | export | lab | replay | run | share: no Python to write. Machines read stdout, people stderr.

`effkit run RECIPE.json --out FOLDER` leaves there

    recipe.json    the recipe with its defaults written out
    model/         the compressed model, for ek.load
    record.json    what it keeps and what it costs

and, while it works or after it was stopped, run/: what the same command needs to go on. record.json comes last, so a
folder that has it is complete; model/model.safetensors carries the record too. Started by `accelerate launch` or torchrun
(`torchrun --nproc-per-node 2 -m effkit.cli run ...`) the processes distill together and the first one writes. Exit codes:
0 done, 1 a replay that differs, 2 an error that the message explains, 130 or 143 stopped by a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effkit.hardware.attached.processes import helps
from effkit.lab.options import add_base, add_prompt, add_windows, measured_sizes
from effkit.lab.pages import command
from effkit.lab.runs.foreground import Stopped as _Stopped
from effkit.lab.runs.foreground import driven as _driven
from effkit.lab.runs.foreground import led as _led
from effkit.lab.runs.foreground import stoppable as _stoppable
from effkit.lab.runs.foreground import watched as _watched
from effkit.lab.searching.command import add_explore
from effkit.spec.errors import BadInput, CannotWrite, EffkitError, bytes_text
from effkit.spec.files import free_bytes, write_text, writing
from effkit.spec.places import cache_bytes, cache_folder, clear_cache
from effkit.spec.progress import finish
from effkit.spec.recipe import Recipe
from effkit.spec.record import Record
from effkit.spec.visible import visible

if TYPE_CHECKING:
    from effkit.hardware.attached.processes import Crew
    from effkit.models.model import Model

ROOM = 50_000_000  # beside the model itself: tokenizer, events, record


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except _Stopped as stop:
        return 128 + stop.number
    except EffkitError as error:
        print(f"effkit: {visible(str(error))}", file=sys.stderr)  # it may repeat what a file says
        return 2
    except Exception as error:
        if os.environ.get("EFFKIT_DEBUG"):
            raise
        print(
            f"effkit: {type(error).__name__}: {error}\nThis is unexpected. EFFKIT_DEBUG=1 shows where it happened; please report it.",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="effkit", description="Distil, quantize and profile language models, and see what it costs.")
    commands = parser.add_subparsers(required=True, metavar="cache | doctor | explore | export | lab | replay | run | share")
    cache = commands.add_parser("cache", help="outputs of bases and teachers that are kept for the next time: how many bytes, and where")
    cache.add_argument("--clear", action="store_true", help="remove them all; they are computed again when they are needed")
    cache.set_defaults(command=_cache)
    doctor = commands.add_parser("doctor", help="the state of this machine: what works, what does not, what to install")
    doctor.set_defaults(command=_doctor)
    add_explore(commands)
    export = commands.add_parser("export", help="write a model so that llama.cpp, transformers or vLLM read it")
    export.add_argument("model", help="built-in name, folder (such as the model/ of effkit run), .gguf file or hub id")
    export.add_argument("out", help="a new folder, or a name that ends in .gguf")
    export.add_argument("--format", default="compressed-tensors", help="compressed-tensors, gguf or effkit (default: %(default)s)")
    export.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)")
    export.add_argument("--strict", action="store_true", help="refuse rather than round a number or store in full what was in few bits")
    export.set_defaults(command=_export)
    lab = commands.add_parser("lab", help="JupyterLab on a copy of the notebooks")
    lab.add_argument("folder", nargs="?", default="effkit-notebooks", help="where the copy lies (default: %(default)s)")
    lab.add_argument("--port", type=int, default=8888, help="the next free one is taken (default: %(default)s)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.set_defaults(command=_lab)
    again = commands.add_parser("replay", help="run a stored record again and say of each figure whether it is the same, and why not")
    again.add_argument("file", help="record.json, the folder of effkit run, a safetensors file, an RO-Crate, or a page of effkit share")
    again.add_argument("--record", metavar="ID", help="which of the records in the file: an id or its beginning, or a name")
    again.add_argument("--model", help="where the base lies (default: where the record says it came from)")
    again.add_argument("--text", metavar="FILE", help="text to measure on (default: what the record names)")
    again.add_argument("--data", action="append", default=[], metavar="PATH", help="a text that the recipe read, or a folder with them")
    again.add_argument("--device", help="cpu, cuda, npu, ... (default: of the record's kind where there is one)")
    again.add_argument("--seed", type=int, help="another seed than the record's")
    again.add_argument("--no-speed", action="store_true", help="compare quality and bytes only")
    again.set_defaults(command=_replay)
    run = commands.add_parser("run", help="make the model of a recipe, measure it and write both to a folder")
    run.add_argument("recipe", help='a JSON file: {"version": 1, "steps": [{"step": "quantize", "method": "rtn", "bits": 4}]}')
    run.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder, or one where this was interrupted")
    add_base(run)
    add_windows(run, fits=True)
    add_prompt(run)
    run.add_argument("--new-tokens", type=int, default=32, help="tokens that come out (default: %(default)s)")
    run.add_argument("--repeats", type=int, default=5, help="prompts (default: %(default)s)")
    run.add_argument("--name", help="how charts call the result (default: the recipe's label)")
    run.add_argument("--overwrite", action="store_true", help="replace what an earlier effkit run wrote to FOLDER")
    run.add_argument("--no-store", action="store_true", help="do not add the record to the user's store")
    run.set_defaults(command=_run)
    command.add(commands)
    return parser


def _cache(arguments: argparse.Namespace) -> int:
    held = cache_bytes()
    if arguments.clear:
        clear_cache()
    print(json.dumps({"folder": str(cache_folder()), "bytes": held, "cleared": arguments.clear}))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from effkit.hardware.attached.doctor import examine, report

    found = examine()
    print(report(found))
    return 0 if found["ok"] else 1


def _export(arguments: argparse.Namespace) -> int:
    with _stoppable():
        from effkit.models.files.exporting import export
        from effkit.models.loading import load

        model = _driven(load.work(arguments.model, device="cpu", dtype=arguments.dtype))
        done = _driven(export.work(model, arguments.out, arguments.format, strict=arguments.strict))
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    told = {"path": str(done.path), "format": done.format, "bytes": done.bytes, "effkit_bytes": done.own_bytes, "exact": done.exact}
    print(json.dumps({**told, "notes": list(done.notes)}))
    return 0


def _lab(arguments: argparse.Namespace) -> int:
    from effkit.lab.workshop import copy_notebooks, serve

    folder, said = copy_notebooks(arguments.folder)
    for line in said:
        print(line, file=sys.stderr)
    return serve(folder, port=arguments.port, browser=not arguments.no_browser)


def _replay(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    with _stoppable():
        from effkit.lab.records.replay import replay

        given = {"model": arguments.model, "on": arguments.text and Path(arguments.text), "seed": arguments.seed, "data": arguments.data}
        what = arguments.file if arguments.record is None else _one(arguments.file, arguments.record)
        done = _driven(replay.work(what, **given, device=arguments.device, speed=not arguments.no_speed))
    print(done.table(), file=sys.stderr)
    print(json.dumps({**done.summary(), "seconds": round(time.monotonic() - begun, 1)}))
    return 0 if done.ok else 1


def _one(file: str, wanted: str) -> Record:
    from effkit.lab.records.exchange import read_records

    records = read_records(file)
    found = [record for record in records if record.id.startswith(wanted) or record.name == wanted]
    if len(found) != 1:
        listed = ", ".join(f"{record.id[:12]} ({record.name})" for record in records[:20])
        raise BadInput(f"{'none' if not found else len(found)} of the records in {file!r} is {wanted!r}", f"Allowed: one of {listed}")
    return found[0]


def _run(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    recipe = Recipe.from_file(arguments.recipe)
    out = _Out(Path(arguments.out).expanduser().absolute())
    if not helps():
        out.check(arguments.overwrite)
    with _stoppable():
        from effkit.compress.pipeline import refuse
        from effkit.hardware.attached.processes import crew
        from effkit.lab.records.measuring import measure
        from effkit.models.loading import load

        loading = load.work(arguments.model, device=arguments.device, dtype=arguments.dtype)
        base = finish(loading) if helps() else _driven(loading)
        together = crew(base.device)
        if helps():
            with _led():
                out.help(base, recipe, together)
            return 0
        plans, made = refuse(base, recipe) if recipe.steps else ((), base)
        sizes = measured_sizes(arguments, base, made)
        out.begin(base, recipe, plans[-1].bytes_after if plans else base.stored_bytes, arguments.overwrite)
        together.meet()  # the folder is ready
        together.meet()  # the others know where to go on from
        model = out.compressed(base, recipe)
        record = _driven(
            measure.work(
                model,
                base,
                arguments.text and Path(arguments.text),
                name=arguments.name,
                **sizes,
                seed=recipe.seed,
                store=False if arguments.no_store else None,
            )
        )
        out.finish(record)
    print(json.dumps(summary(record, out, time.monotonic() - begun)))
    return 0


def summary(record: Record, out: _Out, seconds: float) -> dict[str, Any]:
    """The last line of `effkit run`. `bytes` is counted in the file that was written, not in memory."""
    quality, speed = record.quality, record.profile
    assert quality is not None
    assert speed is not None
    kl = quality.kl.mean if quality.kl else None
    return {
        "name": record.name,
        "perplexity": quality.perplexity.value,
        "base_perplexity": quality.base_perplexity.value,
        "kl": kl.value if kl else None,
        "kl_interval": [kl.low, kl.high] if kl else None,
        "agreement": quality.agreement.value,
        "retained": quality.retained,
        "bytes": tensor_bytes(out.model / "model.safetensors"),
        "predicted_bytes": record.cost.predicted_bytes,
        "base_bytes": record.cost.base_bytes,
        "bits_per_weight": record.cost.bits_per_weight,
        "first_token_ms": speed.time_to_first_token.value,
        "output_token_ms": speed.time_per_output_token.value,
        "decode_tokens_per_s": speed.decode.value,
        "speed_ratio": speed.speed_ratio.value,
        "device": speed.device,
        "record": record.id,
        "folder": str(out.path),
        "seconds": round(seconds, 1),
    }


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors in a safetensors file, from its header: what the file holds besides names and metadata."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__")


class _Out:
    """The folder that `effkit run` writes: see the head of this file."""

    OURS = ("recipe.json", "model", "record.json", "run")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.model, self.record, self.run = (path / name for name in self.OURS)
        self.fresh = not path.exists()

    def check(self, overwrite: bool) -> None:
        """Refuse a folder that holds other things, before anything is loaded."""
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"--out {str(self.path)!r} is a file", "Allowed: a new or empty folder")
        if (
            overwrite
            or not self.path.exists()
            or not any(self.path.iterdir())
            or ((self.run / "call.json").exists() and not self.record.exists())
        ):
            return
        what = "holds a finished result" if self.record.exists() else "is not empty"
        raise BadInput(
            f"--out {str(self.path)!r} {what}",
            "Allowed: a new or empty folder, or one in which the same recipe was interrupted",
            "Choose another folder, or add --overwrite to replace the model and record in it",
        )

    def begin(self, base: Model, recipe: Recipe, needs: int, overwrite: bool) -> None:
        """Make the folder ready. One in which other work was interrupted is refused."""
        if overwrite:
            with writing(self.path):
                for name in self.OURS:
                    place = self.path / name
                    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if (self.run / "call.json").exists() and self._call()["arguments"] != self._arguments(base, recipe):
            raise BadInput(
                f"in {str(self.path)!r} another recipe, model or device was interrupted",
                "Allowed: the same command again, which goes on",
                "Choose another folder, or add --overwrite to begin anew in it",
            )
        free = free_bytes(self.path)
        if free < needs + ROOM and not self.model.exists():
            raise CannotWrite(
                f"Cannot write {self.path}: the model will have {bytes_text(needs)} and {bytes_text(free)} are free. "
                "Free some space or choose another folder."
            )
        write_text(self.recipe, recipe.to_json() + "\n")

    def compressed(self, base: Model, recipe: Recipe) -> Model:
        """The model of the recipe, made, taken up again, or read if it had been made already; it lies in model/ then."""
        from effkit.models.loading import load

        if not recipe.steps:
            base.save(self.model)
            return base
        if not self.model.exists():
            try:
                made = self._work(base, recipe)
            except EffkitError:
                self._leave_nothing()
                raise
            # the run saved it already: it only has to be put in its place
            ready = self.run / "result" / "result"
            with writing(self.path):
                if ready.is_dir():
                    ready.rename(self.model)
                else:
                    made.save(self.model)
        return _driven(load.work(str(self.model), device=base.device, dtype=str(base.dtype).removeprefix("torch.")))

    def help(self, base: Model, recipe: Recipe, together: Crew) -> None:
        """What another process makes here, made along with it from the same point; only that one writes."""
        from effkit.compress.pipeline import compress
        from effkit.lab.runs.folder import RunFolder

        together.meet()
        made = self.model.exists() or (self.run / "result").exists()
        snapshot, _ = RunFolder(self.run).load_snapshot()
        together.meet()
        if not made:
            finish(compress.work(base, recipe, resume=snapshot))

    def finish(self, record: Record) -> None:
        from effkit.models.files.saving import share_
        from effkit.models.files.stamp import stamp_

        share_(self.model)
        stamp_(self.model, record)
        write_text(self.record, record.to_json() + "\n")
        shutil.rmtree(self.run, ignore_errors=True)

    def _work(self, base: Model, recipe: Recipe) -> Model:
        from effkit.compress.pipeline import compress
        from effkit.lab.runs.run import attach, start

        run = attach(self.run) if (self.run / "call.json").exists() else None
        if run is not None and (run.state == "interrupted" or (run.done() and run.resumable)):
            at = run.progress
            run.resume()
            print(f"going on{f' after {at.done} of {at.total} {at.unit} of {at.task}' if at else ''}", file=sys.stderr)
        elif run is None or run.state not in ("running", "paused", "done"):
            shutil.rmtree(self.run, ignore_errors=True)
            run = start(compress, base, recipe, folder=self.run)
        elif run.state != "done":
            run.resume()  # says which process works on it
        return _watched(run)

    def _leave_nothing(self) -> None:
        """After an error: keep only what the same command could go on from."""
        from effkit.lab.runs.folder import RunFolder

        if not RunFolder(self.run).snapshots() and RunFolder(self.run).owner() is None:
            shutil.rmtree(self.run, ignore_errors=True)
            self.recipe.unlink(missing_ok=True)
            if self.fresh:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def _call(self) -> dict[str, Any]:
        from effkit.lab.runs.folder import RunFolder

        return RunFolder(self.run).call()

    @staticmethod
    def _arguments(base: Model, recipe: Recipe) -> dict[str, Any]:
        from effkit.lab.runs.arguments import encode

        return {name: encode(value, name, None) for name, value in (("model", base), ("recipe", recipe))}


if __name__ == "__main__":
    sys.exit(main())
