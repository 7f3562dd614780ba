"""A study: what is predicted, on which cohorts, from which encoders, by which strategies, and how
it is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from concordant.config.components import (
    FEATURES,
    Component,
    CtEncoder,
    EhrEncoder,
    ExistingPath,
    FusionChoice,
    HeadChoice,
    folder_of,
)
from concordant.config.grid import Grid
from concordant.config.source import overridden, read_yaml
from concordant.config.strategies import Strategy, Trial, distinct, strategy_of, trials_of
from concordant.core.artifacts import RunFolder, slug
from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.messages import complaint, config_error
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.evaluation import (
    METRICS,
    CensoringSource,
    EvaluationProtocol,
    Multiplicity,
    Tau,
    measures,
)
from concordant.training.options import TrainOptions

INTERNAL_LABELS = ("held_out", "development")
"""Labels of the development cohort's rows in tables: with splits, and under cross-validation."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ascending(days: tuple[float, ...]) -> tuple[float, ...]:
    if list(days) != sorted(set(days)):
        raise complaint(f"given {list(days)}, expected different days in ascending order")
    return days


def _as_folder(name: str) -> str:
    if not name or slug(name) != name:
        raise complaint(
            f"given {name!r}, expected letters, digits, '_', '-' and '.': it names a folder"
        )
    return name


def _with_concordance(metrics: tuple[str, ...]) -> tuple[str, ...]:
    if not any(name.startswith("concordance_index") for name in metrics):
        raise complaint(
            f"given {list(metrics)}, expected concordance_index or concordance_index_ipcw among "
            "them: the report is built around it"
        )
    return metrics


def _known_metric(name: str) -> str:
    try:
        METRICS.get(name)
    except ConfigError as error:
        raise complaint(str(error)) from None
    return name


def _time_or_rule(given: Any) -> Any:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if given in ("common", "cohort") or (is_number and 0 < given < math.inf):
        return given
    hint = did_you_mean(given, ("common", "cohort")) if isinstance(given, str) else ""
    raise complaint(f"given {given!r}, expected common, cohort or a number of days > 0.{hint}")


def _fitted_cause(given: Any) -> Any:
    if given is None or (given == 1 and not isinstance(given, bool)):
        return given
    raise complaint(
        f"given {given!r}, expected 1 or nothing: the models of a study are fitted on event 1, and "
        "judging them by another event says nothing of them; give the event of interest code 1 in "
        "the cohort tables"
    )


Label = Annotated[str, Field(min_length=1)]
Metric = Annotated[str, AfterValidator(_known_metric)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Task(_Frozen):
    """What is predicted.

    Attributes:
        event: Name of the event of interest (coded 1 in the cohort table), for the report.
        horizons_days: Days from the prediction time at which survival is reported, ascending.
    """

    event: Label
    horizons_days: Annotated[tuple[Days, ...], AfterValidator(_ascending)] = ()


MedsColumn = Literal["subject_id", "time", "code", "numeric_value", "text_value"]


class CohortSource(_Frozen):
    """Where a cohort lies.

    Attributes:
        table: The cohort table (parquet).
        meds: The MEDS dataset with its subjects' records; needed only by encoders that read
            records.
        columns: What the dataset's files call a column, by its name in MEDS: `{numeric_value:
            value}`.
        name: How tables call it; the table's stem where it is not given.
    """

    table: ExistingPath
    meds: ExistingPath | None = None
    columns: Mapping[MedsColumn, str] = Field(default_factory=dict)
    name: Label = Field(default_factory=lambda known: known["table"].stem)


class Cohorts(_Frozen):
    """The cohorts of a study.

    Attributes:
        development: Where models are fitted and, on its held-out part or by cross-validation,
            judged.
        external: Cohorts that are only ever predicted.
    """

    development: CohortSource
    external: tuple[CohortSource, ...] = ()


class Encoders(_Frozen):
    """The encoder of each modality.

    None where the grid gives it, or the study does without the modality.

    Attributes:
        ct: Encoder of scans, or a feature file.
        ehr: Encoder of records, or a feature file.
    """

    ct: CtEncoder | None = None
    ehr: EhrEncoder | None = None


class Evaluate(_Frozen):
    """How predictions are judged.

    Attributes:
        metrics: Names in `concordant.evaluation.METRICS`.
        censoring: Where the censoring curve of a metric comes from.
        tau: Time up to which Uno's C and the integrated Brier score run: `common` = the greatest
            that every predicted cohort supports, `cohort` = each up to its own, or a number of
            days.
        cause: 1 = every code above 1 is a competing event, after which event 1 never comes; None =
            such a code is censored.
        multiplicity: How the p-values of a family of contrasts are adjusted.
        margin: The smallest difference of a concordance index that would matter; gives tests of
            non-inferiority and equivalence.
        gain_over_both: Whether every fusion is tested for being better than both of its unimodal
            models.
        recalibrate: Whether predicted survival is recalibrated on tuning and its calibration told
            before and after.
    """

    metrics: Annotated[
        tuple[Metric, ...], Field(min_length=1), AfterValidator(_with_concordance)
    ] = (
        "concordance_index",
        "integrated_brier_score",
    )
    censoring: CensoringSource = "cohort"
    tau: Annotated[Tau, BeforeValidator(_time_or_rule)] = "common"
    cause: Annotated[Literal[1] | None, BeforeValidator(_fitted_cause)] = None
    multiplicity: Multiplicity = "holm"
    margin: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] | None = None
    gain_over_both: bool = True
    recalibrate: bool = False

    def protocol(
        self,
        horizons_days: tuple[float, ...],
        train: Outcomes,
        *,
        tau: float | None = None,
        test_train_ratio: float | None = None,
    ) -> EvaluationProtocol:
        """Return the protocol, with what the data says of it."""
        return EvaluationProtocol(
            metrics=self.metrics,
            horizons_days=horizons_days,
            censoring=self.censoring,
            train=train,
            tau=tau,
            cause=self.cause,
            multiplicity=self.multiplicity,
            margin=self.margin,
            test_train_ratio=test_train_ratio,
            gain_over_both=self.gain_over_both,
        )


