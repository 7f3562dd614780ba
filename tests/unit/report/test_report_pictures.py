"""Attention pictures on their way into the report."""

from __future__ import annotations

import base64

import pytest

from concordant.core.artifacts import RunFolder
from concordant.core.errors import StoreError
from concordant.core.files import write_json
from concordant.report.attention import read_pictures


def write_folder(tmp_path, **changes):
    about = {
        "fusion": "cross_attention(query=ehr)",
        "ct_encoder": "volume_features",
        "ehr_encoder": "one_hot",
        "cohort": "held_out",
        "source": "record",
        "window_hu": [-1000, 400],
        "pictures": [{"file": "highest-001.png", "group": "highest", "rank": 1}],
        **changes,
    }
    run = RunFolder(tmp_path / "run")
    write_json(run.pictures / "about.json", about)
    (run.pictures / "highest-001.png").write_bytes(b"picture")
    return run


def test_pictures_are_embedded_whole(tmp_path):
    found = read_pictures(write_folder(tmp_path))
    assert found is not None
    assert found.about.fusion == "cross_attention(query=ehr)"
    (picture,) = found.pictures
    assert picture.title == "Highest predicted risk, number 1"
    assert picture.data == "data:image/png;base64," + base64.b64encode(b"picture").decode()


def test_a_run_without_pictures_has_none(tmp_path):
    assert read_pictures(RunFolder(tmp_path)) is None
    assert read_pictures(write_folder(tmp_path, pictures=[])) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "guess"},
        {"pictures": [{"file": "gone.png", "group": "lowest", "rank": 1}]},
        {"window_hu": None},
    ],
)
def test_a_damaged_folder_is_named(tmp_path, changes):
    with pytest.raises(StoreError, match=r"pictures: not readable .* run the study again"):
        read_pictures(write_folder(tmp_path, **changes))


def test_nothing_outside_the_folder_is_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    with pytest.raises(StoreError, match="not readable"):
        read_pictures(
            write_folder(
                tmp_path, pictures=[{"file": "../../secret.png", "group": "lowest", "rank": 1}]
            )
        )
