"""Rows of text and label from what users have: CSV, TSV and JSON Lines files, data frames, pairs.

Files written by spreadsheets bring a byte-order mark, semicolons, quoted line breaks, empty rows and stray spaces; what
is dropped is counted in the set's note, and what cannot be understood is refused with the columns that are there.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput
from effkit.spec.files import parsed

from .labelled import LabelledSet, made

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
DELIMITERS = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t",)}
FIELD_LIMIT = 1 << 27

Row = dict[str, Any]


def read_table(path: Path, text: str | None, label: str | None, group: str | None = None) -> LabelledSet:
    """A labelled set from the columns `text` and `label` of a file."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(
            f"the labelled file {path.name!r} ends in {path.suffix!r}", f"Allowed: {', '.join(SUFFIXES)}", "Convert or rename it"
        )
    if not path.is_file():
        raise BadInput(f"there is no labelled file {str(path)!r}", f"Allowed: an existing file ({', '.join(SUFFIXES)})", "Check the path")
    content, notes = _decoded(path)
    if path.suffix.lower() not in DELIMITERS:
        columns, rows, broken = _json_lines(content, path.name)
    else:
        columns, rows, broken, note = _delimited(content, path, [text, label, group])
        notes += [note] if note else []
    if broken:
        notes.append(f"{_count(broken, 'row')} with more fields than the header {'was' if broken == 1 else 'were'} dropped.")
    return _from_rows(path.name, rows, columns, text, label, group, str(path), notes)


def read_frame(frame: Any, text: str | None, label: str | None, group: str | None = None) -> LabelledSet:
    """A labelled set from a pandas data frame (or what looks like one)."""
    rows = frame.to_dict("records")
    return _from_rows("given table", rows, [str(column) for column in frame.columns], text, label, group, "a data frame", [])


def read_pairs(pairs: Iterable[Any]) -> LabelledSet:
    """A labelled set from (text, label) pairs."""
    rows = []
    for number, pair in enumerate(pairs):
        if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BadInput(f"item {number} of the labelled set is {pair!r:.80}", "Allowed: pairs of a text and a label")
        rows.append({"text": pair[0], "label": pair[1]})
    return _from_rows("given pairs", rows, ["text", "label"], "text", "label", None, f"{len(rows)} pairs", [])


def _from_rows(
    name: str,
    rows: Iterable[Row],
    columns: list[str],
    text: str | None,
    label: str | None,
    group: str | None,
    source: str,
    notes: list[str],
) -> LabelledSet:
    text_column, label_column = column("text", text, columns, name), column("label", label, columns, name)
    group_column = column("group", group, columns, name) if group is not None else None
    if text_column == label_column:
        raise BadInput(
            f"text and label are both the column {text_column!r}", "Allowed: two different columns", f"Columns: {_list(columns)}"
        )
    kept, empty = [], Counter()
    for row in rows:
        words, kind = _cell(row.get(text_column), False), _cell(row.get(label_column), True)
        if not words or not kind:
            empty["text" if not words else "label"] += 1
            continue
        kept.append((words, kind, _cell(row.get(group_column), True) or None if group_column is not None else None))
    for what in ("text", "label"):
        if empty[what]:
            notes.append(f"{_count(empty[what], 'row')} without {what} {'was' if empty[what] == 1 else 'were'} dropped.")
    if not kept:
        raise BadInput(
            f"{name} has no row with a text in {text_column!r} and a label in {label_column!r}",
            "Allowed: a table with at least two classes",
            f"Columns: {_list(columns)}",
        )
    grouping = f"same {group_column!r}, or same text" if group_column is not None else "same text"
    return made(name, kept, source=source, notes=notes, grouping=grouping)


def column(role: str, wanted: str | None, columns: Sequence[str], name: str) -> str:
    """The column that is meant: its exact name, else the only one that equals it but for case and spaces."""
    if wanted is None:
        wanted, todo = role, f"Name the column: {role}='...'"
        given = f"{name} has no column named {role!r} and none was chosen"
    else:
        todo = "Choose one of these"
        given = f"{name} has no column {wanted!r}"
    if wanted in columns:
        return wanted
    near = [c for c in columns if c.strip().casefold() == wanted.strip().casefold()]
    if len(near) == 1:
        return near[0]
    raise BadInput(given, f"Its columns: {_list(columns)}", todo)


