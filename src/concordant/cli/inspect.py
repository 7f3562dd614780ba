"""The command `concordant inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concordant.cli.flows import show_flow

EPILOG = (
    "Example: concordant inspect inspect/full --meds inspect/meds_omop_inspect --out "
    "inspect/cohort.parquet"
)


def inspect(
    aimi_dir: Annotated[
        Path,
        typer.Argument(
            metavar="AIMI_DIR", help="Folder with the label, mapping and split files, and CTPA/."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="COHORT.parquet", help="The cohort table to write; flow.json goes beside it."
        ),
    ],
    meds: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The MEDS records, to check that they fit.")
    ] = None,
    ctpa: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the scans.", show_default="CTPA in AIMI_DIR"),
    ] = None,
    outcome: Annotated[
        str, typer.Option(metavar="NAME", help="What is predicted: mortality, readmission or PH.")
    ] = "mortality",
    embolism: Annotated[
        str,
        typer.Option(metavar="WHO", help="all exams, or those positive for pulmonary embolism."),
    ] = "all",
    exams: Annotated[
        str, typer.Option(metavar="WHICH", help="all exams of a patient, or the first.")
    ] = "all",
    time_unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="Unit of the label file's times: minutes, seconds, hours, days.",
            show_default="found",
        ),
    ] = None,
) -> None:
    """Build a cohort from INSPECT (Stanford AIMI).

    Check its labels, join scans and records, count every exam left out.
    """
    from concordant.data.inspect import InspectOptions, inspect_cohort

    # the options refuse another word
    options = InspectOptions(outcome, embolism, exams, time_unit)  # type: ignore[arg-type]
    cohort = inspect_cohort(aimi_dir, out, meds=meds, ctpa=ctpa, options=options)
    show_flow(cohort.flow)
    typer.echo(f"cohort: {out}")
