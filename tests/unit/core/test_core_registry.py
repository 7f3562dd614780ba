"""Registries: options validated from a constructor's keyword-only arguments."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from concordant.core.errors import ConfigError
from concordant.core.modality import Modality
from concordant.core.registry import Registry


class Tool:
    """Base of the components below."""


@pytest.fixture
def tools() -> Registry[Tool]:
    registry: Registry[Tool] = Registry("tool")

    @registry.register("plain")
    class Plain(Tool):
        pass

    @registry.register("saw")
    class Saw(Tool):
        def __init__(
            self,
            width: int,
            *,
            modality: Modality,
            teeth: Annotated[int, Field(ge=1)] = 12,
            blade: Literal["fine", "coarse"] = "fine",
            sizes: tuple[float, ...] = (),
        ) -> None:
            self.width, self.modality, self.teeth, self.blade, self.sizes = (
                width,
                modality,
                teeth,
                blade,
                sizes,
            )

    return registry


def test_names_come_in_the_order_of_registration(tools):
    assert list(tools) == ["plain", "saw"]
    assert "saw" in tools
    assert "hammer" not in tools


def test_options_are_the_keyword_only_arguments(tools):
    assert list(tools.options("saw").model_fields) == ["modality", "teeth", "blade", "sizes"]
    assert list(tools.options("plain").model_fields) == []


def test_resolving_fills_in_defaults_and_types(tools):
    assert tools.resolve("saw", {"modality": "ct", "sizes": [1, 2]}) == {
        "modality": Modality.CT,
        "teeth": 12,
        "blade": "fine",
        "sizes": (1.0, 2.0),
    }
    assert tools.resolve("plain", {}) == {}


def test_a_component_is_built_from_what_is_supplied_and_its_options(tools):
    saw = tools.create("saw", 3, modality="ehr", teeth=5)
    assert (saw.width, saw.modality, saw.teeth, saw.blade, saw.sizes) == (
        3,
        Modality.EHR,
        5,
        "fine",
        (),
    )


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("sav", {}, "unknown tool 'sav'. Did you mean 'saw'?"),
        ("xylophone", {}, "unknown tool 'xylophone'. Known: plain, saw."),
        (
            "saw",
            {"modality": "ct", "tooth": 3},
            "tool 'saw' has no option 'tooth'. Did you mean 'teeth'?",
        ),
        ("plain", {"teeth": 3}, "tool 'plain' has no option 'teeth'."),
        ("saw", {}, "tool 'saw', option modality: required, but not given"),
        ("saw", {"modality": "mri"}, "option modality: given 'mri', expected 'ct' or 'ehr'"),
        (
            "saw",
            {"modality": "ct", "teeth": 0},
            "option teeth: given 0, expected greater than or equal to 1",
        ),
        (
            "saw",
            {"modality": "ct", "sizes": [1, "x"]},
            "option sizes.1: given 'x', expected a number",
        ),
    ],
)
def test_wrong_options_are_named(tools, name, given, message):
    with pytest.raises(ConfigError) as caught:
        tools.resolve(name, given)
    assert message in str(caught.value)


def test_a_label_shows_required_options_and_those_that_differ_in_signature_order(tools):
    assert tools.label("plain", {}) == "plain"
    assert tools.label("saw", {"modality": "ct", "teeth": 12}) == "saw(modality=ct)"
    assert (
        tools.label("saw", {"blade": "coarse", "teeth": "3", "modality": "ehr"})
        == "saw(modality=ehr,teeth=3,blade=coarse)"
    )


def test_a_name_is_registered_once(tools):
    with pytest.raises(ConfigError, match="tool 'saw' is registered twice"):
        tools.register("saw")(Tool)


def test_an_inherited_constructor_gives_its_options(tools):
    class Blade(Tool):
        def __init__(self, *, teeth: int = 3) -> None:
            self.teeth = teeth

    @tools.register("knife")
    class Knife(Blade):
        pass

    assert tools.create("knife", teeth=5).teeth == 5


def test_a_constructor_further_up_gives_its_options_too(tools):
    class Blade(Tool):
        def __init__(self, width: int, *, teeth: int = 3) -> None:
            self.width, self.teeth = width, teeth

    class Wide(Blade):
        pass

    @tools.register("knife")
    class Knife(Wide):
        pass

    assert tools.label("knife", {"teeth": 5}) == "knife(teeth=5)"
    assert (tools.create("knife", 2, teeth=5).width, tools.create("knife", 2).teeth) == (2, 3)


@pytest.mark.parametrize("name", ["json", "copy", "model_config", "model_dump", "_hidden"])
def test_an_option_with_a_name_of_pydantic_is_refused_when_it_is_registered(tools, name):
    namespace: dict[str, type] = {}
    exec(f"class Odd:\n    def __init__(self, *, {name}: int = 1) -> None: ...\n", namespace)  # noqa: S102 - our own text
    with pytest.raises(
        ConfigError, match=f"tool 'odd': an option cannot be called '{name}'.*choose another"
    ):
        tools.register("odd")(namespace["Odd"])
    assert "odd" not in tools


def test_an_option_may_begin_like_a_name_of_pydantic(tools):
    @tools.register("lathe")
    class Lathe(Tool):
        def __init__(self, *, model_size: int = 1, model_validate_first: bool = True) -> None:
            self.model_size = model_size

    assert tools.create("lathe", model_size=3).model_size == 3
