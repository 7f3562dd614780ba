"""Fuse CT scans and health records for time-to-event prediction, and say with honest statistics
whether fusing helped.

The names below are loaded on first use, so that `import concordant.metrics` never loads torch (PEP
562).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concordant.config import Study, read_study
    from concordant.estimator import FusionSurvivalAnalysis
    from concordant.simulate import simulate
    from concordant.study import run_study

__version__ = version("concordant")

_HOME = {
    "FusionSurvivalAnalysis": "concordant.estimator",
    "Study": "concordant.config",
    "read_study": "concordant.config",
    "run_study": "concordant.study",
    "simulate": "concordant.simulate",
}

__all__ = ["FusionSurvivalAnalysis", "Study", "__version__", "read_study", "run_study", "simulate"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'concordant' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
