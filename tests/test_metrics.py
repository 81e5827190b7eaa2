"""Rates, pixel counts and SpaceNet matching, compared with values computed by hand."""

import numpy as np
import pandas as pd
import pytest
import shapely
from conftest import REALDATA
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from geoseg.evaluation.metrics import (
    AreaCounts,
    PixelCounts,
    Score,
    compare_areas,
    count_pixels,
    match_footprints,
    spacenet_filter,
)

SPACENET = REALDATA.parent / "fixtures" / "spacenet"


# Rates


def test_rates_of_known_counts():
    score = Score(tp=3, fp=1, fn=2)
    assert (score.precision, score.recall, score.iou) == (0.75, 0.6, 0.5)
    assert score.f1 == pytest.approx(2 / 3, abs=1e-15)


@pytest.mark.parametrize("empty", [Score(0, 0, 0), PixelCounts(0, 0, 0, 7), AreaCounts(0, 0, 0)])
def test_undefined_rates_are_zero(empty):
    assert (empty.precision, empty.recall, empty.f1, empty.iou) == (0.0, 0.0, 0.0, 0.0)


def test_counts_of_one_type_can_be_added():
    assert Score(1, 2, 3) + Score(10, 20, 30) == Score(11, 22, 33)
    assert PixelCounts(1, 2, 3, 4) + PixelCounts(1, 1, 1, 1) == PixelCounts(2, 3, 4, 5)
    with pytest.raises(TypeError):
        Score(1, 2, 3) + PixelCounts(1, 2, 3, 4)


# Pixels


def test_invalid_pixels_are_ignored():
    pred = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1]], dtype=bool)
    truth = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    valid = np.ones((3, 4), dtype=bool)
    valid[:, 3] = False
    assert count_pixels(pred, truth, valid) == PixelCounts(tp=3, fp=1, fn=2, tn=3)


def test_pixel_arrays_of_different_shape_are_refused():
    flat, tall = np.zeros((2, 5), dtype=bool), np.zeros((5, 2), dtype=bool)
    with pytest.raises(ValueError, match="must have one shape"):
        count_pixels(flat, tall, flat)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 13), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_sum_of_counts_over_tiles_equals_the_count_of_the_whole(height, width, cut, seed):
    pred, truth, valid = np.random.default_rng(seed).random((3, height, width)) < 0.6
    whole = count_pixels(pred, truth, valid)
    parts = [count_pixels(pred[s], truth[s], valid[s]) for s in (slice(cut), slice(cut, None))]
    assert parts[0] + parts[1] == whole
    assert whole.tp + whole.fp + whole.fn + whole.tn == valid.sum()


# Buildings


def test_hand_computed_matches():
    truth = [box(0, 0, 10, 10), box(20, 0, 30, 10), box(40, 0, 50, 10), box(60, 0, 70, 10)]
    proposals = [
        box(0, 0, 10, 8),  # IoU 80/100
        box(25, 0, 35, 10),  # IoU 50/150
        box(40, 0, 52, 10),  # IoU 100/120
        box(80, 0, 90, 10),  # no overlap
        box(40, 0, 50, 9),  # IoU 90/100 with a truth that is matched already
    ]
    matches = match_footprints(proposals, truth)
    assert matches.score == Score(tp=2, fp=3, fn=2)
    assert matches.proposal_match.tolist() == [0, -1, 2, -1, -1]
    assert matches.truth_match.tolist() == [0, -1, 2, -1]
    np.testing.assert_allclose(matches.proposal_iou, [0.8, 1 / 3, 5 / 6, 0, 0], rtol=1e-15)
    np.testing.assert_allclose(matches.truth_iou, [0.8, 1 / 3, 5 / 6, 0], rtol=1e-15)
    assert matches.iou_sum == pytest.approx(0.8 + 5 / 6)


def test_iou_equal_to_the_threshold_does_not_match():
    half, just_more = box(0, 0, 4, 2), box(0, 0, 4, 2.001)
    truth = [box(0, 0, 4, 4)]
    assert match_footprints([half], truth).score == Score(0, 1, 1)
    assert match_footprints([just_more], truth).score == Score(1, 0, 0)
    assert match_footprints([half], truth, threshold=0.49).score == Score(1, 0, 0)


