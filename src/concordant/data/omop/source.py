"""Where the tables of an OMOP export lie: a folder or zip, CSV or parquet, in any letter case."""

from __future__ import annotations

import gzip
import shutil
import zipfile
import zlib
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import polars as pl

from concordant.core.errors import RecordError
from concordant.data.frames import first_line

VOCABULARY = ("concept", "concept_ancestor", "concept_relationship")
CLINICAL = (
    *("person", "death", "observation_period", "visit_occurrence", "condition_occurrence"),
    *("drug_exposure", "procedure_occurrence", "measurement", "observation", "device_exposure"),
)
_KNOWN = frozenset((*CLINICAL, *VOCABULARY))
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_BLOCK = 1 << 24
_UNREADABLE = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, zipfile.BadZipFile)
# as database exports write them; "None" stays, for it is the name of concepts
_NULLS = ["NULL", "\\N"]


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table.

    Attributes:
        table: Name of the table, in lower case.
        name: Where the file lies within the export, as messages name it.
    """

    table: str
    name: str


class OmopSource:
    """The tables of an export.

    Attributes:
        root: The folder or zip.
        absent: The clinical and vocabulary tables that are not there.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        """Find the tables.

        Args:
            root: A folder or a zip of tables: `person.csv`, `PERSON.csv.gz`, `person.parquet`, or a
                folder `person/` of such files.
            scratch: An empty folder for what must be unpacked; a file is removed there as soon as
                it has been read.

        Raises:
            RecordError: The export is not there or not readable, lacks a table that every export
                needs, or states a table twice.
        """
        self.root = root
        self._scratch = scratch
        self._files = _by_table(root, _names(root))
        self.absent = tuple(name for name in (*CLINICAL, *VOCABULARY) if name not in self._files)
        _require(root, self._files)

    def files(self, table: str) -> list[TableFile]:
        """Return the files of a table, none where it is absent."""
        return self._files.get(table, [])

    @contextmanager
    def opened(self, file: TableFile) -> Iterator[pl.LazyFrame]:
        """Open a file lazily, its column names in lower case; the columns of a CSV are text.

        Raises:
            RecordError: The file cannot be unpacked or read, here or while the frame is collected.
        """
        is_parquet = file.name.lower().endswith(".parquet")
        unpacked = self._scratch / f"unpacked{'.parquet' if is_parquet else '.csv'}"
        try:
            path = self._on_disk(file, unpacked)
            yield _lower_case(_scan(path, file), file)
        except _UNREADABLE as error:
            raise RecordError(
                f"{self.root}: {file.name} is not readable ({first_line(error)}); expected CSV "
                "with a header, or parquet"
            ) from None
        finally:
            unpacked.unlink(missing_ok=True)

    def _on_disk(self, file: TableFile, unpacked: Path) -> Path:
        """Return where a file can be scanned, after unpacking it if it is packed."""
        if zipfile.is_zipfile(self.root):
            with zipfile.ZipFile(self.root) as archive, archive.open(file.name) as stream:
                _unpack(stream, unpacked, gzipped=file.name.lower().endswith(".gz"))
            return unpacked
        path = self.root / file.name
        if not file.name.lower().endswith(".gz"):
            return path
        with path.open("rb") as stream:
            _unpack(stream, unpacked, gzipped=True)
        return unpacked


def _unpack(stream: IO[bytes], to: Path, *, gzipped: bool) -> None:
    with to.open("wb") as target:
        if not gzipped:
            shutil.copyfileobj(stream, target, 1 << 20)
            return
        with gzip.open(stream, "rb") as inflated:
            shutil.copyfileobj(inflated, target, 1 << 20)


def _names(root: Path) -> list[str]:
    """List the files of a folder or a zip by their path in it."""
    if root.is_dir():
        files = (path for path in root.rglob("*") if path.is_file())
        return sorted(path.relative_to(root).as_posix() for path in files)
    if not root.is_file() or not zipfile.is_zipfile(root):
        raise RecordError(f"{root}: no such folder or zip of OMOP tables")
    with zipfile.ZipFile(root) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))


