"""What the command line says, and how: errors in one line, progress, log lines."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from concordant.core.errors import ConcordantError
from concordant.core.files import is_full_disk

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH_OF_A_FILE = 200
_UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy that newer typer carries


_LINE_END = re.compile(r"(?<!\n)\n(?!\n)")
"""An end of a line that ends no paragraph."""


class Group(TyperGroup):
    """The commands; an error that the input or a path caused is one line, and an interrupt says
    how to go on.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, the lines of each paragraph of its help joined."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            command.help = _LINE_END.sub(" ", cleandoc(command.help))
        return command

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
            if is_full_disk(error):
                _stop("error: no room left on a disk, or in your quota; make room, run again", 2)
            if error.filename is None:
                raise
            why = str(error.strerror).lower()
            _stop(
                f"error: {error.filename}: {why}; check that path, who may write there, and the "
                "room on its disk",
                2,
            )
        except KeyboardInterrupt:
            _stop("stopped; run the same command again to continue", 130)


def _stop(message: str, code: int) -> None:
    typer.secho(" ".join(line.strip() for line in message.splitlines()), fg="red", err=True)
    raise typer.Exit(code) from None


def open_console(*, errors: bool = False) -> Console:
    """Return a console that takes labels literally.

    Lines that go to a file are not cut at 80 columns.
    """
    from rich.console import Console

    made = Console(stderr=errors, markup=False, highlight=False)
    return (
        made
        if made.is_terminal
        else Console(stderr=errors, markup=False, highlight=False, width=_WIDTH_OF_A_FILE)
    )


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on standard error while a command works.

    Bars on a terminal, a line now and then elsewhere; log lines as well.
    """
    screen = open_console(errors=True)
    with _logged(screen):
        if not screen.is_terminal:
            yield _Lines(screen)
            return
        with _bars(screen) as show:
            yield show


@contextmanager
def _bars(screen: Console) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    stages: dict[str, TaskID] = {}
    pace = _Pace()
    with Progress(*columns, console=screen) as bars:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total, rate="")
            bars.update(stages[stage], completed=done, total=total, rate=_rate(pace(stage, done)))

        yield show


class _Pace:
    """How many a second a stage does, since it was first told of.

    What an earlier run had done counts as nothing.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, float]] = {}

    def __call__(self, stage: str, done: int) -> float:
        """Return the number done a second; 0 while nothing is known."""
        now = time.monotonic()
        before, began = self._first.setdefault(stage, (done, now))
        return (done - before) / (now - began) if now > began else 0.0


def _rate(pace: float) -> str:
    """Write a rate in the unit that gives it digits; empty where there is none."""
    units = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
    factor, unit = next((one for one in units if pace * one[0] >= 1), units[-1])
    return f"{pace * factor:.3g}/{unit}" if pace > 0 else ""


def _left(seconds: float) -> str:
    """Write how long something will take."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """Progress for a file: a line when a stage is whole, and for a slow stage one every ten
    seconds.
    """

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._last: dict[str, tuple[int, float]] = {}
        self._pace = _Pace()

    def __call__(self, stage: str, done: int, total: int) -> None:
        printed, when = self._last.setdefault(stage, (-1, time.monotonic()))
        pace = self._pace(stage, done)
        if done != printed and (done >= total or time.monotonic() - when >= _SECONDS_BETWEEN_LINES):
            how_fast = (
                f" ({_rate(pace)}, {_left((total - done) / pace)} left)"
                if pace > 0 and done < total
                else ""
            )
            self._screen.print(f"{stage}: {done}/{total}{how_fast}", soft_wrap=True)
            self._last[stage] = (done, time.monotonic())


@contextmanager
def _logged(screen: Console) -> Iterator[None]:
    """Let the package's log lines appear above the progress."""
    from rich.logging import RichHandler

    handler = RichHandler(
        console=screen, show_time=False, show_level=False, show_path=False, markup=False
    )
    logger = logging.getLogger("concordant")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