def test_second_best_truth_is_used_if_the_best_is_matched():
    truth = [box(0, 0, 10, 10), box(0, 0, 10, 9)]
    proposals = [box(0, 0, 10, 10), box(0, 0, 10, 10)]
    matches = match_footprints(proposals, truth)
    assert matches.proposal_match.tolist() == [0, 1]
    np.testing.assert_allclose(matches.proposal_iou, [1.0, 0.9])


def test_proposals_are_matched_in_order_of_confidence():
    truth = [box(0, 0, 10, 10)]
    proposals = [box(0, 0, 10, 9), box(0, 0, 10, 6), box(0, 0, 10, 10)]
    for confidence, winner in (
        (None, 0),
        ([0.1, 0.9, 0.5], 1),
        ([5, 5, 5], 0),  # ties keep the order
        ([np.nan, np.nan, -40], 2),  # NaN comes last
    ):
        matches = match_footprints(proposals, truth, confidence=confidence)
        assert matches.truth_match.tolist() == [winner]
        assert matches.score == Score(1, 2, 0)


def test_invalid_proposals_are_repaired_and_invalid_truths_match_nothing():
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    triangle = shapely.buffer(bow_tie, 0)
    assert match_footprints([bow_tie], [triangle]).proposal_iou.tolist() == [1.0]
    assert match_footprints([triangle], [bow_tie]).score == Score(0, 1, 1)


def test_empty_layers_and_empty_polygons():
    square = box(0, 0, 1, 1)
    assert match_footprints([], []).score == Score(0, 0, 0)
    assert match_footprints([], [square]).score == Score(0, 0, 1)
    assert match_footprints([square], []).score == Score(0, 1, 0)
    assert match_footprints([Polygon()], [square, Polygon()]).score == Score(0, 1, 2)


def test_confidence_of_another_length_is_refused():
    with pytest.raises(ValueError, match="1 proposals need 1 confidences"):
        match_footprints([box(0, 0, 1, 1)], [], confidence=[1, 2])


@st.composite
def rectangles(draw):
    left, bottom = draw(st.integers(0, 12)), draw(st.integers(0, 9))
    return box(left, bottom, left + draw(st.integers(1, 6)), bottom + draw(st.integers(1, 7)))


def naive_matches(proposals, truth, confidence, threshold):
    free = list(range(len(truth)))
    matches = [-1] * len(proposals)
    for proposal in sorted(range(len(proposals)), key=lambda i: -confidence[i]):
        ious = [
            proposals[proposal].intersection(truth[t]).area
            / proposals[proposal].union(truth[t]).area
            for t in free
        ]
        if ious and max(ious) > threshold:
            matches[proposal] = free.pop(ious.index(max(ious)))
    return matches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(rectangles(), st.integers(0, 3)), max_size=9),
    st.lists(rectangles(), max_size=7),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_matches_equal_a_naive_implementation(scored, truth, threshold):
    proposals, confidence = [p for p, _ in scored], [c for _, c in scored]
    matches = match_footprints(proposals, truth, confidence=confidence, threshold=threshold)
    assert matches.proposal_match.tolist() == naive_matches(proposals, truth, confidence, threshold)
    assert matches.tp + matches.fp == len(proposals)
    assert matches.tp + matches.fn == len(truth)


