"""The command `concordant scans`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concordant.cli.console import open_console, progress
from concordant.cli.engines import Address, EngineName, Workers

if TYPE_CHECKING:
    import polars as pl

    from concordant.data.quality import Scan, ScanQuality
    from concordant.engines import Outcome

EPILOG = "Example: concordant scans dicom/ --out scans.parquet --montage pictures/"


def scans(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where the scans lie, at any depth: NIfTI files and DICOM series.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="SCANS.parquet", help="The table to write, one row a scan.")
    ],
    montage: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a picture of each scan here, named by its key."),
    ] = None,
    write_index: Annotated[
        bool,
        typer.Option(
            "--write-index",
            help="Write an index file beside each DICOM series that shares its folder with others, "
            "so that ct_path can name it.",
        ),
    ] = False,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
) -> None:
    """Find every scan below a folder, read it, and say what it is worth.

    Geometry, Hounsfield units, duplicates, and what is quarantined.

    The table's ct_path is what a cohort needs. Screen and pictures name scans by keys that reveal
    nothing.
    """
    from concordant.core.files import atomic_path
    from concordant.data.quality import find_scans, quality_table
    from concordant.engines import make_engine, run_tasks

    found = find_scans(folder, write_index=write_index)
    with progress() as report:
        done = _Count(report, len(found))
        outcomes = run_tasks(
            partial(_measure, montage),
            found,
            engine=make_engine(engine, workers, address),
            on_done=done,
        )
    table = quality_table(found, _qualities(found, outcomes))
    with atomic_path(out) as temporary:
        table.write_parquet(temporary)
    _print_summary(table)
    typer.echo(f"scans: {out}")


class _Count:
    """Progress by the number of scans done."""

    def __init__(self, report: Any, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def __call__(self, outcome: Outcome[Any]) -> None:
        self._done += 1
        self._report("scans", self._done, self._total)


def _measure(montage_folder: Path | None, scan: Scan) -> ScanQuality:
    """Measure one scan in a worker, and draw it where pictures are wanted."""
    from PIL import Image

    from concordant.core.files import atomic_path
    from concordant.data.quality.measure import measure_opened
    from concordant.data.quality.montage import montage

    quality, volume = measure_opened(scan)
    if montage_folder is not None and volume is not None:
        with atomic_path(montage_folder / f"{scan.key}.png") as temporary:
            Image.fromarray(montage(volume)).save(temporary, format="PNG")
    return quality


def _qualities(
    found: Sequence[Scan], outcomes: Sequence[Outcome[ScanQuality]]
) -> list[ScanQuality]:
    """Return every scan's quality.

    One that brought its process down is quarantined, a missing extra is an error.
    """
    from concordant.core.errors import ConcordantError
    from concordant.data.quality import ScanQuality

    expected = next(
        (
            outcome.failure
            for outcome in outcomes
            if outcome.failure is not None and outcome.failure.expected
        ),
        None,
    )
    if expected is not None:
        raise ConcordantError(expected.message)
    return [
        outcome.value if outcome.value is not None else ScanQuality(scan.key, _crash(outcome))
        for scan, outcome in zip(found, outcomes, strict=True)
    ]


def _crash(outcome: Outcome[ScanQuality]) -> str:
    kind = "WorkerCrash" if outcome.failure is None else outcome.failure.kind
    return f"the reader failed ({kind})"


def _print_summary(table: pl.DataFrame) -> None:
    import polars as pl
    from rich.table import Table

    from concordant.data.quality import USABLE

    screen = open_console()
    usable = table.filter(pl.col("status") == USABLE)
    n_copies = table["duplicate_of"].count()
    screen.print(
        f"{len(table)} scans: {len(usable)} usable, {len(table) - len(usable)} quarantined, "
        f"{n_copies} with the voxels of another"
    )
    for title, column in (
        ("quarantined because", table["reason"]),
        ("usable, but look at", usable["doubts"].explode()),
    ):
        counts = column.drop_nulls().value_counts(sort=True, name="scans").rows()
        if counts:
            shown = Table(title, "scans")
            for text, number in counts:
                shown.add_row(text, str(number))
            screen.print(shown)
