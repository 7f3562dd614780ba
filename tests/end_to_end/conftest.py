"""What several end-to-end tests share.

One small simulated cohort per session, with its embeddings.
"""

from __future__ import annotations

import pytest

from concordant.config import read_study
from concordant.simulate import SimulatedCohort, SimulationOptions, simulate
from concordant.study import embed_study

SIZE = SimulationOptions(n_development=120, n_external=40, missing_ct=0.1, missing_ehr=0.1, seed=1)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCohort:
    """A cohort of two sites with scans, records and oracles, already embedded.

    Studies of other names may lie beside its own.
    """
    cohort = simulate(tmp_path_factory.mktemp("simulated") / "demo", SIZE)
    embed_study(read_study(cohort.study))
    return cohort
