"""Commands whose options are the fields of a class of options, loaded when the command is used."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin, get_type_hints

import typer
import typer.main
from typer.core import TyperCommand

from concordant.core.errors import ConfigError

if TYPE_CHECKING:
    from concordant.simulation.options import SimulationOptions


class OptionsCommand(TyperCommand, ABC):
    """A command with an option per field of a class, which `concordant --help` does not load.

    What was given for them is the context's object.
    """

    @abstractmethod
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """Return each option by name, with its default and, in the annotation, its help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options written down in the command, those of the class, and --help."""
        *own, help_option = super().get_params(ctx)

        def collect(**_: Any) -> None:
            """Only the signature counts."""

        settings = self.settings()
        collect.__annotations__ = {name: one.annotation for name, one in settings.items()}
        # read by inspect
        collect.__signature__ = inspect.Signature(list(settings.values()))  # type: ignore[attr-defined]
        app = typer.Typer(add_completion=False)
        app.command()(collect)
        return [*own, *typer.main.get_command(app).params, help_option]

    def invoke(self, ctx: Any) -> Any:
        """Hand what was given for the class to the command."""
        given = {name: ctx.params.pop(name) for name in self.settings()}
        ctx.obj = {name: value for name, value in given.items() if value is not None}
        return super().invoke(ctx)


def _setting(name: str, kind: Any, default: Any, description: str | None) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(help=description)]
    only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, only, default=default, annotation=annotation)


class SimulateCommand(OptionsCommand):
    """A command with the options of the simulation."""

    def settings(self) -> Mapping[str, inspect.Parameter]:
        """Return one per field of `SimulationOptions`."""
        from concordant.simulation.options import SimulationOptions

        return {
            name: _setting(name, field.annotation, field.default, field.description)
            for name, field in SimulationOptions.model_fields.items()
        }


class PretrainCommand(OptionsCommand):
    """A command with the options of pretraining."""

    def settings(self) -> Mapping[str, inspect.Parameter]:
        """Return one per field of `PretrainOptions` but the objective; words are checked there."""
        from concordant.pretrain.options import PretrainOptions

        kinds = get_type_hints(PretrainOptions)
        return {
            field.name: _setting(
                field.name,
                str if get_origin(kinds[field.name]) is Literal else kinds[field.name],
                field.default,
                field.metadata["help"],
            )
            for field in fields(PretrainOptions)
            if field.name != "objective"
        }


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
