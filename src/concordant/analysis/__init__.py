"""What the predictions say about fusion: every analysis writes one table of a run. No torch."""

from __future__ import annotations

from concordant.analysis.base import ANALYSES, Analysis, Judged, Shown
from concordant.analysis.calibration import Calibration, CalibrationInGroups
from concordant.analysis.compare import Contrasts
from concordant.analysis.decision import DecisionCurves
from concordant.analysis.gains import GainsOverBoth
from concordant.analysis.results import Results, Subgroups
from concordant.analysis.survival_curves import SurvivalCurves

__all__ = [
    "ANALYSES",
    "Analysis",
    "Calibration",
    "CalibrationInGroups",
    "Contrasts",
    "DecisionCurves",
    "GainsOverBoth",
    "Judged",
    "Results",
    "Shown",
    "Subgroups",
    "SurvivalCurves",
]
