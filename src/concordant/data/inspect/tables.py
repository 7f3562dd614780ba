"""INSPECT's three text files as typed tables, and the proof of what time and flag mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from concordant.core.errors import CohortError
from concordant.data.frames import first_line, require_columns
from concordant.data.omop.columns import parsed_time

SPLITS = {"train": "train", "valid": "tuning", "test": "held_out"}
"""INSPECT's names of the splits, and MEDS's."""

_TRUTH = {"true": 1, "false": 0, "censored": -1, "censor": -1, "1": 1, "0": 0, "1.0": 1, "0.0": 0}
CENSORED = -1
"""What a label is where follow-up ended before it could be told; it is not a negative."""


@dataclass(frozen=True, slots=True)
class ExamTable:
    """One of the files.

    Attributes:
        path: The file.
        table: Its rows, one per `impression_id`.
        n_rows: Rows of the file.
        n_repeated: Left out: rows that state an exam once more, with the same facts.
    """

    path: Path
    table: pl.DataFrame
    n_rows: int
    n_repeated: int


def read_mapping(aimi: Path) -> ExamTable:
    """Read which patient, scan and time each exam has.

    Returns:
        `impression_id` str, `subject_id` i64, `image_id` str or null (without `.nii.gz`; the first
        by name where an exam has several), `prediction_time` datetime[us] or null.

    Raises:
        CohortError: The file or a column is missing, a patient is not an integer, a time cannot be
            read, or an exam is stated in two ways.
    """
    path, table = _read(
        aimi, "study_mapping", ("impression_id", "image_id", "person_id", "procedure_DATETIME")
    )
    read = table.select(
        "impression_id",
        subject_id=pl.col("person_id").str.strip_suffix(".0").cast(pl.Int64, strict=False),
        image_id=pl.col("image_id").str.strip_suffix(".nii.gz"),
        prediction_time=parsed_time(pl.col("procedure_DATETIME")),
    )
    _refuse(read["subject_id"].is_null(), f"{path}: person_id is not an integer")
    unread = table["procedure_DATETIME"].is_not_null() & read["prediction_time"].is_null()
    _refuse(unread, f"{path}: procedure_DATETIME cannot be read; expected YYYY-MM-DD HH:MM:SS")
    return _once(path, read, first_of="image_id")


def read_splits(aimi: Path) -> ExamTable:
    """Read `impression_id` and `split` (train, tuning, held_out).

    Raises:
        CohortError: The file or a column is missing, a split is not known, or an exam is stated in
            two ways.
    """
    path, table = _read(aimi, "splits", ("impression_id", "split"))
    words = pl.col("split").str.to_lowercase()
    split = words.replace_strict(SPLITS, default=None, return_dtype=pl.String)
    read = table.select("impression_id", split=split)
    _refuse(read["split"].is_null(), f"{path}: split is not one of {', '.join(SPLITS)}")
    return _once(path, read)


def read_labels(aimi: Path, outcome: str, windows: tuple[str, ...]) -> ExamTable:
    """Read the outcome of each exam as it is stated.

    Returns:
        `impression_id` str, `pe_positive` bool or null, `stated_time` f64 or null in the file's
        unit, `censored` bool or null, and for each window that the file has its label: 1, 0, or -1
        for censored.

    Raises:
        CohortError: The file or a column is missing, a label is not a known word, a time is not a
            number, or an exam is stated in two ways.
    """
    time, flag = f"tte_{outcome}", f"is_censored_{outcome}"
    path, table = _read(aimi, "labels", ("impression_id", time, flag))
    pe = next((name for name in ("pe_positive", "pe_positive_nlp") if name in table.columns), None)
    present = [name for name in windows if name in table.columns]
    if not present:
        raise CohortError(
            f"{path}: missing column(s) {', '.join(windows)}; at least one must be there, for the "
            "time is checked against it"
        )
    read = table.select(
        "impression_id",
        *(_truth(name) for name in present),
        pe_positive=pl.lit(None, pl.Boolean) if pe is None else _truth(pe) == 1,
        stated_time=pl.col(time).cast(pl.Float64, strict=False),
        censored=_truth(flag) == 1,
    )
    for name in (*present, flag, *([] if pe is None else [pe])):
        _refuse(_unknown_words(table, name), f"{path}: {name} is not TRUE, FALSE or CENSORED")
    unread = table[time].is_not_null() & ~read["stated_time"].is_finite().fill_null(False)
    _refuse(unread, f"{path}: {time} is not a number")
    return _once(path, read)


def _truth(name: str) -> pl.Expr:
    words = pl.col(name).str.to_lowercase()
    return words.replace_strict(_TRUTH, default=None, return_dtype=pl.Int8).alias(name)


def _unknown_words(table: pl.DataFrame, name: str) -> pl.Series:
    return table.select(pl.col(name).is_not_null() & _truth(name).is_null()).to_series()


def _read(aimi: Path, stem: str, required: tuple[str, ...]) -> tuple[Path, pl.DataFrame]:
    """Read a file as text; a blank is null."""
    files = sorted(path for path in aimi.glob(f"{stem}*.tsv") if path.is_file())
    if len(files) != 1:
        given = ", ".join(path.name for path in files) or "none"
        raise CohortError(
            f"{aimi}: expected one file {stem}_DATE.tsv, as AIMI gives it; found {given}"
        )
    path = files[0]
    try:
        table = pl.read_csv(path, separator="\t", infer_schema=False, encoding="utf8-lossy")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(
            f"{path}: not readable ({first_line(error)}); expected tab-separated text with a header"
        ) from None
    require_columns(table.columns, required, path, CohortError)
    text = pl.all().str.strip_chars()
    table = table.select(pl.when(text != "").then(text).name.keep())
    _refuse(table["impression_id"].is_null(), f"{path}: impression_id is empty")
    return path, table


def _once(path: Path, table: pl.DataFrame, *, first_of: str | None = None) -> ExamTable:
    """Keep each exam once; of rows that differ in `first_of` alone, the first by its value.

    Raises:
        CohortError: An exam is there more than once, with different facts.
    """
    stated = [name for name in table.columns if name != first_of]
    if first_of is not None:
        table = table.sort(first_of, nulls_last=True, maintain_order=True)
    different = table.unique(stated, keep="first", maintain_order=True)
    conflicts = different["impression_id"].is_duplicated()
    if conflicts.any():
        n = different.filter(conflicts)["impression_id"].n_unique()
        raise CohortError(
            f"{path}: {n} impression_id(s) are there more than once with different facts; keep the "
            "right row of each"
        )
    return ExamTable(path, different, table.height, table.height - different.height)


def _refuse(wrong: pl.Series, what: str) -> None:
    if wrong.any():
        raise CohortError(
            f"{what}: {wrong.sum()} row(s), the first is row {wrong.arg_true()[0] + 1}"
        )


TimeUnit = Literal["minutes", "seconds", "hours", "days"]
_PER_DAY: dict[str, float] = {"minutes": 1440.0, "seconds": 86400.0, "hours": 24.0, "days": 1.0}
_MONTHS = (1, 6, 12)
_TOLERATED = 0.01
"""Share of the exams whose window label may contradict their time; such exams are left out.

