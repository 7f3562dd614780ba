"""The command `concordant omop`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concordant.cli.console import open_console, progress

if TYPE_CHECKING:
    import polars as pl

EPILOG = "Example: concordant omop exports/omop_5.4.zip data/meds"


def omop(
    omop_dir: Annotated[
        Path,
        typer.Argument(
            metavar="OMOP_DIR", help="A folder or a zip of OMOP tables: CSV, CSV.gz or parquet."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The MEDS dataset to write; it must not exist, or be empty."
        ),
    ],
    prefer: Annotated[
        str,
        typer.Option(metavar="CONCEPT", help="Which concept gives the code: standard or source."),
    ] = "standard",
    unmapped: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="Rows without any concept: keep (as UNMAPPED/TABLE) or drop."
        ),
    ] = "keep",
    date_only: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="When an event happened of which only the day is known: end_of_day (23:59; "
            "midnight counts as a day), keep_midnight or start_of_day.",
        ),
    ] = "end_of_day",
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="The last day an event may lie on.", show_default="today"
        ),
    ] = None,
    subjects_per_shard: Annotated[
        int, typer.Option(min=1, help="Subjects in one shard; a shard is sorted in memory.")
    ] = 5000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
) -> None:
    """Convert an OMOP CDM 5.3 or 5.4 export to MEDS, and count every row that gives no event.

    The dataset appears whole or not at all. Its counts are printed, and kept in
    metadata/quality.json.
    """
    from concordant.data.omop import OmopOptions, convert_omop

    options = OmopOptions(
        prefer=prefer,  # type: ignore[arg-type]  # the options refuse another word, here and below
        unmapped=unmapped,  # type: ignore[arg-type]
        date_only=date_only,  # type: ignore[arg-type]
        until=None if until is None else until.date(),
        subjects_per_shard=subjects_per_shard,
    )
    with progress() as report:
        conversion = convert_omop(omop_dir, out, options, overwrite=overwrite, progress=report)
    screen = open_console()
    screen.print(_counts(conversion.counts))
    if conversion.absent:
        screen.print(f"tables that are not there: {', '.join(conversion.absent)}")
    screen.print(
        f"{conversion.n_events} events of {conversion.n_subjects} subjects, {conversion.n_codes} "
        "codes"
    )
    typer.echo(f"meds: {out}")


def _counts(counts: pl.DataFrame) -> Any:
    """Lay out the counts; a reason that no row has gets no column."""
    from rich import box
    from rich.table import Table

    reasons = [name for name in counts.columns[4:] if counts[name].sum()]
    table = Table(box=box.SIMPLE)
    table.add_column("event")
    for name in ("rows", "events", *reasons):
        table.add_column(name.replace("_", " "), justify="right")
    for row in counts.to_dicts():
        table.add_row(row["event"], *(str(row[name]) for name in ("rows", "events", *reasons)))
    return table
