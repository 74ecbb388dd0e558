"""`effkit share`: its arguments, and what it prints. Imports nothing heavy until it is called."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from effkit.lab.runs.foreground import stoppable


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    share = commands.add_parser("share", help="one page of records or of a notebook, which opens without a network and still answers")
    share.add_argument(
        "what", nargs="+", help="files with records (.json, .zip, .safetensors, .html, folders of effkit run), or one notebook"
    )
    share.add_argument("--out", required=True, metavar="FILE", help="page.html; for a notebook also copy.ipynb, which GitHub can show")
    share.add_argument("--title", help="(default: of the models, or the notebook's first heading)")
    share.add_argument("--introduction", default="", help="a few sentences of your own")
    share.add_argument(
        "--model", metavar="CONFIG", help="name, config.json or folder of the base, for the roofline (default: as the records say)"
    )
    share.add_argument("--sensitivity", metavar="FILE", help="JSON of ek.sensitivity: the map of layers with its budget")
    share.add_argument("--records", action="append", metavar="FILE", help="beside a notebook: records for its receipt")
    share.add_argument("--licence", help="under which the page is shared, such as CC-BY-4.0")
    share.add_argument("--cite", action="append", metavar="TEXT", help="a work to cite; may be given more than once")
    share.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; the last line of stdout is JSON."""
    from effkit.lab.share import share

    with stoppable():
        done = share(
            arguments.what[0] if len(arguments.what) == 1 else arguments.what,
            arguments.out,
            title=arguments.title,
            introduction=arguments.introduction,
            model=arguments.model,
            sensitivity=arguments.sensitivity,
            records=arguments.records or (),
            licence=arguments.licence,
            citations=arguments.cite or (),
        )
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    told = {"path": str(done.path), "bytes": done.bytes, "cards": list(done.cards), "records": done.records}
    print(json.dumps({**told, "notes": list(done.notes)}))
    return 0
