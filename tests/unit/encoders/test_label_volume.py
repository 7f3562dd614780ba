from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

from concordant.core.errors import ConfigError, VolumeError
from concordant.core.volume import Volume
from concordant.encoders.base import ENCODERS
from concordant.encoders.label_volume import LabelVolume, find_parts

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    / "kits23"
)
UNIT = (1.0, 1.0, 1.0)


def ball(radius, centre, spacing=UNIT, size=60.0):
    """True inside a ball; radius and centre in mm."""
    axes = [(np.arange(round(size / step)) + 0.5) * step for step in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def mask(*placed, spacing=UNIT, size=60.0):
    voxels = np.zeros([round(size / step) for step in spacing], np.float32)
    for label, inside in placed:
        voxels[inside] = label
    return Volume(voxels, spacing)


def random_mask(seed, shape=(5, 6, 7), labels=3):
    values = np.random.default_rng(seed).integers(0, 2 * labels, shape)
    return Volume(np.where(values > labels, 0, values).astype(np.float32), (3.0, 1.0, 1.5))


def named(encoder, volume):
    embedding = encoder.encode([volume])[0]
    tokens = [
        dict(zip(encoder.feature_names, token.tolist(), strict=True)) for token in embedding.tokens
    ]
    return tokens, dict(zip(encoder.pooled_feature_names, embedding.pooled.tolist(), strict=True))


@pytest.mark.parametrize("spacing", [UNIT, (2.0, 1.0, 1.5)])
def test_a_ball_has_the_measures_of_a_ball(spacing):
    radius = 16.0
    tokens, pooled = named(
        LabelVolume(), mask((1, ball(radius, (30, 28, 33), spacing)), spacing=spacing)
    )
    token = tokens[0]
    assert len(tokens) == 1
    assert np.expm1(token["log_ml"]) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.01)
    assert np.expm1(token["log_cm2"]) == pytest.approx(4 * np.pi * radius**2 / 100, rel=0.03)
    assert token["sphericity"] == pytest.approx(1.0, abs=0.03)
    for axis in ("major", "middle", "minor"):
        assert np.expm1(token[f"log_mm_{axis}"]) == pytest.approx(2 * radius, rel=0.02)
    assert token["elongation"] == pytest.approx(1.0, abs=0.02)
    assert token["extent_filled"] == pytest.approx(np.pi / 6, rel=0.1)
    assert np.expm1(token["log_mm_extent"]) == pytest.approx(2 * radius, abs=2)
    assert token["log_mm_distance"] == pytest.approx(0.0, abs=1e-5)
    assert pooled["1_present"] == 1.0
    assert pooled["1_total_log_ml"] == pytest.approx(token["log_ml"])


def test_an_ellipsoid_has_its_own_axes_whatever_its_direction():
    z, y, x = np.meshgrid(*[np.arange(60) - 29.5] * 3, indexing="ij")
    turned = [(x + y) / np.sqrt(2), (x - y) / np.sqrt(2), z]
    inside = (turned[0] / 24) ** 2 + (turned[1] / 12) ** 2 + (turned[2] / 8) ** 2 <= 1
    token = named(LabelVolume(), mask((1, inside)))[0][0]
    axes = [np.expm1(token[f"log_mm_{axis}"]) for axis in ("major", "middle", "minor")]
    assert axes == pytest.approx([48, 24, 16], rel=0.02)
    assert (token["elongation"], token["flatness"]) == pytest.approx((1 / 2, 1 / 3), rel=0.02)


def slow_faces(volume, labels):
    """Face area in mm2 of each whole label against the background and each other label, voxel by
    voxel.
    """
    places = {label: place for place, label in enumerate(labels, 1)}
    values = np.pad(volume.voxels.astype(int), 1)
    area = np.zeros((len(labels) + 1, len(labels) + 1))
    for index in np.ndindex(values.shape):
        for axis in range(3):
            beside = list(index)
            beside[axis] += 1
            if beside[axis] < values.shape[axis]:
                one, other = (places.get(int(values[tuple(place)]), 0) for place in (index, beside))
                if one != other:
                    face = np.prod(volume.spacing_mm) / volume.spacing_mm[axis]
                    area[one, other] += face
                    area[other, one] += face
    return area[1:]


