"""Records up to the prediction time, left of the embedding store: one subject's, many packed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from jaxtyping import Bool, Float, Int

BIRTH_CODES = ("MEDS_BIRTH", "SNOMED/3950001", "SNOMED/184099003")
"""Codes of the birth event; the age follows from it, so no look-back cuts it."""

DEATH_CODE = "MEDS_DEATH"
"""Code of the death event; `MEDS_DEATH//...` are deaths as well."""

OLD_DEATH_CODE = "SNOMED/419620001"
"""Code of the death event before MEDS 0.3."""


def is_death(code: str) -> bool:
    """Tell whether a code is that of the death event."""
    return code in (DEATH_CODE, OLD_DEATH_CODE) or code.startswith(f"{DEATH_CODE}//")


@dataclass(frozen=True, slots=True)
class LifeCodes:
    """Which of some codes are births and deaths.

    Attributes:
        birth: True for a code of the birth event.
        death: True for a code of the death event.
    """

    birth: Bool[np.ndarray, " code"]
    death: Bool[np.ndarray, " code"]

    @classmethod
    def among(cls, codes: Sequence[str]) -> LifeCodes:
        """Find them among sorted codes, without looking at all of these."""
        birth, death = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
        for marks, known in ((birth, BIRTH_CODES), (death, (OLD_DEATH_CODE,))):
            for code in known:
                place = bisect_left(codes, code)
                marks[place : place + 1] |= list(codes[place : place + 1]) == [code]
        place = bisect_left(codes, DEATH_CODE)
        while place < len(codes) and codes[place].startswith(DEATH_CODE):
            death[place] = is_death(codes[place])
            place += 1
        return cls(birth, death)


@dataclass(frozen=True, slots=True)
class Events:
    """A record in MEDS terms, cut at the prediction time.

    Attributes:
        days_before: Days between the event and the prediction time, >= 0, descending (oldest
            first). Static events come first, as NaN.
        code: MEDS code of each event.
        numeric_value: Value of each event, NaN where there is none.
        text_value: Text of each event, None where there is none; empty where no text was read.
    """

    days_before: Float[np.ndarray, " event"]
    code: tuple[str, ...]
    numeric_value: Float[np.ndarray, " event"]
    text_value: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Texts:
    """The text of each event, each distinct text once.

    Attributes:
        texts: The distinct texts.
        index: Position in `texts` of each row, -1 where there is none.
    """

    texts: tuple[str, ...]
    index: Int[np.ndarray, " row"]

    def __getitem__(self, rows: slice) -> tuple[str | None, ...]:
        """Return the texts of rows."""
        return tuple(
            None if place < 0 else self.texts[place] for place in self.index[rows].tolist()
        )


@dataclass(frozen=True, slots=True, eq=False)
class PackedEvents(Sequence[Events]):
    """The records of many samples, packed.

    A sequence of `Events` that takes a twentieth of their memory.

    Attributes:
        codes: The distinct codes, sorted.
        code: Position in `codes` of each row.
        days_before: As in `Events`.
        numeric_value: As in `Events`.
        offsets: Record i owns rows offsets[i] to offsets[i + 1].
        text: Text of each row; None where no text was read.
    """

    codes: tuple[str, ...]
    code: Int[np.ndarray, " row"]
    days_before: Float[np.ndarray, " row"]
    numeric_value: Float[np.ndarray, " row"]
    offsets: Int[np.ndarray, " record_plus_one"]
    text: Texts | None = field(default=None)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> Events: ...

    @overload
    def __getitem__(self, place: slice) -> list[Events]: ...

    def __getitem__(self, place: int | slice) -> Events | list[Events]:
        """Return a record, or several."""
        if isinstance(place, slice):
            return [self._record(one) for one in range(*place.indices(len(self)))]
        return self._record(range(len(self))[place])

    def __iter__(self) -> Iterator[Events]:
        """Iterate over the records."""
        return map(self._record, range(len(self)))

    def holding(self, present: Bool[np.ndarray, " record"]) -> PackedEvents:
        """Return the records marked as present, where all others are empty."""
        ends = self.offsets[1:][present]
        return replace(self, offsets=np.concatenate([[0], ends]).astype(np.int64))

    def _record(self, place: int) -> Events:
        rows = slice(int(self.offsets[place]), int(self.offsets[place + 1]))
        return Events(
            self.days_before[rows],
            tuple(self.codes[code] for code in self.code[rows].tolist()),
            self.numeric_value[rows],
            () if self.text is None else self.text[rows],
        )


def pack_events(records: Iterable[Events]) -> PackedEvents:
    """Pack records; what is packed already is returned as it is."""
    if isinstance(records, PackedEvents):
        return records
    given = list(records)
    codes = tuple(sorted({code for record in given for code in record.code}))
    position = {code: place for place, code in enumerate(codes)}
    return PackedEvents(
        codes,
        np.array([position[code] for record in given for code in record.code], np.int32),
        np.concatenate([np.zeros(0), *(record.days_before for record in given)]),
        np.concatenate([np.zeros(0), *(record.numeric_value for record in given)]),
        np.concatenate(
            [[0], np.cumsum([len(record.code) for record in given], dtype=np.int64)]
        ).astype(np.int64),
        _pack_texts(given),
    )


def _pack_texts(records: Sequence[Events]) -> Texts | None:
    if not any(record.text_value for record in records):
        return None
    rows = [text for record in records for text in record.text_value or (None,) * len(record.code)]
    texts = tuple(sorted({text for text in rows if text is not None}))
    position = {text: place for place, text in enumerate(texts)}
    return Texts(
        texts, np.array([-1 if text is None else position[text] for text in rows], np.int32)
    )
