"""Outlines with right angles: of shapes that are known, with walls that stay shared."""

import itertools

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import make_layer, write_floats
from rasterio.crs import CRS
from rasterio.features import shapes
from scipy import ndimage
from shapely import affinity
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.geometry import shape as as_shape

from geoseg.geo.grid import Grid
from geoseg.options import Thresholds
from geoseg.vectorization.layer import vectorize_arrays
from geoseg.vectorization.outlines import right_angles, shaping
from geoseg.vectorization.outlines.right_angles import RECTANGLE, RECTILINEAR, _is_rectilinear
from geoseg.vectorization.outlines.shared_corners import share_corners
from geoseg.vectorization.outlines.simplification import simplify_within
from geoseg.vectorization.outlines.zones import extend_zone, stay_within

GSD_M, HEIGHT, WIDTH = 0.5, 120, 170
GRID = Grid(CRS.from_epsg(32645), Affine(GSD_M, 0, 3e5, 0, -GSD_M, 3e6), HEIGHT, WIDTH)
THRESHOLDS = Thresholds(min_area_m2=2)
ELL = Polygon([(0, 0), (40, 0), (40, 16), (18, 16), (18, 36), (0, 36)])
COURT = Polygon(box(0, 0, 48, 48).exterior, [box(14, 14, 34, 34).exterior])
TURNS = [0, 17, 30, 45, 62]


def soft(shape, grid=GRID, sigma=1.0):
    """What a network says of a shape in pixels: which part of a pixel it covers, blurred."""
    fine = 4
    x, y = np.meshgrid((np.arange(grid.width * fine) + 0.5) / fine,
                       (np.arange(grid.height * fine) + 0.5) / fine)  # fmt: skip
    inside = shapely.contains_xy(shape, x, y).reshape(grid.height, fine, grid.width, fine)
    return ndimage.gaussian_filter(inside.mean(axis=(1, 3)), sigma).astype(np.float32)


def placed(shape, turn):
    """A shape turned and put into the middle."""
    turned = affinity.rotate(shape, turn, origin="centroid")
    x, y = turned.centroid.coords[0]
    return affinity.translate(turned, WIDTH / 2 - x + 0.3, HEIGHT / 2 - y - 0.2)


def footprints(body, border=None, grid=GRID, thresholds=THRESHOLDS):
    valid = np.ones(body.shape, dtype=bool)
    return vectorize_arrays(body, border, valid, grid, thresholds)


def in_pixels(footprint):
    return affinity.affine_transform(footprint, (~GRID.transform).to_shapely())


def angles(ring):
    """Of a ring's corners, in degrees."""
    points = np.asarray(ring.coords)[:-1]
    arriving, leaving = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
    return np.abs(np.degrees(np.arctan2(cross, (arriving * leaving).sum(axis=1))))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("shape", "corners", "status"),
    [(box(0, 0, 44, 26), [4], "rectangle"), (ELL, [6], "rectilinear"),
     (COURT, [4, 4], "rectilinear")],
)  # fmt: skip
def test_walls_meet_at_right_angles(shape, corners, status, turn):
    truth = placed(shape, turn)
    found = footprints(soft(truth))
    (footprint,) = found.geometry
    assert found["reg_status"].tolist() == [status]
    rings = [footprint.exterior, *footprint.interiors]
    assert [len(ring.coords) - 1 for ring in rings] == corners
    for ring in rings:
        assert angles(ring) == pytest.approx(90, abs=1)
    outline = in_pixels(footprint)
    assert outline.intersection(truth).area / outline.union(truth).area > 0.95


@pytest.mark.parametrize("turn", TURNS)
def test_a_circle_stays_round(turn):
    truth = placed(Point(0, 0).buffer(18), turn)
    found = footprints(soft(truth))
    assert found["reg_status"].tolist() == ["simplified"]
    outline = in_pixels(found.geometry[0])
    assert 8 <= len(outline.exterior.coords) - 1 <= 40
    assert outline.intersection(truth).area / outline.union(truth).area > 0.95


@pytest.mark.parametrize(
    ("simplify_m", "status"), [(0, "raw"), (0.001, "raw"), (0.3, "simplified")]
)
def test_what_is_not_simplified_is_not_called_so(simplify_m, status):
    for regularize in (False, True):
        chosen = Thresholds(simplify_m=simplify_m, regularize=regularize)
        found = footprints(soft(placed(Point(0, 0).buffer(18), 0)), thresholds=chosen)
        assert found["reg_status"].tolist() == [status]


