"""The study file: what is read, what is refused and how the refusal reads, and which strategies
come out.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.config import Study, parse_study, read_study
from concordant.config.source import read_yaml
from concordant.core.artifacts import slug
from concordant.core.errors import ConfigError
from concordant.core.modality import Modality

MINIMAL = """
name: demo
task: {event: death, horizons_days: [30, 365]}
cohorts:
  development: {table: data/cohort.parquet, meds: data/meds}
encoders: {ct: volume_features, ehr: one_hot}
"""
EXTERNAL = "external: [{name: north, table: data/north.parquet, meds: data/meds}]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "meds").mkdir(parents=True)
    for name in ("cohort", "north", "radiomics", "folds"):
        pl.DataFrame({"sample_id": ["a"]}).write_parquet(tmp_path / "data" / f"{name}.parquet")
    return tmp_path


def read(folder: Path, text: str = MINIMAL, *overrides: str) -> Study:
    (folder / "study.yaml").write_text(text)
    return read_study(folder / "study.yaml", overrides)


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 'study.yaml'}: ")


# What is read


def test_a_minimal_study_has_the_stated_defaults(folder):
    study = read(folder)
    assert (study.fusion.label, study.head.label, study.seed) == ("contrastive", "cox", 0)
    assert study.evaluate.metrics == ("concordance_index", "integrated_brier_score")
    assert study.evaluate.censoring == "cohort"
    assert study.cross_validation is None
    assert study.max_quarantined == 0.05
    assert study.cohorts.external == ()
    assert len(study.strategies()) == 1


def test_paths_resolve_against_the_folder_of_the_file(folder, monkeypatch):
    monkeypatch.chdir("/")
    study = read(folder)
    assert study.cohorts.development.table == folder / "data" / "cohort.parquet"
    assert study.folder == folder
    assert study.run_folder.path == folder / "runs" / "demo"
    assert study.embeddings_root == folder / "embeddings"


def test_a_relative_path_to_the_file_is_made_absolute(folder, monkeypatch):
    read(folder)
    monkeypatch.chdir(folder)
    study = read_study("study.yaml")
    assert study.folder == folder
    monkeypatch.chdir("/")
    assert study.run_folder.path == folder / "runs" / "demo"


def test_a_cohort_is_called_by_its_name_or_else_by_its_tables_stem(folder):
    text = MINIMAL + "  # more\n"
    study = read(
        folder,
        text,
        "cohorts.external=[{table: data/north.parquet, meds: data/meds}]",
        "cohorts.development.name=INSPECT",
    )
    assert [source.name for source in study.cohorts.external] == ["north"]
    assert study.cohorts.development.name == "INSPECT"


def test_components_carry_all_their_options(folder):
    study = read(
        folder,
        MINIMAL,
        "encoders.ehr={name: one_hot, values: last, windows_days: [30, 365]}",
        "fusion=contrastive",
        "fusion.regime=two_stage",
    )
    assert study.encoders.ehr is not None
    assert (
        study.encoders.ehr.options | {"values": "last", "windows_days": (30.0, 365.0)}
        == study.encoders.ehr.options
    )
    assert study.encoders.ehr.label.startswith("one_hot(values=last,windows_days=")
    assert study.fusion.label == "contrastive(regime=two_stage)"
    assert study.fusion.options["align_epochs"] == 50


def test_a_label_may_be_given(folder):
    study = read(folder, MINIMAL, "encoders.ehr={name: one_hot, label: codes}")
    assert study.encoders.ehr is not None
    assert (study.encoders.ehr.name, study.encoders.ehr.label) == ("one_hot", "codes")


@pytest.mark.parametrize("modality", ["ct", "ehr"])
def test_a_feature_file_stands_for_either_encoder(folder, modality):
    component = "{name: features, path: data/radiomics.parquet, missing: median}"
    study = read(folder, MINIMAL, f"encoders.{modality}={component}")
    chosen = getattr(study.encoders, modality)
    defaults = {"transform": "none", "training_data": ()}
    assert chosen.options == {
        "path": folder / "data" / "radiomics.parquet",
        "missing": "median",
        **defaults,
    }
    assert chosen.label == "features(path=data/radiomics.parquet,missing=median)"


def test_records_are_needed_only_by_encoders_that_read_them(folder):
    without = "cohorts.development={table: data/cohort.parquet}"
    assert "cohorts.development.meds: required, since encoder 'one_hot' reads records" in message(
        folder, MINIMAL, without
    )
    study = read(
        folder, MINIMAL, without, "encoders.ehr={name: features, path: data/radiomics.parquet}"
    )
    assert study.cohorts.development.meds is None
    assert (
        read(folder, MINIMAL, without, "fusion={name: unimodal, modality: ct}").strategies()[0].ehr
        is None
    )


def test_cross_validation_is_drawn_or_given(folder):
    drawn = read(folder, MINIMAL, "cross_validation={repeats: 5}").cross_validation
    assert drawn is not None
    assert (drawn.folds, drawn.repeats, drawn.group, drawn.seed, drawn.assignment) == (
        5,
        5,
        "subject_id",
        0,
        None,
    )
    given = read(
        folder, MINIMAL, "cross_validation={assignment: data/folds.parquet}"
    ).cross_validation
    assert given is not None
    assert given.assignment == folder / "data" / "folds.parquet"
    both = message(folder, MINIMAL, "cross_validation={assignment: data/folds.parquet, folds: 3}")
    assert both.startswith("cross_validation: folds stand(s) beside `assignment`")


def test_numbers_and_booleans_are_those_of_yaml_1_2(folder):
    study = read(folder, MINIMAL + "train: {lr: 3e-4}\nfusion: {name: concat, label: no}\n")
    assert study.train.lr == 3e-4
    assert study.fusion.label == "no"
    assert read(folder, MINIMAL, "name=2024-01-31").name == "2024-01-31"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("3e-4", 3e-4),
            ("1E3", 1000.0),
            ("-.5", -0.5),
            ("1.", 1.0),
            (".inf", float("inf")),
            ("+3", 3),
            ("0", 0),
        ),
        *(("true", True), ("~", None), ("", None), ("null", None)),
        *(
            (text, text)
            for text in ("no", "on", "010", "0x1F", "12:30", "2024-01-31", "1_000", "=")
        ),
        *(("'3'", "3"), ('""', "")),
    ],
)
def test_plain_scalars(tmp_path, text, value):
    (tmp_path / "one.yaml").write_text(f"key: {text}\n")
    read = read_yaml(tmp_path / "one.yaml")["key"]
    assert read == value
    assert type(read) is type(value)


def test_a_study_travels_to_another_process(folder):
    study = read(folder, MINIMAL, "grid.seed=[0, 1]")
    copy = pickle.loads(pickle.dumps(study))  # noqa: S301  # what the engine does with a task
    assert copy == study
    assert copy.run_folder == study.run_folder
    assert copy.strategies() == study.strategies()


def test_the_resolved_study_is_plain_and_reads_as_the_same_study(folder):
    text = (
        MINIMAL
        + "grid: {fusion: [late, {name: unimodal, modality: ct}], encoders.ehr: [one_hot, count], "
        "train.lr: [0.1, 0.2]}\n"
    )
    study = read(folder, text)
    plain = json.loads(json.dumps(study.resolved()))
    assert plain["train"]["max_epochs"] == study.train.max_epochs
    again = parse_study(plain, folder=folder)
    assert again.strategies() == study.strategies()
    assert study.given == yaml.safe_load(text)


def test_a_resolved_strategy_reads_as_its_own_study(folder):
    study = read(
        folder,
        MINIMAL,
        "grid.fusion=[{name: unimodal, modality: ehr}, late]",
    )
    for strategy in study.strategies():
        rest = {key: value for key, value in study.given.items() if key != "grid"}
        (again,) = parse_study(
            rest | json.loads(json.dumps(strategy.resolved())), folder=folder
        ).strategies()
        assert again == strategy


# What is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("nmae=x", "nmae: unknown key. Did you mean 'name'?"),
        ("train.lrr=1", "train.lrr: unknown key. Did you mean 'lr'?"),
        ("task.events=1", "task.events: unknown key. Did you mean 'event'?"),
        (
            "cohorts.development.tabel=x",
            "cohorts.development.tabel: unknown key. Did you mean 'table'?",
        ),
        (
            "cohorts.external=[{tables: x, table: data/north.parquet}]",
            "cohorts.external.0.tables: unknown key. Did you mean 'table'?",
        ),
        ("encoders.mri=one_hot", "encoders.mri: unknown key. Known: ct, ehr."),
        ("cross_validation.fold=3", "cross_validation.fold: unknown key. Did you mean 'folds'?"),
        ("grid.fusions=[late]", "grid.fusions: unknown key. Did you mean 'fusion'?"),
        ("grid.train.learning_rate=[1]", "grid.train.learning_rate: unknown key."),
        ("fusion=contrastiv", "fusion: unknown fusion 'contrastiv'. Did you mean 'contrastive'?"),
        (
            "fusion={name: late, combine: sum}",
            "fusion: fusion 'late', option combine: given 'sum', expected 'stack' or 'mean'",
        ),
        (
            "fusion={name: late, combin: mean}",
            "fusion: fusion 'late' has no option 'combin'. Did you mean 'combine'?",
        ),
        ("fusion=unimodal", "fusion: fusion 'unimodal', option modality: required, but not given"),
        ("fusion=3", "fusion: given 3, expected a name, or a mapping with `name` and options"),
        ("fusion={combine: mean}", "fusion: given {'combine': 'mean'}, expected a name"),
        ("fusion={name: late, label: 3}", "fusion: label: given 3, expected text"),
        ("head=coxx", "head: unknown head 'coxx'. Did you mean 'cox'?"),
        (
            "encoders.ct=volume_feature",
            "encoders.ct: unknown encoder 'volume_feature'. Did you mean 'volume_features'?",
        ),
        ("encoders.ct=feature", "encoders.ct: unknown encoder 'feature'. Did you mean 'features'?"),
        (
            "encoders.ct=one_hot",
            "encoders.ct: encoder 'one_hot' reads ehr, not ct; give it under encoders.ehr",
        ),
        (
            "encoders.ct={name: features, pat: x}",
            "encoders.ct: pat: unknown key. Did you mean 'path'?",
        ),
        ("encoders.ct=features", "encoders.ct: path: required, but not given"),
        (
            "encoders.ct={name: features, path: none.parquet}",
            "encoders.ct: path: no such file or folder: {folder}/none.parquet",
        ),
        ("grid.fusion=[late, nothing]", "grid.fusion.1: unknown fusion 'nothing'."),
        (
            "grid.encoders.ehr=[{name: features, path: x.parquet}]",
            "grid.encoders.ehr.0: path: no such file or folder: {folder}/x.parquet",
        ),
        ("grid.seed=[]", "grid.seed: given an empty list, expected at least one value"),
        ("grid.seed=1", "grid.seed: given 1, expected a list"),
        ("grid.seed=[0, x]", "grid.seed.1: given 'x', expected a whole number"),
        ("grid.train.lr=[0.1, -1]", "grid.train.lr.1: given -1, expected greater than 0"),
        ("grid=[fusion]", "grid: given ['fusion'], expected a mapping"),
        ("name=a/b", "name: given 'a/b', expected letters, digits"),
        ("name=1", "name: given 1, expected text"),
        ("task=death", "task: given 'death', expected a mapping"),
        ("task.horizons_days=30", "task.horizons_days: given 30, expected a list"),
        (
            "task.horizons_days=[365, 30]",
            "task.horizons_days: given [365.0, 30.0], expected different days in ascending order",
        ),
        (
            "task.horizons_days=[30, 30]",
            "task.horizons_days: given [30.0, 30.0], expected different days",
        ),
        ("task.horizons_days=[0]", "task.horizons_days.0: given 0, expected greater than 0"),
        ("task.horizons_days=[.inf]", "task.horizons_days.0: given inf, expected a finite number"),
        ("train.lr=fast", "train.lr: given 'fast', expected a number"),
        ("train.max_epochs=2.5", "train.max_epochs: given 2.5, expected a whole number"),
        ("train.dropout=lots", "train.dropout: given 'lots', expected a number or 'auto'"),
        ("train.dropout=1", "train.dropout: given 1, expected less than 1 or 'auto'"),
        ("seed=-1", "seed: given -1, expected greater than or equal to 0"),
        ("max_quarantined=2", "max_quarantined: given 2, expected less than or equal to 1"),
        (
            "evaluate.metrics=[concordance]",
            "evaluate.metrics.0: unknown metric 'concordance'. Did you mean 'concordance_index'?",
        ),
        ("evaluate.metrics=[]", "evaluate.metrics: given [], expected "),
        (
            "evaluate.metrics=[brier_score]",
            "evaluate.metrics: given ['brier_score'], expected concordance_index or "
            "concordance_index_ipcw",
        ),
        (
            "evaluate.censoring=test",
            "evaluate.censoring: given 'test', expected 'cohort', 'train' or 'pooled'",
        ),
        (
            "cohorts.development.table=none.parquet",
            "cohorts.development.table: no such file or folder: {folder}/none.parquet",
        ),
        (
            "cohorts.development.meds=none",
            "cohorts.development.meds: no such file or folder: {folder}/none",
        ),
        (
            "cohorts.development={meds: data/meds}",
            "cohorts.development.table: required, but not given",
        ),
        (
            "cross_validation.assignment=none.csv",
            "cross_validation.assignment: no such file or folder: {folder}/none.csv",
        ),
        (
            "foreign=[{name: pesi, table: none.parquet}]",
            "foreign.0.table: no such file or folder: {folder}/none.parquet",
        ),
        (
            "foreign=[{name: contrastive, table: data/north.parquet}]",
            "foreign: the name 'contrastive' is taken",
        ),
        (
            "cohorts.external=[{name: held_out, table: data/north.parquet, meds: data/meds}]",
            "cohorts.external: the name 'held_out' is taken",
        ),
        (
            "encoders.ehr=null",
            "fusion contrastive uses ehr, but there is no encoders.ehr; give one, or choose a "
            "fusion of one modality",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_place(folder, override, expected):
    assert message(folder, MINIMAL, override).startswith(expected.replace("{folder}", str(folder)))


@pytest.mark.parametrize("key", ["name", "task", "cohorts", "encoders"])
def test_the_four_required_keys_are_asked_for(folder, key):
    given = yaml.safe_load(MINIMAL)
    del given[key]
    assert message(folder, yaml.safe_dump(given)) == f"{key}: required, but not given"


def test_a_misspelt_key_comes_before_the_required_one_it_stands_for(folder):
    text = message(folder, MINIMAL.replace("name: demo", "nmae: demo"))
    assert text == "nmae: unknown key. Did you mean 'name'? (1 more wrong after this)"


def test_several_errors_are_counted(folder):
    assert message(folder, MINIMAL, "train.lr=fast", "seed=x").endswith("(1 more wrong after this)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "",
            "expected a mapping (name: ..., task: ..., cohorts: ..., encoders: ...), found nothing",
        ),
        (
            "- a",
            "expected a mapping (name: ..., task: ..., cohorts: ..., encoders: ...), found a list",
        ),
        ("name: [a", "not valid YAML: "),
        ("name: a\nname: b", "not valid YAML: key 'name' is given twice (line 2, column 1)"),
        ("train: {lr: 1, lr: 2}", "not valid YAML: key 'lr' is given twice (line 1, column 16)"),
        ("<<: {name: a}", "<<: unknown key."),
        ("1: a", "not valid YAML: a key is not text; quote it (line 1, column 1)"),
        ("name: !!python/object:os.system a", "not valid YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_study_is_refused(folder, text, expected):
    assert message(folder, text).startswith(expected)


def test_a_missing_file_a_folder_and_a_binary_file_are_refused(folder):
    for path in (folder / "none.yaml", folder):
        with pytest.raises(ConfigError, match="no such study file"):
            read_study(path)
    with pytest.raises(ConfigError, match="not a text file"):
        read_study(folder / "data" / "cohort.parquet")


def test_a_metric_at_horizons_needs_horizons(folder):
    text = message(
        folder, MINIMAL, "evaluate.metrics=[concordance_index, brier_score]", "task={event: death}"
    )
    assert "brier_score is computed at horizons" in text


# Overrides


def test_overrides_reach_mappings_lists_components_and_the_grid(folder):
    text = MINIMAL.replace("encoders:", f"  {EXTERNAL}\nencoders:")
    study = read(
        folder,
        text,
        "train.lr=3e-4",
        "train.lr=5e-4",
        "cohorts.external.0.name=south",
        "encoders.ehr.values=last",
        "grid.encoders.ehr=[one_hot, count]",
    )
    assert study.train.lr == 5e-4
    assert study.cohorts.external[0].name == "south"
    assert study.encoders.ehr is not None
    assert study.encoders.ehr.options["values"] == "last"
    assert [strategy.ehr_label for strategy in study.strategies()] == ["one_hot", "count"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr", "override 'train.lr': expected KEY=VALUE"),
        ("=3", "override '=3': expected KEY=VALUE"),
        ("seed.x=1", "seed.x: "),
        (
            "task.horizons_days.7=1",
            "override 'task.horizons_days.7=1': '7' is no position in a list of 2",
        ),
        ("train.lr=[1", "override 'train.lr=[1': not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(folder, override, expected):
    text = MINIMAL + "seed: 3\n"
    if override.startswith("seed"):
        expected = (
            "override 'seed.x=1': 'x' would lie inside 3, which is neither a mapping nor a list"
        )
    with pytest.raises(ConfigError) as caught:
        read(folder, text, override)
    assert expected in str(caught.value)


# Strategies and trials


def test_the_grid_is_a_product_with_the_last_key_fastest(folder):
    study = read(
        folder,
        MINIMAL
        + "fusion: concat\ngrid: {encoders.ehr: [one_hot, count], fusion: [late, contrastive], "
        "seed: [0, 1]}\n",
    )
    strategies = study.strategies()
    assert [(strategy.ehr_label, strategy.fusion.label) for strategy in strategies] == [
        (ehr, fusion) for ehr in ("one_hot", "count") for fusion in ("late", "contrastive")
    ]
    assert study.seeds() == (0, 1)
    assert {strategy.ct_label for strategy in study.strategies()} == {"volume_features"}


def test_strategies_that_cannot_differ_stand_once(folder):
    text = (
        MINIMAL
        + "grid: {fusion: [{name: unimodal, modality: ct}, {name: linear, modality: ehr}, late], "
        "encoders.ehr: [one_hot, count]}\n"
    )
    assert [
        (strategy.label, strategy.ct_label, strategy.ehr_label)
        for strategy in read(folder, text).strategies()
    ] == [
        ("unimodal(modality=ct)", "volume_features", None),
        ("linear(modality=ehr)", None, "one_hot"),
        ("linear(modality=ehr)", None, "count"),
        ("late", "volume_features", "one_hot"),
        ("late", "volume_features", "count"),
    ]


def test_values_given_twice_run_once(folder):
    study = read(
        folder,
        MINIMAL,
        "grid.seed=[0, 0]",
        "grid.fusion=[late, {name: late, combine: stack}]",
        "grid.train.lr=[0.1, 0.1]",
    )
    assert (len(study.strategies()), study.seeds(), len(study.trials())) == (1, (0,), 1)


def test_a_study_may_have_one_modality(folder):
    study = read(
        folder, MINIMAL, "encoders={ct: volume_features}", "fusion={name: linear, modality: ct}"
    )
    assert [(strategy.ct_label, strategy.ehr_label) for strategy in study.strategies()] == [
        ("volume_features", None)
    ]
    assert [one.name for one in study.encoder_choices(Modality.CT)] == ["volume_features"]
    assert study.encoder_choices(Modality.EHR) == ()


def test_the_grid_may_give_what_the_top_level_leaves_out(folder):
    study = read(
        folder,
        MINIMAL,
        "encoders={}",
        "grid.encoders.ct=[volume_features]",
        "grid.encoders.ehr=[one_hot, count]",
    )
    assert [one.label for one in study.encoder_choices(Modality.EHR)] == ["one_hot", "count"]
    assert study.encoder_choices(Modality.CT)[0].label == "volume_features"


def test_training_options_that_vary_are_trials_and_no_strategies(folder):
    study = read(
        folder,
        MINIMAL,
        "train.max_epochs=7",
        "grid.train.lr=[0.1, 0.01]",
        "grid.train.width=[8, 16]",
        "grid.train.dropout=[auto]",
    )
    (strategy,) = study.strategies()
    assert strategy.label == "contrastive"
    trials = study.trials()
    assert [(trial.name, trial.options.lr, trial.options.width) for trial in trials] == [
        (f"lr={lr},width={width}", lr, width) for lr in (0.1, 0.01) for width in (8, 16)
    ]
    assert {(trial.options.max_epochs, trial.options.dropout) for trial in trials} == {(7, "auto")}
    (only,) = read(folder, MINIMAL).trials()
    assert only.name == "default"


def test_a_head_that_varies_is_told_in_the_label(folder):
    study = read(folder, MINIMAL, "grid.head=[cox, {name: cox, ties: breslow}]")
    assert [strategy.label for strategy in study.strategies()] == [
        "contrastive[head=cox]",
        "contrastive[head=cox(ties=breslow)]",
    ]


def test_a_strategy_has_the_same_folder_in_every_study(folder):
    (alone,) = read(folder, MINIMAL, "fusion={name: co_attention, guide: ehr}").strategies()
    assert alone.name == "co_attention-guide=ehr__volume_features__one_hot__cox"
    grid = (
        MINIMAL
        + "grid: {seed: [3, 0], fusion: [late, {name: co_attention, guide: ehr}], encoders.ehr: "
        "[count, one_hot]}\n"
    )
    assert alone.name in [strategy.name for strategy in read(folder, grid).strategies()]


def test_different_components_with_one_label_are_refused(folder):
    text = message(
        folder,
        MINIMAL,
        "grid.encoders.ehr=[{name: one_hot, label: codes}, {name: count, label: codes}]",
    )
    assert "two strategies of the grid differ but are both called" in text


fusions = st.lists(
    st.sampled_from(
        [
            "late",
            "concat",
            "linear",
            "{name: linear, modality: ct}",
            "{name: unimodal, modality: ehr}",
            "contrastive",
        ]
    ),
    min_size=1,
)
records = st.lists(
    st.sampled_from(["one_hot", "count", "{name: one_hot, values: last}"]), min_size=1
)
seeds = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@settings(deadline=None, max_examples=25)
@given(fusions, records, seeds)
def test_strategies_are_the_distinct_points_of_the_grid_with_unique_folder_names(
    tmp_path_factory, fusions, records, seeds
):
    root = tmp_path_factory.mktemp("study")
    (root / "data" / "meds").mkdir(parents=True)
    (root / "data" / "cohort.parquet").touch()
    grid = (
        f"grid: {{fusion: [{', '.join(fusions)}], encoders.ehr: [{', '.join(records)}], seed: "
        f"{seeds}}}\n"
    )
    study = read(root, MINIMAL + grid)
    points = {(f, None if "ct" in f else r) for f in fusions for r in records}
    assert len(study.strategies()) == len(points)
    assert study.seeds() == tuple(dict.fromkeys(seeds))
    names = [strategy.name for strategy in study.strategies()]
    assert len(set(names)) == len(names)
    assert all(slug(name) == name for name in names)


# Components of one's own

PLUGIN = """
from concordant.fusion import FUSIONS
from concordant.fusion.concat import Concat
from concordant.fusion.base import Fusion, FusionDims
from concordant.core.tokens import FusionOutput, Pair

