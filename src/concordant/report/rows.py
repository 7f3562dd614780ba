"""The rows that the page is made from: models, estimates, gains, and how they are looked up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError
from concordant.report.facts import AuditFacts, CohortFacts, StudyFacts
from concordant.report.wording import strategy_name

ALPHA = 0.05
"""Level at which an adjusted p-value counts as shown.

The intervals of the tables are the matching 95% ones.
"""

INTERNAL_LABELS = ("held_out", "development")
_CONCORDANCES = ("concordance_index", "concordance_index_ipcw")


class Kind(StrEnum):
    """What a row of the tables is."""

    CT = "ct"
    EHR = "ehr"
    FUSION = "fusion"
    FOREIGN = "foreign"
    ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the comparison.

    Attributes:
        fusion: Label of the strategy, or name of foreign predictions.
        ct_encoder: Label of the scan's encoder, None where it is not used.
        ehr_encoder: Label of the record's encoder, None where it is not used.
        kind: One modality alone, a fusion, foreign predictions or an oracle.
    """

    fusion: str
    ct_encoder: str | None
    ehr_encoder: str | None
    kind: Kind

    @property
    def title(self) -> str:
        """The strategy in words; another group's name is left as it is."""
        return self.fusion if self.kind is Kind.FOREIGN else strategy_name(self.fusion)

    @property
    def encoders(self) -> str:
        """The encoders in words; empty for foreign predictions."""
        return " + ".join(name for name in (self.ct_encoder, self.ehr_encoder) if name is not None)

    @property
    def unimodal(self) -> bool:
        """True where the model sees one modality only."""
        return self.kind in (Kind.CT, Kind.EHR)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric of one model on one cohort, or on one level of a subgroup.

    Attributes:
        cohort: Label of the cohort.
        model: Whose predictions.
        metric: Name of the metric.
        horizon_days: Its horizon, None where it has none.
        value: The estimate, None where it could not be computed.
        ci_low: Lower limit of the 95% interval.
        ci_high: Upper limit of the 95% interval.
        n: Samples.
        n_events: Samples with the event of interest.
        subgroup: Column that defines the subgroup, None for the whole cohort.
        level: Its level.
        tau_days: Time that the metric runs up to, None for a metric that has no such end.
    """

    cohort: str
    model: Model
    metric: str
    horizon_days: float | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    n_events: int | None
    subgroup: str | None = None
    level: str | None = None
    tau_days: float | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """One paired difference, metric(fusion) - metric(reference).

    Attributes:
        cohort: Label of the cohort.
        model: The fusion.
        reference: Label of the unimodal model it is held against.
        metric: Name of the metric.
        horizon_days: Its horizon, None where it has none.
        difference: The estimate.
        ci_low: Lower limit of the 95% interval.
        ci_high: Upper limit of the 95% interval.
        p_value: Two-sided, unadjusted.
        p_adjusted: Adjusted within the family, None outside a family.
        family: The declared family, None outside a family.
        multiplicity: How the p-value was adjusted, None outside a family.
        ci_low_simultaneous: Lower limit of the interval that holds for the whole family at once,
            None where there is none.
        ci_high_simultaneous: Its upper limit.
        p_nadeau_bengio: With folds as the units, None without folds.
        margin: The smallest difference that was declared to matter, None where none was.
        p_non_inferiority_adjusted: One-sided, of "worse by the margin or more".
        p_equivalence_adjusted: Of "as far apart as the margin".
        tau_days: Time that the metric runs up to, None for a metric that has no such end.
    """

    cohort: str
    model: Model
    reference: str
    metric: str
    horizon_days: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    p_adjusted: float | None
    family: str | None
    multiplicity: str | None = None
    ci_low_simultaneous: float | None = None
    ci_high_simultaneous: float | None = None
    p_nadeau_bengio: float | None = None
    margin: float | None = None
    p_non_inferiority_adjusted: float | None = None
    p_equivalence_adjusted: float | None = None
    tau_days: float | None = None

    @property
    def shown(self) -> bool:
        """True where the adjusted p-value is below `ALPHA`, in whichever direction."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA

    @property
    def better(self) -> bool:
        """True where the fusion was shown to have the higher metric."""
        return self.shown and self.difference is not None and self.difference > 0


