"""From probabilities to footprints: exact outlines, honest areas, and blind to how it is cut."""

import json
import tracemalloc
from unittest import mock

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from layers import find_components, make_layer, vectorize, write_floats
from pydantic import ValidationError
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import Polygon, box, shape

from geoseg.errors import ConfigError, MissingCRSError, OutputExistsError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import THRESHOLDS_TAG, open_for_writing, read_prob, write_array
from geoseg.geo.vector import LAYER_SUFFIXES, read_footprints
from geoseg.geo.vector.geodesic import geodesic_measures
from geoseg.options import Thresholds
from geoseg.vectorization import footprints
from geoseg.vectorization.components.labelling import label_block, merge_blocks
from geoseg.vectorization.components.runs import (
    find_runs,
    intersect_runs,
    label_runs,
    rasterize_runs,
)
from geoseg.vectorization.footprints import _summarise
from geoseg.vectorization.layer import vectorize_arrays
from geoseg.vectorization.objects.buildings import Objects, seed_score
from geoseg.vectorization.objects.holes import fill_holes
from geoseg.vectorization.objects.pixels import ObjectPixels
from geoseg.vectorization.objects.separation import separate, split_necks
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.simplification import simplify_within
from geoseg.vectorization.outlines.tracing import cross_rings, step_rings
from geoseg.vectorization.outlines.zones import find_nearest, find_zones
from geoseg.vectorization.prob_sources import ArrayProb, ProbWindow, SceneProb

EIGHT, FOUR = np.ones((3, 3)), ndimage.generate_binary_structure(2, 1)

UTM = CRS.from_epsg(32645)
EXACT = Thresholds(min_area_m2=0, simplify_m=0, subpixel=False, regularize=False)
SITE = CRS.from_wkt(
    'PROJCS["site",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",27.1],PARAMETER["central_meridian",84.9],PARAMETER['
    '"scale_factor",1],PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]'
)

masks = nps.arrays(bool, st.tuples(st.integers(1, 23), st.integers(1, 17)))
label_arrays = nps.arrays(
    np.int32, st.tuples(st.integers(1, 14), st.integers(1, 11)), elements=st.integers(0, 3)
)


def utm_grid(height, width, gsd_m=0.5):
    return Grid(UTM, Affine(gsd_m, 0, 300_000, 0, -gsd_m, 3_000_000), height, width)