class Report(_Frozen):
    """What the report shows beside the numbers.

    Attributes:
        attention_pictures: So many pictures of scans with what the best attention model looks at,
            half of them of the highest risks, half of the lowest. They show patients, so a report
            with them may not go where the scans may not.
    """

    attention_pictures: Annotated[int, Field(ge=0, le=20)] = 0


class CrossValidation(_Frozen):
    """Folds instead of splits: drawn, or given by a file.

    Attributes:
        folds: Number of folds.
        repeats: How often folds are drawn anew.
        group: Column whose values are never divided between folds.
        seed: Seed of the draw.
        assignment: A table sample_id, repeat, fold (CSV) that gives the folds; `folds`, `repeats`
            and `seed` then have no place.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Annotated[int, Field(ge=1)] = 1
    group: Label = "subject_id"
    seed: Annotated[int, Field(ge=0)] = 0
    assignment: ExistingPath | None = None

    @model_validator(mode="after")
    def _drawn_or_given(self) -> CrossValidation:
        drawn = sorted(self.model_fields_set & {"folds", "repeats", "seed"})
        if self.assignment is not None and drawn:
            raise complaint(
                f"{', '.join(drawn)} stand(s) beside `assignment`, which already gives the folds; "
                "leave out one of the two"
            )
        return self


class Foreign(_Frozen):
    """Predictions of someone else's model, judged as if they were ours.

    Attributes:
        name: How tables call it.
        table: Parquet with sample_id, risk (higher = earlier event) and optionally survival, as in
            a predictions file, for any of the cohorts.
    """

    name: Label
    table: ExistingPath


class Study(_Frozen):
    """A study file, read and checked.

    Attributes:
        name: Names the folder of its results.
        task: What is predicted.
        cohorts: Where the data lies.
        encoders: How scans and records become embeddings.
        fusion: The strategy, where the grid does not vary it.
        head: The survival head, where the grid does not vary it.
        seed: The seed, where the grid does not vary it.
        train: Options of training.
        evaluate: How predictions are judged.
        report: What the report shows beside the numbers.
        cross_validation: Folds instead of splits, or None.
        max_quarantined: Greatest share of a cohort's scans that may be unreadable.
        foreign: Predictions of others to be judged as well.
        grid: What is compared: keys such as "fusion", "encoders.ehr", "seed", "train.lr", each with
            its values.
    """

    name: Annotated[str, AfterValidator(_as_folder)]
    task: Task
    cohorts: Cohorts
    encoders: Encoders
    fusion: FusionChoice = Field(default="contrastive", validate_default=True)
    head: HeadChoice = Field(default="cox", validate_default=True)
    seed: Annotated[int, Field(ge=0)] = 0
    train: TrainOptions = TrainOptions()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    cross_validation: CrossValidation | None = None
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05
    foreign: tuple[Foreign, ...] = ()
    grid: Grid = {}

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _imports: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Study:
        self._folder = folder_of(info)
        internal = dict.fromkeys([*INTERNAL_LABELS, self.cohorts.development.name])
        _check_names(
            "cohorts.external", [*internal, *(source.name for source in self.cohorts.external)]
        )
        strategies = dict.fromkeys(strategy.label for strategy in self.strategies())
        _check_names("foreign", [*strategies, *(foreign.name for foreign in self.foreign)])
        measures(self.evaluate.metrics, self.task.horizons_days)
        if self.evaluate.recalibrate and not self.task.horizons_days:
            raise complaint(
                "evaluate.recalibrate: given true, but calibration is told at task.horizons_days; "
                "give the days"
            )
        if self.evaluate.recalibrate and self.evaluate.cause is not None:
            raise complaint(
                "evaluate.recalibrate: given true beside evaluate.cause, but recalibration fits "
                "the hazard to which competing events are censored, not the cumulative incidence "
                "that a cause asks for; leave out one of the two"
            )
        self._check_records()
        return self

    @property
    def folder(self) -> Path:
        """Where the study file lies."""
        return self._folder

    @property
    def given(self) -> dict[str, Any]:
        """The study as it was given, overrides put in."""
        return self._given

    @property
    def imports(self) -> tuple[str, ...]:
        """Modules outside this package that register components of the study.

        Every worker imports them.
        """
        return self._imports

    @property
    def run_folder(self) -> RunFolder:
        """Where results go: `runs/<name>` beside the study file."""
        return RunFolder(self.folder / "runs" / self.name)

    @property
    def embeddings_root(self) -> Path:
        """Where embedding stores go: `embeddings` beside the study file."""
        return self.folder / "embeddings"

    def strategies(self) -> tuple[Strategy, ...]:
        """Expand the grid to its strategies, the last key fastest.

        Strategies that cannot differ stand once, an encoder without use is left out.

        Raises:
            ConfigError: A fusion uses a modality that has no encoder, or two different strategies
                have the same labels.
        """
        plain = {
            "fusion": self.fusion,
            "encoders.ct": self.encoders.ct,
            "encoders.ehr": self.encoders.ehr,
            "head": self.head,
        }
        varied = {key: values for key, values in self.grid.items() if key in plain}
        axes = {key: (value,) for key, value in plain.items() if key not in varied} | varied
        points = (dict(zip(axes, point, strict=True)) for point in product(*axes.values()))
        tells_head = len(axes["head"]) > 1
        return distinct(strategy_of(point, tells_head=tells_head) for point in points)

    def trials(self) -> tuple[Trial, ...]:
        """Return the ways in which every strategy is fitted: the grid over `train.*`, expanded."""
        prefix = "train."
        return trials_of(
            self.train,
            {
                key.removeprefix(prefix): values
                for key, values in self.grid.items()
                if key.startswith(prefix)
            },
        )

    def seeds(self) -> tuple[int, ...]:
        """Return the seeds with which every strategy is fitted, in order."""
        return tuple(dict.fromkeys(self.grid.get("seed", (self.seed,))))

    def encoder_choices(self, modality: Modality) -> tuple[Component, ...]:
        """Return the encoders of a modality that a strategy uses, each once, in order."""
        chosen = [strategy.encoder(modality) for strategy in self.strategies()]
        return tuple(
            one for place, one in enumerate(chosen) if one is not None and one not in chosen[:place]
        )

    def resolved(self) -> dict[str, Any]:
        """Return the study as plain values, every default filled in, paths absolute."""
        return self.model_dump(mode="json")

    def _check_records(self) -> None:
        readers = [one.name for one in self.encoder_choices(Modality.EHR) if one.name != FEATURES]
        sources = {"cohorts.development": self.cohorts.development}
        sources |= {
            f"cohorts.external.{place}": source
            for place, source in enumerate(self.cohorts.external)
        }
        for place, source in sources.items():
            if readers and source.meds is None:
                raise complaint(
                    f"{place}.meds: required, since encoder {readers[0]!r} reads records; give the "
                    "MEDS dataset's folder"
                )


def _check_names(place: str, names: Sequence[str]) -> None:
    """Refuse names that would fall together in tables or file names."""
    keys = [slug(name).casefold() for name in names]
    twice = [name for position, name in enumerate(names) if keys[position] in keys[:position]]
    if twice:
        raise complaint(f"{place}: the name {twice[0]!r} is taken; give each its own `name`")


def read_study(
    path: Path | str, overrides: Sequence[str] = (), imports: Sequence[str] = ()
) -> Study:
    """Read a study file.

    Args:
        path: The YAML file; relative paths in it resolve against its folder.
        overrides: Values that replace those of the file, such as "train.lr=3e-4".
        imports: Modules that register components of one's own, imported first.

    Raises:
        ConfigError: Anything wrong with the file: the message names the file, the key, what was
            given and what is expected.
    """
    path = Path(path)
    given = overridden(read_yaml(path), overrides)
    try:
        return parse_study(given, folder=path.parent, imports=imports)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_study(given: Mapping[str, Any], *, folder: Path, imports: Sequence[str] = ()) -> Study:
    """Check a study that is given as a mapping.

    Args:
        given: The content of a study file.
        folder: The folder against which relative paths resolve, and beside whose files results go.
        imports: Modules that register components of one's own, imported first.

    Raises:
        ConfigError: The message names the key, what was given and what is expected.
    """
    for module in imports:
        _import(module)
    try:
        study = Study.model_validate(dict(given), context={"folder": folder})
    except ValidationError as error:
        raise config_error(error, given, Study) from None
    study._given, study._imports = dict(given), tuple(imports)
    return study


def _import(module: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--import {module}: {error}; expected a module that can be imported from here"
        ) from None
