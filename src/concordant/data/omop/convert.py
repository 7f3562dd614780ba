"""OMOP CDM 5.3 and 5.4 (https://ohdsi.github.io/CommonDataModel) to MEDS 0.4, in two passes."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError
from concordant.core.files import atomic_folder, write_json
from concordant.data.omop.concepts import code_table, read_concepts, used_concepts
from concordant.data.omop.kinds import KINDS, OmopOptions
from concordant.data.omop.shards import ShardResult, write_shard
from concordant.data.omop.source import OmopSource
from concordant.data.omop.stage import REASONS, read_people, refuse_shifted, stage, today

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""

MEDS_VERSION = "0.4.1"
_KEPT = ("kept_unmapped", "kept_unlisted", "kept_without_number", "kept_after_death")
_BEYOND_MEDS = ["unit", "value_code", "visit_id", "table"]


@dataclass(frozen=True, slots=True)
class OmopConversion:
    """What a conversion wrote.

    Attributes:
        folder: The MEDS dataset.
        n_subjects: People.
        n_events: Events.
        n_codes: Different codes among the events.
        counts: Per kind of event: `table`, `event`, `rows` read, `events` written, and a column per
            reason for which a row gives no event (these and the events add up to the rows), then
            `kept_unmapped`, `kept_unlisted`, `kept_without_number`, `kept_after_death`.
        absent: Tables that the export does not have.
    """

    folder: Path
    n_subjects: int
    n_events: int
    n_codes: int
    counts: pl.DataFrame
    absent: tuple[str, ...]


def convert_omop(
    omop: Path | str,
    out: Path | str,
    options: OmopOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> OmopConversion:
    """Convert an OMOP export to a MEDS dataset, which appears whole or not at all.

    The dataset has `data/NNNN.parquet`, `metadata/dataset.json`, `metadata/codes.parquet` and
    `metadata/quality.json` (the counts). What is being written lies in hidden folders beside `out`;
    those that a killed conversion to the same place left are removed first.

    Args:
        omop: A folder or a zip of tables, CSV (also gzipped) or parquet, in any letter case.
        out: The folder to write; it must not exist, or be empty.
        options: The choices; None = the defaults.
        overwrite: Replace the folder if it exists.
        progress: Called as the conversion goes on.

    Raises:
        RecordError: A table that is needed is missing, a column is missing, a date or an identifier
            cannot be read, or `out` is in use.
        ConfigError: An option is wrong.
    """
    options = options or OmopOptions()
    omop, out = Path(omop), Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise RecordError(
            f"{out} is there already; give another place, or --overwrite to replace it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"
        ) as scratch,
        atomic_folder(out) as made,
    ):
        conversion = _Conversion(
            OmopSource(omop, Path(scratch)), options, Path(scratch) / "staged", progress
        )
        return conversion.write(made, out)


class _Conversion:
    """One conversion under way: what is to be read, how, and what was counted so far."""

    def __init__(
        self, source: OmopSource, options: OmopOptions, staged: Path, progress: Progress | None
    ) -> None:
        self.source = source
        self.options = options
        self.staged = staged
        self.progress: Progress = progress or (lambda stage, done, total: None)
        self.until = options.until or today()

    def write(self, made: Path, out: Path) -> OmopConversion:
        people = read_people(self.source, subjects_per_shard=self.options.subjects_per_shard)
        read = self._stage(people)
        concepts = read_concepts(self.source, used_concepts(self._staged_by_file()))
        n_shards = int(people["shard"][-1]) + 1
        written = self._write_shards(made / "data", concepts, n_shards)
        table = code_table(self.source, concepts, pl.DataFrame({"code": sorted(written.codes)}))
        (made / "metadata").mkdir()
        table.write_parquet(made / "metadata" / "codes.parquet")
        write_json(made / "metadata" / "dataset.json", self._dataset())
        read.update(written.counts)
        counts = _table_of_counts(read)
        n_events, absent = int(counts["events"].sum()), self.source.absent
        result = OmopConversion(out, people.height, n_events, len(written.codes), counts, absent)
        write_json(made / "metadata" / "quality.json", self._quality(result))
        return result

    def _stage(self, people: pl.DataFrame) -> Counter[tuple[int, str]]:
        """Run the first pass over every file and kind; return the counts by kind and reason."""
        work = [
            (number, kind, file)
            for number, kind in enumerate(KINDS)
            for file in self.source.files(kind.table)
        ]
        counts: Counter[tuple[int, str]] = Counter()
        for done, (number, kind, file) in enumerate(work):
            self.progress("tables read", done, len(work))
            found = stage(
                self.source,
                file,
                kind,
                people=people,
                options=self.options,
                until=self.until,
                folder=self.staged / str(number) / str(done),
            )
            counts.update({(number, what): n for what, n in found.items()})
        self.progress("tables read", len(work), len(work))
        for number in {number for number, _, _ in work}:
            found = {what: n for (one, what), n in counts.items() if one == number}
            refuse_shifted(self.source.root, KINDS[number], found, self.until)
        return counts

    def _staged_by_file(self) -> list[list[Path]]:
        folders = sorted(self.staged.glob("*/*"))
        parts = (sorted(folder.glob("shard=[0-9]*/*.parquet")) for folder in folders)
        return [paths for paths in parts if paths]

    def _write_shards(self, data: Path, concepts: pl.DataFrame, n_shards: int) -> ShardResult:
        """Run the second pass over every shard; what has been written is removed."""
        counts: Counter[tuple[int, str]] = Counter()
        codes: set[str] = set()
        for shard in range(n_shards):
            self.progress("shards written", shard, n_shards)
            paths = self.staged.glob(f"*/*/shard={shard}/*.parquet")
            staged = sorted((int(path.parts[-4]), path) for path in paths)
            if staged:
                written = write_shard(staged, concepts, self.options, data / f"{shard:04d}.parquet")
                counts.update(written.counts)
                codes |= written.codes
            for _, path in staged:
                path.unlink()
        self.progress("shards written", n_shards, n_shards)
        return ShardResult(counts, frozenset(codes))

    def _dataset(self) -> dict[str, object]:
        return {
            "dataset_name": self.source.root.name,
            "etl_name": "concordant omop",
            "etl_version": version("concordant"),
            "meds_version": MEDS_VERSION,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "other_extension_columns": _BEYOND_MEDS,
        }

    def _quality(self, result: OmopConversion) -> dict[str, object]:
        return {
            "options": asdict(self.options) | {"until": str(self.until)},
            "n_subjects": result.n_subjects,
            "n_events": result.n_events,
            "n_codes": result.n_codes,
            "absent_tables": result.absent,
            "counts": result.counts.to_dicts(),
        }


def _table_of_counts(counts: Counter[tuple[int, str]]) -> pl.DataFrame:
    columns = ("rows", "events", *REASONS[2:], "unmapped", "repeated_death", *_KEPT)
    present = [number for number in range(len(KINDS)) if (number, "rows") in counts]
    rows = [
        {"table": KINDS[number].table, "event": KINDS[number].name}
        | {what: counts[number, what] for what in columns}
        for number in present
    ]
    schema = {"table": pl.String, "event": pl.String} | dict.fromkeys(columns, pl.Int64)
    return pl.DataFrame(rows, schema=schema)
