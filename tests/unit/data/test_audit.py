from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from concordant.core.errors import CohortError
from concordant.data.audit import audit
from concordant.data.cohort import Cohort
from concordant.data.meds import RecordCounts
from concordant.data.pretraining import PretrainingSubjects

SPLITS = ["train", "train", "train", "tuning", "held_out", "held_out"]


def cohort(
    label="development", *, subjects=(11, 11, 12, 13, 14, 15), split=SPLITS, folder="a", **columns
):
    n = len(subjects)
    table = pl.DataFrame(
        {
            "sample_id": [f"{label}-{row}" for row in range(n)],
            "subject_id": subjects,
            "prediction_time": [datetime(2020, 1, 1)] * n,
            "time_days": [1.0] * n,
            "event": [1] * n,
            "split": pl.Series(split or [None] * n, dtype=pl.String),
            "ct_path": [f"{row}.nii.gz" for row in range(n)],
            **columns,
        }
    )
    return Cohort(label, Path(f"/{folder}/cohort.parquet"), table)


def external(label="mayo", **changes):
    return cohort(label, **{"subjects": (21, 22), "split": None, "folder": "b"} | changes)


def assignment(folds, *, repeats=1, label="development"):
    rows = [
        (f"{label}-{sample}", repeat, fold) for repeat in range(repeats) for sample, fold in folds
    ]
    return pl.DataFrame(rows, schema=["sample_id", "repeat", "fold"], orient="row")


def counts(*, after=0, latest=0.0):
    return RecordCounts(10, 0, after, 0, 1, 0, latest)


def answers(result):
    return {check.name: check for check in result.checks}


def failed(result):
    return [check.name for check in result.checks if not check.passed]


def test_a_clean_study_passes_and_says_what_was_checked():
    result = audit(
        cohort(),
        [external()],
        cross_validation=False,
        training_data={"clmbr": ("STARR",), "one_hot": ()},
        records={"development": counts(after=3), "mayo": counts(after=2, latest=None)},
    )
    assert result.passed
    found = {name: check.detail for name, check in answers(result).items()}
    assert found == {
        "subjects across splits": "0 of 5 subjects of development lie in more than one split",
        "subjects across cohorts": "development and mayo share 0 subjects",
        "every sample has a split": "3 train, 1 tuning, 2 held_out, 0 without",
        "events after the prediction time": "development: 3 of 10 events came after the prediction "
        "time and were cut; mayo: 2 of 10 events came after the prediction time and were cut",
        "encoders' training data": "none of 2 encoders declares a cohort of this study",
        "subjects of pretraining": "no encoder has weights that `concordant pretrain` can make",
        "scans of two subjects": "0 of 8 scans are used by more than one subject",
    }


def test_json_is_what_the_report_reads():
    result = audit(cohort(subjects=(11, 12, 13, 11, 14, 15)), cross_validation=False)
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["passed"] is False
    assert plain["checks"][0] == {
        "name": "subjects across splits",
        "passed": False,
        "detail": "1 of 5 subjects of development lie in more than one split",
    }


def test_finds_a_subject_in_two_splits():
    assert failed(audit(cohort(subjects=(11, 12, 13, 13, 14, 15)), cross_validation=False)) == [
        "subjects across splits"
    ]
    mixed = cohort(split=[None, "held_out", None, None, None, None])
    assert failed(audit(mixed, cross_validation=True)) == ["subjects across splits"]


def test_finds_a_subject_in_two_cohorts():
    result = audit(
        cohort(),
        [external(), external("abroad", subjects=(11, 22), folder="c")],
        cross_validation=False,
    )
    assert failed(result) == ["subjects across cohorts"]
    detail = answers(result)["subjects across cohorts"].detail
    assert (
        detail
        == "development and mayo share 0 subjects; development and abroad share 1 subjects; mayo "
        "and abroad share 1 subjects"
    )


def test_finds_a_sample_without_a_split():
    result = audit(cohort(subjects=range(6), split=[None, *SPLITS[1:]]), cross_validation=False)
    assert failed(result) == ["every sample has a split"]
    assert failed(audit(cohort(split=["train"] * 6), cross_validation=False)) == [
        "every sample has a split"
    ]


