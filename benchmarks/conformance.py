"""Every function of `concordant.metrics` against scikit-survival, lifelines, R and plain loops: writes docs/reference/conformance.md.

Usage: python benchmarks/conformance.py [--out docs/reference/conformance.md]

Needs the test extra (scikit-survival, lifelines) and the folder golden_R, values computed by R on public data sets, below the
environment variable CONCORDANT_DATA (default ../shared/data). The numbers of the simulation study and of the benchmark are read from
benchmarks/inference_study.csv and benchmarks/metrics.csv where these are. Exit status 1: a difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conformance_checks import calibration, comparison, discrimination, groups, influence  # noqa: F401 - each registers its checks
from conformance_checks.cohorts import DATA, ROOT
from conformance_checks.page import findings, page, uncovered


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference" / "conformance.md")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R")
    made = findings()
    options.out.write_text(page(made))
    print("functions without a comparison:", ", ".join(uncovered()) or "none")
    sys.exit(0 if all(one.passed for one in made) else 1)


if __name__ == "__main__":
    main()
