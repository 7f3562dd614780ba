"""One exception family: every error a user can cause derives from `ConcordantError`.

A message says what was given, what was expected and what to do; the command line prints it without
a traceback and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConcordantError(Exception):
    """Base of every error that a user's input can cause."""


class DiskFullError(ConcordantError):
    """A file cannot be written, for want of room."""


class ConfigError(ConcordantError):
    """A study file or an option is wrong."""


class CohortError(ConcordantError):
    """A cohort table breaks one of its invariants."""


class VolumeError(ConcordantError):
    """A scan cannot be read as a volume in Hounsfield units.

    Attributes:
        reason: Short, stable text without a path or patient identifier; goes to the quarantine
            list.
    """

    def __init__(self, reason: str, path: object = None) -> None:
        """Keep the reason apart from the path, which may identify a patient."""
        self.reason = reason
        super().__init__(reason if path is None else f"{path}: {reason}")


class RecordError(ConcordantError):
    """A MEDS dataset cannot be read as events."""


class FeatureError(ConcordantError):
    """A feature file breaks its format."""


class WeightsError(ConcordantError):
    """Weights of a model are missing, damaged, or those of another model."""


class StoreError(ConcordantError):
    """An embedding store is missing, damaged or was made from something else."""


class PredictionsError(ConcordantError):
    """A predictions table breaks its format."""


class MetricError(ConcordantError):
    """A metric cannot be computed from what was given."""


class NotApplicableError(ConcordantError):
    """A component cannot work on these inputs (one key, say); it is left out with this reason."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for a near miss, else the list of what is known."""
    names = sorted(known)
    close = get_close_matches(given, names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