@dataclass(frozen=True, slots=True)
class RunTables:
    """All that the page is made from.

    Attributes:
        run: The run folder.
        study: What was run on what.
        audit: The checks against leakage.
        models: The rows of the comparison: one modality alone, fusions, foreign predictions,
            oracles; inside each in the study's order.
        cohorts: Labels of the cohorts with results, internal first.
        estimates: Whole-cohort metrics, seeds averaged.
        gains: Differences of the declared families.
        other_gains: Differences to the other unimodal model, outside any family.
        subgroups: Metrics by level of a subgroup, seeds averaged.
    """

    run: RunFolder
    study: StudyFacts
    audit: AuditFacts
    models: tuple[Model, ...]
    cohorts: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    gains: tuple[Gain, ...]
    other_gains: tuple[Gain, ...]
    subgroups: tuple[Estimate, ...]

    @property
    def concordance(self) -> str:
        """Name of the concordance index that the page is built around."""
        names = {estimate.metric for estimate in self.estimates}
        for name in _CONCORDANCES:
            if name in names:
                return name
        raise ConcordantError(
            f"{self.run.results} holds no concordance index (found: "
            f"{', '.join(sorted(names)) or 'no rows'}), and the report is built around it; add "
            "concordance_index to evaluate.metrics and run `concordant run` again"
        )

    def facts(self, cohort: str) -> CohortFacts | None:
        """Return what is known about a cohort.

        The parts of the development cohort share its facts.
        """
        named = [facts for facts in self.study.cohorts if facts.label == cohort]
        internal = [facts for facts in self.study.cohorts if facts.role == "internal"]
        return named[0] if named else internal[0] if internal and self.internal(cohort) else None

    def internal(self, cohort: str) -> bool:
        """Tell whether a cohort is (part of) the development cohort."""
        named = [facts.role for facts in self.study.cohorts if facts.label == cohort]
        return named[0] == "internal" if named else cohort in INTERNAL_LABELS

    def estimate(
        self,
        cohort: str,
        model: Model,
        metric: str | None = None,
        horizon_days: float | None = None,
    ) -> Estimate | None:
        """Return a whole-cohort metric (default.

        The concordance index), or None where the table holds no such row.

        Without a horizon the row without one is meant, else the first.
        """
        wanted = (cohort, model, metric or self.concordance)
        rows = [one for one in self.estimates if (one.cohort, one.model, one.metric) == wanted]
        return next(
            (one for one in rows if one.horizon_days == horizon_days),
            rows[0] if rows and horizon_days is None else None,
        )

    def gain(self, cohort: str, model: Model) -> Gain | None:
        """Return the difference of the concordance index to the reference, or None where the
        table holds no such row.
        """
        wanted = (cohort, model, self.concordance)
        return next(
            (one for one in self.gains if (one.cohort, one.model, one.metric) == wanted), None
        )

    def of_kind(self, *kinds: Kind) -> tuple[Model, ...]:
        """Return the models of these kinds, in the order of the page."""
        return tuple(model for model in self.models if model.kind in kinds)

    def reference(self, gain: Gain) -> Model | None:
        """Return the unimodal model that a gain is held against.

        None where it was chosen per fold.
        """
        encoders = (gain.model.ct_encoder, gain.model.ehr_encoder)
        candidates = (
            model for model in self.of_kind(Kind.CT, Kind.EHR) if model.fusion == gain.reference
        )
        return next(
            (
                one
                for one in candidates
                if one.ct_encoder == encoders[0] or one.ehr_encoder == encoders[1]
            ),
            None,
        )
