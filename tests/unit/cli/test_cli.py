"""The command line: what it prints, what it writes, and how it says that something is wrong."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner, Result

from concordant.cli import app, tables
from concordant.cli.console import progress
from concordant.config import read_study
from concordant.core.errors import ConfigError
from concordant.data.audit import Audit, AuditCheck
from concordant.engines import LocalEngine

COMMANDS = (
    "omop",
    "cohort",
    "inspect",
    "scans",
    "simulate",
    "check",
    "embed",
    "run",
    "evaluate",
    "compare",
    "report",
)
STUDY = """
name: demo
task: {event: death, horizons_days: [365]}
cohorts:
  development: {table: cohort.parquet, meds: meds}
encoders: {ct: volume_features, ehr: one_hot}
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def one_line_error(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "meds").mkdir()
    pl.DataFrame({"sample_id": ["a"]}).write_parquet(tmp_path / "cohort.parquet")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


# Help


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"Example: concordant {command} " in result.stdout


def test_every_field_of_the_simulation_is_an_option_with_its_description_and_default(monkeypatch):
    from concordant.simulation.options import SimulationOptions

    monkeypatch.setenv("COLUMNS", "300")
    lines = [line for line in call("simulate", "--help").stdout.splitlines() if "default:" in line]
    for name, field in SimulationOptions.model_fields.items():
        (line,) = (line for line in lines if f" --{name.replace('_', '-')} " in line)
        assert str(field.description) in line
        assert f"[default: {field.default}]" in line


