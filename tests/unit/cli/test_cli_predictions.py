"""`concordant evaluate` and `compare`: anyone's files, judged as the library judges them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from concordant.analysis.compare import compare_files
from concordant.cli import app
from concordant.core.survival import SURVIVAL_TIMES_KEY, Outcomes, read_predictions
from concordant.evaluation import METRICS, evaluate
from concordant.metrics import (
    brier_score_at,
    compare_concordance,
    concordance_index,
    concordance_index_ipcw,
    equivalence,
    non_inferiority,
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def printed(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def one_line_error(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip()


def table_of(noise: float, n: int = 60, **columns: object) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    time_days, censored = rng.exponential(np.exp(-risk) * 400), rng.exponential(600, n)
    return pl.DataFrame(
        {
            "sample_id": [f"sample-{number}" for number in range(n)],
            "time_days": np.minimum(time_days, censored) + 1,
            "event": (time_days <= censored).astype(int),
            "risk": risk + noise * np.random.default_rng(1).normal(size=n),
            **columns,
        }
    )


def predictions(path: Path, noise: float, n: int = 60, **columns: object) -> Path:
    table_of(noise, n, **columns).write_parquet(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return predictions(tmp_path / "p.parquet", 0.5)


def test_missing_predictions_are_one_line(tmp_path, path):
    assert "no such predictions file" in one_line_error("evaluate", tmp_path / "none.parquet")
    assert "no such predictions file" in one_line_error("compare", path, tmp_path / "none.parquet")


def test_wrong_options_are_one_line(tmp_path, path):
    other = predictions(tmp_path / "other.parquet", 1)
    assert "Did you mean 'concordance_index'?" in one_line_error(
        "evaluate", path, "--metric", "concordance_idx"
    )
    assert "horizon" in one_line_error("evaluate", path, "--metric", "brier_score")
    assert "censoring" in one_line_error("evaluate", path, "--censoring", "cohrt")
    assert "tau is -3.0; expected a number of days > 0" in one_line_error(
        "evaluate", path, "--tau", "-3"
    )
    assert "no column 'patient'" in one_line_error("evaluate", path, "--cluster", "patient")
    assert "no column 'w' in any of the 2 files" in one_line_error(
        "compare", path, other, "--weights", "w"
    )
    assert "none.parquet" in one_line_error("evaluate", path, "--train", tmp_path / "none.parquet")
    pl.DataFrame({"time_days": [1.0]}).write_parquet(tmp_path / "train.parquet")
    assert "expected parquet with columns time_days (days) and event" in one_line_error(
        "evaluate", path, "--train", tmp_path / "train.parquet"
    )
    assert "oter" in one_line_error("compare", path, other, "--reference", "oter")
    assert "margin is -0.1; expected a number > 0" in one_line_error(
        "compare", path, other, "--margin", "-0.1"
    )
    assert "unknown multiplicity 'max-t'. Did you mean 'max_t'?" in one_line_error(
        "compare", path, other, "--multiplicity", "max-t"
    )
    assert one_line_error("compare", path)
    assert "p.parquet is given 2 times; give each predictions file once" in one_line_error(
        "compare", path, other, path
    )


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_names_every_metric(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert all(name in printed(command, "--help") for name in METRICS)


def test_evaluate_prints_and_writes_what_the_python_function_returns(tmp_path, path):
    out = tmp_path / "new" / "results.parquet"
    said = printed("evaluate", path, "--metric", "concordance_index", "--out", out)
    expected = evaluate(read_predictions(path), metrics=("concordance_index",))
    assert pl.read_parquet(out).equals(expected)
    assert f"{expected['value'][0]:.3f}" in said
    assert f"{expected['ci_low'][0]:.3f} to {expected['ci_high'][0]:.3f}" in said


def test_evaluate_takes_the_censoring_curve_from_the_train_rows(tmp_path, path):
    out = tmp_path / "results.parquet"
    whole = table_of(0, n=80).with_columns(event=pl.col("time_days").cast(pl.Int64) % 2)
    whole.with_columns(split=pl.Series(["train"] * 50 + ["held_out"] * 30)).write_parquet(
        tmp_path / "train.parquet"
    )
    printed(
        "evaluate",
        path,
        "--metric",
        "concordance_index_ipcw",
        "--train",
        tmp_path / "train.parquet",
        "--out",
        out,
    )
    train = Outcomes(whole["time_days"].to_numpy()[:50], whole["event"].to_numpy()[:50])
    expected = evaluate(
        read_predictions(path), metrics=("concordance_index_ipcw",), censoring="train", train=train
    )
    assert pl.read_parquet(out).equals(expected)
    own = evaluate(read_predictions(path), metrics=("concordance_index_ipcw",))
    assert own["value"][0] != expected["value"][0]


def test_evaluate_up_to_tau_and_beyond_what_is_supported(tmp_path, path):
    out = tmp_path / "results.parquet"
    table = table_of(0.5)
    time, event, risk = (table[name].to_numpy() for name in ("time_days", "event", "risk"))
    said = printed(
        "evaluate", path, "--metric", "concordance_index_ipcw", "--tau", 200, "--out", out
    )
    (row,) = pl.read_parquet(out).to_dicts()
    expected = concordance_index_ipcw(time, event, risk, tau=200)
    assert (row["value"], row["standard_error"]) == pytest.approx(
        (expected.estimate, expected.standard_error), rel=1e-12
    )
    assert row["tau_days"] == 200
    assert "cases before 200 only" in said
    said = printed(
        "evaluate", path, "--metric", "concordance_index_ipcw", "--tau", 1e6, "--out", out
    )
    (row,) = pl.read_parquet(out).to_dicts()
    assert row["value"] == pytest.approx(
        concordance_index_ipcw(time, event, risk).estimate, rel=1e-12
    )
    assert row["tau_days"] == time.max()
    assert "tau is 1e+06 days, but only" in said


@pytest.mark.parametrize("how", ["a column of the name", "an option"])
def test_evaluate_takes_clusters_from_a_column(tmp_path, how):
    name = "cluster" if how == "a column of the name" else "family"
    labels = [f"family {number // 3}" for number in range(60)]
    path, out = predictions(tmp_path / "p.parquet", 0.5, **{name: labels}), tmp_path / "out.parquet"
    printed(
        "evaluate",
        path,
        "--metric",
        "concordance_index",
        "--out",
        out,
        *(() if name == "cluster" else ("--cluster", name)),
    )
    table = table_of(0.5)
    expected = concordance_index(
        *(table[column].to_numpy() for column in ("time_days", "event", "risk")),
        cluster=np.array([number // 3 for number in range(60)]),
    )
    assert pl.read_parquet(out)["standard_error"][0] == pytest.approx(
        expected.standard_error, rel=1e-12
    )


def test_a_weight_of_two_is_a_second_copy_of_the_subject(tmp_path):
    weights = np.random.default_rng(3).integers(0, 4, 60)
    weighted, out = predictions(tmp_path / "w.parquet", 0.5, w=weights), tmp_path / "out.parquet"
    copies = table_of(0.5, subject_id=np.arange(60))[np.repeat(np.arange(60), weights)]
    copies.with_columns(sample_id=pl.int_range(pl.len()).cast(pl.String)).write_parquet(
        tmp_path / "copies.parquet"
    )
    metrics = ("concordance_index", "concordance_index_ipcw", "cumulative_dynamic_auc")
    options = (*(part for name in metrics for part in ("--metric", name)), "--horizon", 300)
    printed("evaluate", weighted, *options, "--weights", "w", "--out", out)
    found = pl.read_parquet(out)
    printed("evaluate", tmp_path / "copies.parquet", *options, "--out", out)
    expected = pl.read_parquet(out)
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-12)
    np.testing.assert_allclose(found["standard_error"], expected["standard_error"], rtol=1e-10)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_wrong_weights_are_refused(tmp_path, wrong):
    path = predictions(tmp_path / "w.parquet", 0.5, w=[1.0] * 59 + [wrong])
    assert "w holds a weight that is negative or not finite" in one_line_error(
        "evaluate", path, "--weights", "w"
    )


def test_a_null_cluster_is_refused(tmp_path):
    path = predictions(tmp_path / "c.parquet", 0.5, clinic=["a"] * 59 + [None])
    assert "clinic is null in 1 row(s)" in one_line_error("evaluate", path, "--cluster", "clinic")


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        predictions(tmp_path / f"{name}.parquet", noise)
        for name, noise in (("ours", 0.2), ("theirs", 2), ("pesi", 4))
    ]


def test_compare_prints_the_paired_differences(three):
    said = printed("compare", *three, "--reference", "theirs")
    assert "60 samples are in all files" in said
    assert "p (Holm)" in said
    for difference in compare_files(three, "theirs").differences["difference"]:
        assert f"{difference:+.3f}" in said


def test_where_nothing_varies_no_interval_is_printed(tmp_path, path):
    ordered_alike = pl.read_parquet(path).with_columns(pl.col("risk").exp())
    ordered_alike.write_parquet(tmp_path / "alike.parquet")
    difference = printed("compare", path, tmp_path / "alike.parquet").splitlines()[-2]
    assert difference.split() == [
        "alike",
        "p",
        "concordance_index",
        "+0.000",
        "-",
        "1.000",
        "1.000",
    ]


def test_compare_adjusts_as_it_is_told(tmp_path, three):
    out = tmp_path / "out.parquet"
    said = printed("compare", *three, "--multiplicity", "max_t", "--out", out)
    assert "p (max-T)" in said
    assert "simultaneous" in said
    rows = pl.read_parquet(out)
    assert (rows["ci_low_simultaneous"] < rows["ci_low"]).all()
    assert (rows["ci_high"] < rows["ci_high_simultaneous"]).all()
    assert (rows["p_value"] <= rows["p_adjusted"]).all()
    assert "p (Benjamini-Hochberg)" in printed(
        "compare", *three, "--multiplicity", "benjamini_hochberg"
    )


def test_compare_tests_against_a_margin(tmp_path, three):
    out = tmp_path / "out.parquet"
    said = printed("compare", *three[:2], "--margin", 0.1, "--out", out)
    assert "p not worse" in said
    ours, theirs = table_of(0.2), table_of(2)
    time, event = ours["time_days"].to_numpy(), ours["event"].to_numpy()
    expected = compare_concordance(time, event, theirs["risk"].to_numpy(), ours["risk"].to_numpy())
    (row,) = pl.read_parquet(out).to_dicts()
    assert row["p_non_inferiority"] == pytest.approx(non_inferiority(expected, 0.1).p_value)
    assert (
        row["p_equivalence"]
        == row["p_equivalence_adjusted"]
        == pytest.approx(equivalence(expected, 0.1).p_value)
    )


def test_compare_honours_clusters_and_weights_that_one_file_knows(tmp_path):
    weights, families = np.random.default_rng(3).integers(1, 4, 60), np.arange(60) // 3
    paths = [
        predictions(tmp_path / "a.parquet", 0.2),
        predictions(tmp_path / "b.parquet", 2, w=weights, family=families),
    ]
    out = tmp_path / "out.parquet"
    printed("compare", *paths, "--weights", "w", "--cluster", "family", "--out", out)
    a, b = table_of(0.2), table_of(2)
    time, event = a["time_days"].to_numpy(), a["event"].to_numpy()
    expected = compare_concordance(
        time, event, b["risk"].to_numpy(), a["risk"].to_numpy(), weights=weights, cluster=families
    )
    (row,) = pl.read_parquet(out).to_dicts()
    assert row["difference"] == pytest.approx(expected.difference, abs=1e-14)
    assert row["standard_error"] == pytest.approx(expected.standard_error, rel=1e-12)


def test_compare_refuses_weights_that_differ_between_files(tmp_path):
    paths = [
        predictions(tmp_path / "a.parquet", 0.2, w=np.ones(60)),
        predictions(tmp_path / "b.parquet", 2, w=np.full(60, 2.0)),
    ]
    assert "b: its weights are not those of a" in one_line_error(
        "compare", *paths, "--weights", "w"
    )


# Competing events

DAYS = np.array([100.0, 200.0, 300.0])


def competing(path: Path, noise: float = 0.5, *, code: int = 2) -> Path:
    """Every third event and every fifth censoring is another event; curves as well."""
    row = pl.int_range(pl.len())
    other = ((pl.col("event") == 1) & (row % 3 == 0)) | ((pl.col("event") == 0) & (row % 5 == 0))
    table = table_of(noise).with_columns(event=pl.when(other).then(code).otherwise("event"))
    survival = pl.Series(
        "survival", np.exp(-np.outer(np.exp(table["risk"].to_numpy() / 2), DAYS / 500)).tolist()
    )
    table.with_columns(survival).write_parquet(
        path, metadata={SURVIVAL_TIMES_KEY: str(DAYS.tolist())}
    )
    return path


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given = read_predictions(path)
    return given.target.time, given.target.event, given.risk


EVERY = [part for name in METRICS for part in ("--metric", name)] + ["--horizon", "200"]


@pytest.mark.parametrize("cause", [1, 2])
def test_evaluate_by_a_cause(tmp_path, cause):
    path, out = competing(tmp_path / "p.parquet"), tmp_path / "out.parquet"
    said = printed("evaluate", path, *EVERY, "--cause", cause, "--out", out)
    rows = {row["metric"]: row for row in pl.read_parquet(out).to_dicts()}
    time, event, risk = arrays(path)
    assert (event == cause).sum() != (event == 3 - cause).sum()
    harrell = concordance_index(time, event, risk, cause=cause)
    brier = brier_score_at(time, event, read_predictions(path).survival[:, 1], 200, cause=cause)
    for name, expected in (("concordance_index", harrell), ("brier_score", brier)):
        assert (rows[name]["value"], rows[name]["standard_error"]) == pytest.approx(
            (expected.estimate, expected.standard_error), rel=1e-12
        )
    assert {row["n_events"] for row in rows.values()} == {(event == cause).sum()}
    assert "is read as the cumulative" in " ".join(said.split())
    assert rows["calibration_slope"]["value"] is None
    assert rows["calibration_slope"]["note"].startswith(
        "calibration_slope does not know competing events"
    )
    printed("evaluate", path, *EVERY, "--out", out)
    assert (
        pl.read_parquet(out)["value"][0]
        == concordance_index(time, event, risk).estimate
        != harrell.estimate
    )


def test_with_codes_0_and_1_alone_cause_1_prints_and_writes_the_same(tmp_path):
    paths = [
        competing(tmp_path / f"{name}.parquet", noise, code=1)
        for name, noise in (("a", 0.2), ("b", 2))
    ]
    tables = []
    for options in ((), ("--cause", 1)):
        judged, compared = tmp_path / "judged.parquet", tmp_path / "compared.parquet"
        said = (
            printed("evaluate", paths[0], *EVERY, *options, "--out", judged),
            printed("compare", *paths, *EVERY, *options, "--out", compared),
        )
        tables.append((*said, pl.read_parquet(judged), pl.read_parquet(compared)))
    (plain, of_cause) = tables
    assert plain[:2] == of_cause[:2]
    assert plain[2].equals(of_cause[2])
    assert plain[3].equals(of_cause[3])
    assert plain[2]["value"].null_count() == 0


def test_compare_by_a_cause(tmp_path):
    paths, out = (
        [competing(tmp_path / "a.parquet", 0.2), competing(tmp_path / "b.parquet", 2)],
        tmp_path / "out.parquet",
    )
    said = printed("compare", *paths, "--cause", 2, "--out", out)
    (time, event, a), (_, _, b) = (arrays(path) for path in paths)
    expected = compare_concordance(time, event, b, a, cause=2)
    (row,) = pl.read_parquet(out).to_dicts()
    assert (row["difference"], row["standard_error"]) == pytest.approx(
        (expected.difference, expected.standard_error), rel=1e-12
    )
    assert f"{expected.difference:+.3f}" in said


def test_a_cause_that_does_not_occur_is_one_line(tmp_path, path):
    other = competing(tmp_path / "other.parquet")
    assert (
        one_line_error("evaluate", other, "--cause", 3)
        == f"{other}: no row has event 3, the cause asked for; codes above 0 in the file: 1, 2"
    )
    assert (
        one_line_error("compare", other, path, "--cause", 2)
        == f"{path}: no row has event 2, the cause asked for; codes above 0 in the file: 1"
    )
    assert (
        "cause is 0; expected the code of an event, 1 or above (0 is censored)"
        in one_line_error("evaluate", other, "--cause", 0)
    )
    table_of(0).with_columns(event=pl.lit(0)).write_parquet(tmp_path / "none.parquet")
    assert "codes above 0 in the file: none: every row is censored" in one_line_error(
        "evaluate", tmp_path / "none.parquet", "--cause", 1
    )


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_says_what_is_done_without_a_cause(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert "event 1, every other code censored" in printed(command, "--help")


def test_of_several_seeds_and_variants_in_a_file_one_model_is_judged(tmp_path):
    parts = {
        (variant, seed): table_of(noise, seed=seed, variant=variant)
        for variant, noises in (("as_is", (0.5, 2.0)), ("recalibrated", (3.0, 4.0)))
        for seed, noise in enumerate(noises)
    }
    path = tmp_path / "whole.parquet"
    pl.concat(parts.values()).sample(fraction=1, shuffle=True, seed=0).write_parquet(path)
    mean = np.mean([parts["as_is", seed]["risk"] for seed in (0, 1)], axis=0)
    asked = {
        (): mean,
        ("--seed", 1): parts["as_is", 1]["risk"].to_numpy(),
        ("--variant", "recalibrated", "--seed", 0): parts["recalibrated", 0]["risk"].to_numpy(),
    }
    time, event, out = *table_of(0.0).select("time_days", "event").to_numpy().T, tmp_path / "o"
    for options, risk in asked.items():
        printed("evaluate", path, "--metric", "concordance_index", "--out", out, *options)
        expected = concordance_index(time, event, risk)
        assert pl.read_parquet(out)["value"].to_list() == pytest.approx([expected.estimate])
    assert one_line_error("evaluate", path, "--variant", "recal") == (
        f"{path}: no row has variant 'recal'; the file holds as_is (seed 0), as_is (seed 1), "
        "recalibrated (seed 0), recalibrated (seed 1)"
    )
    assert "no row has variant 'as_is' and seed 7" in one_line_error("evaluate", path, "--seed", 7)
