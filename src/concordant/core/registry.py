"""Registries: a component is a decorated class; keyword-only arguments are its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.messages import config_error

T = TypeVar("T")

_OPTIONS = ConfigDict(
    extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=()
)


class Registry(Generic[T]):
    """Names of one kind of component.

    Positional constructor arguments are what the house supplies (dimensions); keyword-only ones are
    options.

    Attributes:
        kind: What is registered ("fusion", "encoder"), for messages.
    """

    def __init__(self, kind: str) -> None:
        """Start empty."""
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._options: dict[str, type[BaseModel]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a class under `name`.

        Raises:
            ConfigError: From the decorator, where the name is taken, or where an option has a name
                that pydantic keeps for itself.
        """

        def decorate(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ConfigError(f"{self.kind} {name!r} is registered twice")
            self._options[name] = self._options_model(name, cls)
            self._classes[name] = cls
            return cls

        return decorate

    def __iter__(self) -> Iterator[str]:
        """Iterate over names in the order of registration."""
        return iter(self._classes)

    def __contains__(self, name: object) -> bool:
        """Return whether a name is registered."""
        return name in self._classes

    def get(self, name: str) -> type[T]:
        """Return the class of a name, or raise a ConfigError that suggests one."""
        if name not in self._classes:
            raise ConfigError(f"unknown {self.kind} {name!r}.{did_you_mean(name, self._classes)}")
        return self._classes[name]

    def options(self, name: str) -> type[BaseModel]:
        """Return the model that validates a component's options."""
        self.get(name)
        return self._options[name]

    def resolve(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options of a component, defaults filled in.

        Raises:
            ConfigError: An unknown or ill-typed option; the message names it and suggests another.
        """
        model = self.options(name)
        unknown = [key for key in given if key not in model.model_fields]
        if unknown:
            raise ConfigError(
                f"{self.kind} {name!r} has no option "
                f"{unknown[0]!r}.{did_you_mean(unknown[0], model.model_fields)}"
            )
        try:
            return model.model_validate(dict(given)).model_dump()
        except ValidationError as error:
            raise ConfigError(
                f"{self.kind} {name!r}, option {config_error(error, given, model)}"
            ) from None

    def create(self, name: str, *supplied: Any, **given: Any) -> T:
        """Build a component from what the house supplies and its options."""
        return self.get(name)(*supplied, **self.resolve(name, given))

    def label(self, name: str, given: Mapping[str, Any]) -> str:
        """Return the name with options that are required or not the default; of a path its end."""
        resolved = {
            key: value.name if isinstance(value, Path) else value
            for key, value in self.resolve(name, given).items()
        }
        fields = self.options(name).model_fields
        shown = [
            f"{key}={resolved[key]}"
            for key, field in fields.items()
            if field.is_required() or resolved[key] != field.default
        ]
        return f"{name}({','.join(shown)})" if shown else name

    def _options_model(self, name: str, cls: type) -> type[BaseModel]:
        constructor: Callable[..., None] = inspect.getattr_static(cls, "__init__")
        hints = get_type_hints(constructor, include_extras=True)
        fields: dict[str, Any] = {}
        for key, parameter in inspect.signature(constructor).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                default = ... if parameter.default is inspect.Parameter.empty else parameter.default
                fields[key] = (hints[key], default)
        reserved = [key for key in fields if key.startswith("_") or hasattr(BaseModel, key)]
        if reserved:
            raise ConfigError(
                f"{self.kind} {name!r}: an option cannot be called {reserved[0]!r}, the name is "
                "reserved; choose another"
            )
        return create_model(f"{name}_options", __config__=_OPTIONS, **fields)
