"""Records to sequences of tokens and ages, as CLMBR and MOTOR see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from concordant.core.errors import RecordError
from concordant.core.events import BIRTH_CODES, Events, is_death
from concordant.encoders.clmbr.vocabulary import Bag, Vocabulary

_MICROSECONDS_PER_DAY = 86_400_000_000

NO_BIRTH = (
    f"no dated birth event in the record ({', '.join(BIRTH_CODES)}); CLMBR and MOTOR place every "
    "event by the age at it"
)
"""Reason for quarantine."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A record, tokenised, oldest event first.

    Attributes:
        bags: Tokens of each event that is kept.
        age_days: Age at each of them, in days.
        places: Where each of them stands in the record.
    """

    bags: tuple[Bag, ...]
    age_days: Float32[np.ndarray, " event"]
    places: Int64[np.ndarray, " event"]

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.bags)

    @property
    def bag_size(self) -> int:
        """Greatest number of tokens of an event."""
        return max((len(bag.tokens) for bag in self.bags), default=0)

    def last(self, n_events: int) -> TokenSequence:
        """Return the last events."""
        return TokenSequence(
            self.bags[-n_events:], self.age_days[-n_events:], self.places[-n_events:]
        )


def tokenize(record: Events, vocabulary: Vocabulary) -> TokenSequence:
    """Turn a record into tokens and ages.

    Static events stand at the birth, after it; a death without a time is left out, for it was not
    known before it happened. Of the events of one day whose tokens all occurred on that day
    already, none is kept; a day is counted from the birth, so it is the calendar's where the birth
    is dated at midnight. Events that the vocabulary does not have are left out.

    Raises:
        RecordError: The record has no birth event with a time.
    """
    days = record.days_before
    births = [
        place
        for place, code in enumerate(record.code)
        if code in BIRTH_CODES and not np.isnan(days[place])
    ]
    if not births:
        raise RecordError(NO_BIRTH)
    birth = births[0]  # the oldest
    age_days = np.where(np.isnan(days), 0.0, days[birth] - days)
    elapsed = np.rint(days[birth] * _MICROSECONDS_PER_DAY) - np.rint(days * _MICROSECONDS_PER_DAY)
    day = np.floor_divide(np.where(np.isnan(days), 0.0, elapsed), _MICROSECONDS_PER_DAY)
    bags = [
        Bag() if static and is_death(code) else bag
        for bag, code, static in zip(
            bags_of(record, vocabulary), record.code, np.isnan(days).tolist(), strict=True
        )
    ]
    kept = _first_of_their_day(bags, day.tolist(), _order(days, birth))
    return TokenSequence(
        tuple(bags[place] for place in kept),
        age_days[kept].astype(np.float32),
        np.array(kept, np.int64),
    )


def bags_of(record: Events, vocabulary: Vocabulary) -> list[Bag]:
    """Return each event's tokens, none for one that the vocabulary does not have."""
    texts = record.text_value or (None,) * len(record.code)
    return [
        vocabulary.bag(*event)
        for event in zip(record.code, record.numeric_value.tolist(), texts, strict=True)
    ]


def _order(days: Float32[np.ndarray, " event"], birth: int) -> list[int]:
    """Return the places of events from the oldest, static ones right after the birth."""
    static = np.flatnonzero(np.isnan(days)).tolist()
    dated = [place for place in range(len(days)) if not np.isnan(days[place])]
    at = dated.index(birth) + 1
    return [*dated[:at], *static, *dated[at:]]


def _first_of_their_day(bags: list[Bag], day: list[float], order: list[int]) -> list[int]:
    kept, today, seen = [], None, set[int]()
    for place in order:
        if day[place] != today:
            today, seen = day[place], set()
        tokens = bags[place].tokens
        if tokens and not seen.issuperset(tokens):
            seen.update(tokens)
            kept.append(place)
    return kept
