"""The study file: YAML to a typed, frozen `Study`, and its grid to the strategies compared."""

from __future__ import annotations

from concordant.config.components import FEATURES, Component
from concordant.config.strategies import Strategy, Trial
from concordant.config.study import (
    Cohorts,
    CohortSource,
    CrossValidation,
    Encoders,
    Evaluate,
    Foreign,
    Study,
    Task,
    parse_study,
    read_study,
)

__all__ = [
    "FEATURES",
    "CohortSource",
    "Cohorts",
    "Component",
    "CrossValidation",
    "Encoders",
    "Evaluate",
    "Foreign",
    "Strategy",
    "Study",
    "Task",
    "Trial",
    "parse_study",
    "read_study",
]
