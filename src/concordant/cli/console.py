"""What the command line says, and how: errors in one line, progress, log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from concordant.core.errors import ConcordantError

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH_OF_A_FILE = 200
_UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy that newer typer carries


class Group(TyperGroup):
    """The commands; an error that the input or a path caused is one line, and an interrupt says how to go on."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command: exit code 2 after an error, 130 after an interrupt."""
        try:
            return super().invoke(ctx)
        except ConcordantError as error:
            _stop(f"error: {error}", 2)
        except _UsageError as error:
            message = error.format_message()
            stop = "" if message.endswith((".", "?")) else "."
            _stop(f"error: {message}{stop} See {error.ctx.command_path} --help", 2)
        except OSError as error:
            if error.filename is None:
                raise
            why = str(error.strerror).lower()
            _stop(f"error: {error.filename}: {why}; check that path, who may write there, and the room on its disk", 2)
        except KeyboardInterrupt:
            _stop("stopped; run the same command again to continue", 130)


def _stop(message: str, code: int) -> None:
    typer.secho(" ".join(line.strip() for line in message.splitlines()), fg="red", err=True)
    raise typer.Exit(code) from None


def open_console(*, errors: bool = False) -> Console:
    """Return a console that takes labels literally; lines that go to a file are not cut at 80 columns."""
    from rich.console import Console

    made = Console(stderr=errors, markup=False, highlight=False)
    return made if made.is_terminal else Console(stderr=errors, markup=False, highlight=False, width=_WIDTH_OF_A_FILE)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on standard error while a command works: bars on a terminal, a line now and then elsewhere; log lines as well."""
    screen = open_console(errors=True)
    with _logged(screen):
        if not screen.is_terminal:
            yield _Lines(screen)
            return
        with _bars(screen) as show:
            yield show


@contextmanager
def _bars(screen: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    stages: dict[str, TaskID] = {}
    with Progress(*columns, console=screen) as bars:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield show


class _Lines:
    """Progress for a file: a line when a stage is whole, and for a slow stage one every ten seconds."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._last: dict[str, tuple[int, float]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        printed, when = self._last.setdefault(stage, (-1, time.monotonic()))
        if done != printed and (done >= total or time.monotonic() - when >= _SECONDS_BETWEEN_LINES):
            self._screen.print(f"{stage}: {done}/{total}", soft_wrap=True)
            self._last[stage] = (done, time.monotonic())


@contextmanager
def _logged(screen: Console) -> Iterator[None]:
    """Let the package's log lines appear above the progress."""
    from rich.logging import RichHandler

    handler = RichHandler(console=screen, show_time=False, show_level=False, show_path=False, markup=False)
    logger = logging.getLogger("concordant")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
