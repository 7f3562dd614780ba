"""One subject's record up to the prediction time, left of the embedding store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

BIRTH_CODES = ("MEDS_BIRTH", "SNOMED/3950001", "SNOMED/184099003")
"""Codes of the birth event: the age follows from it, so no look-back cuts it, and as a code it says nothing."""


@dataclass(frozen=True, slots=True)
class Events:
    """A record in MEDS terms, cut at the prediction time.

    Attributes:
        days_before: Days between the event and the prediction time, >= 0, descending (oldest first). Static events come first, as NaN.
        code: MEDS code of each event.
        numeric_value: Value of each event, NaN where there is none.
    """

    days_before: Float[np.ndarray, " event"]
    code: tuple[str, ...]
    numeric_value: Float[np.ndarray, " event"]
