"""What a section of the page holds that is built around figures."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.report.displays.base import Display
from concordant.report.table import Table


@dataclass(frozen=True, slots=True)
class FigureSection:
    """Figures, the tables beside them, and what they say.

    Attributes:
        displays: The figures, one per cohort.
        further: The same at other horizons.
        tables: The tables.
        sentence: What they say, or why there is none.
        subject: The model drawn, as in a sentence, or empty.
        recalibrated: True where predictions were recalibrated.
    """

    displays: tuple[Display, ...] = ()
    further: tuple[Display, ...] = ()
    tables: tuple[Table, ...] = ()
    sentence: str = ""
    subject: str = ""
    recalibrated: bool = False