def city(height=120, width=170, seed=3):
    """Smooth random probabilities (2, H, W) uint8 and a valid array with a hole and an edge."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((2, height, width)), (0, 3, 3))
    low, high = noise.min(axis=(1, 2), keepdims=True), noise.max(axis=(1, 2), keepdims=True)
    valid = np.ones((height, width), dtype=bool)
    valid[40:60, 50:90] = False
    valid[:, -7:] = False
    return ((noise - low) / (high - low) * 255).astype(np.uint8), valid


def write_prob(path, array, valid, grid, **options):
    """A probability raster with an internal mask, as prediction writes it."""
    options.setdefault("descriptions", ("building", "border")[: len(array)])
    with open_for_writing(path, grid, count=len(array), dtype=array.dtype.name, **options) as sink:
        sink.write(array)
        sink.write_mask(valid)
    return path


# Components


@given(masks, st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_components_do_not_depend_on_the_blocks(mask, block_rows):
    found = find_components(mask, block_rows)
    labels, count = ndimage.label(mask, structure=EIGHT)
    assert len(found) == count
    for name, component in enumerate(found, start=1):  # scipy also labels in scan order
        rows, columns = np.nonzero(labels == labels[component.first])
        assert component.first == (rows[0], columns[0])
        assert component.area == len(rows)
        top, left = rows.min(), columns.min()
        size = columns.max() + 1 - left, rows.max() + 1 - top
        assert component.window == Window(left, top, *size)
        assert labels[component.first] == name


# Objects


@given(masks, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_pixel_of_a_mask_finds_an_object(mask, seed):
    body, border = np.random.default_rng(seed).random((2, *mask.shape)).astype(np.float32)
    labels = divide(body, border, mask, Thresholds())
    assert labels.dtype == np.int32
    assert ((labels > 0) == mask).all()
    present, first = np.unique(labels[labels > 0], return_index=True)
    assert present.tolist() == list(range(1, len(present) + 1))
    assert (np.diff(first) > 0).all()
    for name in present:
        assert ndimage.label(labels == name, structure=FOUR)[1] == 1


def divide(body, border, mask, thresholds, **options):
    score = seed_score(ProbWindow(body, border, np.ones(mask.shape, dtype=bool)), thresholds)
    return separate(score, mask, thresholds.seed, **options)


def two_houses():
    """Two houses of 20 x 12 pixels that touch along column 22, with a ridge of border there."""
    body, border = np.zeros((2, 30, 50), dtype=np.float32)
    body[8:20, 3:43] = 0.9
    border[8:20, 21:25] = 0.9
    return body, border


def test_a_ridge_of_border_divides_touching_houses():
    body, border = two_houses()
    grid = utm_grid(30, 50)
    valid = np.ones(grid.shape, dtype=bool)
    for thresholds in (EXACT, Thresholds(simplify_m=0.5, subpixel=False, regularize=False)):
        found = vectorize_arrays(body, border, valid, grid, thresholds)
        assert found["area_m2"].tolist() == pytest.approx([60, 60], rel=0.06)
        assert found["area_m2"].sum() == pytest.approx(40 * 12 * 0.25, rel=1e-3)
        left, right = found.geometry
        assert left.intersection(right).length == pytest.approx(6.0)
        assert left.intersection(right).area == 0
        assert left.union(right).area == pytest.approx(40 * 12 * 0.25, abs=1e-6)
        assert found["confidence"].tolist() == [0.9, 0.9]
    whole = vectorize_arrays(body, None, valid, grid, EXACT)
    assert len(whole) == 1


def test_a_low_weight_of_the_border_divides_nothing():
    body, border = two_houses()
    assert divide(body, border, body > 0.5, Thresholds(border=0.1)).max() == 1
    assert divide(body, border, body > 0.5, Thresholds(border=1.0)).max() == 2


def test_where_two_buildings_meet_they_part():
    body, contact = two_houses()
    mask = body > 0.5
    for weight, count in ((1.0, 2), (0.1, 1)):
        thresholds = Thresholds(contact=weight)
        prob = ProbWindow(body, None, np.ones(mask.shape, dtype=bool), contact)
        assert separate(seed_score(prob, thresholds), mask, thresholds.seed).max() == count


def dumbbell(neck):
    """Two halls of 20 x 16 pixels, joined by a passage of so many pixels."""
    mask = np.zeros((30, 70), dtype=bool)
    mask[5:21, 4:24] = mask[5:21, 40:60] = True
    mask[13 - neck // 2 : 13 - neck // 2 + neck, 24:40] = True
    return mask


@pytest.mark.parametrize(("neck", "count"), [(2, 2), (6, 2), (10, 1), (16, 1)])
def test_a_neck_parts_what_is_wider_on_both_sides(neck, count):
    mask = dumbbell(neck)
    for labels in (
        split_necks(mask, 1.7, np.array([0.5, 0.5])),
        split_necks(np.repeat(mask, 2, axis=0), 1.7, np.array([0.5, 0.25]))[::2],
    ):
        assert labels.max() == count
        assert ((labels > 0) == mask).all()
        assert set(np.unique(labels[5:21, 5:20])) == {1}


@given(masks, st.sampled_from([0.3, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_necks_lose_no_pixel(mask, depth):
    labels = split_necks(mask, depth, np.array([0.7, 0.5]))
    assert ((labels > 0) == mask).all()
    for name in range(1, labels.max() + 1):
        assert ndimage.label(labels == name, structure=FOUR)[1] == 1


def test_bodies_alone_part_at_necks_where_wanted():
    mask = dumbbell(4)
    grid = utm_grid(*mask.shape)
    body, valid = mask * np.float32(0.8), np.ones(mask.shape, dtype=bool)
    counts = []
    for split_m in (0.0, 1.0):
        chosen = EXACT.model_copy(update={"split_m": split_m})
        found = vectorize_arrays(body, None, valid, grid, chosen)
        assert found["area_m2"].sum() == pytest.approx(mask.sum() * 0.25, rel=1e-3)
        counts.append(len(found))
    assert counts == [1, 2]


def test_confidences_are_calibrated():
    body = np.full((9, 14), 0.8, dtype=np.float32)
    grid, valid = utm_grid(9, 14), np.ones((9, 14), dtype=bool)
    cooler = EXACT.model_copy(update={"temperature": 2.0})
    (found,) = vectorize_arrays(body, None, valid, grid, cooler).itertuples()
    expected = 1 / (1 + np.exp(-np.log(0.8 / 0.2) / 2))
    assert found.confidence == pytest.approx(expected, abs=1e-4)
    assert found.conf_p10 == pytest.approx(expected, abs=1e-3)
    body[:] = 1
    (found,) = vectorize_arrays(body, None, valid, grid, cooler).itertuples()
    assert found.confidence == 1


@given(label_arrays, st.integers(0, 99), st.sampled_from([1, 51, 1020]))
@settings(max_examples=100, deadline=None)
def test_the_tenth_percentile_is_the_least_level_that_a_tenth_reaches(labels, seed, levels):
    body = np.rint(np.random.default_rng(seed).random(labels.shape) * levels) / levels
    names = np.searchsorted(np.unique(labels[labels > 0]), labels) + 1
    runs = find_runs(np.where(labels > 0, names, 0))
    count = int(names[labels > 0].max(initial=0))
    pixels = ObjectPixels.of_runs(runs, body.shape, count)
    mean, tenth = _summarise(pixels, body, 1.0)
    with mock.patch.object(footprints, "_MOST_BINS", 0):  # the way of many objects
        assert tenth.tolist() == _summarise(pixels, body, 1.0)[1].tolist()
    for name in range(1, count + 1):
        inside = np.rint(body[(names == name) & (labels > 0)] * 1020)
        shares = (inside[:, None] <= np.arange(1021)).sum(axis=0)
        assert tenth[name - 1] == np.argmax(shares >= 0.1 * len(inside)) / 1020
        assert mean[name - 1] == pytest.approx(inside.mean() / 1020, abs=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_probabilities_are_summarised_as_different_ones_are(temperature):
    labels = np.array([[1, 1, 0, 2], [1, 0, 0, 2], [0, 3, 3, 3]], dtype=np.int32)
    body = np.full(labels.shape, 230 / 255, dtype=np.float32)
    pixels = ObjectPixels.of_runs(find_runs(labels), labels.shape, 3)
    more = ObjectPixels.of_runs(find_runs(np.where(labels == 0, 4, labels)), labels.shape, 4)
    equal = _summarise(pixels, body, temperature)
    body[labels == 0] = 0.1
    for one, other in zip(equal, _summarise(more, body, temperature), strict=True):
        assert one.tolist() == pytest.approx(other[:3].tolist(), abs=1e-12)


def test_percentiles_of_many_small_objects_take_little_memory():
    body = np.zeros((128, 192), dtype=np.float32)
    body[::2, ::2] = 0.9
    runs = find_runs((body > 0.5).view(np.uint8))
    runs = runs.with_values(np.arange(1, len(runs) + 1))
    pixels = ObjectPixels.of_runs(runs, body.shape, len(runs))
    tracemalloc.start()
    _, tenth = _summarise(pixels, body, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tenth == pytest.approx(0.9)
    assert peak < 64 * body.size


@given(label_arrays, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_outlines_of_objects_are_described(labels, seed):
    names = np.searchsorted(np.unique(labels[labels > 0]), labels) + 1
    names = np.where(labels > 0, names, 0)
    count, runs = int(names.max()), find_runs(names)
    border = np.random.default_rng(seed).random(labels.shape)
    valid = np.ones(labels.shape, dtype=bool)
    prob = ProbWindow((names > 0) * 0.9, border, valid, None)
    objects = Objects(runs, np.zeros(count, dtype=np.int64), runs)
    pixels = ObjectPixels.of_runs(runs, labels.shape, count)
    found = footprints._describe_outlines(objects, pixels, prob)
    around = np.pad(names, 1)
    beside = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
    assert (pixels.beside(around) == beside.reshape(4, -1)[:, pixels.places]).all()
    for name in range(1, count + 1):
        own, others = names == name, beside != name
        at = own & others.any(axis=0)
        assert found["border"][name - 1] == pytest.approx(border[at].mean())
        assert found["touching"][name - 1] == bool(
            (own & (others & (beside > 0)).any(axis=0)).any()
        )
    assert not found["contact"].any()


@given(label_arrays, masks)
@settings(max_examples=100, deadline=None)
def test_the_parts_of_runs_in_a_mask(labels, mask):
    height, width = np.minimum(labels.shape, mask.shape)
    labels, mask = labels[:height, :width], mask[:height, :width]
    parts = intersect_runs(find_runs(labels), find_runs(mask.view(np.uint8)))
    expected = find_runs(np.where(mask, labels, 0))
    for name in ("rows", "starts", "stops", "values"):
        assert getattr(parts, name).tolist() == getattr(expected, name).tolist()


@given(masks, st.integers(0, 4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_zones_of_components_alone_are_not_limited(mask, margin, is_known):
    grid, valid = utm_grid(*mask.shape), np.ones(mask.shape, dtype=bool)
    valid[0, 0] = is_known
    mask = mask & valid
    runs = find_runs(mask.view(np.uint8))
    owners, count = label_runs(runs, diagonal=True)
    runs = runs.with_values(owners + 1)
    window = Window(0, 0, *mask.shape[::-1])
    components = merge_blocks([label_block(mask.view(np.uint8), 0)], mask.shape[1])
    found = find_zones(runs, valid, window, grid, components, np.full(count, margin))
    names = rasterize_runs(runs, mask.shape)
    for component, zone in zip(components, found, strict=True):
        wide = grid.widen(component.window, margin)
        inside = (wide.width, wide.height) == (
            component.window.width + 2 * margin, component.window.height + 2 * margin,
        )  # fmt: skip
        part = wide.toslices()
        own = names[component.first]
        if inside and valid[part].all() and np.isin(names[part], (0, own)).all():
            # A zone of the whole margin limits nothing either.
            assert zone.is_empty or zone.area == wide.width * wide.height
        else:
            assert not zone.is_empty
            assert zone.area < wide.width * wide.height or not inside


@given(label_arrays)
@settings(max_examples=100, deadline=None)
def test_of_equally_near_pixels_the_leftmost_one_counts_then_the_top_one(labels):
    # So what is nearest does not depend on the window, as long as it contains the nearest pixels.
    if not labels.any():
        labels[-1, 0] = 7
    places = np.argwhere(labels)
    found = find_nearest(labels)
    for place in np.ndindex(labels.shape):
        distances = ((places - place) ** 2).sum(axis=1)
        row, column = min(
            places[distances == distances.min()].tolist(), key=lambda near: (near[1], near[0])
        )
        assert found[place] == labels[row, column]


@given(masks, st.integers(1, 4), st.sampled_from([3, 512]))
@settings(max_examples=100, deadline=None)
def test_zones_share_the_pixels_among_components(mask, margin, side):
    grid, valid = utm_grid(*mask.shape), np.ones(mask.shape, dtype=bool)
    valid[-1, 0] = False
    mask = mask & valid
    runs = find_runs(mask.view(np.uint8))
    owners, count = label_runs(runs, diagonal=True)
    runs = runs.with_values(owners + 1)
    names = rasterize_runs(runs, mask.shape)
    components = merge_blocks([label_block(mask.view(np.uint8), 0)], mask.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoseg.vectorization.outlines.zones._SIDE", side)
        window = Window(0, 0, *mask.shape[::-1])
        found = find_zones(runs, valid, window, grid, components, np.full(count, margin))
    for component, zone in zip(components, found, strict=True):
        if zone.is_empty:
            continue
        own = names[component.first]
        within = rasterize([(zone, 1)], mask.shape).astype(bool)
        distances = ndimage.distance_transform_edt(names != own)
        near = valid & (distances <= margin / 2)  # as far as outlines may move
        assert (within & near == near & (find_nearest(names) == own)).all()


def test_what_overshoots_is_clipped(tmp_path):
    body = np.full((20, 30), -0.0004, dtype=np.float32)
    body[4:15, 5:25] = 1.0004
    grid, valid = utm_grid(*body.shape), np.ones(body.shape, dtype=bool)
    path = write_floats(tmp_path / "prob.tif", grid, body, None, valid)
    for temperature in (1.0, 1.5):
        chosen = Thresholds(temperature=temperature)
        found = make_layer(path, tmp_path, thresholds=chosen)
        assert found["confidence"].tolist() == found["conf_p10"].tolist() == [1.0]
        whole = vectorize_arrays(body, None, valid, grid, chosen)
        assert whole["confidence"].tolist() == whole["conf_p10"].tolist() == [1.0]


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_what_is_not_finite_is_nodata(tmp_path, unknown):
    body = np.full((20, 30), 0.9, dtype=np.float32)
    body[8:10, 8:11] = unknown
    border = np.zeros_like(body)
    border[14, 20:24] = unknown
    grid, valid = utm_grid(*body.shape), np.ones(body.shape, dtype=bool)
    whole = vectorize_arrays(body, border, valid, grid, EXACT)
    assert whole["area_m2"].tolist() == pytest.approx([(600 - 6 - 4) / 4], rel=1e-3)
    path = write_floats(tmp_path / "prob.tif", grid, body, border, valid)
    found = make_layer(path, tmp_path, thresholds=EXACT)
    assert found.geometry[0].equals(whole.geometry[0])


def test_small_seeds_and_small_objects_join_their_neighbour():
    body, border = two_houses()
    mask = body > 0.5
    border[8:20, 38:40] = 0.9  # cuts 3 columns off the right house: 36 pixels
    assert divide(body, border, mask, Thresholds()).max() == 3
    assert divide(body, border, mask, Thresholds(), min_seed_px=37).max() == 2
    labels = divide(body, border, mask, Thresholds(), min_area_px=60)
    assert labels.max() == 2
    assert (labels > 0).sum() == mask.sum()


def test_a_component_without_a_seed_is_one_object_and_crumbs_vanish():
    body = np.full((6, 9), 0.55, dtype=np.float32)
    mask = np.zeros((6, 9), dtype=bool)
    mask[1:4, 1:5] = True
    mask[4, 5] = True  # touches at a corner only
    assert divide(body, None, mask, Thresholds()).max() == 2
    labels = divide(body, None, mask, Thresholds(), min_area_px=2)
    assert labels.sum() == 12


def test_small_holes_are_filled_but_never_over_nodata_or_another_building():
    mask = np.ones((14, 30), dtype=np.uint8)
    mask[:, 0] = mask[:, -1] = mask[0] = mask[-1] = 0
    mask[2:4, 2:4] = mask[2:4, 8:10] = 0
    mask[6:10, 6:10] = mask[5:7, 26:] = 0
    mask[6:9, 14:17] = 0
    mask[7, 15] = 2  # an island
    mask[3, 18], mask[2, 19] = 0, 0  # two holes that touch at a corner
    valid = np.ones_like(mask, dtype=bool)
    valid[3, 9] = False
    runs = find_runs(mask)
    filled = rasterize_runs(fill_holes(runs, valid, np.array([9, 1])), mask.shape)
    changed = np.argwhere(filled != mask).tolist()
    assert changed == [[2, 2], [2, 3], [2, 19], [3, 2], [3, 3], [3, 18]]
    assert (filled[filled != mask] == 1).all()
    again = fill_holes(runs, valid, np.array([3, 1]))
    assert np.argwhere(rasterize_runs(again, mask.shape) != mask).tolist() == [[2, 19], [3, 18]]
    assert len(fill_holes(runs, valid, np.array([1, 1]))) == len(runs)


@given(masks, masks, st.integers(0, 12), st.booleans())
@example(np.arange(5)[:, None].repeat(3, axis=1) != 2, np.ones((1, 1), dtype=bool), 12, False)
@settings(max_examples=200, deadline=None)
def test_holes_are_filled_as_by_pixels(mask, other, least, apart):
    mask = np.pad(mask, int(apart))
    valid = np.ones(mask.shape, dtype=bool)
    part = other[: mask.shape[0], : mask.shape[1]]
    valid[: part.shape[0], : part.shape[1]] &= part | mask[: part.shape[0], : part.shape[1]]
    names, count = ndimage.label(mask, structure=EIGHT)
    ground, holes = ndimage.label(~mask, structure=FOUR)
    wanted = names.copy()
    for hole in range(1, holes + 1):
        inside = ground == hole
        beside = np.unique(names[ndimage.binary_dilation(inside, FOUR) & mask])
        edge = inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any()
        if len(beside) == 1 and not edge and valid[inside].all() and inside.sum() < least:
            wanted[inside] = beside[0]
    filled = fill_holes(find_runs(names), valid, np.full(count, least))
    assert (filled.values > 0).all()
    assert (rasterize_runs(filled, mask.shape) == wanted).all()


# Outlines


def trace(labels):
    """The 4-connected pieces of labels: the label of each and the pixel of its first run."""
    runs = find_runs(labels)
    pieces, count = label_runs(runs, diagonal=False)
    values = np.zeros(count, dtype=int)
    values[pieces] = runs.values
    return values, trace_rings(runs, pieces)


def shared(labels):
    """Outlines of labels with the vertices of shared walls in both."""
    values, rings = trace(labels)
    return step_rings(rings).polygons(), np.zeros(len(values), dtype=int)


@given(label_arrays)
@settings(max_examples=200, deadline=None)
def test_outlines_give_the_labels_back(labels):
    values, rings = trace(labels)
    outlines = rings.polygons()
    pieces = [ndimage.label(labels == value, structure=FOUR)[1] for value in (1, 2, 3)]
    assert len(outlines) == sum(pieces)
    assert shapely.is_valid(outlines).all()
    assert shapely.area(outlines).sum() == (labels > 0).sum()
    if len(outlines):
        pairs = zip(outlines, values.tolist(), strict=True)
        assert (rasterize(pairs, labels.shape, dtype="int32") == labels).all()
        assert [p.equals(s) for p, s in zip(outlines, shared(labels)[0], strict=True)]


@given(label_arrays)
@settings(max_examples=200, deadline=None)
def test_outlines_are_those_of_gdal(labels):
    _, rings = trace(labels)
    theirs = [shape(found) for found, _ in shapes(labels, mask=labels > 0, connectivity=4)]
    ours = shapely.normalize(rings.polygons())
    assert len(ours) == len(theirs)
    key = lambda polygon: (polygon.bounds, polygon.area)  # noqa: E731
    for one, other in zip(sorted(ours, key=key), sorted(theirs, key=key), strict=True):
        assert one.equals(other)


def simplify_freely(outlines, groups, tolerance):
    """Simplify outlines that may move anywhere."""
    zones = dict.fromkeys(np.unique(groups).tolist(), shapely.MultiPolygon())
    return simplify_within(outlines, groups, zones, np.full(len(outlines), float(tolerance)))


@given(label_arrays, st.sampled_from([0, 0.6, 1.0, 2.5]))
@settings(max_examples=100, deadline=None)
def test_simplified_outlines_stay_near_and_share_their_walls(labels, tolerance):
    outlines, groups = shared(labels)
    simple = simplify_freely(outlines, groups, tolerance)
    assert len(simple) == len(outlines)
    assert (shapely.get_type_id(simple) == shapely.GeometryType.POLYGON).all()
    assert shapely.is_valid(simple).all()
    if len(simple):
        assert shapely.coverage_is_valid(simple)
    for before, after in zip(outlines, simple, strict=True):
        removed = shapely.points(shapely.get_coordinates(before))
        assert shapely.distance(removed, after.boundary).max() <= max(tolerance, 1e-3) + 1e-12
    if tolerance == 0:
        assert all(a.equals(b) for a, b in zip(simple, outlines, strict=True))


@given(label_arrays, st.integers(0, 99), st.sampled_from([0, 1.0]))
@settings(max_examples=200, deadline=None)
def test_subpixel_outlines_stay_valid_and_share_their_walls(labels, seed, tolerance):
    _, rings = trace(labels)
    runs = find_runs(labels)
    pieces, count = label_runs(runs, diagonal=False)
    named = rasterize_runs(runs.with_values(pieces + 1), labels.shape)
    inside, outside = np.random.default_rng(seed).random((2, *labels.shape)).astype(np.float32)
    prob = np.where(labels > 0, 0.5 + inside / 2, outside / 2)
    prob[outside > 0.95] = np.nan
    crossed = cross_rings(step_rings(rings), named, prob, 0.5).polygons()
    crossed = simplify_freely(crossed, np.zeros(count, dtype=int), tolerance)
    assert shapely.is_valid(crossed).all()
    if count:
        assert shapely.coverage_is_valid(crossed)


def test_a_subpixel_outline_keeps_off_nodata():
    body = np.array([[0.3, 0.3, 0.3, 0.3], [0.9, 0.9, 0.9, 0.9], [0.3, 0.3, 0.3, 0.3]])
    valid = np.ones(body.shape, dtype=bool)
    valid[0, 2] = False
    grid = utm_grid(*body.shape, gsd_m=1)
    chosen = EXACT.model_copy(update={"subpixel": True})
    found = vectorize_arrays(body.astype(np.float32), None, valid, grid, chosen)
    nodata = box(300_002, 2_999_999, 300_003, 3_000_000)
    assert found.geometry[0].intersection(nodata).area == 0
    assert found.geometry[0].bounds[3] > 2_999_999  # and yet it runs between the pixels elsewhere


def test_a_subpixel_outline_runs_where_the_probability_crosses():
    rows, columns = np.indices((30, 40))
    distance = 9.3 - np.hypot(rows - 14.2, columns - 20.7)
    prob = np.clip(0.5 + distance / 8, 0, 1).astype(np.float32)
    labels = (prob >= 0.5).astype(np.int32)
    _, rings = trace(labels)
    (pixels,), (crossed,) = (
        rings.polygons(),
        cross_rings(step_rings(rings), labels, prob, 0.5).polygons(),
    )
    circle = shapely.Point(21.2, 14.7).buffer(9.3, quad_segs=64)

    def iou(outline):
        return outline.intersection(circle).area / outline.union(circle).area

    assert iou(pixels) < 0.95
    assert iou(crossed) > 0.99


def test_a_wall_between_three_houses_stays_shared():
    labels = np.ones((8, 20), dtype=np.int32)
    labels[4:, :9], labels[4:, 9:] = 2, 3
    outlines, groups = shared(labels)
    simple = simplify_freely(outlines, groups, 0.5)
    assert shapely.coverage_is_valid(simple)
    assert (9, 4) in simple[0].exterior.coords  # where the three meet
    assert [polygon.area for polygon in simple] == [80, 36, 44]


def test_a_staircase_becomes_a_wall():
    rows, columns = np.indices((40, 41))
    outlines, groups = shared((columns >= rows).astype(np.int32))
    assert len(outlines[0].exterior.coords) > 80
    (simple,) = simplify_freely(outlines, groups, 0.8)
    assert len(simple.exterior.coords) <= 6


def test_a_staircase_beside_nodata_becomes_a_wall_on_its_own_side():
    rows, columns = np.indices((40, 41))
    valid = columns >= rows
    outlines, groups = shared(valid.astype(np.int32))
    zone = shapely.MultiPolygon(list(outlines))  # all beside it is nodata
    (simple,) = simplify_within(outlines, groups, {0: zone}, np.array([0.8]))
    assert zone.covers(simple)
    assert len(simple.exterior.coords) <= 8
    assert outlines[0].area - simple.area < 0.5 * 41


def test_there_are_about_as_many_vertices_as_douglas_peucker_leaves_of_single_outlines():
    rng, ours, theirs = np.random.default_rng(0), 0, 0
    for _ in range(40):
        field = ndimage.gaussian_filter(rng.random((60, 75)), 3)
        outlines, groups = shared((field > np.median(field)).astype(np.int32))
        ours += shapely.get_num_coordinates(simplify_freely(outlines, groups, 1.0)).sum()
        theirs += shapely.get_num_coordinates(shapely.simplify(outlines, 1.0)).sum()
    assert theirs > 4000
    assert ours <= 1.1 * theirs


@given(st.lists(label_arrays, min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_company_does_not_change_what_is_simplified(arrays):
    alone, everything, groups = [], [], []
    for number, labels in enumerate(arrays):
        outlines, group = shared(labels)
        alone.extend(simplify_freely(outlines, group, 1.0))
        everything.extend(outlines)
        groups.extend(group + number)
    together = np.array(everything, dtype=object)
    found = simplify_freely(together, np.array(groups, dtype=int), 1.0)
    assert shapely.to_wkb(found).tolist() == shapely.to_wkb(alone).tolist()


@given(label_arrays, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_and_starts_do_not_change_what_is_simplified(labels, random):
    outlines, groups = shared(labels)
    order = list(range(len(outlines)))
    random.shuffle(order)
    turned = [turn_rings(outlines[index], random) for index in order]
    simple = simplify_freely(outlines, groups, 1.0)
    found = simplify_freely(np.array(turned, dtype=object), groups, 1.0)
    for index, polygon in zip(order, found, strict=True):
        assert polygon.normalize().equals_exact(simple[index].normalize(), 0)


def turn_rings(polygon, random):
    def turn(ring):
        points = list(ring.coords)[:-1]
        start = random.randrange(len(points))
        return points[start:] + points[:start]

    return Polygon(turn(polygon.exterior), [turn(ring) for ring in polygon.interiors])


@pytest.mark.parametrize("tolerance", [0.5, 3.0, 50.0])
def test_nothing_vanishes_however_large_the_tolerance(tolerance):
    labels = np.zeros((14, 31), dtype=np.int32)
    labels[2:12, 2:28] = 1
    labels[5:8, 5:8] = 2  # in a courtyard of the first, without a gap
    labels[9:10, 12:13] = 0  # a small courtyard
    labels[2:4, 28:29] = 3  # a small annex
    outlines, groups = shared(labels)
    simple = simplify_freely(outlines, groups, tolerance)
    assert shapely.is_valid(simple).all()
    assert shapely.coverage_is_valid(simple)
    assert (shapely.area(simple) > 0).all()
    assert shapely.get_num_interior_rings(simple).tolist() == [2, 0, 0]


def test_a_wall_does_not_pass_over_a_courtyard_whatever_other_groups_do():
    bulge = Polygon([(0, 0), (0, 20), (30, 20), (30, 0), (18, 0), (15, -2), (12, 0)])
    courtyard = bulge.difference(box(14.5, -1.2, 15.5, -0.7))
    steps = Polygon([(0, 0), (0, 9), (4, 9), (4, 1), (5, 1), (5, 9), (9, 9), (9, 0)])
    both = np.array([courtyard, steps], dtype=object)
    for polygons in (both[:1], both, both[::-1]):
        simple = simplify_freely(polygons, np.arange(len(polygons)), 2.5)
        assert shapely.is_valid(simple).all()
        whole = simple[np.flatnonzero(polygons == courtyard)[0]]
        assert len(whole.interiors) == 1
        assert whole.equals(simplify_freely(both[:1], np.zeros(1, int), 2.5)[0])


def notched(depth, width):
    """A building of 50 x 50 pixels with a notch in its upper wall."""
    body = np.zeros((90, 80), dtype=np.float32)
    body[20:70, 20:70] = 1
    body[20 : 20 + depth, 40 : 40 + width] = 0
    return body


@pytest.mark.parametrize("regularize", [True, False])
def test_a_wall_does_not_pass_over_nodata(regularize):
    body, valid = notched(2, 3), np.ones((90, 80), dtype=bool)
    valid[21, 41] = False
    grid = utm_grid(90, 80, gsd_m=0.1)
    chosen = Thresholds(simplify_m=0.25, regularize=regularize, min_area_m2=0)
    (footprint,) = vectorize_arrays(body, None, valid, grid, chosen).geometry
    nodata = grid.window_polygon(Window(41, 21, 1, 1))
    assert footprint.intersection(nodata).area == pytest.approx(0, abs=1e-9)
    assert footprint.area > 0.95 * body.sum() / 100


@pytest.mark.parametrize("regularize", [True, False])
def test_a_wall_does_not_pass_over_another_building(regularize):
    body = notched(8, 5)
    body[26, 42] = 1
    chosen = Thresholds(simplify_m=0.9, regularize=regularize, min_area_m2=0)
    grid = utm_grid(90, 80, gsd_m=0.1)
    one, other = vectorize_arrays(
        body, None, np.ones(body.shape, dtype=bool), grid, chosen
    ).geometry
    assert one.intersection(other).area == pytest.approx(0, abs=1e-9)


# Layers


@pytest.mark.parametrize("block_px", [1, 7, 64, None])
def test_footprints_do_not_depend_on_the_blocks(tmp_path, block_px):
    array, valid = city()
    grid = utm_grid(*valid.shape)
    path = write_prob(tmp_path / "prob.tif", array, valid, grid)
    thresholds = Thresholds(min_area_m2=1)
    found = make_layer(path, tmp_path, thresholds=thresholds, block_px=block_px)
    whole = vectorize_arrays(array[0], array[1], valid, grid, thresholds)
    assert len(found) > 20
    assert found["id"].tolist() == list(range(1, len(found) + 1))
    assert shapely.to_wkb(found.geometry.array).tolist() == (
        shapely.to_wkb(whole.geometry.array).tolist()
    )
    attributes = found.drop(columns="geometry").to_numpy()
    assert (attributes == whole.drop(columns="geometry").to_numpy()).all()


def test_exact_footprints_cover_the_mask_and_nothing_else():
    array, valid = city()
    grid = utm_grid(*valid.shape)
    found = vectorize_arrays(array[0], array[1], valid, grid, EXACT)
    drawn = rasterize(
        zip(found.geometry, found["id"], strict=True), grid.shape, transform=grid.transform
    )
    mask = (array[0] / np.float32(255) >= 0.5) & valid
    assert ((drawn > 0) == mask).all()
    assert found.is_valid.all()
    means = ndimage.mean(array[0] / 255, drawn, found["id"])
    assert found["confidence"].to_numpy() == pytest.approx(means, abs=1e-4)


@pytest.mark.parametrize("block_px", [None, 3])
def test_ground_from_edge_to_edge_is_nobodys(tmp_path, block_px):
    body = np.full((30, 15), 0.9, dtype=np.float32)
    body[10] = 0
    grid, valid = utm_grid(*body.shape), np.ones(body.shape, dtype=bool)
    path = write_floats(tmp_path / "prob.tif", grid, body, None, valid)
    chosen = Thresholds(min_area_m2=1, min_hole_m2=9)
    found = make_layer(path, tmp_path, thresholds=chosen, block_px=block_px)
    whole = vectorize_arrays(body, None, valid, grid, chosen)
    for layer in (found, whole):
        assert layer["confidence"].tolist() == [0.9, 0.9]
        assert layer["area_m2"].tolist() == pytest.approx([37.5, 71.25], rel=0.02)


def test_nodata_never_yields_polygons(tmp_path):
    body = np.full((1, 40, 60), 255, dtype=np.uint8)
    valid = np.zeros((40, 60), dtype=bool)
    grid = utm_grid(40, 60)
    path = write_prob(tmp_path / "prob.tif", body, valid, grid)
    assert vectorize(path, tmp_path / "none.gpkg") == 0
    valid[10:20, 30:50] = True
    path = write_prob(tmp_path / "prob.tif", body, valid, grid)
    found = make_layer(path, tmp_path, thresholds=EXACT)
    assert found.geometry.iloc[0].equals(box(300_015, 2_999_990, 300_025, 2_999_995))
    floats = np.full((1, 40, 60), np.nan, dtype=np.float32)
    floats[0, 3:9, 5:20] = 0.7
    write_array(tmp_path / "float.tif", grid, floats)
    found = make_layer(tmp_path / "float.tif", tmp_path, thresholds=EXACT)
    assert found["area_m2"].tolist() == pytest.approx([6 * 15 / 4], rel=1e-3)
    assert found["confidence"].tolist() == [0.7]


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, Affine(0.5, 0, 300_000, 0, -0.5, 3_000_000)),
        (CRS.from_epsg(4326), Affine(5e-6, 0, 84.9, 0, -4e-6, 47.1)),
        (CRS.from_epsg(3857), Affine(0.6, 0, 9_451_000, 0, -0.6, 6_000_000)),
        (SITE, Affine.translation(10, 20) * Affine.rotation(30) * Affine.scale(0.5, -0.5)),
    ],
)
def test_areas_are_true_in_any_crs(crs, transform):
    grid = Grid(crs, transform, 90, 130)
    body = np.zeros(grid.shape, dtype=np.uint8)
    body[20:60, 30:100] = 255
    body[30:50, 50:80] = 0
    found = vectorize_arrays(body, None, np.ones(grid.shape, bool), grid, Thresholds())
    corners = gpd.GeoSeries([grid.window_polygon(Window(30, 20, 70, 40))], crs=crs.to_wkt())
    hole = gpd.GeoSeries([grid.window_polygon(Window(50, 30, 30, 20))], crs=crs.to_wkt())
    geod = Geod(ellps="WGS84")
    outer, inner = (
        [abs(v) for v in geod.geometry_area_perimeter(s.to_crs(4326).iloc[0])]
        for s in (corners, hole)
    )
    assert found["area_m2"].tolist() == pytest.approx([outer[0] - inner[0]], rel=1e-3)
    assert found["perimeter_m"].tolist() == pytest.approx([outer[1] + inner[1]], rel=1e-3)
    pixel = np.linalg.det(grid.steps_m(np.array([65.0]), np.array([40.0])))
    assert pixel * (70 * 40 - 30 * 20) == pytest.approx(found["area_m2"].to_numpy(), rel=1e-3)
    assert found.crs.equals(gpd.GeoSeries(crs=crs.to_wkt()).crs)


def test_a_local_crs_counts_by_its_unit():
    crs = CRS.from_wkt('LOCAL_CS["site in feet",UNIT["foot",0.3048]]')
    grid = Grid(crs, Affine(2, 0, 0, 0, -2, 100), 30, 40)
    body = np.zeros(grid.shape, dtype=np.uint8)
    body[5:15, 5:25] = 255
    found = vectorize_arrays(body, None, np.ones(grid.shape, bool), grid, Thresholds())
    assert found["area_m2"].tolist() == pytest.approx([200 * 4 * 0.3048**2], rel=1e-3)
    assert found["perimeter_m"].tolist() == pytest.approx([120 * 0.3048], rel=1e-3)


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
def test_every_format_holds_the_same_footprints(tmp_path, suffix):
    array, valid = city()
    grid = utm_grid(*valid.shape)
    path = write_prob(tmp_path / "prob.tif", array, valid, grid)
    expected = vectorize_arrays(array[0], array[1], valid, grid, Thresholds())
    output = tmp_path / f"footprints{suffix}"
    assert vectorize(path, output) == len(expected)
    found = read_footprints(output).sort_values("id", ignore_index=True)
    assert found["id"].tolist() == expected["id"].tolist()
    assert found["area_m2"].tolist() == pytest.approx(expected["area_m2"].tolist())
    assert found.attrs["repaired"] == 0
    assert found.crs.to_epsg() == (4326 if suffix.startswith(".geojson") else 32645)
    inside = found.to_crs(expected.crs).intersection(expected, align=False).area
    assert inside.to_numpy() == pytest.approx(expected.area.to_numpy(), rel=0.01)


@pytest.mark.parametrize(
    ("rows", "columns", "thresholds"),
    [(15, 20, Thresholds(min_area_m2=1)), (250, 280, EXACT)],
    ids=["300", "70,000"],
)
def test_touching_objects_keep_distinct_ids(rows, columns, thresholds):
    height, width = 5 * rows, 5 * columns
    body = np.full((height, width), 0.9, dtype=np.float32)
    border = np.zeros_like(body)
    border[::5] = border[:, ::5] = 0.9
    valid, grid = np.ones(body.shape, dtype=bool), utm_grid(height, width)
    found = vectorize_arrays(body, border, valid, grid, thresholds)
    assert found["id"].tolist() == list(range(1, rows * columns + 1))
    assert shapely.coverage_is_valid(found.geometry.array)
    assert shapely.area(found.geometry.array).sum() == pytest.approx(body.size / 4)
    cells = np.floor(shapely.get_coordinates(shapely.centroid(found.geometry.array)) / 2.5)
    assert len(np.unique(cells, axis=0)) == rows * columns


def test_small_objects_vanish():
    body = np.zeros((40, 60), dtype=np.uint8)
    body[2:6, 2:6] = 255  # 4 square metres
    body[20:26, 20:30] = 255  # 15 square metres
    grid = utm_grid(40, 60)
    valid = np.ones(grid.shape, dtype=bool)

    def count(minimum):
        thresholds = Thresholds(min_area_m2=minimum)
        return len(vectorize_arrays(body, None, valid, grid, thresholds))

    assert [count(minimum) for minimum in (0, 3.9, 4.1, 14.9, 15.1)] == [2, 2, 1, 1, 0]


# Thresholds


def test_thresholds_come_from_the_raster(tmp_path):
    array = np.full((1, 20, 30), 100, dtype=np.uint8)
    valid, grid = np.ones((20, 30), dtype=bool), utm_grid(20, 30)
    tags = {THRESHOLDS_TAG: json.dumps({"body": 0.3, "seed": 0.35, "min_area_m2": 8})}
    path = write_prob(tmp_path / "prob.tif", array, valid, grid, tags=tags)
    assert read_prob(path).thresholds == Thresholds(body=0.3, seed=0.35, min_area_m2=8.0)
    assert vectorize(path, tmp_path / "tagged.fgb") == 1
    assert vectorize(path, tmp_path / "given.fgb", thresholds=Thresholds()) == 0
    plain = write_prob(tmp_path / "plain.tif", array, valid, grid)
    assert read_prob(plain).thresholds == Thresholds()


@pytest.mark.parametrize("text", ["{", "[1]", '{"bodi": 0.5}', '{"body": 2}', '{"body": null}'])
def test_damaged_thresholds_are_refused(tmp_path, text):
    array, valid = np.zeros((1, 20, 30), dtype=np.uint8), np.ones((20, 30), dtype=bool)
    tags = {THRESHOLDS_TAG: text}
    path = write_prob(tmp_path / "prob.tif", array, valid, utm_grid(20, 30), tags=tags)
    with pytest.raises(ConfigError, match=f"prob.tif: the tag {THRESHOLDS_TAG}"):
        vectorize(path, tmp_path / "out.gpkg")
    assert not (tmp_path / "out.gpkg").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": 0},
        {"body": 1.1},
        {"seed": -1},
        {"border": 4.5},
        {"min_area_m2": -1},
        {"simplify_m": float("inf")},
        {"body": float("nan")},
    ],
)
def test_thresholds_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValidationError, match=name):
        Thresholds(**wrong)


# Inputs that cannot serve


def test_wrong_rasters_are_refused(tmp_path):
    grid = utm_grid(20, 30)
    output = tmp_path / "out.gpkg"
    cases = {
        "rgb": (np.zeros((3, 20, 30), np.uint8), "none named building"),
        "int16": (np.zeros((1, 20, 30), np.int16), "has int16 pixels"),
        "logits": (np.full((1, 20, 30), 4.0, np.float32), "has values from 4 to 4"),
    }
    for name, (array, message) in cases.items():
        write_array(tmp_path / f"{name}.tif", grid, array)
        with pytest.raises(SceneReadError, match=message):
            vectorize(tmp_path / f"{name}.tif", output)
    with pytest.raises(SceneReadError, match="no such file"):
        vectorize(tmp_path / "absent.tif", output)
    assert list(tmp_path.glob("*out*")) == []


def test_the_building_band_is_found_by_name(tmp_path):
    array = np.zeros((4, 20, 30), dtype=np.uint8)
    array[2, 5:10, 5:20] = 255
    names = ("background", "border", "building", "road")
    grid = utm_grid(20, 30)
    options = {"descriptions": names, "photometric": "minisblack"}  # else GDAL tags an alpha band
    write_array(tmp_path / "prob.tif", grid, array, **options)
    with SceneProb(read_prob(tmp_path / "prob.tif")) as source:
        prob = source.read(Window(4, 4, 3, 2))
    assert prob.body.tolist() == [[0, 0, 0], [0, 1, 1]]
    assert prob.border is not None


def test_a_raster_without_position_is_refused(tmp_path):
    grid = Grid(CRS(), Affine(0.5, 0, 10, 0, -0.5, 20), 20, 30)
    write_array(tmp_path / "prob.tif", grid, np.zeros((1, 20, 30), np.uint8))
    with pytest.raises(MissingCRSError):
        vectorize(tmp_path / "prob.tif", tmp_path / "out.gpkg")


def test_outputs_are_checked_before_anything_is_read(tmp_path):
    array, valid = city()
    path = write_prob(tmp_path / "prob.tif", array, valid, utm_grid(*valid.shape))
    with pytest.raises(ConfigError, match="use one of"):
        vectorize(path, tmp_path / "out.dxf")
    (tmp_path / "out.gpkg").write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        vectorize(path, tmp_path / "out.gpkg")
    assert (tmp_path / "out.gpkg").read_text() == "precious"
    assert vectorize(path, tmp_path / "out.gpkg", overwrite=True) == 20


def test_arrays_of_different_shapes_are_refused():
    grid = utm_grid(4, 6)
    with pytest.raises(ValueError, match="differ in shape"):
        ArrayProb(np.zeros((4, 6)), None, np.ones((6, 4), bool), grid)


def test_no_polygon_has_no_area():
    areas, perimeters = geodesic_measures(np.array([], dtype=object), gpd.GeoSeries(crs=4326).crs)
    assert (len(areas), len(perimeters)) == (0, 0)
