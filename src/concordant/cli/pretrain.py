"""The command `concordant pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concordant.cli.cohort import Columns, renamed_columns
from concordant.cli.console import open_console, progress

EPILOG = (
    "Example: concordant pretrain clmbr --meds data/meds --out weights/clmbr --splits "
    "data/pe/cohort.parquet"
)


def pretrain(
    context: typer.Context,
    objective: Annotated[
        str,
        typer.Argument(
            metavar="clmbr|motor", help="What is learned: the next code, or times to codes."
        ),
    ],
    meds: Annotated[Path, typer.Option(metavar="DIR", help="The MEDS dataset.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="The checkpoint to write; a run that was stopped goes on there."
        ),
    ],
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet with subject_id and split, such as a study's cohort: only its train and "
            "tuning subjects are used.",
            show_default="the dataset's own, else drawn",
        ),
    ] = None,
    column: Columns = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Begin anew where a run with other options or records is there."
        ),
    ] = False,
) -> None:
    """Pretrain CLMBR or MOTOR on your own records, for those without the gated weights.

    Vocabulary and weights are learned from train subjects; tuning subjects say when to stop;
    held-out ones are never read. The folder then serves as the weights of the encoder clmbr or
    motor. Its subjects.parquet lists patients: it stays at home.
    """
    from concordant.data.pretraining import SUBJECTS
    from concordant.pretrain import PretrainOptions
    from concordant.pretrain import pretrain as run

    # the options refuse another word
    options = PretrainOptions(objective=objective, **context.obj)  # type: ignore[arg-type]
    columns = renamed_columns(column) or None
    with progress() as report:
        done = run(
            meds, out, options, splits=splits, columns=columns, restart=restart, progress=report
        )
    open_console().print(
        f"{done.n_tokens} tokens, {done.n_train} train and {done.n_tuning} tuning records, "
        f"{done.epochs} epochs: {done.tuning_loss:.4f} nats on tuning"
    )
    typer.echo(f"weights: {out}")
    typer.echo(
        f"{SUBJECTS} in it lists patients for `concordant check`: keep it to yourself, the weights "
        "work without it"
    )