def _decoded(path: Path) -> tuple[str, list[str]]:
    """The text of a file: UTF-8, UTF-16 with its mark, else Windows-1252, which the note then says."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the labelled file {str(path)!r} cannot be read ({error})", "Allowed: a file that this user may read") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace"), []
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace"), ["The file is not UTF-8 and was read as Windows-1252."]


def _delimited(content: str, path: Path, wanted: Sequence[str | None]) -> tuple[list[str], list[Row], int, str]:
    """(columns, rows, number of broken rows, a note). The delimiter is the first whose header holds the wanted columns."""
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        best: list[str] = []
        chosen = None
        for delimiter in DELIMITERS[path.suffix.lower()]:
            header = next(_records(content, delimiter), [])
            folded = {field.strip().casefold() for field in header}
            if len(header) > len(best):
                best, chosen = header, delimiter
            if all(name is None or name.strip().casefold() in folded for name in wanted) and len(header) > 1:
                best, chosen = header, delimiter
                break
        if chosen is None:
            raise BadInput(f"the labelled file {path.name!r} is empty", "Allowed: a header line and rows below it")
        columns = [field.strip() for field in best]
        rows, broken = [], 0
        quoting, note = _quoting(content, chosen, path.name)
        records = _records(content, chosen, quoting)
        next(records)
        for record in records:
            if any(field.strip() for field in record[len(columns) :]):
                broken += 1
            elif any(field.strip() for field in record):
                rows.append(dict(zip(reversed(columns), reversed(_padded(record, len(columns))), strict=True)))
        return columns, rows, broken, note
    except csv.Error as error:
        raise BadInput(f"the labelled file {path.name!r} cannot be read ({error})", "Allowed: CSV with quoted fields") from None
    finally:
        csv.field_size_limit(before)


def _records(content: str, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL, strict: bool = False) -> Iterator[list[str]]:
    """The records of a delimited file from its header on; empty lines above it are skipped."""
    started = False
    stream = io.StringIO(content.replace("\0", ""), newline="")
    for record in csv.reader(stream, delimiter=delimiter, skipinitialspace=True, quoting=quoting, strict=strict):
        started = started or any(field.strip() for field in record)
        if started:
            yield record


def _quoting(content: str, delimiter: str, name: str) -> tuple[Any, str]:
    """(how quotes are meant, a note). One that is opened and not closed, an inch mark for example, would swallow the rows below it: where
    every row is whole without them, quotes are characters."""
    whole = 0
    try:
        for _ in _records(content, delimiter, strict=True):
            whole += 1
    except csv.Error as error:
        lengths = {len(record) for record in _records(content, delimiter, csv.QUOTE_NONE) if any(field.strip() for field in record)}
        if delimiter == "\t" or len(lengths) == 1:
            return csv.QUOTE_NONE, "Quotes are read as characters: not all that are opened are closed."
        if "end of data" in str(error):
            raise BadInput(
                f"in the labelled file {name!r} a quote is opened in row {whole} and never closed", "Allowed: CSV with quoted fields",
                'Close it, or write it twice ("") within quotes',
            ) from None  # fmt: skip
        return csv.QUOTE_MINIMAL, f"A quote is closed in the middle of a field in row {whole}: rows may have been joined there."
    return csv.QUOTE_MINIMAL, ""


def _padded(record: list[str], length: int) -> list[str]:
    return [*record[:length], *[""] * (length - len(record))]


def _json_lines(content: str, name: str) -> tuple[list[str], list[Row], int]:
    """Of JSON Lines, or of a .json file that is one list of objects."""
    rows: list[Row] = []
    columns: dict[str, None] = {}
    lines = content.split("\n")
    if name.lower().endswith(".json") and content.lstrip().startswith("["):
        try:
            lines = [json.dumps(row) for row in parsed(content)]
        except ValueError as error:
            raise BadInput(
                f"{name!r} is no JSON ({error})", 'Allowed: [{"text": "...", "label": "..."}, ...], or an object a line'
            ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise BadInput(
                f"line {number} of {name!r} is no JSON ({error})", 'Allowed: lines like {"text": "...", "label": "..."}'
            ) from None
        if not isinstance(row, dict):
            raise BadInput(f"line {number} of {name!r} is {line.strip()[:60]!r}", 'Allowed: lines like {"text": "...", "label": "..."}')
        columns |= dict.fromkeys(row)
        rows.append(row)
    return list(columns), rows, 0


def _cell(value: Any, squeeze: bool) -> str:
    """A cell as text without the spaces around it (and within, for labels); missing values are empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = str(value)
    if not text.isascii():  # half of a character, as a cut JSON string has it: no tokenizer takes that
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split()) if squeeze else text.strip()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(map(repr, columns[:30]))
    return shown + (f" and {len(columns) - 30} more" if len(columns) > 30 else "") if columns else "none"
