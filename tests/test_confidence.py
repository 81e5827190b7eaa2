"""Confidences of footprints: features, rule, fit, and the least confidence that is kept."""

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy.special import expit

import geoseg
from geoseg.geo.grid import Grid
from geoseg.geo.raster import make_prob_tags, write_array
from geoseg.options import Thresholds, VectorizeOptions
from geoseg.options.confidence import FEATURES, MOST_WEIGHT, ConfidenceRule
from geoseg.training.validation.confidence import (
    RatedFootprints,
    choose_least_confidence,
    cross_rate,
    fit_rule,
    measure_footprints,
)
from geoseg.vectorization.confidence import compute_features, rate_footprints
from geoseg.vectorization.footprints import MEASURED_COLUMNS
from geoseg.vectorization.layer import vectorize_arrays

GRID = Grid(CRS.from_epsg(32645), Affine(0.5, 0, 5e5, 0, -0.5, 3e6), 60, 90)
EXACT = Thresholds(subpixel=False, regularize=False, simplify_m=0, min_area_m2=0)


def columns(count, **changed):
    values = {
        "mean_prob": 0.9, "conf_p10": 0.6, "border": 0.5, "contact": 0.1, "edge": False,
        "touching": False, "area_m2": 100.0, "perimeter_m": 40.0,
    }  # fmt: skip
    return {name: np.full(count, value) for name, value in (values | changed).items()}


def feature(name, **changed):
    return compute_features(columns(1, **changed))[0, FEATURES.index(name)]


def drawn(count, seed=0, places=1, shift=0.0):
    """Footprints of which the mean probability and the area decide how many are buildings."""
    rng = np.random.default_rng(seed)
    values = columns(count) | {
        "mean_prob": rng.uniform(0.5, 0.99, count),
        "area_m2": rng.uniform(5, 500, count),
        "edge": rng.uniform(size=count) < 0.2,
    }
    features = compute_features(values)
    logits = features[:, FEATURES.index("mean_prob")] + features[:, FEATURES.index("small")]
    found = rng.uniform(size=count) < expit(logits - 1.5 + shift)
    return RatedFootprints(features, found, np.arange(count) % places), expit(logits - 1.5 + shift)


@pytest.mark.parametrize(
    ("name", "changed", "value"),
    [
        ("mean_prob", {"mean_prob": 0.5}, 0),
        ("conf_p10", {"conf_p10": 1.0}, np.log(999)),
        ("small", {"area_m2": 12.5}, -2),
        ("small", {"area_m2": 800.0}, 0),
        ("large", {"area_m2": 800.0}, 2),
        ("large", {"area_m2": 12.5}, 0),
        ("compactness", {"area_m2": 100.0, "perimeter_m": 40.0}, np.pi / 4),
        ("edge", {"edge": True}, 1),
        ("border", {"border": 0.25}, 0.25),
    ],
)
def test_features(name, changed, value):
    assert feature(name, **changed) == pytest.approx(value)


def test_a_confidence_is_the_logistic_function_of_the_weighted_features():
    rule = ConfidenceRule(constant=-1, small=0.5, edge=-2)
    features = compute_features(columns(2, area_m2=12.5) | {"edge": np.array([False, True])})
    assert rate_footprints(rule, features) == pytest.approx(expit([-2, -4]))


def two_buildings():
    """One of 20 x 10 pixels, and two that share a wall, beside the left edge."""
    body = np.zeros(GRID.shape, np.float32)
    border, contact = np.zeros_like(body), np.zeros_like(body)
    body[5:25, 40:50] = 0.8
    border[5, 40:50] = 0.6
    body[40:55, 0:30] = 0.9
    contact[40:55, 14:16] = 1.0
    return body, border, np.ones(GRID.shape, bool), GRID, contact


def test_what_is_measured_at_the_outline():
    body, border, valid, grid, contact = two_buildings()
    found = vectorize_arrays(body, border, valid, grid, EXACT, contact, columns=MEASURED_COLUMNS)
    assert found.touching.tolist() == [False, True, True]
    assert found.edge.tolist() == [False, True, False]
    assert found.mean_prob.tolist() == pytest.approx([0.8, 0.9, 0.9])
    # Ten of the 56 pixels at the outline of the first are border pixels.
    assert found.border.tolist() == pytest.approx([0.6 * 10 / 56, 0, 0], abs=1e-4)
    assert (found.contact[1:] > 0.15).all()
    assert found.contact[0] == 0