def test_texture_is_simplified_but_gets_no_right_angles(monkeypatch):
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=GRID.shape), 1.5)
    body = np.clip(0.5 + 0.1 * noise / noise.std(), 0, 1).astype(np.float32)
    right, free = (Thresholds(min_area_m2=2, regularize=chosen) for chosen in (True, False))
    assert (footprints(body, thresholds=right)["reg_status"] == "partly").any()
    monkeypatch.setattr(shaping, "_CORNERS_MORE", -(10**9))  # now everything counts as texture
    found = footprints(body, thresholds=right)
    assert set(found["reg_status"]) == {"simplified"}
    expected = footprints(body, thresholds=free).geometry.values
    assert shapely.equals(found.geometry.values, expected).all()


@pytest.mark.parametrize("turn", TURNS)
def test_a_row_of_houses_shares_its_walls(turn):
    row = placed(box(0, 0, 108, 24), turn)
    walls = [affinity.translate(box(-0.8, 0, 0.8, 24), 18 * i, 0) for i in range(1, 6)]
    centre = box(0, 0, 108, 24).centroid
    walls = [affinity.rotate(wall, turn, origin=centre) for wall in walls]
    shift = np.array(row.centroid.coords[0]) - np.array(centre.coords[0])
    border = soft(
        shapely.union_all([affinity.translate(wall, *shift) for wall in walls]), sigma=0.8
    )
    found = footprints(soft(row), border)
    assert len(found) == 6
    assert (found["reg_status"] != "simplified").all()
    houses = found.geometry.to_numpy()
    assert shapely.coverage_is_valid(houses)
    assert [len(house.exterior.coords) - 1 for house in houses] == [4] * 6
    for house in houses:
        assert angles(house.exterior) == pytest.approx(90, abs=1)
    order = np.argsort([house.distance(houses[0].centroid) for house in houses])
    assert shapely.union_all(houses).geom_type == "Polygon"
    near = shapely.STRtree(houses).query(houses, predicate="touches").T
    shared = [houses[a].intersection(houses[b]).length for a, b in near.tolist() if a < b]
    assert sorted(shared)[-5:] == pytest.approx([12] * 5, abs=1)
    assert len(order) == 6


@given(
    st.integers(0, 10_000), st.sampled_from([1, 13, 50]), st.sampled_from([0.25, 1.0, 4.0]),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_nobody_gets_anothers_ground_and_blocks_do_not_matter(
    tmp_path_factory, seed, block_px, simplify_m, regularize
):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((2, 90, 130)), (0, 2.5, 2.5))
    body, border = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    valid = ndimage.gaussian_filter(rng.random(body.shape), 4) > 0.47
    grid = Grid(GRID.crs, GRID.transform, *body.shape)
    thresholds = Thresholds(min_area_m2=1, body=0.5, simplify_m=simplify_m, regularize=regularize)
    whole = vectorize_arrays(body, border, valid, grid, thresholds)
    folder = tmp_path_factory.mktemp("layer")
    path = write_floats(folder / "prob.tif", grid, body, border, valid)
    found = make_layer(path, folder, thresholds=thresholds, block_px=block_px)
    assert shapely.to_wkb(found.geometry.array).tolist() == (
        shapely.to_wkb(whole.geometry.array).tolist()
    )
    outlines = whole.geometry.to_numpy()
    assert shapely.is_valid(outlines).all()
    one, other = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    one, other = one[one < other], other[one < other]
    shared = shapely.area(shapely.intersection(outlines[one], outlines[other]))
    assert (shared <= 1e-6 * np.minimum(*shapely.area(outlines[np.stack([one, other])]))).all()
    unseen = [as_shape(found) for found, _ in shapes(
        np.uint8(~valid), mask=~valid, connectivity=4, transform=grid.transform
    )]  # fmt: skip
    unseen = shapely.union_all(unseen)
    assert shapely.area(shapely.intersection(outlines, unseen)).max(initial=0) < 1e-6
    beyond = shapely.box(*grid.bounds)
    assert shapely.area(shapely.difference(outlines, beyond)).max(initial=0) < 1e-6


