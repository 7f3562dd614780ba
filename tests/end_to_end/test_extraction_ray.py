"""The same store on a Ray cluster of two nodes, one of which is lost midway."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from concordant.config import read_study
from concordant.core.errors import ConfigError
from concordant.embeddings.making import ShardEngine, make_shards
from concordant.embeddings.origins import Opened
from concordant.embeddings.pipeline import encode_scans
from concordant.embeddings.shards import Layout
from concordant.study import embed_study
from scans_fixture import store_bytes, write_scans

ray: Any = pytest.importorskip("ray", reason="the extra `ray` is not installed")

N = 300


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node and an empty slot for another, one processor each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning:ray"
)
def test_a_node_lost_midway_changes_nothing(cluster, tmp_path: Path):
    damaged = write_scans(tmp_path / "one", N, damaged=0.05)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    embed_study(read_study(tmp_path / "one" / "study.yaml"), engine=ShardEngine(workers=2))
    second = cluster.add_node(num_cpus=1)
    lost: list[int] = []

    def lose_a_node(stage: str, done: int, total: int) -> None:
        if "digests" not in stage and done >= N / 4 and not lost:
            cluster.remove_node(second, allow_graceful=False)
            lost.append(done)

    stores = embed_study(
        read_study(tmp_path / "two" / "study.yaml"),
        engine=ShardEngine("ray", cluster.address),
        progress=lose_a_node,
    )
    assert lost
    assert lost[0] < N
    assert store_bytes(tmp_path / "two") == store_bytes(tmp_path / "one")
    ((store,),) = (by_cohort.values() for by_cohort in stores.values())
    assert store.quarantine["sample_id"].to_list() == damaged


def test_an_address_without_a_cluster_says_how_to_start_one():
    engine = ShardEngine("ray", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head"):
        next(
            iter(
                make_shards(
                    iter(()),
                    Opened(Layout("tokens"), 0, lambda start, end: [], encode_scans),
                    engine,
                )
            )
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "rya"}, "unknown engine 'rya'. Did you mean 'ray'"),
        ({"workers": -1}, "workers = -1: expected at least 0"),
        ({"address": "auto"}, "address 'auto' is for the engine 'ray'"),
    ],
)
def test_an_engine_that_is_not_one_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ShardEngine(**given)
