"""Alignment of polygons with probabilities: a town whose labels were moved on purpose."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy.ndimage import binary_dilation, gaussian_filter
from small_models import PIXELWISE, make_model

import geoseg
from geoseg.alignment import SHIFT_COLUMNS, align_polygons
from geoseg.alignment.groups import find_groups, merge_colliding, move_polygons
from geoseg.alignment.lattice import ShiftLattice
from geoseg.alignment.likelihood import LikelihoodMeter
from geoseg.alignment.neighbourhood import infer_prior
from geoseg.cli import cli
from geoseg.data.labels.polygon_labels import FootprintLabels
from geoseg.errors import ConfigError, GridMismatchError, OutputExistsError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.town import build_town
from geoseg.vectorization.prob_sources import ArrayProb

GSD = 0.5


@pytest.fixture(scope="module")
def town():
    return build_town(400, 520, seed=3, gsd_m=GSD, nodata=None)


def make_probabilities(town, *, has_border=False, missing=()):
    """Blurred and noisy probabilities of the true footprints; those of `missing` are not seen."""
    rng = np.random.default_rng(1)
    ids = FootprintLabels(town.grid, town.footprints).rasterize_ids(town.grid.window)
    inside = (ids > 0) & ~np.isin(ids - 1, missing)
    noise = 6 * gaussian_filter(rng.normal(size=ids.shape), 2)
    logits = 6 * (gaussian_filter(inside.astype(float), 1.2) - 0.5) + noise
    body = (1 / (1 + np.exp(-logits))).astype(np.float32)
    border = None
    if has_border:
        # As in training, pixels on both sides of an edge.
        edges = np.zeros(ids.shape, bool)
        across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
        edges[:, 1:] |= across
        edges[:, :-1] |= across
        edges[1:] |= down
        edges[:-1] |= down
        border = np.clip(0.8 * gaussian_filter(binary_dilation(edges).astype(float), 0.7), 0, 1)
    return ArrayProb(body, border, town.valid, town.grid)


def shift_groups(town, length_m, seed=0):
    """Move each group of touching footprints by its own random shift."""
    rng = np.random.default_rng(seed)
    shapes = town.footprints.geometry.to_numpy()
    groups = find_groups(shapes)
    count = groups.max() + 1
    angles, lengths = rng.uniform(0, 2 * np.pi, count), length_m * np.sqrt(rng.uniform(size=count))
    shifts = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=-1)[groups]
    return replace_shapes(town.footprints, move_polygons(shapes, shifts)), shifts


def replace_shapes(layer, shapes):
    return layer.set_geometry(gpd.GeoSeries(list(shapes), index=layer.index, crs=layer.crs))


def measure_iou(one, other):
    one, other = one.geometry.to_numpy(), other.geometry.to_numpy()
    common = shapely.area(shapely.intersection(one, other))
    return common / (shapely.area(one) + shapely.area(other) - common)


def total_overlap(layer):
    """Areas that polygons share, in m²."""
    return layer.area.sum() - layer.union_all().area


def shift_lengths(layer):
    return np.hypot(layer.shift_x_m, layer.shift_y_m)


@pytest.mark.parametrize("has_border", [False, True])
def test_moved_labels_return_to_their_buildings(town, tmp_path, has_border):
    labels, shifts = shift_groups(town, 2.0)
    source = make_probabilities(town, has_border=has_border)
    aligned = align_polygons(labels, source, tmp_path).frame
    before, after = measure_iou(labels, town.footprints), measure_iou(aligned, town.footprints)
    assert before.mean() < 0.72  # 0.70
    assert after.mean() > 0.94  # 0.96
    assert (after > before - 0.02).all()
    errors = np.hypot(aligned.shift_x_m + shifts[:, 0], aligned.shift_y_m + shifts[:, 1])
    assert np.median(errors) < 0.4 * GSD
    assert (aligned.shift_gain[shift_lengths(aligned) > 0.5] > 0).all()


@pytest.mark.parametrize("max_shift_m", [3, 6, 12, 25, 50])
def test_a_greater_limit_makes_the_alignment_no_coarser(town, tmp_path, max_shift_m):
    labels, _ = shift_groups(town, 2.0)
    options = geoseg.AlignOptions(max_shift_m=max_shift_m)
    aligned = align_polygons(labels, make_probabilities(town), tmp_path, options=options).frame
    after = measure_iou(aligned, town.footprints)
    assert after.mean() > 0.965  # 0.972 for all; 0.76 for 50 m with steps of 4.5 m
    assert after.min() > 0.85
    assert (aligned.shift_gain[shift_lengths(aligned) > 0.5] > 0).all()


def test_a_long_common_shift_is_found_to_a_fraction_of_a_pixel(town, tmp_path):
    shapes = town.footprints.geometry.to_numpy()
    labels = replace_shapes(town.footprints, move_polygons(shapes, np.tile([4.3, -3.1], (60, 1))))
    options = geoseg.AlignOptions(max_shift_m=30)
    source = make_probabilities(town, has_border=True)
    aligned = align_polygons(labels, source, tmp_path, options=options).frame
    errors = np.hypot(aligned.shift_x_m + 4.3, aligned.shift_y_m - 3.1)
    assert np.median(errors) < 0.4 * GSD


def test_finer_shifts_have_the_scores_of_the_same_coarse_ones(town, tmp_path):
    source = make_probabilities(town, has_border=True)
    valid = np.ones(town.grid.shape, bool)
    valid[:, 250:258] = False
    read = source.read(town.grid.window)
    source = ArrayProb(read.body, read.border, valid, town.grid)
    shapes = town.footprints.geometry.to_numpy()
    columns, rows = town.grid.to_pixels(*shapely.get_coordinates(shapes).T)
    pixels = shapely.set_coordinates(shapes.copy(), np.column_stack([columns, rows]) * GSD)
    coarse = ShiftLattice.of_grid(town.grid, 20.0)
    assert (coarse.strides, coarse.is_fine) == ((4, 4), False)
    meter = LikelihoodMeter(source, pixels, coarse, geoseg.AlignOptions())
    fine = coarse.refine(np.array([4.1, -2.2]))
    assert (fine.strides, fine.is_fine, fine.centre) == ((1, 1), True, (8, -4))
    np.testing.assert_allclose(fine.metres[fine.middle], [4.0, -2.0])
    row, column = coarse.middle
    for index in (0, 7, int(np.argmin(np.abs(shapely.get_x(shapely.centroid(pixels)) - 127)))):
        every = meter.measure(index).log_likelihood
        patch = meter.compare(index, fine)
        down, across = fine.middle
        for step_y, step_x in ((0, 0), (1, 0), (0, -1), (1, 1)):
            expected = every[row - 1 + step_y, column + 2 + step_x] - every[row, column]
            found = patch[down + 4 * step_y, across + 4 * step_x]
            assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_border", [False, True])
def test_labels_on_their_buildings_stay(town, tmp_path, has_border):
    source = make_probabilities(town, has_border=has_border)
    aligned = align_polygons(town.footprints, source, tmp_path).frame
    assert shift_lengths(aligned).mean() < 0.1 * GSD
    assert shift_lengths(aligned).max() < GSD


def test_a_layer_in_degrees_is_aligned_as_well(town, tmp_path):
    labels, _ = shift_groups(town, 2.0)
    source = make_probabilities(town)
    here = align_polygons(labels, source, tmp_path).frame
    degrees = align_polygons(labels.to_crs(4326), source, tmp_path).frame
    assert degrees.crs.to_epsg() == 4326
    np.testing.assert_allclose(degrees.shift_x_m, here.shift_x_m, atol=1e-3)
    np.testing.assert_allclose(degrees.shift_y_m, here.shift_y_m, atol=1e-3)
    assert measure_iou(degrees.to_crs(here.crs), here).min() > 0.999


def test_shifts_are_metres_to_the_east_and_north_in_mercator_and_on_turned_grids(tmp_path):
    # One pixel of Web Mercator at 60 degrees north is half a metre on the ground.
    transform = Affine.translation(1_000_000, 8_399_738) * Affine.rotation(30) * Affine.scale(1, -1)
    grid = Grid(CRS.from_epsg(3857), transform, 120, 180)
    body = np.full((120, 180), 0.02, np.float32)
    body[40:64, 60:100] = 0.98
    source = ArrayProb(body, None, np.ones((120, 180), bool), grid)
    drawn = shapely.box(60 + 3, 40, 100 + 3, 64)  # 3 columns to the right
    ground = shapely.Polygon([transform * point for point in drawn.exterior.coords])
    labels = gpd.GeoDataFrame({"name": ["a"]}, geometry=[ground], crs=3857)
    (row,) = align_polygons(labels, source, tmp_path).frame.itertuples()
    # Mercator's scale is 2 at 60 degrees; the axis of columns points 30 degrees to the north.
    assert row.shift_x_m == pytest.approx(-1.5 * np.cos(np.radians(30)), abs=0.05)
    assert row.shift_y_m == pytest.approx(-1.5 * np.sin(np.radians(30)), abs=0.05)
    left, top = grid.to_pixels(*np.array(row.geometry.exterior.coords)[0])
    assert (left, top) == pytest.approx((100, 40), abs=0.1) or left == pytest.approx(100, abs=0.1)


def test_a_label_that_is_not_seen_follows_its_neighbours(town, tmp_path):
    shapes = town.footprints.geometry.to_numpy()
    groups = find_groups(shapes)
    alone = np.flatnonzero(np.bincount(groups)[groups] == 1)[:4]
    source = make_probabilities(town, missing=alone)
    labels = replace_shapes(town.footprints, move_polygons(shapes, np.tile([1.6, 0], (60, 1))))
    result = align_polygons(labels, source, tmp_path)
    assert result.unsupported >= len(alone)
    np.testing.assert_allclose(result.frame.shift_x_m[alone], -1.6, atol=0.3)
    # Without a common shift of the others it stays.
    still = align_polygons(town.footprints, source, tmp_path).frame
    assert (shift_lengths(still)[alone] == 0).all()
    assert still.geometry[alone[0]].equals_exact(shapes[alone[0]])


def test_nothing_moves_on_flat_probabilities(town, tmp_path):
    for value in (0.02, 0.5, 0.9):
        body = np.full(town.grid.shape, value, np.float32)
        source = ArrayProb(body, None, town.valid, town.grid)
        aligned = align_polygons(town.footprints, source, tmp_path).frame
        assert (shift_lengths(aligned) == 0).all()


def test_a_label_is_not_drawn_to_a_building_out_of_reach(tmp_path):
    grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 80, 120)
    body = np.full((80, 120), 0.02, np.float32)
    body[30:50, 40:60] = 0.98
    source = ArrayProb(body, None, np.ones((80, 120), bool), grid)
    shape = shapely.box(500_020 + 5, 4_999_975, 500_030 + 5, 4_999_985)  # 5 m to the east
    labels = gpd.GeoDataFrame(geometry=[shape], crs=32633)
    assert (shift_lengths(align_polygons(labels, source, tmp_path).frame) == 0).all()
    wider = geoseg.AlignOptions(max_shift_m=7)
    (moved,) = align_polygons(labels, source, tmp_path, options=wider).frame.shift_x_m
    assert moved == pytest.approx(-5, abs=0.1)


def test_touching_labels_move_together_and_nothing_overlaps_anew(town, tmp_path):
    labels, _ = shift_groups(town, 2.0, seed=5)
    groups = find_groups(town.footprints.geometry.to_numpy())
    aligned = align_polygons(labels, make_probabilities(town), tmp_path).frame
    for group in range(groups.max() + 1):
        members = aligned[groups == group]
        assert np.ptp(members.shift_x_m) < 1e-3
        assert np.ptp(members.shift_y_m) < 1e-3
    assert total_overlap(aligned) <= total_overlap(labels) + 0.01
    walls = shapely.intersection(*town.footprints.geometry.to_numpy()[None].repeat(2, 0))
    assert len(walls) == len(aligned)


def test_walls_stay_shared_to_the_last_digit(town, tmp_path):
    shapes = town.footprints.geometry.to_numpy()
    labels = replace_shapes(town.footprints, move_polygons(shapes, np.tile([0.9, -1.1], (60, 1))))
    labels = labels.to_crs(4326)
    aligned = align_polygons(labels, make_probabilities(town), tmp_path).frame
    assert (shift_lengths(aligned) > 1).all()
    assert count_shared_vertices(aligned) == count_shared_vertices(labels) > 20


def count_shared_vertices(layer):
    points = [set(map(tuple, shapely.get_coordinates(shape))) for shape in layer.geometry]
    return sum(map(len, points)) - len(set().union(*points))


def test_groups_that_would_collide_are_joined():
    shapes = np.array([shapely.box(0, 0, 10, 10), shapely.box(11, 0, 20, 10)], dtype=object)
    groups = find_groups(shapes)
    assert groups.tolist() == [0, 1]
    apart = merge_colliding(shapes, groups, np.array([[0.5, 0], [0, 0]]))
    assert apart is groups
    joined = merge_colliding(shapes, groups, np.array([[0.5, 0], [-0.6, 0]]))
    assert joined.tolist() == [0, 0]


def test_houses_that_would_be_moved_into_each_other_move_together(tmp_path):
    grid = Grid(CRS.from_epsg(32633), Affine(0.25, 0, 500_000, 0, -0.25, 5_000_000), 120, 200)
    body = np.full(grid.shape, 0.02, np.float32)
    body[40:80, 46:120] = 0.98  # 18.5 m: too narrow for both labels and the gap between them
    source = ArrayProb(body, None, np.ones(grid.shape, bool), grid)
    shapes = [
        shapely.box(500_000 + left, 4_999_980, 500_000 + right, 4_999_990)
        for left, right in ((10, 20), (21.5, 31.5))
    ]
    labels = gpd.GeoDataFrame(geometry=shapes, crs=32633)
    alone = [
        align_polygons(labels.iloc[[n]], source, tmp_path).frame.shift_x_m.item() for n in (0, 1)
    ]
    assert 1.5 + alone[1] - alone[0] < 0  # each by itself would overlap the other
    both = align_polygons(labels, source, tmp_path).frame
    assert both.shift_x_m[0] == pytest.approx(both.shift_x_m[1], abs=1e-6)
    assert total_overlap(both) == 0


def test_misplaced_labels_that_overlap_may_move_apart_but_parts_move_together():
    house, misplaced = shapely.box(0, 0, 10, 10), shapely.box(8, 0, 18, 10)
    doubled, part = shapely.box(9.9, 20, 20, 30), shapely.box(2, 2, 5, 5)
    beside = shapely.box(0, 20, 10, 30)
    groups = find_groups(np.array([house, misplaced, doubled, part, beside], dtype=object))
    assert groups[0] != groups[1]
    assert groups[0] == groups[3]
    assert groups[2] == groups[4]
    shapes = np.array([house, misplaced], dtype=object)
    for step, count in ((1.0, 2), (-1.0, 1)):
        merged = merge_colliding(shapes, np.array([0, 1]), np.array([[0, 0], [step, 0]]))
        assert len(set(merged.tolist())) == count


def test_the_result_does_not_depend_on_pieces_or_on_the_order(town, tmp_path):
    labels, _ = shift_groups(town, 2.0)
    source = make_probabilities(town, has_border=True)
    whole = align_polygons(labels, source, tmp_path).frame
    pieces = align_polygons(labels, source, tmp_path, piece_px=17).frame
    np.testing.assert_allclose(pieces[[*SHIFT_COLUMNS]], whole[[*SHIFT_COLUMNS]], atol=1e-5)
    back = align_polygons(labels[::-1].reset_index(drop=True), source, tmp_path).frame[::-1]
    np.testing.assert_allclose(back[[*SHIFT_COLUMNS]], whole[[*SHIFT_COLUMNS]], atol=1e-5)


def test_only_windows_around_polygons_are_read(tmp_path):
    """A scene of 40 gigapixels with two houses and a field of a square kilometre."""

    class Recorder:
        grid = Grid(
            CRS.from_epsg(32633), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 160_000, 250_000
        )

        def __init__(self):
            self.sizes = []

        def read(self, window):
            self.sizes.append(window.height * window.width)
            shape = (int(window.height), int(window.width))
            part = self.grid.window_grid(window)
            one = np.ones(shape, bool)
            return ArrayProb(np.full(shape, 0.5, np.float32), None, one, part).read(part.window)

    source = Recorder()
    shapes = [
        shapely.box(x, 4_960_000, x + size, 4_960_000 + size)
        for x, size in ((510_000, 10), (600_000, 12), (550_000, 1000))
    ]
    align_polygons(gpd.GeoDataFrame(geometry=shapes, crs=32633), source, tmp_path)
    assert max(source.sizes) <= (1024 + 2 * 7) ** 2
    assert sum(source.sizes) < 3000**2


def test_polygons_outside_and_on_nodata_are_unchanged(town, tmp_path):
    valid = town.valid.copy()
    valid[:200, :260] = False
    source = make_probabilities(town)
    source = ArrayProb(source.read(town.grid.window).body, None, valid, town.grid)
    far = town.footprints.translate(5000, 0).to_numpy()
    lost = [shapely.box(1e9, 1e9, 1e9 + 10, 1e9 + 10)]
    shapes = [*town.footprints.translate(1.5, 0), *far, *lost]
    labels = gpd.GeoDataFrame({"n": range(121)}, geometry=shapes, crs=town.footprints.crs)
    result = align_polygons(labels, source, tmp_path)
    aligned = result.frame
    rows, columns = (
        pixels.astype(int)
        for pixels in town.grid.to_pixels(labels.centroid.x[:60], labels.centroid.y[:60])[::-1]
    )
    hidden = np.flatnonzero((rows < 190) & (columns < 250))
    assert len(hidden) > 5
    assert aligned.n.tolist() == list(range(121))
    for index in (*hidden, *range(60, 121)):
        assert aligned.geometry[index].equals_exact(labels.geometry[index])
        assert aligned.shift_gain[index] == 0
    assert result.outside >= len(hidden) + 61
    seen = np.flatnonzero((rows > 215) | (columns > 275))
    np.testing.assert_allclose(aligned.shift_x_m[seen].median(), -1.5, atol=0.1)


def test_parts_holes_and_the_edge_of_the_scene(tmp_path):
    grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 160, 240)
    court = shapely.box(20, -40, 50, -10).difference(shapely.box(28, -32, 42, -18))
    parts = shapely.MultiPolygon([shapely.box(60, -30, 70, -20), shapely.box(80, -30, 88, -20)])
    cut = shapely.box(-6, -72, 6, -60)
    truth = gpd.GeoSeries([court, parts, cut], crs=32633).translate(500_000, 5_000_000)
    labels = FootprintLabels(grid, gpd.GeoDataFrame(geometry=truth))
    body = gaussian_filter((labels.rasterize_ids(grid.window) > 0).astype(np.float32), 1)
    source = ArrayProb(body, None, np.ones(grid.shape, bool), grid)
    moved = gpd.GeoDataFrame(geometry=truth.translate(-1, 1.5))
    aligned = align_polygons(moved, source, tmp_path).frame
    np.testing.assert_allclose(aligned.shift_x_m, 1, atol=0.15)
    np.testing.assert_allclose(aligned.shift_y_m, -1.5, atol=0.15)
    assert aligned.geom_type.tolist() == ["Polygon", "MultiPolygon", "Polygon"]
    assert len(aligned.geometry[0].interiors) == 1
    np.testing.assert_allclose(aligned.area, truth.area)


@given(
    st.floats(-2.9, 2.9), st.floats(-2.9, 2.9), st.floats(0.05, 2.0), st.floats(0.05, 2.0),
    st.floats(0.07, 1.0), st.floats(0.07, 1.0),
)  # fmt: skip
def test_a_paraboloid_has_its_peak_where_it_is(x, y, across, down, gsd_x, gsd_y):
    if np.hypot(x, y) > 2.9:
        return
    grid = Grid(CRS.from_epsg(32633), Affine(gsd_x, 0, 500_000, 0, -gsd_y, 5_000_000), 30, 50)
    lattice = ShiftLattice.of_grid(grid, 3.0)
    offsets = lattice.metres - (x, y)
    surface = 7 - across * offsets[..., 0] ** 2 - down * offsets[..., 1] ** 2
    peak, is_maximum = lattice.find_peak(surface)
    assert is_maximum or np.hypot(x, y) > 3 - max(lattice.step_m)
    if is_maximum:
        np.testing.assert_allclose(peak, (x, y), atol=1e-6)
    value = lattice.value_at(surface, np.array([x, y]))
    assert value == pytest.approx(7, abs=1e-6)


def test_the_neighbourhood_has_its_own_shift_where_it_clearly_differs():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1000, (400, 2))
    west = places[:, 0] < 250
    shifts = np.where(west[:, None], [1.5, 0.0], [0.0, 0.0]) + rng.normal(0, 0.2, (400, 2))
    prior = infer_prior(places, shifts, np.ones(400, bool), 3.0)
    assert np.abs(prior.mean_m[places[:, 0] < 200] - [1.5, 0]).max() < 0.3
    assert (np.abs(prior.mean_m[places[:, 0] > 400]).max(axis=1) < 0.3).all()
    random = infer_prior(places, rng.normal(0, 1, (400, 2)), np.ones(400, bool), 3.0)
    assert (random.mean_m == 0).mean() > 0.9
    few = infer_prior(places, shifts, np.arange(400) < 5, 3.0)
    assert (few.mean_m == 0).all()


# Files


@pytest.fixture(scope="module")
def files(town, tmp_path_factory):
    """A scene, its probabilities, and labels that were moved, with columns and a MultiPolygon."""
    folder = tmp_path_factory.mktemp("files")
    source = make_probabilities(town).read(town.grid.window)
    write_array(folder / "prob.tif", town.grid, source.body[None], descriptions=("building",))
    write_array(folder / "scene.tif", town.grid, town.image, descriptions=town.bands)
    labels, _ = shift_groups(town, 2.0)
    labels["addr:street"] = [f"Street {n}" for n in range(60)]
    labels["levels"] = np.arange(60) % 4
    labels["confidence"] = 0.3  # of somebody else's, so no layer of reviews
    joined = shapely.MultiPolygon([*labels.geometry[:2]])
    labels = labels.iloc[1:].reset_index(drop=True)
    labels.loc[[0], "geometry"] = gpd.GeoSeries([joined], crs=labels.crs)
    labels.to_file(folder / "labels.gpkg", layer="houses")
    return folder


@pytest.mark.parametrize("suffix", [".geojson", ".geojsonl", ".shp", ".gpkg", ".fgb", ".parquet"])
def test_every_format_keeps_features_and_columns(files, tmp_path, suffix):
    output = tmp_path / f"aligned{suffix}"
    result = geoseg.align(files / "labels.gpkg", output, prob=files / "prob.tif")
    labels = gpd.read_file(files / "labels.gpkg")
    # A FlatGeobuf is sorted by place.
    aligned = result.footprints.sort_values("id", ignore_index=True)
    assert len(aligned) == len(labels) == result.summary.polygons == 59
    assert aligned.levels.tolist() == labels.levels.tolist()
    assert aligned.kind.tolist() == labels.kind.tolist()
    assert {*SHIFT_COLUMNS} <= {*aligned.columns}
    assert ("addr_stree" if suffix == ".shp" else "addr:street") in aligned
    assert aligned.crs.to_epsg() == (4326 if "json" in suffix else 32633)
    assert aligned.geometry[0].geom_type == "MultiPolygon"
    assert len(aligned.geometry[0].geoms) == 2
    lengths = shift_lengths(aligned)
    moved = lengths[lengths > 0]
    assert result.summary.moved == len(moved) > 40
    assert result.summary.median_m == pytest.approx(np.median(moved), abs=1e-3)
    assert result.summary.p90_m == pytest.approx(np.quantile(moved, 0.9), abs=1e-3)
    if suffix == ".gpkg":
        assert gpd.list_layers(output).name.tolist() == ["footprints"]


def test_aligning_again_changes_nearly_nothing(files, tmp_path):
    once = geoseg.align(files / "labels.gpkg", tmp_path / "a.parquet", prob=files / "prob.tif")
    again = geoseg.align(tmp_path / "a.parquet", tmp_path / "b.parquet", prob=files / "prob.tif")
    assert once.summary.median_m > 1
    assert shift_lengths(again.footprints).mean() < 0.1
    assert list(again.footprints.columns) == list(once.footprints.columns)


def test_nested_columns_become_json(files, tmp_path):
    labels = gpd.read_file(files / "labels.gpkg")[["levels", "geometry"]]
    labels["sources"] = [[{"dataset": "OSM", "n": n}] for n in range(59)]
    labels.to_parquet(tmp_path / "labels.parquet", write_covering_bbox=True)
    for name in ("a.gpkg", "a.parquet"):
        result = geoseg.align(tmp_path / "labels.parquet", tmp_path / name, prob=files / "prob.tif")
        assert result.footprints.sources[3] == '[{"dataset": "OSM", "n": 3}]'


def test_a_model_predicts_the_scene_first(files, tmp_path):
    model = make_model(tmp_path / "model.safetensors", PIXELWISE)
    options = geoseg.PredictOptions(device="cpu")
    what = {"scene": files / "scene.tif", "model": model, "predict": options}
    result = geoseg.align(files / "labels.gpkg", tmp_path / "a.fgb", **what)
    predicted = geoseg.predict(
        files / "scene.tif", tmp_path / "prob.tif", model=model, options=options
    )
    given = geoseg.align(files / "labels.gpkg", tmp_path / "b.fgb", prob=predicted.prob_path)
    assert result.summary == given.summary
    assert not list(tmp_path.glob(".*.partial"))


def test_a_job_that_was_killed_before_the_last_step_only_moves_its_layer(
    files, tmp_path, monkeypatch
):
    what = (files / "labels.gpkg", tmp_path / "a.gpkg")

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("geoseg.jobs.output.move_files", kill)
        with pytest.raises(KeyboardInterrupt):
            geoseg.align(*what, prob=files / "prob.tif")
    assert not (tmp_path / "a.gpkg").exists()
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.api.align.align_polygons", kill)
        result = geoseg.align(*what, prob=files / "prob.tif")
    assert result.summary.polygons == len(result.footprints) == 59
    assert result.summary.moved > 40


def test_what_was_repaired_or_left_out_is_counted(files, tmp_path, town):
    x, y = town.footprints.geometry[0].centroid.coords[0]
    bow = shapely.Polygon([(x, y), (x + 5, y + 5), (x + 5, y), (x, y + 5)])
    shapes = [*town.footprints.geometry[:9], bow, shapely.Point(x, y), None]
    gpd.GeoDataFrame(geometry=shapes, crs=32633).to_file(tmp_path / "labels.geojson")
    result = geoseg.align(tmp_path / "labels.geojson", tmp_path / "a.gpkg", prob=files / "prob.tif")
    assert (result.summary.polygons, result.summary.repaired, result.summary.dropped) == (10, 1, 2)
    assert "1 repaired; 2 not a polygon and left out" in result.summary.describe()


def run(*words):
    return CliRunner().invoke(cli, ["align", *map(str, words)])


def test_the_command_prints_one_line_that_ends_with_the_output(files, tmp_path):
    words = (files / "labels.gpkg", "--prob", files / "prob.tif", "-o", tmp_path / "a.gpkg")
    planned = run(*words, "--dry-run", "--max-shift", 2)
    assert planned.exit_code == 0, planned.output
    assert "59 polygons, moved by at most 2 m" in planned.output
    assert "400 x 520 pixels of 0.5 m" in planned.output
    assert list(tmp_path.iterdir()) == []
    done = run(*words, "--scene", files / "scene.tif")
    assert done.exit_code == 0, done.output
    (line,) = done.output.splitlines()
    assert line.startswith("59 polygons, ")
    assert " m (median; 90 % by at most " in line
    assert "; in common 0." in line
    assert line.endswith(f" → {tmp_path / 'a.gpkg'}")
    assert isinstance(run(*words).exception, OutputExistsError)
    assert run(*words, "--overwrite", "--max-shift", 0.5).exit_code == 0
    assert shift_lengths(gpd.read_file(tmp_path / "a.gpkg")).max() <= 0.5 + 1e-3


def test_wrong_arguments_are_refused_before_any_work(files, tmp_path):
    labels, prob, scene = files / "labels.gpkg", files / "prob.tif", files / "scene.tif"
    output = ("-o", tmp_path / "a.gpkg")
    cases = [
        ((labels, *output), ConfigError, "--scene: is missing"),
        ((labels, "--prob", prob, "-m", "buildings", *output), ConfigError, "--prob: replaces"),
        ((labels, "--prob", scene, *output), SceneReadError, "none named building"),
        ((labels, "--prob", prob, "-o", tmp_path / "a.csv"), ConfigError, "cannot hold"),
        ((labels, "--prob", prob, "-o", labels, "--overwrite"), OutputExistsError, "the input"),
        ((labels, "--prob", prob, "--max-shift", 0, *output), ConfigError, "--max-shift"),
        ((labels, "--prob", prob, "--set", "tile.size=9", *output), ConfigError, "geoseg tile"),
    ]
    for words, kind, text in cases:
        found = run(*words).exception
        assert isinstance(found, kind), (words, found)
        assert text in str(found)
        assert "\n" not in str(found)
    town = build_town(64, 96, seed=1, crs="EPSG:32718", nodata=None)
    write_array(tmp_path / "far.tif", town.grid, np.zeros((1, 64, 96), np.uint8))
    for words in ((), ("--scene", scene)):
        found = run(labels, "--prob", tmp_path / "far.tif", *words, *output).exception
        assert isinstance(found, GridMismatchError)
    assert [path.name for path in tmp_path.iterdir()] == ["far.tif"]
