"""The facade: arrays in, risks out, by the same fit as a study."""

from __future__ import annotations

import numpy as np
import pytest

import concordant
from concordant.core.errors import ConcordantError, ConfigError, FeatureError

QUICK = {"max_epochs": 40, "patience": 10, "width": 16}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    ct, ehr = rng.normal(size=(300, 5)), rng.normal(size=(300, 4))
    time = rng.exponential(np.exp(-ct[:, 0] - ehr[:, 0])) * 100 + 0.1
    return ct, ehr, time, (rng.random(300) < 0.8).astype(int)


@pytest.mark.parametrize(
    "fusion", ["contrastive", "late", "linear", {"name": "unimodal", "modality": "ct"}]
)
def test_fit_predict_score(data, fusion):
    ct, ehr, time, event = data
    model = concordant.FusionSurvivalAnalysis(fusion, train=QUICK).fit(
        ct[:200], ehr[:200], time[:200], event[:200]
    )
    assert model.score(ct[200:], ehr[200:], time[200:], event[200:]) > 0.6
    curves = model.predict_survival_function(ct[200:], ehr[200:], np.array([1.0, 50.0, 200.0]))
    assert curves.shape == (100, 3)
    assert (np.diff(curves, axis=1) <= 0).all()


def test_a_row_of_nan_or_none_is_a_missing_modality(data):
    ct, ehr, time, event = data
    ct = ct.copy()
    ct[::7] = np.nan
    model = concordant.FusionSurvivalAnalysis(train=QUICK).fit(ct, ehr, time, event)
    gone = np.full_like(ct[:5], np.nan)
    np.testing.assert_allclose(model.predict(gone, ehr[:5]), model.predict(None, ehr[:5]))
    assert np.ptp(model.predict(None, ehr[:20])) > 0


def test_tokens_and_padding(data):
    ct, ehr, time, event = data
    tokens = np.stack([ct, ct + 0.1, np.full_like(ct, np.nan)], 1)
    records = np.stack([ehr, -ehr], 1)
    model = concordant.FusionSurvivalAnalysis(
        {"name": "cross_attention", "query": "ehr"}, train=QUICK
    ).fit(tokens, records, time, event)
    assert np.isfinite(model.predict(tokens, records)).all()


def test_what_is_wrong_is_said(data):
    ct, ehr, time, event = data
    with pytest.raises(ConfigError, match="Did you mean 'contrastive'"):
        concordant.FusionSurvivalAnalysis("contrastiv")
    model = concordant.FusionSurvivalAnalysis(train=QUICK)
    with pytest.raises(ConcordantError, match="call fit"):
        model.predict(ct, ehr)
    with pytest.raises(FeatureError, match="one row per subject"):
        model.fit(ct[:10], ehr, time, event)
    with pytest.raises(ConcordantError, match="<= 0"):
        model.fit(ct, ehr, time * 0, event)
    with pytest.raises(FeatureError, match="infinity"):
        model.fit(np.where(ct > 2, np.inf, ct), ehr, time, event)
    with pytest.raises(FeatureError, match="both ct and ehr are None"):
        model.fit(None, None, time, event)
