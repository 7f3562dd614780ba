from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
import torch

from concordant.core.errors import MetricError
from concordant.metrics import (
    auc_at,
    brier_score_at,
    calibration_slope,
    concordance_index,
    concordance_index_ipcw,
    log_rank,
    net_benefit,
    restricted_mean_difference,
    risk_groups,
)

TIME = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
EVENT = np.array([1, 0, 1, 1, 0, 1])
RISK = np.array([3.0, 2.0, 2.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    "as_given",
    [
        list,
        lambda values: values.astype(object),
        lambda values: values.astype(np.float32),
        lambda values: values.astype(values.dtype.newbyteorder(">")),
        lambda values: np.repeat(values, 2)[::2],
        lambda values: pl.Series(values),
        lambda values: torch.tensor(values),
        lambda values: np.array([Fraction(float(value)) for value in values]),
        lambda values: np.ma.array(values, mask=False),
    ],
)
def test_numbers_of_any_kind_are_read(as_given):
    expected = concordance_index_ipcw(TIME, EVENT, RISK)
    found = concordance_index_ipcw(
        as_given(TIME), as_given(EVENT), as_given(RISK), weights=as_given(np.ones(6))
    )
    assert found.estimate == expected.estimate
    np.testing.assert_allclose(found.influence, expected.influence, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["1.0"] * 6, "holds <U3 values; expected real numbers"),
        (np.array(["1.0", 2.0, 3.0, 4.0, 5.0, 6.0], dtype=object), "holds text values"),
        (RISK + 1j, "holds complex128 values"),
        (TIME.astype("m8[D]"), r"holds timedelta64\[D\] values"),
        (
            np.array([1.0, object(), 3.0, 4.0, 5.0, 6.0], dtype=object),
            "holds values that are no numbers",
        ),
        (
            np.array([1.0, 10**400, 3.0, 4.0, 5.0, 6.0], dtype=object),
            "holds values that are no numbers",
        ),
        ([[1.0], [1.0, 2.0]], "cannot be made an array of numbers"),
        (torch.ones(6, requires_grad=True), "cannot be made an array of numbers"),
        (np.ma.array(TIME, mask=TIME < 2), "has masked values"),
    ],
)
def test_what_is_no_number_is_refused_by_name(wrong, message):
    with pytest.raises(MetricError, match=f"time {message}"):
        concordance_index(wrong, EVENT, RISK)
    with pytest.raises(MetricError, match=f"risk {message}"):
        concordance_index(TIME, EVENT, wrong)
    with pytest.raises(MetricError, match=f"event {message}"):
        concordance_index(TIME, wrong, RISK)
    with pytest.raises(MetricError, match=f"weights {message}"):
        concordance_index(TIME, EVENT, RISK, weights=wrong)
    with pytest.raises(MetricError, match=f"risk {message}"):
        auc_at(TIME, EVENT, wrong, 3.5)
    with pytest.raises(MetricError, match=f"survival {message}"):
        brier_score_at(TIME, EVENT, wrong, 3.5)


@pytest.mark.parametrize("horizon", [None, "soon", [1.0, 2.0], np.nan, -1.0])
def test_a_horizon_is_one_time(horizon):
    for function in (auc_at, calibration_slope):
        with pytest.raises(MetricError, match="horizon"):
            function(TIME, EVENT, np.linspace(0.1, 0.6, 6), horizon)
    with pytest.raises(MetricError, match="thresholds"):
        net_benefit(TIME, EVENT, np.linspace(0.1, 0.6, 6), 3.0, ["a"])


@pytest.mark.parametrize("tau", [np.nan, 0.0, -1.0, "late", [1.0, 2.0]])
def test_tau_is_a_time(tau):
    with pytest.raises(MetricError, match="tau"):
        concordance_index_ipcw(TIME, EVENT, RISK, tau=tau)


@pytest.mark.parametrize("cause", [1.5, "1", -2])
def test_a_cause_is_a_code(cause):
    with pytest.raises(MetricError, match="cause is"):
        concordance_index(TIME, EVENT, RISK, cause=cause)


def test_a_code_too_large_to_be_one_is_refused():
    with pytest.raises(MetricError, match="4 code"):
        concordance_index(TIME, EVENT * 1e300, RISK)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 0, 1, 1, np.nan, np.nan]),
        pl.Series([0, 0, 1, 1, None, None]),
        np.array(["a", "a", "b", "b", None, None], dtype=object),
        np.array([0, 0, 1, 1, np.nan, np.nan], dtype=object),
        np.array(["a", "a", "b", "b", 1, 1], dtype=object),
        np.array(
            ["2020-01-01", "2020-01-01", "2020-01-02", "2020-01-02", "NaT", "NaT"], dtype="M8[D]"
        ),
        np.ma.array([0, 0, 1, 1, 2, 2], mask=[0, 0, 0, 0, 1, 1]),
    ],
)
def test_rows_without_a_label_are_not_one_cluster_or_group(labels):
    with pytest.raises(MetricError, match="cluster holds"):
        concordance_index(TIME, EVENT, RISK, cluster=labels)
    with pytest.raises(MetricError, match="group holds"):
        log_rank(TIME, EVENT, labels)
    with pytest.raises(MetricError, match="group holds"):
        restricted_mean_difference(TIME, EVENT, labels, 3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2.5}, "groups is 2.5"),
        ({"groups": 1}, "groups is 1"),
        ({"thresholds": [1.0, np.nan]}, "hold no NaN"),
        ({"thresholds": [2.0, 1.0]}, "must ascend"),
        ({"thresholds": [[1.0], [2.0]]}, "must ascend"),
    ],
)
def test_limits_of_risk_groups_are_checked(options, message):
    with pytest.raises(MetricError, match=message):
        risk_groups(TIME, EVENT, RISK, **options)
