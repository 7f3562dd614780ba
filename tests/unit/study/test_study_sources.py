"""The data of a study: cohorts and their labels, folds drawn or given, inputs checked before
anything slow.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from concordant.core.errors import CohortError, FeatureError
from concordant.core.modality import Modality
from concordant.data.features import FeatureOptions
from concordant.encoders.base import ENCODERS
from concordant.engines import LocalEngine
from concordant.study.data import read_data
from concordant.study.sources import (
    Sources,
    audit_data,
    check_inputs,
    counted_records,
    embed_all,
    records_of,
    shard_size,
)
from study_fixture import alter, small_study, with_value, write_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def taking_part(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "development.parquet").filter(pl.col("split") != "held_out")


def assignment(folder: Path, *, folds: int = 3, repeats: int = 2) -> pl.DataFrame:
    samples = taking_part(folder).select("sample_id", "household")
    return pl.concat(
        [
            samples.with_columns(repeat=pl.lit(repeat), fold=(pl.col("household") + repeat) % folds)
            for repeat in range(repeats)
        ]
    ).drop("household")


def test_cohorts_come_with_their_labels(folder):
    data = read_data(small_study(folder))
    assert data.internal_label == "held_out"
    assert [cohort.label for cohort in data.cohorts] == ["development", "west"]
    assert data.assignment is None
    assert (
        read_data(small_study(folder, cross_validation={"folds": 2})).internal_label
        == "development"
    )


def test_folds_are_drawn_over_all_but_held_out_and_divide_no_group(folder):
    study = small_study(
        folder, cross_validation={"folds": 4, "repeats": 3, "group": "household", "seed": 5}
    )
    drawn = read_data(study).assignment
    assert drawn is not None
    assert drawn.equals(read_data(study).assignment)
    rows = drawn.join(taking_part(folder), on="sample_id", how="left", maintain_order="left")
    assert rows["event"].null_count() == 0
    assert (
        rows.group_by("repeat").agg(pl.col("sample_id").n_unique())["sample_id"].to_list()
        == [taking_part(folder).height] * 3
    )
    assert rows.height == 3 * taking_part(folder).height
    assert (rows.group_by("repeat", "household").agg(pl.col("fold").n_unique())["fold"] == 1).all()
    assert (
        rows.filter(pl.col("repeat") == 0)["fold"].to_list()
        != rows.filter(pl.col("repeat") == 1)["fold"].to_list()
    )


def test_folds_are_taken_from_a_file(folder):
    given = assignment(folder)
    given.write_csv(folder / "folds.csv")
    read = read_data(small_study(folder, cross_validation={"assignment": "folds.csv"})).assignment
    assert read is not None
    assert read.rows() == given.rows()


def test_sample_ids_of_folds_that_look_like_numbers_stay_text(folder):
    alter(
        folder / "development.parquet",
        lambda table: table.with_columns(pl.col("sample_id").str.replace("a", "0")),
    )
    assignment(folder).write_csv(folder / "folds.csv")
    read = read_data(small_study(folder, cross_validation={"assignment": "folds.csv"})).assignment
    assert read is not None
    assert read["sample_id"][0] == "0000"


FAULTS = {
    "a sample short": (
        lambda given: given[1:],
        r"0 sample\(s\) are not in the development cohort, 1 lack a fold and 0 have more than one",
    ),
    "a sample twice": (
        lambda given: pl.concat([given, given[:1]]),
        "0 lack a fold and 1 have more than one",
    ),
    "a stranger": (
        lambda given: pl.concat([given, given[:1].with_columns(sample_id=pl.lit("zz"))]),
        r"1 sample\(s\) are not in",
    ),
    "no column": (
        lambda given: given.drop("fold"),
        "no column fold; expected sample_id, repeat, fold",
    ),
    "text": (
        lambda given: given.with_columns(fold=pl.lit("one")),
        "not readable .* the last two whole numbers",
    ),
    "fractions": (
        lambda given: given.with_columns(fold=pl.lit(0.5)),
        "not readable .* the last two whole numbers",
    ),
    "a gap": (
        lambda given: given.with_columns(fold=pl.when(pl.col("fold") > 0).then("fold")),
        "a value is null",
    ),
    "one fold": (lambda given: given.with_columns(fold=pl.lit(0)), "a repeat has one fold only"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folds_that_do_not_fit_are_refused(folder, fault):
    change, message = FAULTS[fault]
    change(assignment(folder)).write_csv(folder / "folds.csv")
    with pytest.raises(CohortError, match=message) as caught:
        read_data(small_study(folder, cross_validation={"assignment": "folds.csv"}))
    assert str(caught.value).startswith(f"{folder / 'folds.csv'}: ")
    assert "a000" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\n,,,,\n,"])
def test_folds_that_are_no_table_are_refused(folder, content):
    (folder / "folds.csv").write_bytes(content)
    with pytest.raises(CohortError, match=r"folds.csv: (not readable|no column)"):
        read_data(small_study(folder, cross_validation={"assignment": "folds.csv"}))


def test_more_folds_than_groups_are_refused(folder):
    with pytest.raises(
        CohortError, match="folds is 3, but only 2 values of sex take part, and none is divided"
    ):
        read_data(small_study(folder, cross_validation={"folds": 3, "group": "sex"}))
    with pytest.raises(CohortError, match="folds is 500, but only 80 values of subject_id"):
        read_data(small_study(folder, cross_validation={"folds": 500}))
    with pytest.raises(
        CohortError, match=r"no column 'housholds' to group folds by. Did you mean 'household'"
    ):
        read_data(small_study(folder, cross_validation={"folds": 3, "group": "housholds"}))


def test_a_null_group_is_a_group_of_its_own(folder):
    alter(
        folder / "development.parquet",
        lambda table: table.with_columns(sex=pl.when(pl.int_range(pl.len()) > 9).then("sex")),
    )
    data = read_data(small_study(folder, cross_validation={"folds": 5, "group": "sex"}))
    assert data.assignment is not None
    assert data.assignment["fold"].n_unique() == 5


# What is checked before anything slow


def check(folder: Path, **changes: object) -> None:
    study = small_study(folder, **changes)
    check_inputs(Sources.of(study), read_data(study))


def test_good_inputs_pass(folder):
    check(folder)


def test_a_feature_file_that_breaks_its_format_is_refused(folder):
    alter(folder / "ehr.parquet", with_value("e0", 3, None))
    with pytest.raises(FeatureError, match=r"1 single value.*missing: median"):
        check(folder)


def test_a_feature_file_of_other_samples_is_refused(folder):
    alter(folder / "ehr.parquet", lambda table: table.with_columns(pl.col("sample_id") + "x"))
    with pytest.raises(
        FeatureError, match=r"ehr.parquet: no sample of .*development.parquet has a feature in it"
    ):
        check(folder)


def test_an_external_cohort_may_lack_a_modality(folder):
    alter(
        folder / "ehr.parquet",
        lambda table: table.filter(~pl.col("sample_id").str.starts_with("b")),
    )
    check(folder)


def test_an_encoder_of_scans_needs_their_paths_in_every_cohort(folder):
    encoders = {"ct": "volume_features", "ehr": {"name": "features", "path": "ehr.parquet"}}
    alter(
        folder / "development.parquet",
        lambda table: table.with_columns(ct_path=pl.lit(None, pl.String)),
    )
    with pytest.raises(CohortError, match=r"external.parquet: no column ct_path"):
        check(folder, encoders=encoders)


def test_a_sample_in_two_cohorts_is_refused_where_files_go_by_its_name(folder):
    alter(
        folder / "external.parquet",
        lambda table: table.with_columns(pl.col("sample_id").str.replace("b1(..)", "a0$1")),
    )
    with pytest.raises(
        CohortError, match=r"development.parquet and .*external.parquet share 40 sample_id\(s\)"
    ):
        check(folder)


# Stores and audit


def test_every_encoder_has_a_store_of_every_cohort(folder):
    study = small_study(folder)
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    assert {key: list(by_cohort) for key, by_cohort in stores.items()} == {
        (Modality.CT, "scan"): ["development", "west"],
        (Modality.EHR, "record"): ["development", "west"],
    }
    known = set(pl.read_parquet(folder / "ct.parquet")["sample_id"])
    for cohort in data.cohorts:
        present = stores[Modality.CT, "scan"][cohort.label].present(cohort.sample_ids)
        assert present.tolist() == [sample_id in known for sample_id in cohort.sample_ids]
    assert records_of(stores) == {}
    assert counted_records(Sources.of(study), data) == {}


def test_an_encoder_that_no_member_uses_has_no_store(folder):
    study = small_study(folder, grid={"fusion": [{"name": "unimodal", "modality": "ehr"}]})
    stores = embed_all(
        Sources.of(study),
        read_data(study),
        engine=LocalEngine(),
        retry_quarantined=False,
        progress=None,
    )
    assert list(stores) == [(Modality.EHR, "record")]


def test_a_damaged_store_is_made_again_and_said(folder, caplog):
    study = small_study(folder)

    def embedded():
        return embed_all(
            Sources.of(study),
            read_data(study),
            engine=LocalEngine(),
            retry_quarantined=False,
            progress=None,
        )[Modality.CT, "scan"]["west"]

    store = embedded()
    ids = store.index["sample_id"].to_list()
    before = store.read(ids).values
    (store.folder / "manifest.json").write_text("{")
    with caplog.at_level("WARNING"):
        again = embedded()
    assert "manifest.json is missing or damaged, it is made again" in caplog.text
    assert (again.read(ids).values == before).all()


def test_the_audit_asks_about_folds_where_there_are_folds(folder):
    plain, folded = (
        small_study(folder),
        small_study(folder, cross_validation={"folds": 3, "group": "household"}),
    )
    for study, own in ((plain, "every sample has a split"), (folded, "groups within folds")):
        audit = audit_data(Sources.of(study), read_data(study), {})
        assert audit.passed
        assert own in [check.name for check in audit.checks]


def test_features_of_a_model_that_saw_an_external_cohort_are_told(folder):
    seen = {"name": "features", "path": "ct.parquet", "training_data": ["WEST"], "label": "spectre"}
    study = small_study(
        folder, encoders={"ct": seen, "ehr": {"name": "features", "path": "ehr.parquet"}}
    )
    (check,) = (
        check
        for check in audit_data(Sources.of(study), read_data(study), {}).checks
        if not check.passed
    )
    assert (check.name, check.detail) == (
        "encoders' training data",
        "spectre was trained on WEST, the study tests on west",
    )


@pytest.mark.parametrize("seen_by", ["ct", "ehr"])
def test_of_two_feature_files_of_one_label_both_are_asked_what_they_saw(folder, seen_by):
    encoders = {
        kind: {"name": "features", "path": f"{kind}.parquet", "label": "ours"}
        for kind in ("ct", "ehr")
    }
    encoders[seen_by]["training_data"] = ["WEST"]
    study = small_study(folder, encoders=encoders)
    (check,) = (
        check
        for check in audit_data(Sources.of(study), read_data(study), {}).checks
        if not check.passed
    )
    assert check.detail == "ours was trained on WEST, the study tests on west"


def test_a_subject_of_two_cohorts_fails_the_audit(folder):
    subject = pl.read_parquet(folder / "development.parquet")["subject_id"][0]
    alter(folder / "external.parquet", with_value("subject_id", 0, subject))
    study = small_study(folder)
    audit = audit_data(Sources.of(study), read_data(study), {})
    assert [check.detail for check in audit.checks if not check.passed] == [
        "development and west share 1 subjects"
    ]


def test_a_shard_holds_more_records_where_they_are_only_counted():
    features = FeatureOptions(path=Path("features.parquet"))
    sizes = [
        shard_size(Modality.CT, features),
        shard_size(Modality.EHR, features),
        shard_size(Modality.EHR, ENCODERS.create("count")),
    ]
    assert sizes == sorted(set(sizes))
    assert shard_size(Modality.EHR, ENCODERS.create("one_hot")) == sizes[-1]
    assert shard_size(Modality.CT, ENCODERS.create("volume_features")) == sizes[0]