@st.composite
def town(draw):
    """Buildings that do not overlap, 3 x 5 lots of 10 x 8."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=15))
    lots = [(10 * (i % 5), 8 * (i // 5)) for i in range(len(sizes))]
    return [box(x, y, x + w, y + h) for (x, y), (w, h) in zip(lots, sizes, strict=True)]


@settings(max_examples=30, deadline=None)
@given(town(), st.randoms(use_true_random=False))
def test_a_perfect_layer_has_f1_of_one_in_any_order(truth, random):
    proposals = random.sample(truth, len(truth))
    assert match_footprints(proposals, truth).score.f1 == 1.0
    assert compare_areas(proposals, truth).iou == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    town(),
    st.lists(rectangles(), max_size=9),
    st.randoms(use_true_random=False),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
)
def test_order_of_truth_and_a_common_shift_change_nothing(truth, proposals, random, shift):
    counts = match_footprints(proposals, truth).score
    shuffled = random.sample(truth, len(truth))
    assert match_footprints(proposals, shuffled).score == counts
    moved = [
        shapely.transform(np.array(s, dtype=object), lambda c: c + shift)
        for s in (proposals, truth)
    ]
    assert match_footprints(*moved).score == counts


# Sizes and areas


def test_minimum_area_keeps_truths_at_it_and_proposals_above_it():
    pred, truth = spacenet_filter([0, 19, 20, 21], [0, 19, 20, 21], 20)
    assert pred.tolist() == [False, False, False, True]
    assert truth.tolist() == [False, False, True, True]


def test_without_a_minimum_only_empty_polygons_are_dropped():
    pred, truth = spacenet_filter([0, 1e-9], [0, 1e-9], 0)
    assert pred.tolist() == truth.tolist() == [False, True]


def test_area_covered_twice_is_counted_once():
    proposals = [box(0, 0, 6, 4), box(2, 0, 8, 4)]  # together 8 x 4
    truth = [box(4, 0, 12, 3), box(20, 0, 21, 1)]
    area = compare_areas(proposals, truth)
    assert (area.tp, area.fp, area.fn) == pytest.approx((12.0, 20.0, 13.0))
    assert area.iou == pytest.approx(12 / 45)


def test_areas_agree_with_counted_pixels():
    proposals, truth = [box(1, 1, 6, 4), box(5, 2, 9, 5)], [box(2, 0, 8, 3)]
    columns, rows = np.meshgrid(np.arange(12) + 0.5, np.arange(7) + 0.5)
    pred, true = (
        shapely.contains_xy(shapely.union_all(layer), columns, rows) for layer in (proposals, truth)
    )
    pixels = count_pixels(pred, true, np.ones((7, 12), dtype=bool))
    assert compare_areas(proposals, truth) == AreaCounts(pixels.tp, pixels.fp, pixels.fn)


@given(town(), st.lists(rectangles(), min_size=1, max_size=9))
def test_areas_agree_with_those_of_unions(truth, proposals):
    area = compare_areas(proposals, truth)
    pred, true = shapely.union_all(proposals), shapely.union_all(truth)
    both = shapely.intersection(pred, true).area
    expected = (both, pred.area - both, true.area - both)
    assert (area.tp, area.fp, area.fn) == pytest.approx(expected, abs=1e-9)


def test_areas_of_empty_layers():
    assert compare_areas([], []) == AreaCounts(0, 0, 0)
    assert compare_areas([box(0, 0, 2, 3)], []) == AreaCounts(0, 6, 0)


@pytest.mark.realdata
@pytest.mark.skipif(not SPACENET.exists(), reason=f"needs the SpaceNet samples in {SPACENET}")
def test_published_iou_of_each_building_is_reproduced():
    pred, truth, expected = (
        pd.read_csv(SPACENET / f"SN2_sample_{name}.csv")
        for name in ("preds", "truth", "iou_by_building")
    )
    best = np.zeros(len(truth))
    for image in truth["ImageId"].unique():
        in_pred, in_truth = (np.flatnonzero(t["ImageId"] == image) for t in (pred, truth))
        shapes, truths = (
            shapely.from_wkt(table["PolygonWKT_Pix"].to_numpy(dtype=object)[rows])
            for table, rows in ((pred, in_pred), (truth, in_truth))
        )
        kept, kept_truth = spacenet_filter(shapely.area(shapes), shapely.area(truths), 20)
        matches = match_footprints(
            shapes[kept],
            truths[kept_truth],
            confidence=pred["Confidence"].to_numpy()[in_pred][kept],
        )
        best[in_truth[kept_truth]] = matches.truth_iou
    assert np.count_nonzero(best > 0.5) == 87
    np.testing.assert_allclose(best, expected["iou_score"], rtol=0, atol=1e-9)
