"""Turn what pydantic found wrong into one sentence: where, what was given, what is expected."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from concordant.core.errors import ConfigError, did_you_mean

OWN = "concordant"
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path",
    "string_type": "text",
    "too_short": "a list that is not empty",
    "tuple_type": "a list",
}


def complaint(message: str) -> PydanticCustomError:
    """Return an error of a validator of ours with a whole message; pydantic adds where it was."""
    return PydanticCustomError(OWN, "{message}", {"message": message})


def config_error(
    error: ValidationError,
    given: Any,
    model: type[BaseModel] | None = None,
    prefix: Sequence[str] = (),
) -> ConfigError:
    """Return the first thing wrong as a ConfigError, and how many more there are.

    Args:
        error: What pydantic raised.
        given: What was validated.
        model: What it was validated against; its fields are the known keys.
        prefix: Keys that lead to `given`.
    """
    places: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for details in sorted(
        error.errors(), key=lambda one: one["type"] != "extra_forbidden"
    ):  # a misspelt key explains the missing one
        places.setdefault(_place(details, given), []).append(details)
    (place, first), *others = places.items()
    dotted = ".".join(str(part) for part in (*prefix, *place))
    more = f" ({len(others)} more wrong after this)" if others else ""
    return ConfigError(
        f"{dotted}: {_sentence(first, model)}{more}"
        if dotted
        else f"{_sentence(first, model)}{more}"
    )


def _place(details: ErrorDetails, given: Any) -> tuple[int | str, ...]:
    """Return the keys that lead to the value, without pydantic's names for branches of a union."""
    if details["type"] == "missing":
        return details["loc"]
    place: list[int | str] = []
    for part in details["loc"]:
        if _holds(given, part):
            given = given[part]
            place.append(part)
        elif details["type"] != "extra_forbidden":  # a misspelt key is there, inside of a branch
            break
    return tuple(place)


def _holds(holder: Any, part: int | str) -> bool:
    if isinstance(holder, Mapping):
        return part in holder
    return isinstance(holder, list | tuple) and isinstance(part, int) and part < len(holder)


def _sentence(same_place: list[ErrorDetails], model: type[BaseModel] | None) -> str:
    first = same_place[0]
    if first["type"] == OWN:
        return first["msg"]
    if first["type"] == "missing":
        return "required, but not given"
    if first["type"] == "extra_forbidden":
        return (
            f"unknown key.{did_you_mean(str(first['loc'][-1]), _known(model, first['loc'][:-1]))}"
        )
    expected = dict.fromkeys(
        _EXPECTED.get(one["type"], one["msg"].removeprefix("Input should be "))
        for one in same_place
    )
    return f"given {reprlib.repr(first['input'])}, expected {' or '.join(expected)}"


def _known(model: type[BaseModel] | None, loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the model that lies at a place."""
    for part in loc:
        if (
            model is not None and part in model.model_fields
        ):  # not a position, a key of a mapping or the branch of a union
            model = _model_in(model.model_fields[str(part)].annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