def slow_parts(volume, label):
    """Sizes of the parts of a label, largest first, by flooding from voxel to voxel, corners
    included.
    """
    left = {tuple(place) for place in np.argwhere(volume.voxels == label).tolist()}
    sizes = []
    while left:
        front, size = [left.pop()], 0
        while front:
            place = front.pop()
            size += 1
            for step in np.ndindex(3, 3, 3):
                beside = tuple(a + b - 1 for a, b in zip(place, step, strict=True))
                if beside in left:
                    left.remove(beside)
                    front.append(beside)
        sizes.append(size)
    return sorted(sizes, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_parts_and_faces_equal_a_slow_reference(seed):
    volume, labels = random_mask(seed), (2, 1, 3)
    parts = find_parts(volume, labels)
    expected = slow_faces(volume, labels) * (2 / 3) / 100
    for place, label in enumerate(labels):
        own = parts.label == place
        np.testing.assert_allclose(parts.cm2[own].sum(0), expected[place])
        np.testing.assert_allclose(
            parts.ml[own], np.array(slow_parts(volume, label)) * np.prod(volume.spacing_mm) / 1000
        )
    assert parts.rank.tolist() == [
        rank for place in range(3) for rank in range((parts.label == place).sum())
    ]


def test_contact_tells_a_part_inside_the_organ_from_one_that_grows_out():
    organ = ball(18, (30, 30, 30))
    inside = mask((1, organ), (2, ball(6, (30, 30, 30))))
    outside = mask((1, organ), (2, ball(6, (30, 30, 48)) & ~organ))
    encoder = LabelVolume(labels=(1, 2))
    deep, exophytic = (
        named(encoder, volume)[1]["2_contact_share_1"] for volume in (inside, outside)
    )
    assert deep == 1.0
    assert 0.1 < exophytic < 0.6


def test_offsets_point_away_from_the_organ():
    volume = mask((1, ball(10, (20, 30, 30))), (2, ball(4, (40, 30, 15))))
    token = next(token for token in named(LabelVolume(labels=(1, 2)), volume)[0] if token["is_2"])
    assert [token[f"offset_dm_{axis}"] for axis in ("depth", "height", "width")] == pytest.approx(
        [0.2, 0.0, -0.15], abs=1e-3
    )
    assert np.expm1(token["log_mm_distance"]) == pytest.approx(25, abs=0.1)


def test_an_absent_label_is_all_zero_with_a_flag():
    volume = mask((1, ball(10, (20, 30, 30))))
    encoder = LabelVolume(labels=(1, 2))
    tokens, pooled = named(encoder, volume)
    assert [token["is_1"] for token in tokens] == [1.0]
    assert all(
        value == 0.0 for name, value in pooled.items() if name.startswith("2_") or "_2" in name
    )
    assert pooled["1_present"] == 1.0


def test_where_the_organ_is_absent_the_first_label_that_is_there_is_the_reference():
    token = named(LabelVolume(labels=(1, 2)), mask((2, ball(10, (20, 30, 30)))))[0][0]
    assert token["is_2"] == 1.0
    assert token["log_mm_distance"] == pytest.approx(0.0, abs=1e-5)


def test_the_largest_parts_come_first_and_every_label_before_any_second_part():
    balls = [(1, ball(radius, (15, 15, place))) for radius, place in ((3, 5), (5, 20), (4, 35))]
    volume = mask(*balls, (2, ball(2, (45, 45, 10))), (2, ball(3, (45, 45, 30))))
    tokens, pooled = named(LabelVolume(labels=(1, 2), max_parts=2, max_tokens=3), volume)
    assert [token["is_1"] for token in tokens] == [1.0, 0.0, 1.0]
    assert tokens[0]["log_ml"] > tokens[2]["log_ml"] > tokens[1]["log_ml"]
    assert pooled["1_log_parts"] == pytest.approx(np.log1p(3))
    assert pooled["1_largest_log_ml"] == pytest.approx(tokens[0]["log_ml"])


def test_ratios_compare_total_volumes():
    volume = mask((3, ball(12, (20, 30, 30))), (5, ball(6, (45, 30, 30))))
    pooled = named(LabelVolume(labels=(3, 5)), volume)[1]
    assert pooled["5_log_ratio_3"] == pytest.approx(3 * np.log(6 / 12), abs=0.05)


@given(flip=st.tuples(*[st.booleans()] * 3), pad=st.tuples(*[st.integers(0, 3)] * 3))
@settings(deadline=None, max_examples=15)
def test_mirroring_and_padding_change_nothing_but_the_sign_of_offsets(flip, pad):
    volume = mask(
        (1, ball(9, (12, 13, 14), size=30.0)),
        (2, ball(5, (14, 20, 20), size=30.0)),
        (2, ball(2, (3, 3, 3), size=30.0)),
        size=30.0,
    )
    mirrored = np.flip(
        np.pad(volume.voxels, [(n, 0) for n in pad]), [axis for axis in range(3) if flip[axis]]
    )
    encoder = LabelVolume(labels=(1, 2))
    one, other = encoder.encode([volume, Volume(np.ascontiguousarray(mirrored), volume.spacing_mm)])
    signs = np.ones(encoder.card.token_dim)
    for axis, name in enumerate(("depth", "height", "width")):
        signs[encoder.feature_names.index(f"offset_dm_{name}")] = -1 if flip[axis] else 1
    np.testing.assert_allclose(other.tokens, one.tokens * signs, atol=1e-5)
    np.testing.assert_allclose(other.pooled, one.pooled, atol=1e-5)


@given(seed=st.integers(0, 1000), shape=st.tuples(*[st.integers(1, 6)] * 3))
@settings(deadline=None, max_examples=40)
def test_every_feature_is_finite(seed, shape):
    volume = random_mask(seed, shape)
    if volume.voxels.any():
        embedding = LabelVolume(labels=(1, 2, 3)).encode([volume])[0]
        assert np.isfinite(embedding.tokens).all()
        assert np.isfinite(embedding.pooled).all()


def test_a_batch_equals_the_loop_over_its_members():
    volumes = [random_mask(seed) for seed in range(3)]
    encoder = LabelVolume(labels=(1, 2, 3))
    for one, embedding in zip(volumes, encoder.encode(volumes), strict=True):
        np.testing.assert_array_equal(encoder.encode([one])[0].tokens, embedding.tokens)
        np.testing.assert_array_equal(encoder.encode([one])[0].pooled, embedding.pooled)


def test_names_are_unique_and_as_many_as_the_card_says():
    encoder = ENCODERS.create("label_volume", labels=(1, 2, 3))
    for names, dim in (
        (encoder.feature_names, encoder.card.token_dim),
        (encoder.pooled_feature_names, encoder.card.pooled_dim),
    ):
        assert len(set(names)) == len(names) == dim
    assert encoder.card.max_tokens == 12
    assert ENCODERS.create("label_volume", max_parts=2).card.max_tokens == 2


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        (np.zeros((4, 4, 4)), "mask without any label"),
        (np.full((4, 4, 4), 7.0), "mask without any label"),
        (np.full((4, 4, 4), 0.5), "whole numbers"),
    ],
)
def test_what_is_no_mask_is_refused(voxels, expected):
    with pytest.raises(VolumeError, match=expected):
        LabelVolume(labels=(1, 2)).encode([Volume(voxels.astype(np.float32), UNIT)])