def test_without_a_rule_the_confidence_is_the_mean_probability():
    body, border, valid, grid, contact = two_buildings()
    found = vectorize_arrays(body, border, valid, grid, EXACT, contact)
    assert found.confidence.tolist() == found.mean_prob.tolist()
    assert "border" not in found


def test_the_rule_rates_and_the_least_confidence_drops():
    body, border, valid, grid, contact = two_buildings()
    rule = ConfidenceRule(constant=1, touching=-3)
    rated = EXACT.model_copy(update={"confidence": rule})
    found = vectorize_arrays(body, border, valid, grid, rated, contact)
    assert found.confidence.tolist() == pytest.approx(expit([1, -2, -2]).tolist(), abs=1e-4)
    kept = vectorize_arrays(
        body, border, valid, grid, rated.model_copy(update={"min_confidence": 0.5}), contact
    )
    assert kept.geometry.tolist() == found.geometry.tolist()[:1]


def test_a_fit_finds_the_probabilities_that_were_drawn():
    footprints, prob = drawn(4000)
    rule = fit_rule(footprints)
    confidences = rate_footprints(rule, footprints.features)
    assert np.abs(confidences - prob).mean() < 0.03
    assert rule.edge <= 0
    assert rule.contact == rule.border == 0  # constant features
    assert measure_footprints(confidences, footprints.found).ece < 0.03


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_weights_have_their_signs(seed, places):
    footprints, _ = drawn(120, seed, places)
    turned = RatedFootprints(footprints.features, ~footprints.found, footprints.place)
    for rule in filter(None, (fit_rule(footprints), fit_rule(turned))):
        raising = (rule.mean_prob, rule.conf_p10, rule.border, rule.small, rule.compactness)
        assert min(raising) >= 0
        assert rule.edge <= 0


def joined(*parts):
    """Footprints of several places."""
    return RatedFootprints(
        np.concatenate([one.features for one in parts]),
        np.concatenate([one.found for one in parts]),
        np.repeat(np.arange(len(parts)), [len(one) for one in parts]),
    )


def test_large_places_count_equally_in_a_fit():
    many, _ = drawn(3000, 1, shift=3)
    few, _ = drawn(500, 2, shift=-3)
    both = joined(many, few)
    confidences = rate_footprints(fit_rule(both), both.features)
    means = [confidences[both.place == place].mean() for place in (0, 1)]
    wanted = (many.found.mean() + few.found.mean()) / 2
    assert np.mean(means) == pytest.approx(wanted, abs=0.04)


def test_a_place_with_a_single_footprint_hardly_counts():
    one, _ = drawn(300, 1)
    two, _ = drawn(300, 2)
    false = RatedFootprints(one.features[:1], np.array([False]), np.zeros(1, int))
    before, after = (
        rate_footprints(fit_rule(joined(*parts)), one.features)
        for parts in ((one, two), (one, two, false))
    )
    assert np.abs(before - after).max() < 0.03


def test_a_feature_that_hardly_varies_has_no_weight():
    footprints, _ = drawn(400)
    footprints.features[7, FEATURES.index("contact")] = 1e-4
    assert fit_rule(footprints).contact == 0
    footprints.features[:, FEATURES.index("contact")] = np.where(footprints.found, 0.03, 0)
    assert 0 < fit_rule(footprints).contact <= MOST_WEIGHT


def test_too_few_footprints_give_no_rule():
    footprints, _ = drawn(4000)
    assert fit_rule(footprints.pick(np.arange(4000) < 39)) is None
    assert fit_rule(footprints.pick(footprints.found)) is None
    assert np.isnan(cross_rate(footprints.pick(np.arange(4000) < 19))).all()
    assert np.isfinite(cross_rate(footprints.pick(np.arange(4000) < 45))).all()
    assert cross_rate(footprints.pick(np.zeros(4000, bool))).size == 0


def test_a_rule_for_cross_validation_has_not_seen_the_place():
    footprints, _ = drawn(600, places=3)
    rated = cross_rate(footprints)
    others = fit_rule(footprints.pick(footprints.place != 1), 20)
    own = footprints.place == 1
    assert rated[own].tolist() == rate_footprints(others, footprints.features[own]).tolist()