@pytest.mark.parametrize("block_px", [1, 9, 40])
def test_right_angles_do_not_depend_on_the_blocks(tmp_path, block_px):
    houses = [(box(0, 0, 30, 18), 20, 24, 25), (ELL, 40, 110, 45), (box(0, 0, 22, 22), 5, 62, 92),
              (box(0, 0, 44, 14), 10, 130, 100)]  # fmt: skip
    body = np.zeros(GRID.shape, dtype=np.float32)
    for shape, turn, x, y in houses:
        turned = affinity.rotate(shape, turn, origin="centroid")
        centre = turned.centroid
        body = np.maximum(body, soft(affinity.translate(turned, x - centre.x, y - centre.y)))
    whole = footprints(body)
    assert len(whole) == 4
    assert (whole["reg_status"] != "simplified").all()
    valid = np.ones(body.shape, dtype=bool)
    path = write_floats(tmp_path / "prob.tif", GRID, body, None, valid)
    found = make_layer(path, tmp_path, thresholds=THRESHOLDS, block_px=block_px)
    assert shapely.to_wkb(found.geometry.array).tolist() == (
        shapely.to_wkb(whole.geometry.array).tolist()
    )
    assert found.drop(columns="geometry").equals(whole.drop(columns="geometry"))


LOCAL = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
DEGREES = CRS.from_epsg(4326)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (LOCAL, Affine(0.25, 0, 0, 0, -0.75, 100)),
        (LOCAL, Affine(0.4, 0.1, 0, 0, -0.5, 100)),
        (DEGREES, Affine(9e-6, 0, 10, 0, -4e-6, 60)),
        (DEGREES, Affine.translation(10, 60) * Affine.rotation(45) * Affine.scale(6e-6, -6e-6)),
    ],
)
def test_angles_are_right_on_the_ground(crs, transform):
    grid = Grid(crs, transform, 140, 190)
    metres = "EPSG:32632" if crs == DEGREES else crs.to_wkt()
    middle = gpd.GeoSeries([Point(transform * (95, 70))], crs=crs.to_wkt()).to_crs(metres)[0]
    house = affinity.rotate(box(0, 0, 22, 13), 30, origin="centroid")
    shift = middle.x - house.centroid.x, middle.y - house.centroid.y
    truth = gpd.GeoSeries([affinity.translate(house, *shift)], crs=metres)
    pixels = affinity.affine_transform(truth.to_crs(crs.to_wkt())[0], (~transform).to_shapely())
    found = footprints(soft(pixels, grid), grid=grid)
    assert found["reg_status"].tolist() == ["rectangle"]
    (outline,) = found.geometry.to_crs(metres)
    assert angles(outline.exterior) == pytest.approx([90] * 4, abs=0.1)
    assert outline.intersection(truth[0]).area / outline.union(truth[0]).area > 0.95


def test_what_is_called_rectilinear_has_right_angles_alone():
    ring = box(0, 0, 9, 7).exterior.coords
    cases = [
        (box(0, 0, 3, 2), True),
        (Polygon([(0, 0), (3, 0), (0, 2)]), False),
        (Polygon(ring, [box(2, 2, 5, 4).exterior.coords]), True),
        (Polygon(ring, [[(2, 2), (5, 2), (2, 4)]]), False),
    ]
    turned = [(affinity.rotate(shape, turn), right) for shape, right in cases for turn in (0, 17)]
    shapes, expected = zip(*turned, strict=True)
    assert _is_rectilinear(np.array(shapes, dtype=object)).tolist() == list(expected)


