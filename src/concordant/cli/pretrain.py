"""The command `concordant pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concordant.cli.columns import Columns, renamed_columns
from concordant.cli.console import open_console, progress

EPILOG = (
    "Example: concordant pretrain clmbr --meds data/meds --out weights/clmbr --splits "
    "data/pe/cohort.parquet"
)


def pretrain(
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
    hidden: Annotated[int, typer.Option(min=1, help="Width of a hidden state.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 4,
    window: Annotated[int, typer.Option(min=1, help="Events in the attention window.")] = 496,
    vocabulary: Annotated[int, typer.Option(min=2, help="Most tokens of the vocabulary.")] = 16_384,
    min_subjects: Annotated[
        int, typer.Option(min=1, help="A token occurs in the records of so many train subjects.")
    ] = 5,
    tasks: Annotated[
        int, typer.Option(min=1, help="motor: most codes whose times are learned.")
    ] = 512,
    max_epochs: Annotated[
        int, typer.Option(min=1, help="Most passes over the train records.")
    ] = 50,
    patience: Annotated[
        int,
        typer.Option(min=1, help="Rounds without a better tuning likelihood after which to stop."),
    ] = 5,
    rounds_per_epoch: Annotated[
        int, typer.Option(min=1, help="Rounds in a pass; after each, the state is kept.")
    ] = 1,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Events in a batch.")] = 4096,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and sampled places.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
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

    options = PretrainOptions(
        # the options refuse another word, here and below
        objective=objective,  # type: ignore[arg-type]
        hidden=hidden,
        layers=layers,
        heads=heads,
        window=window,
        vocabulary=vocabulary,
        min_subjects=min_subjects,
        tasks=tasks,
        max_epochs=max_epochs,
        patience=patience,
        rounds_per_epoch=rounds_per_epoch,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        seed=seed,
        device=device,  # type: ignore[arg-type]
    )
    with progress() as report:
        done = run(
            meds,
            out,
            options,
            splits=splits,
            columns=renamed_columns(column) or None,
            restart=restart,
            progress=report,
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