def test_the_least_confidence_has_the_best_f1():
    found = np.repeat([True, False, True, False], [40, 4, 4, 40])
    confidences = np.repeat([0.9, 0.9, 0.28, 0.12], [40, 4, 4, 40])
    footprints = RatedFootprints(np.zeros((88, len(FEATURES))), found, np.zeros(88, int))
    assert choose_least_confidence(confidences, footprints, [5]) == 0.15
    # A limit that gains nothing is not set.
    assert choose_least_confidence(confidences[:44], footprints.pick(np.arange(88) < 44), [5]) == 0


def test_reliability_of_confidences():
    confidences = np.array([0.95, 0.95, 0.95, 0.95, 0.15, np.nan])
    found = np.array([True, True, True, False, False, True])
    reliability = measure_footprints(confidences, found)
    assert reliability.counts.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 4]
    assert reliability.observed[9] == 0.75
    assert reliability.ece == pytest.approx((4 * 0.2 + 0.15) / 5)


def test_a_place_with_one_building_does_not_choose_the_least_confidence():
    found = np.repeat([True, False], [60, 20])
    confidences = np.repeat([0.9, 0.3], [60, 20])
    place = np.zeros(80, int)
    for number in (61, 60):  # in another place a single building would be lost
        found[number], place[number] = number == 61, 1
    footprints = RatedFootprints(np.zeros((80, len(FEATURES))), found, place)
    assert choose_least_confidence(confidences, footprints, [5, 0]) == 0.35


def test_a_rule_needs_its_bands(caplog):
    body, border, valid, grid, contact = two_buildings()
    rule = ConfidenceRule(constant=-3, contact=2)
    rated = EXACT.model_copy(update={"confidence": rule, "min_confidence": 0.5})
    assert vectorize_arrays(body, border, valid, grid, rated, contact).empty
    found = vectorize_arrays(body, None, valid, grid, rated)
    assert found.confidence.tolist() == found.mean_prob.tolist()
    assert "the band contact, which is missing" in caplog.text
    unneeded = rated.model_copy(update={"confidence": ConfidenceRule(constant=2)})
    assert (vectorize_arrays(body, None, valid, grid, unneeded).confidence > 0.8).all()


def test_confidences_do_not_depend_on_the_blocks(tmp_path):
    body, border, valid, grid, contact = two_buildings()
    rule = ConfidenceRule(
        constant=0.3, mean_prob=0.7, border=2, contact=-1, touching=-0.2, small=1, edge=-0.5
    )
    thresholds = EXACT.model_copy(update={"confidence": rule, "min_confidence": 0.3})
    path = tmp_path / "prob.tif"
    tags = make_prob_tags(thresholds)
    bands = np.stack([body, border, contact])
    write_array(path, grid, bands, valid=valid, tags=tags,
                descriptions=("building", "border", "contact"))  # fmt: skip
    layers = []
    for block in (7, 16, 90):
        out = tmp_path / f"{block}.parquet"
        geoseg.vectorize(path, out, options=VectorizeOptions(block_px=block))
        layers.append(gpd.read_parquet(out))
    whole = vectorize_arrays(body, border, valid, grid, thresholds, contact)
    for layer in layers:
        assert layer.confidence.tolist() == whole.confidence.tolist()
        assert layer.geometry.tolist() == whole.geometry.tolist()
    assert len(whole) == 3
    assert whole.confidence.nunique() == 3


def test_colours_follow_the_kind_of_confidence(tmp_path):
    body, _, _, grid, _ = two_buildings()
    reviewed = {}
    for name, rule in (("mean", None), ("rule", ConfidenceRule(constant=0.5, touching=-1))):
        thresholds = EXACT.model_copy(update={"confidence": rule})
        path = tmp_path / f"{name}.tif"
        write_array(path, grid, body[None] * np.float32(0.8), tags=make_prob_tags(thresholds),
                    descriptions=("building",))  # fmt: skip
        geoseg.vectorize(path, tmp_path / f"{name}.gpkg")
        reviewed[name] = gpd.read_file(tmp_path / f"{name}.gpkg", layer="review")
    # Means are 0.64 and 0.72; by the rule all are 0.62, since nothing separates the other two.
    assert reviewed["mean"].confidence.tolist() == pytest.approx([0.64])
    assert reviewed["rule"].empty
