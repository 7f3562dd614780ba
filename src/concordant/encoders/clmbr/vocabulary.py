"""The vocabulary of CLMBR and MOTOR: which token, or bag of tokens, an event is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import msgpack

from concordant.core.errors import WeightsError
from concordant.core.events import BIRTH_CODES
from concordant.encoders.clmbr.network import AgeScale
from concordant.encoders.code_terms import Ontology

_SECONDS_PER_DAY = 86_400.0
_TYPES = ("code", "numeric", "text", "unused")
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, OSError, msgpack.UnpackException)


@dataclass(frozen=True, slots=True)
class Bag:
    """The tokens of an event and their weights."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Dictionary:
    """The content of `dictionary.msgpack`.

    Attributes:
        entries: What each token stands for, by its place: `type` and, by type, `code_string`,
            `val_start`, `val_end`, `text_string`.
        is_hierarchical: Whether an event is a bag: its code and the ancestors of that, its number
            and its text.
        age_scale: Of the ages at the events of the training data; None where the file has none.
    """

    entries: Sequence[Mapping[str, Any]]
    is_hierarchical: bool
    age_scale: AgeScale | None

    @cached_property
    def codes(self) -> Mapping[str, int]:
        """Token of each plain code; the birth's under each of its names."""
        codes = {entry["code_string"]: token for token, entry in self._of("code")}
        births = [codes[code] for code in BIRTH_CODES if code in codes]
        return codes | {code: births[0] for code in BIRTH_CODES if births and code not in codes}

    def _of(self, kind: str) -> list[tuple[int, Mapping[str, Any]]]:
        return [(token, entry) for token, entry in enumerate(self.entries) if entry["type"] == kind]

    def texts(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Return tokens and entries of texts."""
        return self._of("text")

    def numbers(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Return tokens and entries of ranges of numbers."""
        return self._of("numeric")


def read_dictionary(path: Path) -> Dictionary:
    """Read `dictionary.msgpack`.

    Raises:
        WeightsError: It is no such file, or an entry breaks the format.
    """
    try:
        with path.open("rb") as stream:
            content = msgpack.load(stream)
        entries = content["vocab"]
        unknown = {entry["type"] for entry in entries}.difference(_TYPES)
        is_hierarchical = bool(content.get("is_hierarchical", False))
        dictionary = Dictionary(entries, is_hierarchical, _age_scale(content.get("age_stats")))
        _touch(dictionary)
    except _BROKEN as error:
        raise WeightsError(
            f"{path}: no readable vocabulary of CLMBR or MOTOR ({type(error).__name__}: {error}); "
            "restore the file that came with the weights"
        ) from None
    if unknown:
        raise WeightsError(
            f"{path}: entries of type {', '.join(sorted(map(str, unknown)))}; expected "
            f"{', '.join(_TYPES)}"
        )
    return dictionary


def _age_scale(stats: Mapping[str, Any] | None) -> AgeScale | None:
    if not stats or "mean" not in stats:
        return None
    return AgeScale(float(stats["mean"]) / _SECONDS_PER_DAY, float(stats["std"]) / _SECONDS_PER_DAY)


def _touch(dictionary: Dictionary) -> None:
    """Read every entry once, so that a broken one is met here and not at an event."""
    if dictionary.is_hierarchical:
        Hierarchical(dictionary, Ontology({}))
    else:
        Flat(dictionary)


class Vocabulary(ABC):
    """Says which tokens an event is."""

    @abstractmethod
    def bag(self, code: str, value: float, text: str | None) -> Bag:
        """Return the tokens of an event; an empty bag where the vocabulary does not have it.

        Args:
            code: The event's code.
            value: Its number, NaN where there is none.
            text: Its text, None where there is none.
        """


class Flat(Vocabulary):
    """One token per event: number's range, else text, else code, never bare beside a value."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._codes = {code: Bag((token,), (1.0,)) for code, token in dictionary.codes.items()}
        self._texts = {
            (entry["code_string"], entry["text_string"]): Bag((token,), (1.0,))
            for token, entry in dictionary.texts()
        }
        self._numbers: dict[str, list[tuple[float, float, Bag]]] = defaultdict(list)
        for token, entry in dictionary.numbers():
            bounds = float(entry["val_start"]), float(entry["val_end"])
            self._numbers[entry["code_string"]].append((*bounds, Bag((token,), (1.0,))))

    def bag(self, code: str, value: float, text: str | None) -> Bag:
        """Return the event's one token, or none."""
        if not isnan(value):
            return next(
                (bag for start, end, bag in self._numbers.get(code, ()) if start <= value < end),
                _NONE,
            )
        if text is not None:
            return self._texts.get((code, text), _NONE)
        return self._codes.get(code, _NONE)


class Hierarchical(Vocabulary):
    """A bag per event: code and ancestors share a weight of 1; number and text weigh 1 each.

    Ranges and texts are those of all codes together, unless an entry names its code.
    """

    def __init__(self, dictionary: Dictionary, ontology: Ontology) -> None:
        self._codes = dictionary.codes
        self._ontology = ontology
        self._texts = {
            (entry.get("code_string"), entry["text_string"]): token
            for token, entry in dictionary.texts()
        }
        ranges: dict[str | None, list[tuple[float, int]]] = defaultdict(list)
        for token, entry in dictionary.numbers():
            ranges[entry.get("code_string")].append((float(entry["val_start"]), token))
        self._ranges = {code: sorted(own) for code, own in ranges.items()}
        self._known: dict[str, Bag] = {}

    def bag(self, code: str, value: float, text: str | None) -> Bag:
        """Return the event's tokens, or none."""
        if code not in self._known:
            self._known[code] = self._ancestry(code)
        bag = self._known[code]
        further = (
            []
            if isnan(value)
            else [
                _range_of(value, self._ranges[key]) for key in (None, code) if key in self._ranges
            ]
        )
        further += (
            []
            if text is None
            else [self._texts[key, text] for key in (None, code) if (key, text) in self._texts]
        )
        return (
            Bag((*bag.tokens, *further), (*bag.weights, *[1.0] * len(further))) if further else bag
        )

    def _ancestry(self, code: str) -> Bag:
        tokens = sorted(
            self._codes[one]
            for one in (code, *self._ontology.ancestors(code))
            if one in self._codes
        )
        return Bag(tuple(tokens), (1.0 / len(tokens),) * len(tokens)) if tokens else _NONE


def _range_of(value: float, ranges: Sequence[tuple[float, int]]) -> int:
    """Return the token of the last range that begins at or below a value; the first is open."""
    return ranges[max(0, bisect_right(ranges, value, key=lambda one: one[0]) - 1)][1]


_NONE = Bag()
