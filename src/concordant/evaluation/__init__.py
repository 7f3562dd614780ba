"""From predictions to tables of metrics with standard errors, with or without folds. No torch."""

from __future__ import annotations

from concordant.core.survival import WEIGHT
from concordant.evaluation.averages import (
    KEY,
    MetricEstimate,
    align,
    average_seeds,
    averaged,
    on_shared_samples,
)
from concordant.evaluation.protocol import (
    CensoringSource,
    EvaluationProtocol,
    Measure,
    Multiplicity,
    ProtocolOptions,
    measures,
)
from concordant.evaluation.reading import column_names, read_judged
from concordant.evaluation.support import Tau, incidence_remark, support_days, tau_days
from concordant.evaluation.tables import RESULT_SCHEMA, SUBGROUP_SCHEMA, evaluate, subgroups
from concordant.metrics import METRICS
from concordant.metrics.base import survival_at

__all__ = [
    "KEY",
    "METRICS",
    "RESULT_SCHEMA",
    "SUBGROUP_SCHEMA",
    "WEIGHT",
    "CensoringSource",
    "EvaluationProtocol",
    "Measure",
    "MetricEstimate",
    "Multiplicity",
    "ProtocolOptions",
    "Tau",
    "align",
    "average_seeds",
    "averaged",
    "column_names",
    "evaluate",
    "incidence_remark",
    "measures",
    "on_shared_samples",
    "read_judged",
    "subgroups",
    "support_days",
    "survival_at",
    "tau_days",
]