def test_help_and_version_load_nothing_heavy():
    script = (
        "import sys, concordant, concordant.cli as cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(cli.app, ['--version']).stdout.strip() == "
        "concordant.__version__\n"
        "heavy = {'torch', 'numpy', 'polars', 'pydantic', 'numba', 'scipy', 'nibabel'} & "
        "set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Wrong input: exit code 2, one line, no traceback


@pytest.mark.parametrize("command", ["check", "embed", "run"])
def test_a_missing_study_is_one_line(command, tmp_path):
    assert (
        one_line_error(command, tmp_path / "none.yaml")
        == f"{tmp_path / 'none.yaml'}: no such study file"
    )


@pytest.mark.parametrize("command", ["check", "embed", "run"])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lrr=1", "train.lrr: unknown key. Did you mean 'lr'?"),
        (
            "fusion={name: late, combine: sum}",
            "option combine: given 'sum', expected 'stack' or 'mean'",
        ),
        ("train.lr=fast", "train.lr: given 'fast', expected a number"),
        (
            "cohorts.development.table=none.parquet",
            "cohorts.development.table: no such file or folder",
        ),
        ("train.lr", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_study_is_one_line(command, study, override, expected):
    assert expected in one_line_error(command, study, "--set", override)


def test_a_module_that_cannot_be_imported_is_one_line(study):
    assert "no_such_module_of_mine" in one_line_error(
        "run", study, "--import", "no_such_module_of_mine"
    )


def test_a_module_of_the_working_folder_is_found(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    )
    (tmp_path / "module_of_mine_for_cli.py").write_text("raise ImportError('found and read')\n")
    assert "found and read" in one_line_error("run", study, "--import", "module_of_mine_for_cli")


def test_a_run_that_is_not_there_is_one_line(tmp_path):
    assert str(tmp_path / "none") in one_line_error("report", tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("run", "study.yaml", "--wrokers", 2),
            "No such option: --wrokers (Possible options: --workers). See",
        ),
        (("run", "study.yaml", "--workers", 0), "--workers"),
        (("run", "study.yaml", "--workers", "many"), "--workers"),
        (("run",), "Missing argument 'STUDY.yaml'. See"),
        (("rnu", "study.yaml"), "No such command 'rnu'. Did you mean 'run'? See"),
        (("simulate", "out", "--n-development", "many"), "--n-development"),
        (
            ("simulate", "out", "--n-development", "-3"),
            "--n-development: given -3, expected greater than or equal to",
        ),
        (("simulate", "out", "--n-developmnet", "3"), "No such option: --n-developmnet"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, expected):
    assert expected in one_line_error(*arguments)


def test_a_programming_error_is_not_hidden(monkeypatch, study):
    monkeypatch.setattr("concordant.config.read_study", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app, ["run", str(study)], catch_exceptions=False)


def test_an_interrupt_says_how_to_go_on(monkeypatch, study):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("concordant.config.read_study", interrupted)
    result = call("run", study)
    assert result.exit_code == 130
    assert result.stderr == "stopped; run the same command again to continue\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2
    assert re.fullmatch(
        r"error: .*/file: (not a directory|file exists); check that path, .*\n", result.stderr
    )


def test_ctrl_c_ends_the_program_with_130(study, tmp_path):
    (tmp_path / "slow_module_of_mine.py").write_text(
        "import pathlib, time\npathlib.Path('imported').touch()\ntime.sleep(60)\n"
    )
    command = [
        sys.executable,
        "-c",
        "from concordant.cli import main; main()",
        "run",
        study,
        "--import",
        "slow_module_of_mine",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "imported").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b"stopped; run the same command again to continue\n"


# Simulation


def test_simulate_writes_a_study_that_is_ready_and_does_not_write_over_it(tmp_path):
    out = tmp_path / "demo"
    given = ("--n-development", 40, "--n-external", 20, "--missing-ct", 0.25, "--workers", 1)
    result = call("simulate", out, *given)
    assert result.exit_code == 0
    assert result.stdout == f"study: {out / 'study.yaml'}\n"
    study = read_study(out / "study.yaml")
    table = pl.read_parquet(study.cohorts.development.table)
    assert table.height == 40
    assert table["ct_path"].null_count() > 2
    assert "overwrite" in one_line_error("simulate", out, *given)


# Studies


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("concordant.study", exc_type=ModuleNotFoundError)
    out = tmp_path_factory.mktemp("cli") / "demo"
    assert (
        call("simulate", out, "--n-development", 80, "--n-external", 30, "--workers", 1).exit_code
        == 0
    )
    return out / "study.yaml"


def test_check_prints_every_check_and_says_by_its_exit_code_whether_all_hold(simulated, tmp_path):
    result = call("check", simulated)
    assert result.exit_code == 0
    assert "passed" in result.stdout
    assert "FAILED" not in result.stdout
    leaking = (
        "cohorts.external=[{name: same_people, table: development/cohort.parquet, meds: "
        "development/meds}]"
    )
    result = call("check", simulated, "--set", leaking)
    assert result.exit_code == 2
    assert "FAILED" in result.stdout


def test_embed_says_where_the_embeddings_are(simulated):
    result = call("embed", simulated, "--workers", 1)
    assert result.exit_code == 0
    assert result.stdout == f"embeddings: {simulated.parent / 'embeddings'}\n"
    assert list((simulated.parent / "embeddings").rglob("manifest.json"))
    assert "volume_features" in result.stderr


CRASHING = """
import os
from pathlib import Path
import numpy as np
from concordant.core.embedding import TokenEmbedding
from concordant.encoders.base import ENCODERS, EncoderCard, VolumeEncoder

@ENCODERS.register("crashing")
class Crashing(VolumeEncoder):
    def __init__(self, *, notes: Path):
        self.notes = notes

    @property
    def card(self):
        return EncoderCard(kind="tokens", token_dim=1, max_tokens=1)

    def encode(self, volumes):
        for attempt in ("first", "second"):
            if not (self.notes / attempt).exists():
                (self.notes / attempt).touch()
                os.abort()
        return [TokenEmbedding(np.ones((1, 1), np.float32)) for _ in volumes]
"""


def test_a_decoder_that_crashes_costs_its_scan_even_with_one_worker(
    simulated, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crashing_reader_for_cli.py").write_text(CRASHING)
    (tmp_path / "notes").mkdir()
    given = (f"encoders.ct={{name: crashing, notes: {tmp_path / 'notes'}}}", "max_quarantined=0.5")
    overrides = [part for one in given for part in ("--set", one)]
    result = call(
        "embed", simulated, "--workers", 1, "--import", "crashing_reader_for_cli", *overrides
    )
    assert result.exit_code == 0, result.output
    tables_ = [
        pl.read_parquet(path)
        for path in (simulated.parent / "embeddings").rglob("crashing-*/quarantine.parquet")
    ]
    assert pl.concat(tables_)["reason"].to_list() == [
        "the process that read it died twice: the worker process was ended by SIGABRT"
    ]


def test_run_reads_scans_in_another_process_even_with_one_worker(simulated, monkeypatch):
    given = {}

    def stop(study, **options):
        given.update(options)
        raise ConfigError("stopped")

    monkeypatch.setattr("concordant.study.run_study", stop)
    assert "stopped" in one_line_error("run", simulated, "--workers", 1)
    assert given["engine"] == LocalEngine(1, isolated=True)


def test_run_prints_the_table_and_the_place_of_the_report(simulated):
    grid = "grid.fusion=[{name: unimodal, modality: ct}, {name: unimodal, modality: ehr}, concat]"
    result = call(
        "run",
        simulated,
        "--workers",
        1,
        "--set",
        grid,
        "--set",
        "train.max_epochs=3",
        "--set",
        "name=small",
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == f"report: {simulated.parent / 'runs' / 'small' / 'report.html'}"
    assert Path(lines[-1].removeprefix("report: ")).is_file()
    results = pl.read_parquet(simulated.parent / "runs" / "small" / "results.parquet")
    for row in results.filter(pl.col("metric") == "concordance_index").to_dicts():
        (line,) = (one for one in lines if one.split()[:1] == [row["fusion"]])
        assert f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in line


# Tables and progress


def printed(table: object, width: int = 200) -> str:
    screen = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def result_rows(
    *rows: tuple[str, str, str | None, str | None, int | None, float | None],
) -> pl.DataFrame:
    names = ["cohort", "fusion", "ct_encoder", "ehr_encoder", "seed", "value"]
    kinds = {
        "seed": pl.Int64,
        "value": pl.Float64,
        "ct_encoder": pl.String,
        "ehr_encoder": pl.String,
    }
    table = pl.DataFrame(rows, schema=names, orient="row", schema_overrides=kinds)
    interval = {"ci_low": pl.col("value") - 0.05, "ci_high": pl.col("value") + 0.05}
    return table.with_columns(
        metric=pl.lit("concordance_index"), horizon_days=pl.lit(None, pl.Float64), **interval
    )


def test_the_table_of_a_run_has_a_row_per_strategy_and_a_column_per_cohort():
    results = result_rows(
        ("held_out", "unimodal(modality=ct)", "volume", None, 0, 0.6),
        ("held_out", "contrastive[lr=0.1]", "volume", "one_hot", 0, 0.71),
        ("held_out", "contrastive[lr=0.1]", "volume", "one_hot", 1, 0.73),
        ("held_out", "contrastive[lr=0.1]", "volume", "one_hot", None, 0.72),
        ("north", "contrastive[lr=0.1]", "volume", "one_hot", 0, None),
        ("north", "unimodal(modality=ct)", "volume", None, 0, 0.55),
    )
    other = results.with_columns(metric=pl.lit("brier_score"), value=pl.lit(0.111))
    text = printed(tables.strategies(pl.concat([other, results]), "concordance_index"))
    lines = [line.split() for line in text.splitlines() if "0.7" in line or "0.6" in line]
    assert lines == [
        ["unimodal(modality=ct)", "0.600", "[0.550,", "0.650]", "0.550", "[0.500,", "0.600]"],
        ["contrastive[lr=0.1]", "0.720", "[0.670,", "0.770]", "-"],
    ]
    assert "0.111" not in text


def test_encoders_are_shown_where_they_vary():
    rows = [
        ("held_out", "late", "volume", encoder, 0, value)
        for encoder, value in (("one_hot", 0.6), ("clmbr", 0.7))
    ]
    lines = [
        line.split()[:2]
        for line in printed(tables.strategies(result_rows(*rows), "concordance_index")).splitlines()
        if "late" in line
    ]
    assert lines == [["late", "one_hot"], ["late", "clmbr"]]


def test_checks_are_told_in_words():
    text = printed(
        tables.checks(
            Audit(
                (
                    AuditCheck("splits", True, "all good"),
                    AuditCheck("scans", False, "2 shared [ids]"),
                )
            )
        )
    )
    assert "passed" in text
    assert "FAILED" in text
    assert "2 shared [ids]" in text


def test_progress_to_a_file_is_one_line_per_whole_stage(capsys):
    with progress() as report:
        for done in range(4):
            report("site [a]", done, 3)
        report("site [a]", 3, 3)
        report("other", 1, 1)
    captured = capsys.readouterr()
    assert captured.err == "site [a]: 3/3\nother: 1/1\n"
    assert captured.out == ""


def test_progress_tells_of_a_slow_stage_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("concordant.cli.console.time.monotonic", lambda: now[0])
    with progress() as report:
        for seconds in range(0, 32, 4):
            now[0] = float(seconds)
            report("slow", seconds, 100)
    assert (
        capsys.readouterr().err == "slow: 12/100 (1/s, 88 s left)\nslow: 24/100 (1/s, 76 s left)\n"
    )


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (0.5, "2/s, 8 min left"),
        (7.0, "8.57/min, 1 h 53 min left"),
        (100.0, "36/h, 26 h 57 min left"),
        (4000.0, "0.9/h"),
    ],
)
def test_progress_says_how_fast_and_how_long(capsys, monkeypatch, each, said):
    now = [50.0]
    monkeypatch.setattr("concordant.cli.console.time.monotonic", lambda: now[0])
    with progress() as report:
        report("scans", 0, 1000)  # the first that is told of it is no pace yet
        now[0] += 30 * each
        report("scans", 30, 1000)
    assert said in capsys.readouterr().err


def test_progress_on_a_terminal_shows_bars(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, markup=False)
    monkeypatch.setattr("concordant.cli.console.open_console", lambda *, errors=False: screen)
    with progress() as report:
        report("site [a]", 1, 2)
        report("site [a]", 2, 2)
    assert isinstance(screen.file, io.StringIO)
    assert "site [a]" in screen.file.getvalue()
    assert "2/2" in screen.file.getvalue()
    assert "/s" in screen.file.getvalue()


def test_log_lines_appear_while_a_command_works(capsys):
    import logging

    logger = logging.getLogger("concordant.embeddings")
    with progress():
        logger.info("made anew: options differ")
    logger.info("not shown any more")
    assert capsys.readouterr().err.split() == ["made", "anew:", "options", "differ"]


def test_the_paragraphs_of_every_help_flow():
    group = get_command(app)
    for name in group.commands:
        told = group.get_command(None, name).help
        assert "\n" not in told.replace("\n\n", ""), name