@FUSIONS.register("{name}")
class Mine(Fusion):
    def __init__(self, dims: FusionDims, *, strength: float = 1.0) -> None:
        super().__init__(dims)
    def forward(self, pair: Pair) -> FusionOutput:
        raise NotImplementedError
"""


def test_imported_components_are_known_and_carried_along(folder, monkeypatch):
    (folder / "my_plugin_for_config.py").write_text(PLUGIN.replace("{name}", "mine_for_config"))
    monkeypatch.syspath_prepend(str(folder))
    (folder / "study.yaml").write_text(MINIMAL + "fusion: {name: mine_for_config, strength: 2}\n")
    try:
        study = read_study(folder / "study.yaml", imports=["my_plugin_for_config"])
        assert study.imports == ("my_plugin_for_config",)
        assert study.strategies()[0].label == "mine_for_config(strength=2.0)"
    finally:
        from concordant.fusion import FUSIONS

        FUSIONS._classes.pop("mine_for_config", None)
        FUSIONS._options.pop("mine_for_config", None)
        sys.modules.pop("my_plugin_for_config", None)


def test_a_module_that_cannot_be_imported_is_named(folder):
    read(folder)
    with pytest.raises(ConfigError, match="no_such_module_here"):
        read_study(folder / "study.yaml", imports=["no_such_module_here"])