FOLDS = [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


@pytest.mark.parametrize(
    ("folds", "broken"),
    [
        (FOLDS, []),
        (FOLDS[:-1], ["every sample has one fold per repeat"]),
        ([*FOLDS, (5, 0)], ["every sample has one fold per repeat", "groups within folds"]),
        ([(0, 0), (1, 1), *FOLDS[2:]], ["groups within folds"]),
        ([], ["every sample has one fold per repeat"]),
        ([*FOLDS, (99, 0)], []),
    ],
)
def test_checks_the_folds(folds, broken):
    result = audit(
        cohort(split=None), cross_validation=True, assignment=assignment(folds, repeats=2)
    )
    assert failed(result) == broken
    assert "every sample has a split" not in answers(result)


def test_held_out_samples_get_no_fold():
    development = cohort(split=[None, None, None, None, "held_out", "held_out"])
    assert failed(audit(development, cross_validation=True, assignment=assignment(FOLDS[:4]))) == []
    result = audit(development, cross_validation=True, assignment=assignment(FOLDS))
    assert failed(result) == ["every sample has one fold per repeat"]
    assert (
        "2 held out but given one" in answers(result)["every sample has one fold per repeat"].detail
    )


def test_any_column_groups_folds():
    development = cohort(split=None, scanner=["x", "x", "x", "x", None, None])
    result = audit(
        development, cross_validation=True, assignment=assignment(FOLDS), group="scanner"
    )
    assert failed(result) == ["groups within folds"]
    assert (
        answers(result)["groups within folds"].detail
        == "1 of 1 values of scanner (per repeat) lie in more than one fold"
    )
    with pytest.raises(CohortError, match="Did you mean 'scanner'"):
        audit(development, cross_validation=True, assignment=assignment(FOLDS), group="scaner")
    with pytest.raises(CohortError, match="no column fold; expected sample_id, repeat, fold"):
        audit(development, cross_validation=True, assignment=assignment(FOLDS).drop("fold"))


@pytest.mark.parametrize(
    ("label", "trained_on", "passes"),
    [
        ("INSPECT", "inspect", False),
        ("inspect_test", "INSPECT", False),
        ("Mayo-Florida 2020", "mayo florida", False),
        ("inspection", "INSPECT", True),
        ("nlst", "INSPECT", True),
    ],
)
def test_finds_an_encoder_trained_on_a_test_cohort(label, trained_on, passes):
    result = audit(
        cohort(),
        [external(label)],
        cross_validation=False,
        training_data={"spectre": ("LUNA", trained_on)},
    )
    assert result.passed is passes
    if not passes:
        detail = f"spectre was trained on {trained_on}, the study tests on {label}"
        assert answers(result)["encoders' training data"].detail == detail


def pretrained(train=(), tuning=(), *, dataset="ours"):
    uses = ["train"] * len(train) + ["tuning"] * len(tuning)
    return PretrainingSubjects(
        dataset,
        pl.DataFrame(
            {"subject_id": [*train, *tuning], "used_for": uses},
            schema_overrides={"subject_id": pl.Int64},
        ),
    )


def pretraining_check(
    subjects, *, development=None, cross_validation=False, external=(), datasets=None
):
    result = audit(
        development or cohort(),
        external,
        cross_validation=cross_validation,
        pretraining={"clmbr": subjects},
        datasets={"development": "ours"} if datasets is None else datasets,
    )
    return answers(result)["subjects of pretraining"]


def test_weights_of_train_and_tuning_subjects_have_seen_nobody_who_is_tested():
    check = pretraining_check(pretrained((11, 12), (13,)))
    assert check.passed
    assert (
        check.detail
        == "clmbr was pretrained on 0 of 2 tested subjects of development (0 train, 0 tuning)"
    )


@pytest.mark.parametrize(
    ("subjects", "counted"),
    [
        (
            pretrained((11, 12, 14, 15), (13,)),
            "2 of 2 tested subjects of development (2 train, 0 tuning)",
        ),
        (
            pretrained((11, 14), (15, 99)),
            "2 of 2 tested subjects of development (1 train, 1 tuning)",
        ),
        (pretrained((11,), (15,)), "1 of 2 tested subjects of development (0 train, 1 tuning)"),
    ],
)
def test_finds_weights_of_held_out_subjects_whether_learned_from_or_stopped_on(subjects, counted):
    check = pretraining_check(subjects)
    assert not check.passed
    advice = "pretrain with the cohort table as --splits, or on subjects outside of the study"
    assert check.detail == f"clmbr was pretrained on {counted}: {advice}"


def test_under_cross_validation_everybody_who_is_in_a_fold_is_tested():
    held_out_left = cohort(split=[None, None, None, None, "held_out", "held_out"])
    check = pretraining_check(
        pretrained((11, 12, 14)), development=held_out_left, cross_validation=True
    )
    assert not check.passed
    assert check.detail.startswith(
        "clmbr was pretrained on 2 of 3 tested subjects of development (2 train, 0 tuning): under "
        "cross-validation"
    )
    assert "outside of the study (a table of them as --splits)" in check.detail
    assert "held_out split in place of the folds" in check.detail
    assert pretraining_check(
        pretrained((14, 15, 70)), development=held_out_left, cross_validation=True
    ).passed


def test_an_external_cohort_of_the_same_dataset_is_tested_whole():
    check = pretraining_check(
        pretrained((11, 21)),
        external=[external()],
        datasets={"development": "ours", "mayo": "ours"},
    )
    assert not check.passed
    assert (
        "clmbr was pretrained on 1 of 2 tested subjects of mayo (1 train, 0 tuning)" in check.detail
    )


@pytest.mark.parametrize(
    "datasets", [{"development": "ours", "mayo": "theirs"}, {"development": "ours"}]
)
def test_the_same_number_in_another_dataset_is_no_alarm(datasets):
    """Two hospitals count their patients from 1."""
    check = pretraining_check(pretrained((11, 21, 22)), external=[external()], datasets=datasets)
    assert check.passed
    assert (
        "clmbr cannot be compared with mayo, whose MEDS dataset is not the one it was pretrained "
        "on (ids that coincide: 2 of 2;" in check.detail
    )


def test_weights_without_a_list_are_said_to_be_unchecked():
    check = pretraining_check(None)
    assert check.passed
    assert check.detail == "clmbr could not be checked: no subjects.parquet beside its weights"
    both = audit(
        cohort(),
        cross_validation=False,
        pretraining={"old": None, "new": pretrained((14,))},
        datasets={"development": "ours"},
    )
    assert failed(both) == ["subjects of pretraining"]
    assert "old could not be checked" in answers(both)["subjects of pretraining"].detail


def test_finds_an_event_kept_from_after_the_prediction_time():
    result = audit(cohort(), cross_validation=False, records={"development": counts(latest=-0.5)})
    assert failed(result) == ["events after the prediction time"]


def test_finds_a_scan_used_by_two_subjects_whatever_its_spelling():
    shared = cohort(ct_path=["x.nii.gz", "x.nii.gz", "y.nii.gz", None, None, "../a/y.nii.gz"])
    result = audit(shared, cross_validation=False)
    assert failed(result) == ["scans of two subjects"]
    assert (
        answers(result)["scans of two subjects"].detail
        == "1 of 2 scans are used by more than one subject"
    )
    across = external(ct_path=["../a/0.nii.gz", None])
    assert failed(audit(cohort(), [across], cross_validation=False)) == ["scans of two subjects"]


def test_a_cohort_without_scans_passes():
    bare = cohort()
    assert audit(Cohort("d", bare.path, bare.table.drop("ct_path")), cross_validation=False).passed


def test_details_name_no_patient():
    result = audit(
        cohort(subjects=(71123, 71124, 71123, 71123, 71124, 71125)),
        [external(subjects=(71123, 71124))],
        cross_validation=False,
        pretraining={"clmbr": pretrained((71123, 71124), (71125,))},
        datasets={"development": "ours", "mayo": "theirs"},
    )
    text = json.dumps(result.to_json())
    assert not any(str(subject) in text for subject in (71123, 71124, 71125))
    assert "development-0" not in text


def test_reading_and_auditing_need_no_torch():
    code = (
        "import sys, concordant.data.audit, concordant.data.features; sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
