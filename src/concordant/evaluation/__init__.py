"""From a predictions table to a table of metrics with standard errors, with or without
cross-validation. No torch.
"""

from __future__ import annotations

from concordant.evaluation.averages import (
    KEY,
    MetricEstimate,
    align,
    averaged,
    on_shared_samples,
    over_folds,
)
from concordant.evaluation.competing import incidence_remark
from concordant.evaluation.measures import (
    CensoringSource,
    Measure,
    higher_is_better,
    is_concordance,
    measures,
)
from concordant.evaluation.reading import column_names, read_judged
from concordant.evaluation.support import Tau, common_tau, support_days, tau_days
from concordant.evaluation.tables import RESULT_SCHEMA, evaluate, subgroups
from concordant.metrics import METRICS
from concordant.metrics.base import WEIGHT
from concordant.metrics.registered import survival_at

__all__ = [
    "KEY",
    "METRICS",
    "RESULT_SCHEMA",
    "WEIGHT",
    "CensoringSource",
    "Measure",
    "MetricEstimate",
    "Tau",
    "align",
    "averaged",
    "column_names",
    "common_tau",
    "evaluate",
    "higher_is_better",
    "incidence_remark",
    "is_concordance",
    "measures",
    "on_shared_samples",
    "over_folds",
    "read_judged",
    "subgroups",
    "support_days",
    "survival_at",
    "tau_days",
]
