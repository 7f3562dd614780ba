"""The options of `concordant simulate`.

One for each field of the simulation's own options, made when the command is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand

from concordant.core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from concordant.simulation.options import SimulationOptions


class SimulateCommand(TyperCommand):
    """A command whose options come from `SimulationOptions`.

    `concordant --help` does not load the simulation.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options written down here, those of the simulation, and --help."""
        *own, help_option = super().get_params(ctx)
        return [*own, *_parameters(_options()), help_option]

    def invoke(self, ctx: Any) -> Any:
        """Hand what was given for the simulation to the command as the context's object."""
        ctx.obj = {
            name: value
            for name in _options().model_fields
            if (value := ctx.params.pop(name)) is not None
        }
        return super().invoke(ctx)


def simulation_options(given: Mapping[str, Any]) -> SimulationOptions:
    """Build the simulation's options from what was given on the command line.

    Raises:
        ConfigError: A value is out of range; the message names the option as the command line does.
    """
    from pydantic import ValidationError

    from concordant.core.messages import config_error
    from concordant.simulation.options import SimulationOptions

    try:
        return SimulationOptions.model_validate(given)
    except ValidationError as error:
        place, _, sentence = str(config_error(error, given, SimulationOptions)).partition(": ")
        raise ConfigError(f"--{place.replace('_', '-')}: {sentence}") from None


def _options() -> type[BaseModel]:
    from concordant.simulation.options import SimulationOptions

    return SimulationOptions


def _parameters(options: type[BaseModel]) -> list[Any]:
    """Return a command-line option per field of a model, with the field's default and
    description.
    """

    def collect(**_: Any) -> None:
        """Only the signature counts."""

    hints = {
        name: Annotated[field.annotation, typer.Option(help=field.description)]
        for name, field in options.model_fields.items()
    }
    collect.__annotations__ = hints
    kind = inspect.Parameter.KEYWORD_ONLY
    fields = options.model_fields
    signature = inspect.Signature(
        [
            inspect.Parameter(name, kind, default=fields[name].default, annotation=hints[name])
            for name in fields
        ]
    )
    collect.__signature__ = signature  # type: ignore[attr-defined]  # read by inspect
    app = typer.Typer(add_completion=False)
    app.command()(collect)
    return list(typer.main.get_command(app).params)
