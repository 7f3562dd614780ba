"""Every function of `concordant.metrics` against scikit-survival, lifelines, R and plain loops.

Writes docs/reference/conformance.md.

Usage: python benchmarks/conformance.py [--out docs/reference/conformance.md] [--peers DIR]

Needs the bench extra (scikit-survival, lifelines, pandas) and the folder golden_R, values computed
by R on public data sets, below the environment variable CONCORDANT_DATA (default ../shared/data).
The numbers of the simulation study and of the benchmark are read from
benchmarks/inference_study.csv and benchmarks/metrics.csv where these are. What two packages that
are no dependency gave is read from benchmarks/conformance_peers.csv; `--peers`, a folder filled by
`pip install --no-deps --target DIR comprisk greenwood`, asks them again. Exit status 1: a
difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from conformance_checks import calibration, comparison, discrimination, groups, influence, peers  # noqa: F401 - each registers its checks
    from conformance_checks.cohorts import DATA, ROOT
    from conformance_checks.page import findings, page, uncovered
except ModuleNotFoundError as missing:
    sys.exit(f"not here: {missing.name}; run: pip install -e '.[bench]'")


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference" / "conformance.md")
    parser.add_argument(
        "--peers", type=Path, help="folder with comprisk and greenwood, as filled by pip --target"
    )
    options = parser.parse_args()
    if not DATA.is_dir():
        print(
            f"left out: no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds "
            "golden_R"
        )
        return
    if options.peers:
        sys.path.append(str(options.peers))
        peers.store()
    made = findings()
    options.out.write_text(page(made))
    print("functions without a comparison:", ", ".join(uncovered()) or "none")
    sys.exit(0 if all(one.passed for one in made) else 1)


if __name__ == "__main__":
    main()
