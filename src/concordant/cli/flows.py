"""How the command line shows who was left out of a cohort, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concordant.cli.console import open_console

if TYPE_CHECKING:
    from concordant.data.flow import Flow


def show_flow(flow: Flow) -> None:
    """Print a flow: its steps, what happened to those who remain, counts.

    What to look at goes to standard error.
    """
    screen = open_console()
    screen.print(_steps(flow))
    screen.print(", ".join(f"{count} {name}" for name, count in flow.events.items()))
    for name, count in flow.counts.items():
        screen.print(f"{name}: {count}", soft_wrap=True)
    errors = open_console(errors=True)
    for warning in flow.warnings:
        errors.print(f"note: {warning}", soft_wrap=True)


def _steps(flow: Flow) -> Any:
    """Lay out the flow: a row per step."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("step")
    for name in ("samples removed", "subjects removed", "samples", "subjects"):
        table.add_column(name, justify="right")
    for step in flow.steps:
        table.add_row(
            step.name,
            *(
                str(one)
                for one in (
                    step.removed_samples,
                    step.removed_subjects,
                    step.samples,
                    step.subjects,
                )
            ),
        )
    return table
