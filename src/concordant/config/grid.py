"""The grid of a study: what is varied, each key with its values, validated like the key's place
in the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo

from concordant.config.components import CtEncoder, EhrEncoder, FusionChoice, HeadChoice
from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.messages import complaint, config_error
from concordant.training.options import TrainOptions


def _grid(given: Any, info: ValidationInfo) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise complaint(
            f"given {given!r}, expected a mapping from keys such as `fusion`, `encoders.ehr`, "
            "`seed` to lists"
        )
    return {key: _grid_values(key, values, info) for key, values in given.items()}


def _grid_values(key: str, given: Any, info: ValidationInfo) -> tuple[Any, ...]:
    kinds = _grid_kinds()
    if key not in kinds:
        raise ConfigError(f"grid.{key}: unknown key.{did_you_mean(key, kinds)}")
    try:
        kind: Any = tuple.__class_getitem__((kinds[key], ...))  # a type known only at run time
        values: tuple[Any, ...] = TypeAdapter(kind).validate_python(given, context=info.context)
    except ValidationError as error:
        raise config_error(error, given, prefix=("grid", key)) from None
    if not values:
        raise ConfigError(f"grid.{key}: given an empty list, expected at least one value")
    return values


def _grid_kinds() -> dict[str, Any]:
    """Return the type of one value of each key that a grid may vary."""
    hints = get_type_hints(TrainOptions, include_extras=True)
    options = {f"train.{key}": hints[key] for key in TrainOptions.model_fields}
    return {
        "fusion": FusionChoice,
        "encoders.ct": CtEncoder,
        "encoders.ehr": EhrEncoder,
        "head": HeadChoice,
        "seed": Annotated[int, Field(ge=0)],
    } | options


Grid = Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_grid)]
