"""Survival metrics with standard errors. Numpy, numba, scipy.special and polars only: no torch."""

from __future__ import annotations

from concordant.metrics.antolini import AntoliniConcordance, concordance_index_antolini
from concordant.metrics.auc import (
    CumulativeDynamicAUC,
    MeanAUC,
    TimeDependentAUC,
    auc_at,
    cumulative_dynamic_auc,
)
from concordant.metrics.base import METRICS, Metric, MetricInput
from concordant.metrics.bootstrap import (
    Bootstrap,
    JointBootstrap,
    bootstrap,
    bootstrap_concordance,
    resamples,
)
from concordant.metrics.brier import (
    BrierScores,
    IntegratedBrierScore,
    brier_score,
    brier_score_at,
    integrated_brier_score,
)
from concordant.metrics.calibration import DCalibration, LogScore, d_calibration, log_score
from concordant.metrics.calibration_curve import (
    CalibrationGroups,
    IntegratedCalibrationIndex,
    OneCalibration,
    integrated_calibration_index,
    kaplan_meier_calibration,
    one_calibration,
)
from concordant.metrics.censoring import SurvivalCurve, kaplan_meier, median_follow_up
from concordant.metrics.competing_risks import (
    CumulativeIncidence,
    aalen_johansen,
    event_probability,
)
from concordant.metrics.concordance import (
    Concordance,
    ConcordanceCovariance,
    ConcordanceDifference,
    compare_concordance,
    concordance_covariance,
    concordance_index,
)
from concordant.metrics.concordance_ipcw import compare_concordance_ipcw, concordance_index_ipcw
from concordant.metrics.inference import (
    Band,
    Difference,
    Equivalence,
    Estimate,
    Interval,
    NonInferiority,
    equivalence,
    joint_covariance,
    non_inferiority,
    subtract,
)
from concordant.metrics.multiplicity import (
    GainOverBoth,
    Simultaneous,
    benjamini_hochberg,
    gain_over_both,
    holm,
    simultaneous,
    simultaneous_differences,
)
from concordant.metrics.net_benefit import (
    DecisionCurve,
    NetBenefitDifference,
    compare_net_benefit,
    net_benefit,
)
from concordant.metrics.recalibration import Recalibration, fit_recalibration
from concordant.metrics.registered import (
    BrierAtHorizon,
    HarrellConcordance,
    IntegratedBrier,
    UnoConcordance,
)
from concordant.metrics.repeated_folds import (
    FoldDifference,
    SeedAverage,
    average_over_seeds,
    nadeau_bengio,
)
from concordant.metrics.restricted_mean import (
    RestrictedMean,
    RestrictedMeanDifference,
    restricted_mean,
    restricted_mean_difference,
)
from concordant.metrics.risk_groups import LogRank, RiskGroups, log_rank, risk_groups
from concordant.metrics.weak_calibration import (
    CalibrationInTheLarge,
    CalibrationSlope,
    calibration_in_the_large,
    calibration_slope,
)

__all__ = [
    "METRICS",
    "AntoliniConcordance",
    "Band",
    "Bootstrap",
    "BrierAtHorizon",
    "BrierScores",
    "CalibrationGroups",
    "CalibrationInTheLarge",
    "CalibrationSlope",
    "Concordance",
    "ConcordanceCovariance",
    "ConcordanceDifference",
    "CumulativeDynamicAUC",
    "CumulativeIncidence",
    "DCalibration",
    "DecisionCurve",
    "Difference",
    "Equivalence",
    "Estimate",
    "FoldDifference",
    "GainOverBoth",
    "HarrellConcordance",
    "IntegratedBrier",
    "IntegratedBrierScore",
    "IntegratedCalibrationIndex",
    "Interval",
    "JointBootstrap",
    "LogRank",
    "LogScore",
    "MeanAUC",
    "Metric",
    "MetricInput",
    "NetBenefitDifference",
    "NonInferiority",
    "OneCalibration",
    "Recalibration",
    "RestrictedMean",
    "RestrictedMeanDifference",
    "RiskGroups",
    "SeedAverage",
    "Simultaneous",
    "SurvivalCurve",
    "TimeDependentAUC",
    "UnoConcordance",
    "aalen_johansen",
    "auc_at",
    "average_over_seeds",
    "benjamini_hochberg",
    "bootstrap",
    "bootstrap_concordance",
    "brier_score",
    "brier_score_at",
    "calibration_in_the_large",
    "calibration_slope",
    "compare_concordance",
    "compare_concordance_ipcw",
    "compare_net_benefit",
    "concordance_covariance",
    "concordance_index",
    "concordance_index_antolini",
    "concordance_index_ipcw",
    "cumulative_dynamic_auc",
    "d_calibration",
    "equivalence",
    "event_probability",
    "fit_recalibration",
    "gain_over_both",
    "holm",
    "integrated_brier_score",
    "integrated_calibration_index",
    "joint_covariance",
    "kaplan_meier",
    "kaplan_meier_calibration",
    "log_rank",
    "log_score",
    "median_follow_up",
    "nadeau_bengio",
    "net_benefit",
    "non_inferiority",
    "one_calibration",
    "resamples",
    "restricted_mean",
    "restricted_mean_difference",
    "risk_groups",
    "simultaneous",
    "simultaneous_differences",
    "subtract",
]