@pytest.mark.parametrize(
    ("gsd_m", "gap", "cut", "radius", "shift"),
    [(0.25, 6.3757, 3.5752, 13.9155, 0.1455), (0.3, 4.6248, 2.7614, 11.6205, 0.6889),
     (0.2, 8.1423, 4.634, 17.6591, 0.17), (0.15, 8.6921, 6.2684, 28.2359, 0.1887),
     (0.1, 13.3956, 9.4321, 40.5555, 0.7124)],
)  # fmt: skip
def test_neighbours_that_both_move_do_not_meet(gsd_m, gap, cut, radius, shift):
    # Corners that are cut off are drawn anew, those of either towards the other.
    height, width, half = int(2 * radius + 16), int(4 * radius + gap + 24), radius - cut
    middle = height / 2 + 0.5

    def diamond(x):
        corners = [(x - radius, middle), (x, middle - radius), (x + radius, middle)]
        whole = Polygon([*corners, (x, middle + radius)])
        return whole & box(x - half, middle - half, x + half, middle + half)

    first = 8 + radius + shift
    grid = Grid(GRID.crs, Affine(gsd_m, 0, 3e5, 0, -gsd_m, 3e6), height, width)
    truth = diamond(first) | diamond(first + 2 * half + gap)
    one, other = footprints(soft(truth, grid, sigma=0), grid=grid).geometry
    assert one.intersection(other).area <= 1e-6 * min(one.area, other.area)


def test_an_outline_that_would_leave_its_zone_does_not_spoil_its_neighbours():
    def wavy(left, right):
        """A house whose upper wall is a wave; its walls to the sides are straight."""
        xs = np.linspace(left, right, 40)
        top = 20 + 1.5 * np.sin(xs * 2.1)
        return Polygon([(left, 0), *zip(xs, top, strict=True), (right, 0)])

    walls = [wavy(0, 20), wavy(20, 40), wavy(40, 60)]
    traced = np.array(shapely.coverage_simplify(np.array(walls, dtype=object), 1e-9), dtype=object)
    # Nothing beside the traced outline of the first house may be covered.
    wide = shapely.box(-9, -9, 70, 40)
    zone = extend_zone(wide.difference(shapely.box(-9, -9, 20, 40)).union(traced[0]), traced)
    outlines = simplify_within(traced, np.zeros(3, np.int64), {0: zone}, np.full(3, 3.0))
    free = simplify_within(
        traced, np.zeros(3, np.int64), {0: shapely.MultiPolygon()}, np.full(3, 3.0)
    )
    assert stay_within(outlines, zone).all()
    assert not stay_within(free, zone)[0]
    counts = shapely.get_num_coordinates(outlines)
    assert counts[0] < shapely.get_num_coordinates(traced[0])
    assert shapely.equals_exact(outlines[1:], free[1:], 1e-9).all()
    assert shapely.coverage_is_valid(outlines)


def bent(geometries):
    """Geometries in other coordinates, where straight lines become curves."""
    return shapely.transform(geometries, lambda xy: xy + 1e-3 * np.sin(xy[:, ::-1] / 7))


@pytest.mark.parametrize("turn", TURNS)
def test_a_corner_on_a_neighbours_wall_becomes_a_corner_of_both(turn):
    court = Polygon(box(0, 0, 48, 36).exterior, [box(12, 9, 36, 27).exterior])
    inside, beside = box(16, 9, 22, 20), [box(48, 7, 60, 13), box(48, 13, 60, 31)]
    houses = [affinity.rotate(one, turn, origin=(0, 0)) for one in (court, inside, *beside)]
    apart = affinity.rotate(box(50, 40, 60, 44), turn, origin=(0, 0))
    houses = np.array([*houses, apart], dtype=object)
    shared = share_corners(houses, np.zeros(len(houses), dtype=np.int64))
    more = shapely.get_num_coordinates(shared) - shapely.get_num_coordinates(houses)
    assert more.tolist() == [5, 0, 0, 0, 0]
    assert shapely.area(shared) == pytest.approx(shapely.area(houses), rel=1e-9)
    assert shapely.coverage_is_valid(bent(shared))
    assert corners_beside_walls(shared) == set()
    assert len(corners_beside_walls(houses)) == 5


def crooked_rows(rng):
    """Columns of houses of different sizes that touch, and the walls between them."""
    houses = []
    across = np.cumsum(rng.integers(10, 22, 12))
    for left, right in itertools.pairwise(across):
        along = np.cumsum(rng.integers(8, 22, 12))
        for low, high in itertools.pairwise(along):
            houses += [box(left, low, right, high)] * (rng.random() < 0.85)
    houses = [affinity.rotate(house, 9, origin=(WIDTH / 2, HEIGHT / 2)) for house in houses]
    houses = [house for house in houses if box(3, 3, WIDTH - 3, HEIGHT - 3).contains(house)]
    walls = shapely.union_all([house.exterior.buffer(0.9) for house in houses])
    return soft(shapely.union_all(houses)), soft(walls, sigma=0.8)


