"""Where a run keeps what: the one place that knows the names of a run folder's files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder `runs/<study>`.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def results(self) -> Path:
        """Table of metrics, whole-cohort rows only."""
        return self.path / "results.parquet"

    @property
    def subgroups(self) -> Path:
        """Table of metrics by availability pattern and site."""
        return self.path / "subgroups.parquet"

    @property
    def contrasts(self) -> Path:
        """Table of paired differences."""
        return self.path / "contrasts.parquet"

    @property
    def gains_over_both(self) -> Path:
        """Table of gains over the better of both unimodal models."""
        return self.path / "gains_over_both.parquet"

    @property
    def decision_curves(self) -> Path:
        """Table of net benefits."""
        return self.path / "decision_curves.parquet"

    @property
    def calibration(self) -> Path:
        """Table of calibration measures, before and after recalibration."""
        return self.path / "calibration.parquet"

    @property
    def calibration_groups(self) -> Path:
        """Table of predicted and observed probabilities by group of risk."""
        return self.path / "calibration_groups.parquet"

    @property
    def survival_curves(self) -> Path:
        """Table of Kaplan-Meier curves by third of predicted risk."""
        return self.path / "survival_curves.parquet"

    @property
    def tables(self) -> tuple[Path, ...]:
        """All of the tables."""
        compared = (self.results, self.subgroups, self.contrasts, self.gains_over_both)
        probabilities = (self.decision_curves, self.calibration, self.calibration_groups)
        return (*compared, *probabilities, self.survival_curves)

    @property
    def audit(self) -> Path:
        """Checks against leakage."""
        return self.path / "audit.json"

    @property
    def record(self) -> Path:
        """What was run on what: strategies, cohorts, quarantine, versions."""
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The report's figures as files, for a paper."""
        return self.path / "figures"

    @property
    def pictures(self) -> Path:
        """Attention pictures for the report, where the study asks for them."""
        return self.path / "pictures"

    def member(self, name: str) -> MemberFolder:
        """Return the folder of a member."""
        return MemberFolder(self.path / name)


@dataclass(frozen=True, slots=True)
class MemberFolder:
    """The folder of one member: one combination of encoders, fusion, head and seed.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def run(self) -> Path:
        """Options as given and resolved, versions, seeds, timings."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The resolved member as YAML."""
        return self.path / "config.yaml"

    def predictions(self, cohort: str) -> Path:
        """Predictions for one cohort label (`held_out`, `development`, or an external cohort's
        name).
        """
        return self.path / "predictions" / f"{slug(cohort)}.parquet"


def slug(text: str) -> str:
    """Turn a label into a file name."""
    return re.sub(r"[^A-Za-z0-9_.@=-]+", "-", text).strip("-.")
