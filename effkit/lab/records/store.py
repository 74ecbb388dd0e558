"""All records of a person in one SQLite file, one row a record; several notebooks may write at once.

WAL mode: readers never wait for a writer, and a crash loses nothing that was added. Writers wait for each other up to
WAIT_SECONDS. The row's JSON is the record; the other columns are for finding it. Imports no torch.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from effkit.spec.errors import BadInput, CannotWrite, EffkitError
from effkit.spec.files import writing
from effkit.spec.places import data_folder
from effkit.spec.record import Record

SCHEMA = 1
WAIT_SECONDS = 30.0
TABLE = """
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY, created TEXT NOT NULL, name TEXT NOT NULL, checkpoint TEXT NOT NULL, recipe TEXT NOT NULL, json TEXT NOT NULL
)"""


class Store:
    """Records in a file; `path` None: records.sqlite in the user's data folder, made when the first record is added.

    Raises BadInput if the file is no store or a newer one, CannotWrite if it cannot be written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path).expanduser().absolute() if path is not None else data_folder() / "records.sqlite"
        self.unreadable: tuple[tuple[str, str], ...] = ()  # (id, why) of rows that the last reading left out

    def add(self, record: Record) -> Record:
        """Add a record and return it. A record with the same id is replaced."""
        row = (record.id, record.created, record.name, record.checkpoint.hash, record.recipe.hash(), record.model_dump_json())
        with self._open(write=True) as database:
            database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
        return record

    def check(self) -> None:
        """Make the file if there is none, and raise what `add` would raise. For work that ends with adding a record."""
        with self._open(write=True):
            return

    def records(self, name: str | None = None, checkpoint: str | None = None, recipe: str | None = None) -> list[Record]:
        """Records from the oldest to the newest; filters compare the name, the checkpoint's hash, the recipe's hash.

        A row that cannot be read is left out and listed, with the reason, in `unreadable`.
        """
        wanted = {field: value for field, value in (("name", name), ("checkpoint", checkpoint), ("recipe", recipe)) if value is not None}
        where = " WHERE " + " AND ".join(f"{field} = ?" for field in wanted) if wanted else ""
        rows = self._rows(f"SELECT id, json FROM records{where} ORDER BY created, rowid", tuple(wanted.values()))
        return self._read(rows)

    def since(self, row: int = 0) -> tuple[list[Record], int]:
        """The records that were added or replaced after `row` (0: all), in that order, and the number to ask with next time."""
        rows = self._rows("SELECT id, json, rowid FROM records WHERE rowid > ? ORDER BY rowid", (row,))
        return self._read([found[:2] for found in rows]), rows[-1][2] if rows else row

    def _read(self, rows: list[tuple]) -> list[Record]:
        found, unreadable = [], []
        for id, text in rows:
            try:
                found.append(Record.from_json(text))
            except (EffkitError, TypeError) as error:
                unreadable.append((str(id), str(error)))
        self.unreadable = tuple(unreadable)
        return found

    def get(self, id: str) -> Record:
        """The record with this id (or the beginning of one that no other shares); BadInput if there is none."""
        rows = self._rows("SELECT id, json FROM records WHERE substr(id, 1, ?) = ?", (len(id), id)) if id else []
        if len(rows) != 1:
            what = "no record" if not rows else f"{len(rows)} records"
            raise BadInput(f"{what} with the id {id!r}", f"Allowed: an id of one of the {len(self)} records in {self.path}")
        return Record.from_json(rows[0][1])

    def remove(self, id: str) -> None:
        """Remove the record with exactly this id; BadInput if there is none."""
        with self._open(write=True) as database:
            if database.execute("DELETE FROM records WHERE id = ?", (id,)).rowcount == 0:
                raise BadInput(f"no record with the id {id!r}", f"Allowed: an id of a record in {self.path}")

    def stamp(self) -> tuple[int, ...]:
        """What changes when somebody writes: sizes and times of the files. For those who wait for news; reads no row."""
        found: list[int] = []
        for path in (self.path, self.path.with_name(self.path.name + "-wal")):
            with contextlib.suppress(OSError):
                state = path.stat()
                found += [state.st_size, state.st_mtime_ns]
        return tuple(found)

    def __len__(self) -> int:
        rows = self._rows("SELECT count(*) FROM records", ())
        return rows[0][0] if rows else 0

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} records)"

    def _rows(self, query: str, values: tuple) -> list[tuple]:
        if not self.path.exists():
            return []
        with self._open(write=False) as database:
            return database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _open(self, write: bool) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction. One each time: they may not be shared between threads, and opening takes 0.1 ms."""
        if write:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(), contextlib.closing(self._connect(write)) as database:
            version = self._version(database)
            if not write:
                if version == 0:
                    database.execute("CREATE TEMP TABLE records (id, created, name, checkpoint, recipe, json)")
                yield database
                return
            self._use_wal(database)
            # locked at once: two transactions that both read first and write later could not wait for each other
            database.execute("BEGIN IMMEDIATE")
            try:
                if self._version(database) == 0:
                    database.execute(TABLE)
                    database.execute(f"PRAGMA user_version = {SCHEMA}")
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _connect(self, write: bool) -> sqlite3.Connection:
        if write:
            return sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        database = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            self._version(database)
        except sqlite3.OperationalError:
            log = self.path.with_name(self.path.name + "-wal")
            if log.exists() and log.stat().st_size:
                raise
            # a store in WAL mode in a folder without write access has no place for its index: read the file as it lies
            database.close()
            database = sqlite3.connect(f"{self.path.as_uri()}?immutable=1", uri=True, isolation_level=None)
        return database

    def _version(self, database: sqlite3.Connection) -> int:
        """The schema's version, 0 for an empty file; in one statement, so that another process cannot come in between."""
        version, tables = database.execute(
            "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
        ).fetchone()
        if version > SCHEMA:
            raise BadInput(
                f"the store {str(self.path)!r} has version {version}",
                f"This effkit reads versions 1 to {SCHEMA}",
                "Update effkit, or give another path: Store(path)",
            )
        if version == 0 and tables:
            raise self._no_store("it is a database of something else")
        return version

    @staticmethod
    def _use_wal(database: sqlite3.Connection) -> None:
        """Only the first writer changes the mode. SQLite does not wait for this lock by itself."""
        until = time.monotonic() + WAIT_SECONDS
        while database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                database.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as errors that say what to do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None) or 0
            primary = code & 0xFF
            if primary == sqlite3.SQLITE_NOTADB:
                raise self._no_store("it is no SQLite file") from error
            reason = {
                sqlite3.SQLITE_READONLY: "it is read-only. Choose another path: Store(path)",
                sqlite3.SQLITE_CANTOPEN: "it cannot be opened there. Choose another path: Store(path)",
                sqlite3.SQLITE_FULL: "the disk is full. Free some space and add the record again",
                sqlite3.SQLITE_IOERR: "the disk refused it. Free some space or choose another path: Store(path)",
                sqlite3.SQLITE_BUSY: f"another process held it for more than {WAIT_SECONDS:.0f} s. Add the record again",
            }.get(primary)
            if primary == sqlite3.SQLITE_CORRUPT:
                raise BadInput(
                    f"the store {str(self.path)!r} is damaged ({error})",
                    "Allowed: a whole SQLite file",
                    "Move it away, save what `sqlite3 FILE .recover` finds, and begin a new store",
                ) from error
            if reason is None:
                raise
            raise CannotWrite(f"Cannot write the store {self.path}: {reason}. It keeps what it had.") from error

    def _no_store(self, why: str) -> BadInput:
        return BadInput(f"{str(self.path)!r} is not a store of records: {why}", "Allowed: a file that Store made, or a new path")