def test_values_beyond_the_integers_are_refused():
    with pytest.raises(VolumeError, match="whole numbers"):
        LabelVolume().encode([Volume(np.full((4, 4, 4), 1e20, np.float32), UNIT)])


@pytest.mark.parametrize(
    "options",
    [{"labels": []}, {"labels": [1, 1]}, {"labels": [0, 1]}, {"max_parts": 0}, {"max_tokens": 0}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match="label_volume"):
        ENCODERS.create("label_volume", **options)


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_kidney_masks_alone_predict_survival():
    if not DATA.is_dir():
        pytest.skip("no development data: set CONCORDANT_DATA to the folder that holds kits23")
    follow_up = {
        row["case_id"]: row
        for row in read_rows(DATA / "survival.csv")
        if float(row["time_days"]) > 0
    }
    with np.load(DATA / "mask_volumes_4mm.npz") as masks:
        case_ids, volumes = masks["case_id"].tolist(), masks["volume"]
    encoder = LabelVolume(labels=(1, 2, 3))
    ras = [
        Volume(np.ascontiguousarray(voxels[::-1, ::-1, ::-1], dtype=np.float32), (4.0, 4.0, 4.0))
        for voxels in volumes
    ]  # from (I, P, L)
    pooled = dict(zip(case_ids, (one.pooled for one in encoder.encode(ras)), strict=True))

    values = []
    for repeat in range(5):
        rows = [
            row
            for row in read_rows(DATA / "folds.csv")
            if int(row["repeat"]) == repeat and row["case_id"] in follow_up
        ]
        features = np.stack([pooled[row["case_id"]] for row in rows])
        event = np.array([follow_up[row["case_id"]]["event"] == "1" for row in rows])
        time = np.array([float(follow_up[row["case_id"]]["time_days"]) for row in rows])
        folds = np.array([int(row["fold"]) for row in rows])
        for fold in range(5):
            train, test = folds != fold, folds == fold
            scaler = StandardScaler().fit(features[train])
            model = CoxPHSurvivalAnalysis(alpha=100).fit(
                scaler.transform(features[train]), Surv.from_arrays(event[train], time[train])
            )
            risk = model.predict(scaler.transform(features[test]))
            values.append(concordance_index_censored(event[test], time[test], risk)[0])
    assert np.mean(values) >= 0.64
