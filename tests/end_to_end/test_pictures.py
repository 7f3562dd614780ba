"""Attention pictures of a study, from the command line and in its report."""

from __future__ import annotations

import base64
import re
import shutil

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import Study, read_study
from concordant.core.errors import ConfigError, NotApplicableError, StoreError, VolumeError
from concordant.core.survival import read_predictions
from concordant.study import run_study
from concordant.study.pictures import PictureOptions, write_pictures

ATTENDING = "cross_attention-query=ehr__volume_features__one_hot-values=last__cox"


def write_study(simulated, **changes):
    """Write a study of an attention model and one without beside the simulated one."""
    given = yaml.safe_load(simulated.study.read_text())
    del given["foreign"]
    given |= {
        "name": "pictured",
        "train": {"max_epochs": 4, "patience": 2, "width": 8, "device": "cpu"},
        "grid": {"fusion": [{"name": "cross_attention", "query": "ehr"}, "concat"]},
        **changes,
    }
    path = simulated.study.parent / f"{given['name']}.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture(scope="module")
def pictured(simulated) -> Study:
    study = read_study(write_study(simulated, report={"attention_pictures": 3}))
    run_study(study)
    return study


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_command_draws_the_samples_at_both_ends_of_the_ranking(pictured, tmp_path):
    result = call(
        "pictures",
        pictured.run_folder.path,
        "--strategy",
        ATTENDING,
        "--samples",
        2,
        "--out",
        tmp_path / "out",
    )
    assert result.exit_code == 0, result.output
    names = ["highest-001.png", "highest-002.png", "lowest-001.png", "lowest-002.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == names
    index = pl.read_parquet(tmp_path / "out" / "index.parquet")
    held_out = read_predictions(
        pictured.run_folder.strategy(ATTENDING).predictions("held_out")
    ).table
    scanned = (
        held_out.filter(pl.col("available").is_in(["both", "ct"]))
        .sort("risk")["sample_id"]
        .to_list()
    )
    assert index["file"].to_list() == names
    assert index["sample_id"].to_list() == [scanned[-1], scanned[-2], scanned[0], scanned[1]]
    for name in names:
        picture = np.asarray(Image.open(tmp_path / "out" / name))
        assert picture.shape[2] == 3
        assert (np.ptp(picture.astype(int), axis=2) > 20).any(), "something is coloured"
    about = (tmp_path / "out" / "about.json").read_text()
    assert not any(one in about for one in index["sample_id"])


def test_the_study_file_does_as_well_and_the_best_attention_model_is_the_default(
    pictured, simulated, tmp_path
):
    study = simulated.study.parent / "pictured.yaml"
    result = call(
        "pictures", study, "--samples", 1, "--window", -160, 240, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "pictures: 2 in" in result.output
    narrow = (tmp_path / "out" / "highest-001.png").read_bytes()
    write_pictures(pictured, tmp_path / "wide", options=PictureOptions(1, 1))
    assert (tmp_path / "wide" / "highest-001.png").read_bytes() != narrow


def test_the_report_holds_the_pictures_that_the_study_asks_for_and_nobodys_name(pictured):
    page = pictured.run_folder.report.read_text(encoding="utf-8")
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    files = ["highest-001.png", "highest-002.png", "lowest-001.png"]
    assert [base64.b64decode(one) for one in embedded] == [
        (pictured.run_folder.pictures / name).read_bytes() for name in files
    ]
    assert "img-src data:" in page
    assert "not why it predicts" in page
    words = re.sub(r"base64,[^\"]+", "", page)
    ids = pl.read_parquet(pictured.run_folder.pictures / "index.parquet")["sample_id"]
    assert not any(one in words for one in ids)


def test_a_study_that_no_longer_asks_has_none(pictured, simulated):
    before = pictured.run_folder.report.read_text(encoding="utf-8")
    run_study(read_study(write_study(simulated)))
    page = pictured.run_folder.report.read_text(encoding="utf-8")
    assert not pictured.run_folder.pictures.exists()
    assert "data:image" not in page
    assert "img-src" not in page
    run_study(read_study(write_study(simulated, report={"attention_pictures": 3})))
    assert len(
        re.findall("data:image", pictured.run_folder.report.read_text(encoding="utf-8"))
    ) == len(re.findall("data:image", before))


def test_folds_are_drawn_with_the_model_that_judged_each_sample(simulated, tmp_path):
    study = read_study(
        write_study(simulated, name="folded", cross_validation={"folds": 2, "repeats": 2})
    )
    run_study(study)
    assert write_pictures(study, tmp_path / "out", options=PictureOptions(6, 6)) == 12
    index = pl.read_parquet(tmp_path / "out" / "index.parquet")
    assert index["sample_id"].n_unique() == 12
    judged = read_predictions(
        study.run_folder.strategy(ATTENDING).predictions("development")
    ).table.filter(pl.col("repeat") == 0)
    assert set(judged.join(index, on="sample_id", how="semi")["fold"]) == {0, 1}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("concat", "attends to no token of a scan"),
        ("cross", "0 strategies of this study are called so"),
        (None, None),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(pictured, tmp_path, strategy, expected):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").touch()
    if expected is None:
        with pytest.raises(ConfigError, match="not empty"):
            write_pictures(pictured, tmp_path / "full")
    else:
        with pytest.raises((NotApplicableError, ConfigError), match=expected):
            write_pictures(pictured, tmp_path / "out", strategy=strategy)
        assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_and_a_window_upside_down_are_refused(
    pictured, simulated, tmp_path
):
    result = call("pictures", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no record of a finished run" in result.output
    result = call(
        "pictures", pictured.run_folder.path, "--window", 400, -1000, "--out", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "lower number" in result.output
    with pytest.raises(StoreError, match="run the study first"):
        write_pictures(
            read_study(write_study(simulated, name="never_run")),
            tmp_path / "out",
            strategy="concat",
        )


def test_a_scan_that_is_gone_is_named_by_its_rank_alone(pictured, simulated, tmp_path):
    table = pl.read_parquet(simulated.study.parent / "development" / "cohort.parquet")
    write_pictures(pictured, tmp_path / "first", options=PictureOptions(1, 0))
    lost = pl.read_parquet(tmp_path / "first" / "index.parquet")["sample_id"][0]
    path = (
        simulated.study.parent
        / "development"
        / table.filter(pl.col("sample_id") == lost)["ct_path"][0]
    )
    shutil.move(path, tmp_path / "aside")
    try:
        with pytest.raises(
            VolumeError, match="the scan of highest risk 1 cannot be read"
        ) as caught:
            write_pictures(pictured, tmp_path / "second", options=PictureOptions(1, 0))
    finally:
        shutil.move(tmp_path / "aside", path)
    assert lost not in str(caught.value)
    assert path.name not in str(caught.value)
