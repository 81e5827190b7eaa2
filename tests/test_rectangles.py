"""Rectangles of single buildings: their fit, and tests in closed form that equal those of GEOS."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity, box

from geoseg.vectorization.outlines import distances, rectangles
from geoseg.vectorization.outlines.acceptance import is_acceptable
from geoseg.vectorization.outlines.distances import distances_to_edges, stay_near
from geoseg.vectorization.outlines.rectangles import fit_rectangles


def polygon(points):
    return shapely.Polygon(points)


def rough(rng, width, height, turn, noise):
    """A rectangle whose outline has a vertex every half metre, moved at random."""
    outline = shapely.segmentize(box(0, 0, width, height), 0.5)
    points = shapely.get_coordinates(outline)[:-1]
    moved = polygon(points + rng.normal(scale=noise, size=points.shape))
    return affinity.translate(affinity.rotate(moved, turn), 3e5, 2e4)


def simplified(traced):
    """A simplification whose corners are vertices of the traced outline."""
    return np.array([one.simplify(0.6) for one in traced], dtype=object)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 0.6), st.floats(0.3, 3))
def test_a_rectangle_is_accepted_as_by_geos(seed, noise, max_shift):
    rng = np.random.default_rng(seed)
    traced = np.array(
        [rough(rng, rng.uniform(2, 30), rng.uniform(2, 12), rng.uniform(0, 180), noise)
         for _ in range(20)], dtype=object,
    )  # fmt: skip
    traced = traced[shapely.is_valid(traced)]
    outlines = simplified(traced)
    every = fit_rectangles(outlines, traced, np.full(len(traced), np.inf))
    found = fit_rectangles(outlines, traced, np.full(len(traced), max_shift))
    drawn = ~shapely.is_empty(every)
    wanted = is_acceptable(every[drawn], traced[drawn], np.full(drawn.sum(), max_shift))
    assert (~shapely.is_empty(found[drawn])).tolist() == wanted.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_shared_areas_and_distances_equal_those_of_geos(seed):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.uniform(-10, 10, (2, 2, 6)), axis=0)
    sides = np.stack([low, high], axis=1)
    polygons = np.array([rough(rng, 8, 5, rng.uniform(0, 90), 0.05) for _ in range(6)])
    polygons = shapely.transform(polygons, lambda xy: xy - [3e5 + 4, 2e4 + 2])
    boxes = shapely.box(low[0], low[1], high[0], high[1])
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    inside = owner[1:] == owner[:-1]
    begins, ends, of_edge = points[:-1][inside], points[1:][inside], owner[1:][inside]
    shared = rectangles._shared_areas(sides, begins, ends, of_edge)
    valid = shapely.is_valid(polygons)
    expected = shapely.area(shapely.intersection(polygons[valid], boxes[valid]))
    assert shared[valid] == pytest.approx(expected, abs=1e-6)
    to_sides = rectangles._distances_to_sides(sides, points, owner)
    assert to_sides == pytest.approx(
        shapely.distance(shapely.points(points), shapely.boundary(boxes)[owner]), abs=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 40, 10**6]), st.sampled_from([0, 10**9]))
def test_distances_from_outlines_equal_those_of_geos(seed, pairs, most):
    rng = np.random.default_rng(seed)
    polygons = np.array([rough(rng, 8 + i, 5, 20 * i, 0.3) for i in range(7)])
    others = np.array([rough(rng, 8 + i, 5, 20 * i, 0.3) for i in range(7)])
    others[3] = box(3e5, 2e4, 3e5 + 9, 2e4 + 6).difference(box(3e5 + 2, 2e4 + 2, 3e5 + 4, 2e4 + 5))
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    rings, of_ring = shapely.get_rings(others, return_index=True)
    vertices, ring = shapely.get_coordinates(rings, return_index=True)
    inside = ring[1:] == ring[:-1]
    expected = shapely.distance(shapely.points(points), shapely.boundary(others)[owner])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_PAIRS", pairs)
        patch.setattr(distances, "_MOST_EDGES", most)
        found = distances_to_edges(
            points, owner, vertices[:-1][inside], vertices[1:][inside], of_ring[ring[1:][inside]]
        )
        assert found == pytest.approx(expected, abs=1e-9)
        for limit in (0.2, 0.5, 1.0):
            far = np.bincount(owner, expected > limit, 7) > 0
            assert stay_near(polygons, others, np.full(7, limit)).tolist() == (~far).tolist()
    assert stay_near(polygons[:0], others[:0], np.ones(0)).tolist() == []


def test_the_sides_are_mean_positions_of_the_walls():
    # The lower wall has a step: of 10 m, 4 are at 0 and 6 at 0.5.
    traced = polygon([(0, 0), (4, 0), (4, 0.5), (10, 0.5), (10, 8), (0, 8)])
    outline = polygon([(0, 0), (10, 0.5), (10, 8), (0, 8)])
    (found,) = fit_rectangles(np.array([outline]), np.array([traced]), np.array([2.0]))
    # The step itself, of 0.5 m, has its mean position at 0.25.
    low = (4 * 0 + 0.5 * 0.25 + 6 * 0.5) / 10.5
    left, bottom, right, top = found.bounds
    assert found.area == pytest.approx(10 * (8 - low), rel=0.01)
    assert found.minimum_rotated_rectangle.area == pytest.approx(found.area)
    assert (left, right, top) == pytest.approx((0, 10, 8), abs=0.2)
    assert bottom == pytest.approx(low, abs=0.3)


def test_each_rectangle_depends_on_its_own_outline_only():
    rng = np.random.default_rng(3)
    traced = np.array([rough(rng, 9 + i, 6, 20 * i, 0.1) for i in range(9)], dtype=object)
    outlines, shifts = simplified(traced), np.full(9, 1.0)
    together = fit_rectangles(outlines, traced, shifts)
    assert not shapely.is_empty(together).any()
    for number in range(9):
        own = slice(number, number + 1)
        (alone,) = fit_rectangles(outlines[own], traced[own], shifts[own])
        assert alone.wkb == together[number].wkb


@pytest.mark.parametrize(
    "shape",
    [
        polygon([(0, 0), (10, 0), (5, 9)]),  # no four sides
        box(0, 0, 12, 9).difference(box(3, 3, 6, 6)),  # a hole
        polygon([(0, 0), (12, 0), (12, 4), (5, 4), (5, 12), (0, 12)]),  # other area
        polygon([(0, 0), (10, 0), (10, 8), (6, 8), (6, 4), (7, 8.0001), (0, 8)]),  # a narrow slit
    ],
)
def test_what_is_no_rectangle(shape):
    other = box(20, 0, 32, 7)
    found = fit_rectangles(np.array([shape, other]), np.array([shape, other]), np.full(2, 1.0))
    assert found[0].is_empty
    assert shapely.hausdorff_distance(found[1], other) < 1e-9
    # Outlines whose corners are no vertices of the traced outline, and empty ones.
    for traced in (box(0, 0, 9, 6), shapely.Polygon()):
        (none,) = fit_rectangles(np.array([box(0, 0, 10, 6)]), np.array([traced]), np.ones(1))
        assert none.is_empty
    assert fit_rectangles(np.empty(0, object), np.empty(0, object), np.empty(0)).size == 0


@pytest.mark.parametrize("slant", [1.0, rectangles._SLANT])
def test_points_that_are_also_corners(monkeypatch, slant):
    """With a slant of 1, many different points have the same key."""
    monkeypatch.setattr(rectangles, "_SLANT", slant)
    rng = np.random.default_rng(3)
    points, others = rng.integers(0, 6, (90, 2)) / 7, rng.integers(0, 6, (40, 2)) / 7
    group, of_others = np.sort(rng.integers(0, 4, 90)), np.sort(rng.integers(0, 4, 40))
    corners = {(g, *xy) for g, xy in zip(of_others.tolist(), others.tolist(), strict=True)}
    expected = [(g, *xy) in corners for g, xy in zip(group.tolist(), points.tolist(), strict=True)]
    assert 10 < sum(expected) < 80
    assert rectangles._are_among(points, group, others, of_others).tolist() == expected
