"""Numbers, times and labels as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
KEEP = "\N{NO-BREAK SPACE}"
"""Keeps the parts of one number on one line."""
DAYS_PER_MONTH = 365.25 / 12
DAYS_PER_YEAR = 365.25

_LABEL = re.compile(r"(?P<name>\w+)(\((?P<options>[^()]*)\))?")
_MODALITIES = {"ct": "CT", "ehr": "record", "both": "both"}
_METRICS = {
    "concordance_index": "C-index",
    "concordance_index_ipcw": "Uno\N{RIGHT SINGLE QUOTATION MARK}s C",
    "integrated_brier_score": "Integrated Brier score",
    "brier_score": "Brier score",
    "cumulative_dynamic_auc": "AUC",
    "integrated_calibration_index": "Integrated calibration index",
    "calibration_slope": "Calibration slope",
    "calibration_in_the_large": "Observed over expected",
}


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with fixed digits and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Write a difference with its sign."""
    text = number(value, digits)
    positive = value is not None and 0 < value < math.inf and float(text) != 0
    return f"+{text}" if positive else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Write an interval in brackets; empty where a limit is missing, or without variation."""
    limits = number(low, digits), number(high, digits)
    return "" if NOTHING in limits or low == high else f"[{limits[0]},{KEEP}{limits[1]}]"


def p_value(value: float | None) -> str:
    """Write a p-value with as many digits as matter for a decision at 0.05."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def p_equation(value: float | None) -> str:
    """Write "p = 0.030" or "p < 0.001"."""
    text = p_value(value)
    if text == NOTHING:
        return "p not available"
    return (f"p {text}" if text.startswith("<") else f"p = {text}").replace(" ", KEEP)


def count(value: float | None) -> str:
    """Write a whole number with separators; a dash where there is none."""
    return NOTHING if value is None else f"{value:,.0f}"


def share(part: float | None, whole: float | None) -> str:
    """Write a share in percent; a dash where it is not defined."""
    return NOTHING if part is None or not whole else f"{100 * part / whole:.0f}%"


def days(value: float | None) -> str:
    """Write a time in days up to two months, then in months, then in years."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 60:
        return _quantity(value, "day")
    if _near_whole(value / DAYS_PER_YEAR) or value >= 2 * DAYS_PER_YEAR:
        return _quantity(value / DAYS_PER_YEAR, "year")
    return _quantity(value / DAYS_PER_MONTH, "month")


def seconds(value: float | None) -> str:
    """Write a computing time in seconds, minutes or hours."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 90:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _near_whole(value: float) -> bool:
    return value > 0.9 and abs(value - round(value)) < 0.02 * round(value)


def _quantity(value: float, unit: str) -> str:
    shown = f"{round(value)}" if _near_whole(value) else f"{value:.1f}".removesuffix(".0")
    return f"{shown} {unit}" if shown == "1" else f"{shown} {unit}s"


def strategy_name(label: str) -> str:
    """Turn a label into words, "Cross-attention (query: CT)"; any other text stays as it is."""
    match = _LABEL.fullmatch(label)
    if match is None:
        return label
    options = [_option(part) for part in (match["options"] or "").split(",") if part]
    if match["name"] == "unimodal" and len(options) == 1:
        _, named, modality = options[0].rpartition("modality: ")
        upper = f"{modality[:1].upper()}{modality[1:]} alone"
        return upper if named else f"The single modality {modality}"
    name = match["name"].replace("_", "-")
    return name[:1].upper() + name[1:] + (f" ({', '.join(options)})" if options else "")


def inside_sentence(title: str) -> str:
    """Lower a title's first letter, unless it starts an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _option(text: str) -> str:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        return _MODALITIES.get(key, key)
    return f"{key.replace('_', ' ')}: {_MODALITIES.get(value, value.replace('_', '-'))}"


def metric_name(metric: str, horizon_days: float | None = None) -> str:
    """Turn a metric's name and horizon into words."""
    name = _METRICS.get(metric, metric.replace("_", " ").capitalize())
    return name if horizon_days is None else f"{name} at {days(horizon_days)}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """Join words as in a sentence; `last` stands before the last one."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)