def _by_table(root: Path, names: list[str]) -> dict[str, list[TableFile]]:
    found: dict[str, list[TableFile]] = defaultdict(list)
    places: dict[str, set[str]] = defaultdict(set)
    for name in names:
        place = _place_of_table(PurePosixPath(name))
        if place is not None:
            table = _table_name(place.name)
            found[table].append(TableFile(table, name))
            places[table].add(str(place))
    for table, several in places.items():
        if len(several) > 1:
            raise RecordError(
                f"{root}: table {table} is there more than once ({', '.join(sorted(several))}); "
                "keep one"
            )
    return dict(found)


def _place_of_table(path: PurePosixPath) -> PurePosixPath | None:
    """Return the part of a path that is named as a table: the file or a folder; else None."""
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    if hidden or not path.name.lower().endswith(_SUFFIXES):
        return None
    places = (*reversed(path.parents), path)
    return next((place for place in places if _table_name(place.name) in _KNOWN), None)


def _table_name(name: str) -> str:
    return name.lower().partition(".")[0]


def _require(root: Path, files: dict[str, list[TableFile]]) -> None:
    if "person" not in files:
        packed = sorted(path.name for path in root.glob("*.zip")) if root.is_dir() else []
        hint = f"; to read {packed[0]}, give its path" if packed else ""
        raise RecordError(
            f"{root}: no table person; expected person.csv (.csv.gz, .parquet, or a folder "
            f"person/) in any letter case{hint}"
        )
    if "concept" not in files:
        raise RecordError(
            f"{root}: no table concept; the codes come from it, so export it (or download it from "
            "Athena) beside the others"
        )
    if not files.keys() & set(CLINICAL[1:]):
        raise RecordError(
            f"{root}: person is the only clinical table; expected at least one of "
            f"{', '.join(CLINICAL[1:])}"
        )


def _scan(path: Path, file: TableFile) -> pl.LazyFrame:
    if path.name.lower().endswith(".parquet"):
        return pl.scan_parquet(path, hive_partitioning=False)
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline()
    separator = max("\t,;|", key=header.count) if header.strip() else ","
    return pl.scan_csv(
        path,
        separator=separator,
        quote_char=_quote(path, separator, file),
        infer_schema=False,
        encoding="utf8-lossy",
        null_values=_NULLS,
    )


def _quote(path: Path, separator: str, file: TableFile) -> str | None:
    """Tell whether quotation marks enclose fields (`"`), or are text, as in `5" tube` (None).

    Taken for enclosing ones, bare marks would make one row of all that lie between two of them. The
    vocabulary files of Athena are tab-separated, with bare marks in the names.

    Raises:
        RecordError: Both are there.
    """
    if separator == "\t":
        return None
    marks = _marks(path, separator.encode())
    if marks.bare and marks.enclosing:
        raise RecordError(
            f"{file.name}: quotation marks enclose fields, and {marks.bare} stand(s) within one "
            "that none encloses; expected CSV "
            'as RFC 4180 has it: a field that holds one enclosed, "5"" tube"'
        )
    return None if marks.bare else '"'


@dataclass(frozen=True, slots=True)
class _Marks:
    """Quotation marks that begin a field, and those that would open one within a field."""

    enclosing: int
    bare: int


def _marks(path: Path, separator: bytes) -> _Marks:
    """Count quotation marks by what stands before them; a doubled or escaped one is text."""
    begins, escapes = (np.frombuffer(marks, np.uint8) for marks in (b"\n\r" + separator, b'"\\'))
    before, seen, enclosing, bare = b"\n", 0, 0, 0
    with path.open("rb") as stream:
        if stream.read(len(BOM_UTF8)) != BOM_UTF8:
            stream.seek(0)
        while block := stream.read(_BLOCK):
            text = np.frombuffer(before + block, np.uint8)
            marks = np.flatnonzero(text[1:] == ord('"')) + 1
            preceding = text[marks - 1]
            first = np.isin(preceding, begins)
            enclosing += int(
                first.sum()
            )  # of all: behind a bare one, those that open seem to close
            bare += int((~first & ~np.isin(preceding, escapes))[seen % 2 :: 2].sum())
            seen, before = seen + len(marks), block[-1:]
    return _Marks(enclosing, bare)


def _lower_case(frame: pl.LazyFrame, file: TableFile) -> pl.LazyFrame:
    names = frame.collect_schema().names()
    lower = [name.strip().strip("\ufeff").lower() for name in names]
    if len(set(lower)) < len(lower):
        raise RecordError(
            f"{file.name}: two columns have the same name but for the letter case; keep one"
        )
    return frame.rename(dict(zip(names, lower, strict=True)))