def corners_beside_walls(houses):
    """Corners that are on the wall of another house, but are no corner of it."""
    one, other = shapely.STRtree(houses).query(houses, predicate="dwithin", distance=1e-6)
    apart = one != other
    found = set()
    for mine, its in zip(houses[one[apart]], houses[other[apart]], strict=True):
        corners = np.unique(shapely.get_coordinates(mine), axis=0)
        near = shapely.distance(shapely.points(corners), its.boundary) < 1e-6
        found |= set(map(tuple, corners[near])) - set(map(tuple, shapely.get_coordinates(its)))
    return found


def test_neighbours_share_all_corners_on_their_walls():
    rng = np.random.default_rng(0)
    for _ in range(8):
        found = footprints(*crooked_rows(rng))
        assert len(found) > 30
        assert "partly" in set(found["reg_status"])
        houses = found.geometry.to_numpy()
        assert corners_beside_walls(houses) == set()
        for crs in (32646, 4326, 3857):
            moved = found.to_crs(crs).geometry.to_numpy()
            one, other = shapely.STRtree(houses).query(houses, predicate="touches")
            assert shapely.area(shapely.intersection(moved[one], moved[other])).max() == 0


def row_houses(turn, origin):
    """Three houses that share walls, as traced: with a vertex every pixel, in pixels of a grid."""
    houses = [box(left, 0, right, 14) for left, right in ((0, 9), (9, 21), (21, 30))]
    traced = shapely.segmentize(np.array(houses, dtype=object), 1.0)
    turned = [affinity.rotate(house, turn, origin=(0, 0)) for house in traced]
    return shapely.transform(turned, lambda xy: np.rint((xy + origin) * 256) / 256)


@pytest.mark.parametrize("batch", [1, 150, shaping._BATCH])
def test_right_angles_of_a_group_do_not_depend_on_other_groups(monkeypatch, batch):
    monkeypatch.setattr(shaping, "_BATCH", batch)
    turns = (0, 3, 11, 30, 44)
    parts = [row_houses(turn, (100 * number, 40)) for number, turn in enumerate(turns)]
    traced = np.concatenate([*parts, [box(900, 3, 911, 12)]])
    groups = np.append(np.repeat(np.arange(len(turns)), 3), len(turns))
    zones = dict.fromkeys(range(len(turns) + 1), MultiPolygon())
    steps = np.tile(np.array([[0.3, 0.0], [0.0, 0.3]]), (len(traced), 1, 1))
    whole = shaping.shape_outlines(traced, groups, zones, steps, Thresholds())
    assert set(whole.status) == {RECTANGLE, RECTILINEAR}
    for group in range(len(turns) + 1):
        own = groups == group
        alone = shaping.shape_outlines(traced[own], groups[own], zones, steps[own], Thresholds())
        assert alone.status.tolist() == whole.status[own].tolist()
        assert shapely.to_wkb(alone.polygons).tolist() == (
            shapely.to_wkb(whole.polygons[own]).tolist()
        )


def test_corners_are_shared_within_a_group_only():
    house, two = box(0, 0, 20, 10), [box(20, 0, 30, 4), box(20, 4, 30, 10)]
    houses = np.array([house, *two, *two], dtype=object)
    counts = [shapely.get_num_coordinates(share_corners(houses, np.array(groups))).tolist()
              for groups in ([0, 0, 0, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 2, 2])]  # fmt: skip
    assert counts == [[6, 5, 5, 5, 5], [6, 5, 5, 5, 5], [5, 5, 5, 5, 5]]


@pytest.mark.parametrize(("beside", "is_torn"), [(0, False), (-1e-14, False), (-1e-6, True)])
def test_a_corner_beside_a_wall_by_rounding_is_not_torn(beside, is_torn):
    corner = 20 + beside, 4
    low = Polygon([(20, 0), (30, 0), (30, 4), corner])
    high = Polygon([corner, (30, 4), (30, 10), (20, 10)])
    houses = [affinity.rotate(one, 17, origin=(0, 0)) for one in (box(0, 0, 20, 10), low, high)]
    torn = right_angles._are_torn(np.array(houses, dtype=object))
    assert bool(torn.any()) == is_torn
