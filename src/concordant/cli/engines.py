"""The options that say where the work of a command is done."""

from __future__ import annotations

from typing import Annotated

import typer

Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes, one per processor unless given; with the engine ray, of "
        "processors that each task reserves, one unless given.",
        show_default=False,
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", metavar="NAME", help="Where the work is done: local, or ray (many machines)."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Ray cluster that runs, or auto.",
        show_default="a Ray of this machine alone",
    ),
]