More is a misunderstanding of the file.
"""


def window_names(outcome: str) -> tuple[str, ...]:
    """Return the names of the labels that say whether the event came within 1, 6 and 12 months."""
    return tuple(f"{months}_month_{outcome}" for months in _MONTHS)


def with_outcome(
    labels: pl.DataFrame, outcome: str, path: Path, *, unit: TimeUnit | None = None
) -> pl.DataFrame:
    """Add `time_days` f64, `event` i8 (1 = observed) and `contradicts` bool to the labels.

    The windows are the proof: where one is TRUE the event lies within it and is not censored, where
    one is FALSE the time reaches beyond it.

    Args:
        labels: As `read_labels` gives them.
        outcome: Name of the outcome.
        path: The label file, for messages.
        unit: Unit of the stated times; None = the one unit under which the windows agree with the
            times.

    Raises:
        CohortError: The censoring flag is inverted, no unit or several agree with the windows, or
            the given unit does not.
    """
    windows = [name for name in window_names(outcome) if name in labels.columns]
    _check_flag(labels, windows, outcome, path)
    units = get_args(TimeUnit) if unit is None else (unit,)
    agreeing = [one for one in units if _share_against(labels, windows, one) <= _TOLERATED]
    if len(agreeing) != 1:
        shares = ", ".join(f"{one} {_share_against(labels, windows, one):.1%}" for one in units)
        raise CohortError(
            f"{path}: tte_{outcome} must agree with {', '.join(windows)} in one unit, but the "
            f"share of exams against it is: {shares}; at most {_TOLERATED:.0%} is tolerated. "
            "Correct the file, or give the unit"
        )
    return labels.with_columns(
        time_days=pl.col("stated_time") / _PER_DAY[agreeing[0]],
        event=pl.when(pl.col("censored")).then(0).otherwise(1).cast(pl.Int8),
        contradicts=_contradicts(windows, agreeing[0]).fill_null(False),
    )


def _check_flag(labels: pl.DataFrame, windows: list[str], outcome: str, path: Path) -> None:
    observed = labels.filter(pl.any_horizontal(pl.col(name) == 1 for name in windows))
    if observed.is_empty():
        raise CohortError(
            f"{path}: none of {', '.join(windows)} is TRUE in any row, so the meaning of the times "
            "cannot be checked"
        )
    n_censored = int(observed["censored"].sum())
    if n_censored > _TOLERATED * observed.height:
        raise CohortError(
            f"{path}: is_censored_{outcome} says censored in {n_censored} of the {observed.height} "
            f"exams whose {outcome} was observed within a window; the flag looks inverted (TRUE "
            "must mean censored)"
        )


def _share_against(labels: pl.DataFrame, windows: list[str], unit: str) -> float:
    """Return the share of telling labels that contradict the time: TRUE's or FALSE's."""
    shares = []
    for told in (1, 0):
        known = pl.any_horizontal(pl.col(name) == told for name in windows)
        telling = labels.filter(known, pl.col("stated_time").is_not_null())
        if telling.height:
            against = pl.any_horizontal(_against(name, told, unit) for name in windows)
            shares.append(telling.select(against.fill_null(False).mean()).item())
    return max(shares, default=1.0)


def _contradicts(windows: list[str], unit: str) -> pl.Expr:
    timed = pl.any_horizontal(_against(name, told, unit) for name in windows for told in (1, 0))
    censored = pl.any_horizontal((pl.col(name) == 1) & pl.col("censored") for name in windows)
    early = pl.any_horizontal((pl.col(name) == CENSORED) & ~pl.col("censored") for name in windows)
    return timed | censored | early


def _against(window: str, told: int, unit: str) -> pl.Expr:
    """Tell where a window's label contradicts the time, a month being 30 to 31 days."""
    months = int(window.partition("_")[0])
    days = pl.col("stated_time") / _PER_DAY[unit]
    beyond = days > 31 * months + 1 if told else days < 30 * months - 1
    return (pl.col(window) == told) & beyond
