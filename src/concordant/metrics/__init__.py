"""Survival metrics with standard errors. Numpy, numba, scipy.special and polars only: no torch."""

from __future__ import annotations

from concordant.metrics.base import METRICS, Metric, Setting
from concordant.metrics.brier import BrierScores, IntegratedBrierScore, brier_score, integrated_brier_score
from concordant.metrics.censoring import SurvivalCurve, kaplan_meier, median_follow_up
from concordant.metrics.concordance import (
    Concordance,
    ConcordanceCovariance,
    ConcordanceDifference,
    compare_concordance,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
)
from concordant.metrics.inference import Band, Difference, Estimate, Interval, benjamini_hochberg, holm, subtract
from concordant.metrics.registered import BrierAtHorizon, HarrellConcordance, IntegratedBrier, UnoConcordance
from concordant.metrics.risk_groups import LogRank, RiskGroups, log_rank, risk_groups

__all__ = [
    "METRICS",
    "Band",
    "BrierAtHorizon",
    "BrierScores",
    "Concordance",
    "ConcordanceCovariance",
    "ConcordanceDifference",
    "Difference",
    "Estimate",
    "HarrellConcordance",
    "IntegratedBrier",
    "IntegratedBrierScore",
    "Interval",
    "LogRank",
    "Metric",
    "RiskGroups",
    "Setting",
    "SurvivalCurve",
    "UnoConcordance",
    "benjamini_hochberg",
    "brier_score",
    "compare_concordance",
    "concordance_covariance",
    "concordance_index",
    "concordance_index_ipcw",
    "holm",
    "integrated_brier_score",
    "kaplan_meier",
    "log_rank",
    "median_follow_up",
    "risk_groups",
    "subtract",
]
