"""The two modalities."""

from __future__ import annotations

from enum import StrEnum


class Modality(StrEnum):
    """A source of information about a subject."""

    CT = "ct"
    EHR = "ehr"

    @property
    def other(self) -> Modality:
        """The modality that is not this one."""
        return Modality.EHR if self is Modality.CT else Modality.CT
