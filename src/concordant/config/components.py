"""Components of a study: a name, validated options, a label.

Paths among the options resolved and checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_serializer,
)

from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.messages import complaint, config_error
from concordant.core.modality import Modality
from concordant.data.features import FeatureOptions
from concordant.encoders.base import ENCODERS
from concordant.fusion import FUSIONS
from concordant.heads import HEADS

FEATURES = "features"
"""The name that stands for a feature file in place of an encoder, for either modality."""


class Component(BaseModel):
    """A component of a study, validated.

    Attributes:
        name: Its name in the registry, or `features`.
        label: How tables call it.
        options: All options, defaults filled in, paths resolved.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    label: str
    options: dict[str, Any]

    @model_serializer
    def _as_in_a_study(self) -> dict[str, Any]:
        return {"name": self.name, "label": self.label, **self.options}


class _Kind(Protocol):
    """What validates the options of one kind of component."""

    def resolve(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]: ...

    def label(self, name: str, given: Mapping[str, Any]) -> str: ...


class _Encoders:
    """Encoders of one modality, and feature files."""

    def __init__(self, modality: Modality) -> None:
        self.modality = modality

    def resolve(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if name == FEATURES:
            return _feature_options(given).model_dump()
        if name not in ENCODERS:
            known = [one for one in ENCODERS if ENCODERS.get(one).modality is self.modality]
            raise ConfigError(f"unknown encoder {name!r}.{did_you_mean(name, [*known, FEATURES])}")
        reads = ENCODERS.get(name).modality
        if reads is not self.modality:
            raise ConfigError(
                f"encoder {name!r} reads {reads}, not {self.modality}; give it under "
                f"encoders.{reads}"
            )
        return ENCODERS.resolve(name, given)

    def label(self, name: str, given: Mapping[str, Any]) -> str:
        if name != FEATURES:
            return ENCODERS.label(name, given)
        shown = _feature_options(given).model_dump(exclude_defaults=True)
        return f"{name}({','.join(f'{key}={value}' for key, value in shown.items())})"


def _feature_options(given: Mapping[str, Any]) -> FeatureOptions:
    try:
        return FeatureOptions.model_validate(given)
    except ValidationError as error:
        raise config_error(error, given, FeatureOptions) from None


def folder_of(info: ValidationInfo) -> Path:
    """Return the folder against which relative paths resolve.

    The study file's, or the working directory.
    """
    folder: Path = (info.context or {}).get("folder", Path())
    return folder.absolute()


def _existing(path: Path, info: ValidationInfo) -> Path:
    resolved = folder_of(info) / path
    if not resolved.exists():
        raise complaint(f"no such file or folder: {resolved}")
    return resolved


ExistingPath = Annotated[Path, AfterValidator(_existing)]
"""A path that exists, absolute."""


def _validator(kind: _Kind) -> BeforeValidator:
    """Return the validator that turns `name` or `{name, label, **options}` into a component."""

    def validate(given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, Component):
            return given
        name, label, options = _parts(given)
        try:
            resolved = kind.resolve(name, options)
            label = kind.label(name, options) if label is None else label
        except ConfigError as error:
            raise complaint(str(error)) from None
        return Component(
            name=name,
            label=label,
            options={key: _path(key, value, info) for key, value in resolved.items()},
        )

    return BeforeValidator(validate)


def _path(key: str, value: Any, info: ValidationInfo) -> Any:
    """Resolve and check an option that is a path."""
    if not isinstance(value, Path):
        return value
    resolved = folder_of(info) / value
    if not resolved.exists():
        raise complaint(f"{key}: no such file or folder: {resolved}")
    return resolved


def _parts(given: Any) -> tuple[str, str | None, dict[str, Any]]:
    if isinstance(given, str):
        return given, None, {}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise complaint(f"given {given!r}, expected a name, or a mapping with `name` and options")
    options = dict(given)
    name, label = options.pop("name"), options.pop("label", None)
    if label is not None and (not isinstance(label, str) or not label.strip()):
        raise complaint(f"label: given {label!r}, expected text")
    return name, label, options


CtEncoder = Annotated[Component, _validator(_Encoders(Modality.CT))]
EhrEncoder = Annotated[Component, _validator(_Encoders(Modality.EHR))]
FusionChoice = Annotated[Component, _validator(FUSIONS)]
HeadChoice = Annotated[Component, _validator(HEADS)]
