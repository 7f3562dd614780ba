"""A facade for notebooks, in scikit-survival's manner: arrays in, risks and survival curves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from concordant.core.embedding import EmbeddingTable, TokenTable
from concordant.core.errors import ConcordantError, FeatureError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.fusion import FUSIONS
from concordant.heads import HEADS
from concordant.metrics import concordance_index
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.fit import FittedModel, fit
from concordant.training.folds import draw_folds
from concordant.training.options import TrainOptions

TUNING_FOLDS = 5
"""A fifth of the data is kept for tuning unless tuning data is given."""

Array = Float[np.ndarray, "subject ..."]


class FusionSurvivalAnalysis:
    """Fuse two arrays of features and predict time to event.

    A modality is an array (subject, feature), or (subject, token, feature) for attention; a row
    that is NaN throughout, or None in place of the array, is a missing modality; a token that is
    NaN throughout is padding. Single NaN are imputed by train's median with an indicator.

    It calls the same `concordant.training.fit.fit` as a study.

    Examples:
        >>> model = FusionSurvivalAnalysis(fusion="contrastive", seed=0).fit(ct, ehr, time, event)
        >>> model.score(ct_new, ehr_new, time_new, event_new)
    """

    def __init__(
        self,
        fusion: str | Mapping[str, Any] = "contrastive",
        head: str | Mapping[str, Any] = "cox",
        *,
        seed: int = 0,
        train: TrainOptions | Mapping[str, Any] | None = None,
    ) -> None:
        """Choose the parts.

        Args:
            fusion: Name of a strategy, or a mapping with `name` and its options: {"name":
                "cross_attention", "query": "ehr"}.
            head: Name of a head, or a mapping likewise.
            seed: Makes the fit deterministic.
            train: Options of training.

        Raises:
            ConfigError: An unknown name or option; the message suggests one.
        """
        self.fusion = fusion
        self.head = head
        self.seed = seed
        self.train = train if isinstance(train, TrainOptions) else TrainOptions(**(train or {}))
        fusion_name, fusion_options = _parts(fusion)
        head_name, head_options = _parts(head)
        self._spec = ModelSpec(
            fusion_name,
            FUSIONS.resolve(fusion_name, fusion_options),
            head_name,
            HEADS.resolve(head_name, head_options),
        )
        self._fitted: FittedModel | None = None

    def fit(
        self,
        ct: Array | None,
        ehr: Array | None,
        time: Float[np.ndarray, " subject"],
        event: Int[np.ndarray, " subject"],
        *,
        subject: Int[np.ndarray, " subject"] | None = None,
        tuning: tuple[
            Array | None, Array | None, Float[np.ndarray, " subject"], Int[np.ndarray, " subject"]
        ]
        | None = None,
    ) -> Self:
        """Fit on all subjects but a fifth, which serves for early stopping, drawn so that events
        are spread evenly.

        Args:
            ct: Features of the scans, or None.
            ehr: Features of the records, or None.
            time: Days to the event or the end of follow-up, > 0.
            event: 1 = observed, 0 = censored, 2 and above = competing (treated as censored).
            subject: Number of the subject of each row, where a subject has several; never divided
                between training and tuning.
            tuning: (ct, ehr, time, event) of other subjects, in place of the fifth.

        Raises:
            FeatureError: Arrays of other lengths or shapes, or an infinity.
            ConcordantError: A time <= 0, or no event.
        """
        samples = _samples(ct, ehr, time, event, subject)
        if tuning is None:
            groups = np.arange(len(samples)) if samples.subject is None else samples.subject
            fold = draw_folds(samples.target.event, groups, folds=TUNING_FOLDS, seed=self.seed)
            kept, held = (
                samples.take(np.flatnonzero(fold != 0)),
                samples.take(np.flatnonzero(fold == 0)),
            )
        else:
            kept, held = samples, _samples(*tuning, None)
        self._fitted = fit(kept, held, self._spec, self.train, seed=self.seed)
        return self

    def predict(self, ct: Array | None, ehr: Array | None) -> Float[np.ndarray, " subject"]:
        """Return the risk of each subject on the log-hazard scale; higher = earlier event."""
        return self._model.predict(_inputs(ct, ehr)).risk

    def predict_survival_function(
        self, ct: Array | None, ehr: Array | None, times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, "subject time"]:
        """Return the probability of being free of the event at each time in days."""
        return self._model.survival(self.predict(ct, ehr), np.asarray(times, dtype=np.float64))

    def score(
        self,
        ct: Array | None,
        ehr: Array | None,
        time: Float[np.ndarray, " subject"],
        event: Int[np.ndarray, " subject"],
    ) -> float:
        """Return Harrell's concordance index.

        `concordant.metrics.concordance_index` on `predict` gives its interval too.
        """
        return concordance_index(
            np.asarray(time, dtype=np.float64), np.asarray(event), self.predict(ct, ehr)
        ).estimate

    @property
    def _model(self) -> FittedModel:
        if self._fitted is None:
            raise ConcordantError(
                "this model has not been fitted; call fit(ct, ehr, time, event) first"
            )
        return self._fitted


def _parts(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    options = dict(given)
    return str(options.pop("name", "")), options


def _samples(ct: Array | None, ehr: Array | None, time: Any, event: Any, subject: Any) -> Samples:
    target = Outcomes(np.asarray(time, dtype=np.float64), np.asarray(event).astype(np.int64))
    inputs = _inputs(ct, ehr)
    lengths = {len(table) for table in inputs.values()} | {len(target.time), len(target.event)}
    if len(lengths) > 1:
        raise FeatureError(
            f"ct, ehr, time and event have lengths {sorted(lengths)}; expected one row per subject "
            "in all of them"
        )
    if not (np.isfinite(target.time).all() and (target.time > 0).all()):
        raise ConcordantError(
            "time holds a value that is not finite or <= 0; expected days > 0 from the prediction "
            "time"
        )
    return Samples(inputs, target, None if subject is None else np.asarray(subject, dtype=np.int64))


def _inputs(ct: Array | None, ehr: Array | None) -> dict[Modality, EmbeddingTable]:
    given = {Modality.CT: ct, Modality.EHR: ehr}
    inputs: dict[Modality, EmbeddingTable] = {
        modality: _table(array, modality) for modality, array in given.items() if array is not None
    }
    if not inputs:
        raise FeatureError(
            "both ct and ehr are None; expected at least one array (subject, feature)"
        )
    return inputs


def _table(array: Array, modality: Modality) -> TokenTable:
    values = np.asarray(array, dtype=np.float32)
    if values.ndim not in (2, 3):
        raise FeatureError(
            f"{modality}: given an array of shape {values.shape}, expected (subject, feature) or "
            "(subject, token, feature)"
        )
    if np.isinf(values).any():
        raise FeatureError(
            f"{modality}: the array holds an infinity; expected finite values, or NaN where one is "
            "missing"
        )
    tokens = values[:, None, :] if values.ndim == 2 else values
    there = ~np.isnan(tokens).all(axis=2)
    offsets = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64)
    return TokenTable(tokens[there], offsets, None, "median")
