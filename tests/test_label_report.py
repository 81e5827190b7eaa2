"""The label report: counts, areas, shifts, findings, page and command line."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import write_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from geoseg.cli import main
from geoseg.data.label_report import (
    JSON_NAME,
    PAGE_NAME,
    Histogram,
    format_headline,
    load_label_report,
    measure_labels,
    save_label_report,
    write_label_report,
)
from geoseg.data.label_report.contact_sheet import trace_classes, trace_footprints
from geoseg.data.label_report.edges import draw_outlines, fit_outlines, measure_edges
from geoseg.data.label_report.findings import list_findings
from geoseg.data.label_report.footprint_checks import (
    DUPLICATE_IOU,
    OVERLAP_SHARE,
    count_overlaps,
    geodesic_areas_m2,
)
from geoseg.data.label_report.label_shift import estimate_shift, find_peak, shift_in_metres
from geoseg.data.label_report.sampling import choose_sheet_tiles, spread_tiles
from geoseg.data.label_report.summary import format_percent
from geoseg.data.tiles import load_tiles_info, plan_tiles, read_tiles, tile_scenes
from geoseg.errors import EmptyDatasetError, LabelError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.options import TileOptions
from geoseg.town import build_town

SMALL = {"size": 32, "overlap": 8, "fractions": (0.6, 0.2, 0.2), "gap": 0}


def cut(scene, labels, folder, **options):
    plan = plan_tiles([scene], labels, TileOptions(**(SMALL | options)))
    tile_scenes(plan, folder)
    return folder


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Tiles of a scene with a nodata hole, and the known properties of the scene."""
    folder = tmp_path_factory.mktemp("small")
    made = write_scene(
        folder, descriptions=("red", "green", "blue"), nodata=0, holes=[(20, 0, 60, 30)]
    )
    cut(made.path, made.labels, folder / "tiles")
    return SimpleNamespace(folder=folder / "tiles", made=made)


@pytest.fixture(scope="module")
def report(tiles):
    return measure_labels(tiles.folder, repaired=2, dropped=0)


@pytest.fixture(scope="module")
def town():
    return build_town(320, 460, seed=5, nodata=None)


def matrix_of(transform):
    return [transform.a, transform.b, transform.d, transform.e, transform.c, transform.f]


def write_town_tiles(folder, town, *, moved=(0, 0), rotation=0, south_up=False, image=None):
    """Cut a town into tiles, with footprints shifted by (dx, dy) pixels.

    The image is georeferenced by a rotated grid, or stored with its last row first.
    """
    image = town.image if image is None else image
    turn = Affine.rotation(rotation)
    if south_up:
        image = image[:, ::-1]
        turn = turn * Affine(1, 0, 0, 0, -1, town.grid.height)
    grid = Grid(town.grid.crs, town.grid.transform * turn, *town.grid.shape)
    in_pixels = town.footprints.geometry.affine_transform(matrix_of(~town.grid.transform))
    stored = in_pixels.affine_transform([1, 0, 0, -1, 0, grid.height]) if south_up else in_pixels
    shapes = stored.translate(*moved).affine_transform(matrix_of(grid.transform))
    folder.mkdir(exist_ok=True)
    gpd.GeoDataFrame(geometry=shapes, crs=town.footprints.crs).to_file(folder / "labels.gpkg")
    write_array(folder / "scene.tif", grid, np.ascontiguousarray(image))
    options = {"size": 96, "overlap": 24, "fractions": (1, 0, 0)}
    cut(folder / "scene.tif", folder / "labels.gpkg", folder / "tiles", **options)
    return folder / "tiles", grid


# The shift


@pytest.mark.parametrize(
    ("moved", "grid"),
    [
        ((0, 0), {}),
        ((3, -2), {}),
        ((-7.5, 8), {}),
        ((5.3, -1.6), {"rotation": 30}),
        ((-2, 8), {"south_up": True}),
        ((6.5, 3.2), {"south_up": True, "rotation": -75}),
    ],
)
def test_known_shift_is_recovered(tmp_path, town, moved, grid):
    folder, placed = write_town_tiles(tmp_path, town, moved=moved, **grid)
    shift = measure_labels(folder).shift
    assert (shift.dx, shift.dy) == pytest.approx((-moved[0], -moved[1]), abs=0.25)
    assert shift.clear
    assert shift.error < 0.2
    east, north = np.array(placed.transform * (0, 0)) - placed.transform * moved
    assert (shift.east_m, shift.north_m) == pytest.approx((east, north), abs=0.25)


def test_noise_has_no_clear_shift(tmp_path, town):
    noise = np.random.default_rng(1).integers(1, 255, town.image.shape).astype(np.uint8)
    folder, _ = write_town_tiles(tmp_path, town, image=noise)
    report = measure_labels(folder)
    assert report.shift.strength < 6
    assert not report.shift.clear
    assert format_headline(report).endswith("; shift unclear")


def test_labels_of_another_town_have_no_clear_shift(tmp_path, town):
    other = build_town(*town.grid.shape, seed=6, nodata=None)
    folder, _ = write_town_tiles(tmp_path, town, image=other.image)
    report = measure_labels(folder)
    assert not report.shift.clear
    assert any("is unclear" in finding.text for finding in list_findings(report))


def test_shift_is_estimated_per_scene(tmp_path, town):
    scenes = []
    for name, moved in (("a", 0), ("b", 4)):
        image = np.roll(town.image, -moved, axis=2)
        # Scenes without overlap, with one layer of labels.
        place = Affine.translation(0, -1000 * moved) * town.grid.transform
        grid = Grid(town.grid.crs, place, *town.grid.shape)
        write_array(tmp_path / f"{name}.tif", grid, image)
        shapes = town.footprints.geometry.translate(0, -1000 * moved)
        scenes.append((tmp_path / f"{name}.tif", shapes))
    shapes = pd.concat([shapes for _, shapes in scenes], ignore_index=True)
    gpd.GeoDataFrame(geometry=shapes, crs=town.footprints.crs).to_file(tmp_path / "labels.gpkg")
    options = TileOptions(size=96, overlap=24, fractions=(1, 0, 0), gap=0)
    plan = plan_tiles([path for path, _ in scenes], tmp_path / "labels.gpkg", options)
    tile_scenes(plan, tmp_path / "tiles")
    report = measure_labels(tmp_path / "tiles")
    shifts = [report.scene_shifts[str(path)] for path, _ in scenes]
    assert [shift.dx for shift in shifts] == pytest.approx([0, -4], abs=0.25)
    assert [shift.dy for shift in shifts] == pytest.approx([0, 0], abs=0.25)
    assert all(shift.clear for shift in shifts)
    lines = [finding.text for finding in list_findings(report) if "b.tif" in finding.text]
    assert lines == [
        f"In {tmp_path / 'b.tif'}, moving the labels {abs(shifts[1].east_m):.2g} m west would "
        "align them with the image."
    ]


@given(
    dx=st.integers(-6, 6), dy=st.integers(-6, 6), seed=st.integers(0, 1000), bands=st.integers(1, 4)
)
def test_outlines_match_edges_at_the_known_shift(dx, dy, seed, bands):
    rng = np.random.default_rng(seed)
    classes = np.zeros((80, 100), dtype=np.uint8)
    for top, left in rng.integers(12, 50, (4, 2)):
        classes[top : top + 14, left : left + 20] = 1
    data = np.roll(60 * classes, (dy, dx), (0, 1)) + rng.normal(0, 3, (bands, 80, 100))
    everywhere = np.ones((80, 100), dtype=bool)
    fit = fit_outlines(data, everywhere, classes, everywhere, 10)
    assert fit.edges.shape == fit.outlines.shape == (21, 21)
    assert find_peak(fit.edges / fit.outlines) == pytest.approx((dx, dy), abs=0.3)


def test_peak_is_found_with_subpixel_precision():
    rows, columns = np.mgrid[-9:10, -9:10]
    surface = 7 - 0.3 * (columns - 2.3) ** 2 - 0.2 * (rows + 4.6) ** 2
    assert find_peak(surface) == pytest.approx((2.3, -4.6))
    edge = -np.hypot(columns - 20, rows)
    assert find_peak(edge)[0] == 9


def test_nodata_has_neither_edges_nor_outlines():
    valid = np.ones((40, 60), dtype=bool)
    valid[:, 30:] = False
    classes = np.zeros((40, 60), dtype=np.uint8)
    classes[10:20, 24:30] = 1
    data = np.full((2, 40, 60), 90.0)
    data[:, ~valid] = 0
    assert not measure_edges(data, valid).any()
    outlines = draw_outlines(classes, valid)
    assert outlines[15, 24] > 0.3
    assert not outlines[:, 27:].any()
    assert fit_outlines(data, valid, classes, valid, 5) is None
    assert not measure_edges(data, np.zeros_like(valid)).any()


def test_edges_do_not_depend_on_the_unit_of_a_band():
    rng = np.random.default_rng(0)
    data = gaussian_filter(rng.normal(size=(3, 50, 70)), (0, 2, 2))
    valid = np.ones((50, 70), dtype=bool)
    scaled = data * np.array([1, 1000, 0.01])[:, None, None] + 5
    np.testing.assert_allclose(measure_edges(data, valid), measure_edges(scaled, valid), atol=0.02)


def test_few_tiles_or_a_peak_at_the_limit_are_unclear(report):
    rows, columns = np.mgrid[-10:11, -10:11]
    grid = Grid(CRS.from_epsg(32633), Affine(0.5, 0, 4e5, 0, -0.5, 5e6), 64, 80)

    def estimate(count, dx):
        noise = np.random.default_rng(0).normal(0, 0.05, (count, 21, 21))
        peak = np.exp(-((columns - dx) ** 2 + rows**2) / 4)
        fits = [SimpleNamespace(edges=peak + n, outlines=np.ones((21, 21))) for n in noise]
        return estimate_shift({"scene": fits}, {"scene": grid}, 0)

    assert estimate(6, 2).clear
    assert not estimate(5, 2).clear
    assert not estimate(6, 10).clear
    assert (estimate(6, 2).east_m, estimate(6, 2).tiles) == (pytest.approx(1, abs=0.05), 6)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326"])
def test_shift_is_converted_to_metres(crs):
    town = build_town(60, 90, crs=crs, rotation_deg=20, nodata=None)
    dx, dy = 8.0, -5.0
    east, north = shift_in_metres(town.grid, dx, dy)
    assert np.hypot(east, north) == pytest.approx(0.5 * np.hypot(dx, dy), rel=5e-3)
    # Rows point down: (8, -5) is 32 degrees above the column axis, which is rotated by 20.
    angle = np.rad2deg(np.arctan2(north, east))
    assert angle == pytest.approx(np.rad2deg(np.arctan2(5, 8)) + 20, abs=3)


# Classes and footprints


def count_targets(folder):
    """Count the pixels of each value in the first band of all targets."""
    counts = np.zeros(256, dtype=int)
    for path in (folder / "targets").iterdir():
        with rasterio.open(path) as source:
            counts += np.bincount(source.read(1).ravel(), minlength=256)
    return counts


def test_classes_are_counted_in_every_target(tiles, report):
    counts = count_targets(tiles.folder)
    assert report.total.classes == {"ground": counts[0], "building": counts[1]}
    assert report.total.ignored == counts[255] > 1000
    assert report.total.pixels == counts.sum() == report.total.tiles * 32**2
    assert report.total.shares["building"] == counts[1] / (counts[0] + counts[1])
    summed = sum(pd.Series(counts.classes) for counts in report.splits.values())
    assert summed.to_dict() == report.total.classes
    assert list(report.splits) == ["train", "val", "test"]


def test_footprints_are_assigned_to_splits_by_their_centre(tiles, report):
    middles = [(left + right) / 2 for left, _, right, _ in tiles.made.boxes]
    edges = {"train": (0, 96), "val": (96, 128), "test": (128, 160)}
    for split, (start, end) in edges.items():
        assert report.splits[split].footprints == {
            "building": sum(start < middle < end for middle in middles)
        }
    assert report.total.footprints == {"building": len(middles)}


def test_areas_are_geodesic(tiles, report):
    statistics = report.footprints
    assert (statistics.number, statistics.repaired, statistics.dropped) == (
        len(tiles.made.boxes),
        2,
        0,
    )
    # 12 x 9 pixels of 0.5 m; the scale factor of UTM is 0.9996.
    assert set(statistics.area_m2.values()) == {round(108 * 0.25 / 0.9996**2, 2)}
    assert sum(statistics.areas.counts) == statistics.number
    assert (statistics.duplicates, statistics.overlaps, statistics.tiny) == (0, 0, 0)


def test_duplicates_and_overlaps_are_counted(tmp_path):
    made = write_scene(tmp_path)
    frame = gpd.read_file(made.labels)
    box = frame.geometry
    extra = [
        shapely.Polygon(list(box[0].exterior.coords)[::-1]).segmentize(1),  # duplicate
        box[0].buffer(0.02),  # duplicate
        shapely.affinity.translate(box[3], 0.85 * 6, 0),  # shares 15 %
        shapely.affinity.translate(box[10], 0.95 * 6, 0),  # shares 5 %
        shapely.box(*(box[1].centroid.buffer(0.3).bounds)),  # within, and tiny
    ]
    everything = pd.concat([box, gpd.GeoSeries(extra, crs=frame.crs)], ignore_index=True)
    gpd.GeoDataFrame(geometry=everything).to_file(made.labels)
    statistics = measure_labels(cut(made.path, made.labels, tmp_path / "tiles")).footprints
    assert (statistics.number, statistics.duplicates, statistics.overlaps, statistics.tiny) == (
        len(everything),
        2,
        2,
        1,
    )


@given(copies=st.lists(st.integers(0, 5), max_size=6), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_overlaps_do_not_depend_on_order(copies, seed):
    rng = np.random.default_rng(seed)
    squares = [shapely.box(20 * i, 0, 20 * i + 10, 9) for i in range(6)]
    touching = [shapely.box(20 * i + 10, 0, 20 * i + 12, 9) for i in range(6)]
    covering = [shapely.box(20 * i + 3, 3, 20 * i + 15, 8) for i in set(copies)]
    shapes = np.array([*squares, *touching, *(squares[i] for i in copies)])
    rng.shuffle(shapes)
    assert count_overlaps(shapes) == (len(copies), 0)
    # Each covers a square, its copies and all of the adjacent strip.
    pairs = sum(2 + copies.count(i) for i in set(copies))
    assert count_overlaps(np.array([*shapes, *covering])) == (len(copies), pairs)
    assert count_overlaps(shapes[:0]) == (0, 0)


@given(
    corners=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=14),
    start=st.integers(0, 14),
)
def test_copies_and_overlaps_are_counted_in_pairs(corners, start):
    # Wide boxes one step apart are the same, others overlap or do not touch.
    boxes = [shapely.box(10 * x + y / 8, 0, 10 * x + 12, 20) for x, y in corners]
    repeated, overlapping = set(), 0
    for later in range(start, len(boxes)):
        for one in boxes[:later]:
            shared = one.intersection(boxes[later]).area
            if shared > DUPLICATE_IOU * (one.area + boxes[later].area - shared):
                repeated.add(later)
            elif shared > OVERLAP_SHARE * min(one.area, boxes[later].area):
                overlapping += 1
    assert count_overlaps(np.array(boxes), start) == (len(repeated), overlapping)


def test_a_layer_that_was_loaded_a_thousand_times_is_counted_at_once():
    boxes = [shapely.box(x, 0, x + 12, 20) for x in (0, 5, 40)] * 1000
    assert count_overlaps(np.array(boxes)) == (2997, 1_000_000)


@pytest.fixture(scope="module")
def raster_tiles(tmp_path_factory):
    """Tiles labelled by a mask raster with two classes and background."""
    folder = tmp_path_factory.mktemp("raster")
    made = write_scene(folder)
    mask = made.mask.astype(np.uint8)
    mask[40:44] = 7
    write_array(folder / "mask.tif", made.grid, mask[None])
    classes = {"values": {"roof": 1, "road": 7}}
    return cut(made.path, folder / "mask.tif", folder / "tiles", classes=classes)


def test_labels_can_be_a_mask_raster(raster_tiles):
    report = write_label_report(raster_tiles)
    counts = count_targets(raster_tiles)
    assert report.exclusive
    assert report.footprints is None
    assert report.total.footprints is None
    assert report.total.classes == {"background": counts[0], "roof": counts[1], "road": counts[2]}
    shares = ", ".join(f"{format_percent(share)} {n}" for n, share in report.total.shares.items())
    assert format_headline(report).startswith(f"{shares}; shift ")
    page = Page((raster_tiles / PAGE_NAME).read_text())
    assert "road" in page.text
    assert "Footprints" not in page.text
    assert len([path for path in page.paths if path]) > 2 * 24


def test_polygons_can_have_several_classes(tiles, tmp_path):
    classes = {"attribute": "label", "values": {"house": 1, "hall": 2}}
    folder = cut(tiles.made.path, tiles.made.labels, tmp_path / "tiles", classes=classes)
    report = write_label_report(folder, repaired=0, dropped=0)
    counts = count_targets(folder)
    assert report.total.classes == {"background": counts[0], "house": counts[1], "hall": counts[2]}
    number = len(tiles.made.boxes)
    assert report.total.footprints == {
        "background": 0, "house": (number + 1) // 2, "hall": number // 2
    }  # fmt: skip
    assert format_headline(report).startswith(
        f"{number} footprints (16 in train, 4 in val, 4 in test): "
    )
    page = (folder / PAGE_NAME).read_text()
    colours = set(re.findall(r'Z" stroke="(#\w+)"', page))
    assert len(colours) == 2


def test_polygons_without_a_class_are_ignored(tiles, tmp_path):
    classes = {"attribute": "label", "values": {"hall": 2}}
    folder = cut(tiles.made.path, tiles.made.labels, tmp_path / "tiles", classes=classes)
    report = measure_labels(folder)
    number = len(tiles.made.boxes)
    assert report.footprints.number == number
    assert report.total.footprints == {"background": 0, "hall": number // 2}
    assert report.total.ignored == count_targets(folder)[255]


def test_class_pixels_are_traced_along_their_edges(raster_tiles):
    info = load_tiles_info(raster_tiles)
    classes = np.zeros((20, 30), dtype=np.uint8)
    classes[3:7, 4:10] = 1
    classes[15:18, 22:] = 2
    known = np.ones((20, 30), dtype=bool)
    known[:, 28:] = False
    traced = trace_classes(classes, known, info)
    assert sorted(points_of(traced["roof"])[0]) == [(4, 3), (4, 7), (10, 3), (10, 7)]
    assert sorted(points_of(traced["road"])[0]) == [(22, 15), (22, 18), (28, 15), (28, 18)]
    assert set(trace_classes(classes, known & (classes != 2), info)) == {"roof"}


# Bands


def test_uint8_histogram_has_bins_of_four_values(tiles, report):
    ids = read_tiles(tiles.folder).query("split == 'train'").id
    pixels = []
    for id_ in ids:
        with rasterio.open(tiles.folder / "images" / f"{id_}.tif") as source:
            pixels.append(source.read()[:, source.dataset_mask() > 0])
    pixels = np.concatenate(pixels, axis=1)
    assert [band.name for band in report.bands] == ["red", "green", "blue"]
    for band, values in zip(report.bands, pixels, strict=True):
        assert (band.low, band.high, len(band.counts)) == (0, 256, 64)
        assert band.counts == tuple(np.bincount(values // 4, minlength=64))
        assert band.edges[:3] == [0, 4, 8]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_histograms_of_other_types_range_between_percentiles(tmp_path, dtype):
    made = write_scene(tmp_path, dtype=dtype, bands=1)
    with rasterio.open(made.path, "r+") as scene:
        data = scene.read()
        data[0, ::40, ::40] = 9000
        scene.write(data)
    folder = cut(made.path, made.labels, tmp_path / "tiles", overlap=0)
    (band,) = measure_labels(folder).bands
    values = data[0, :, :96]
    assert (band.low, band.high) == (20, 119)
    assert band.below == 0
    assert band.above == np.count_nonzero(values == 9000) == 9
    assert sum(band.counts) + band.above == values.size


def test_constant_band_is_reported(tmp_path):
    made = write_scene(tmp_path, bands=2, dtype="float32")
    with rasterio.open(made.path, "r+") as scene:
        scene.write(np.zeros(scene.shape, np.float32), 2)
    report = write_label_report(cut(made.path, made.labels, tmp_path / "tiles"))
    assert max(report.bands[1].counts) == sum(report.bands[1].counts) > 0
    assert "Band band2 contains a single value only." in [f.text for f in list_findings(report)]


# Sample tiles


def many_tiles(sizes, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"{split}{i:03d}", "split": split, "scene": "s", "row_off": 10 * i, "col_off": 0}
        for split, size in sizes.items()
        for i in range(size)
    ]
    frame = pd.DataFrame(rows).assign(height=10, width=10)
    share = rng.random(len(frame)) * (rng.random(len(frame)) < 0.5)
    return frame.assign(building_fraction=share)


@given(
    sizes=st.fixed_dictionaries({s: st.integers(0, 40) for s in ("train", "val", "test")}).filter(
        lambda sizes: sum(sizes.values())
    ),
    seed=st.integers(0, 99),
)
def test_contact_sheet_has_tiles_of_all_splits(sizes, seed):
    tiles = many_tiles(sizes, seed)
    ids = choose_sheet_tiles(tiles, 24, seed)
    assert ids == choose_sheet_tiles(tiles, 24, seed)
    assert len(set(ids)) == len(ids) == min(24, sum(sizes.values()))
    chosen = tiles.set_index("id").loc[list(ids)]
    counts = {split: int((chosen.split == split).sum()) for split in sizes}
    for split, count in counts.items():
        assert count == sizes[split] or count >= max(counts.values()) - 1
        part, everything = chosen[chosen.split == split], tiles[tiles.split == split]
        assert part.building_fraction.is_monotonic_decreasing
        full = (everything.building_fraction > 0).sum()
        assert (part.building_fraction == 0).sum() == max(
            min(len(everything) - full, count // 4), count - full
        )


def test_contact_sheet_avoids_overlapping_tiles():
    tiles = many_tiles({"train": 60}).assign(building_fraction=0.5)
    tiles["row_off"] = 2 * np.arange(60)  # each tile overlaps four before and four after it
    shown = tiles.set_index("id").row_off.loc[list(choose_sheet_tiles(tiles, 5, 0))]
    assert np.diff(np.sort(shown)).min() >= 10


@given(total=st.integers(1, 300), count=st.integers(1, 96))
def test_tiles_are_spread_evenly(total, count):
    places = spread_tiles(pd.DataFrame({"id": range(total)}), count).id.to_numpy()
    assert len(places) == min(total, count)
    gaps = np.diff(places)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


# The files


class Page(HTMLParser):
    """Parser that checks that tags are balanced and collects links, paths and text."""

    VOID = ("meta", "img", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.paths, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        self.paths += [values["d"]] if "d" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def points_of(path):
    """Return the points of each line of an SVG path."""
    return [
        [tuple(map(float, point.split())) for point in line.strip("Z").split("L")]
        for line in path.split("M")[1:]
    ]


def test_page_has_no_external_resources(tiles, report):
    save_label_report(report, tiles.folder)
    text = (tiles.folder / PAGE_NAME).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert not re.search(r"https?:|url\(|@import|<link|\bon[a-z]+=", text)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    for link in page.links:
        assert imread(io.BytesIO(base64.b64decode(link.partition(",")[2]))).size > 0
    assert len(page.links) == len(report.sheet) + 2 + 3
    for id_ in report.sheet:
        assert text.count(f"<code>{id_}</code>") == 1
    assert "2 invalid footprints repaired." in page.text
    assert page.text.count("train") > 5


def test_outlines_match_the_buildings(tiles):
    grid = tiles.made.grid
    frame = gpd.GeoDataFrame(geometry=tiles.made.polygons, crs=grid.crs.to_wkt())
    area = Window(0, 0, 100, 96)
    lines = points_of(trace_footprints(grid, frame, area))
    whole = [box for box in tiles.made.boxes if box[2] < 100]
    cut_off = [box for box in tiles.made.boxes if box[0] < 100 <= box[2]]
    closed = {
        (*np.min(line, axis=0), *np.max(line, axis=0))
        for line in lines
        if max(x for x, _ in line) < 100
    }
    assert closed == set(whole)
    ends = sorted(point for line in lines for point in (line[0], line[-1]) if line[0][0] == 100)
    assert ends == sorted((100, y) for box in cut_off for y in (box[1], box[3]))


def test_the_same_folder_gives_the_same_bytes(tiles):
    contents = set()
    for _ in range(2):
        write_label_report(tiles.folder)
        contents.add(tuple((tiles.folder / name).read_bytes() for name in (JSON_NAME, PAGE_NAME)))
    assert len(contents) == 1


def test_report_is_loaded_as_it_was_saved(tiles, report):
    save_label_report(report, tiles.folder)
    bare = report.shift.model_copy(update={"surface": ()})
    assert load_label_report(tiles.folder) == report.model_copy(update={"shift": bare})
    stored = json.loads((tiles.folder / JSON_NAME).read_text())
    assert "surface" not in stored["shift"]
    assert stored["ground"]["tiles"] == report.total.tiles
    save_label_report(load_label_report(tiles.folder), tiles.folder)
    assert len(Page((tiles.folder / PAGE_NAME).read_text()).links) == len(report.sheet) + 1 + 3


def test_names_are_escaped_on_the_page(tiles, report):
    bad = report.model_copy(update={"labels": 'a<b>&"c.gpkg', "scenes": ("<i>.tif",) * 5})
    save_label_report(bad, tiles.folder)
    page = Page((tiles.folder / PAGE_NAME).read_text())
    assert 'a<b>&"c.gpkg' in page.text
    assert "<i>.tif, <i>.tif, <i>.tif and 2 more" in page.text
    assert "b" not in page.open + [tag for tag in page.tags if tag == "i>.tif"]


def test_missing_or_damaged_report_is_refused(tiles, tmp_path):
    with pytest.raises(EmptyDatasetError, match=r"labels\.json: does not exist"):
        load_label_report(tmp_path)
    (tmp_path / JSON_NAME).write_text("{")
    with pytest.raises(EmptyDatasetError, match="damaged"):
        load_label_report(tmp_path)
    with pytest.raises(EmptyDatasetError, match=r"tiles\.json"):
        measure_labels(tmp_path)


# Texts


def test_headline_summarizes_the_report(report):
    footprints = report.footprints.model_copy(update={"number": 1231, "overlaps": 11})
    shift = report.shift.model_copy(
        update={"dx": 0.42, "dy": -1.21, "strength": 20.0, "error": 0.1, "tiles": 40}
    )
    text = format_headline(report.model_copy(update={"footprints": footprints, "shift": shift}))
    share = format_percent(report.total.shares["building"])
    counts = [f"{sum(one.footprints.values())} in {split}" for split, one in report.splits.items()]
    assert len(counts) > 1
    assert text == (
        f"1,231 footprints ({', '.join(counts)}) on {share} of the pixels, 2 repaired, "
        "11 overlaps; shift 0.4, -1.2 px (clear)"
    )
    assert format_headline(report.model_copy(update={"shift": None})).endswith("; shift unclear")
    val = report.splits["val"]
    empty = val.model_copy(update={"classes": {"ground": val.pixels - val.ignored, "building": 0}})
    splits = {**report.splits, "val": empty}
    text = format_headline(report.model_copy(update={"splits": splits}))
    assert f" on {share} of the pixels, none in val" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0004, "< 0.1 %"), (0.0123, "1.2 %"), (0.314, "31 %"), (1, "100 %")],
)
def test_shares_are_formatted_as_percentages(share, text):
    assert format_percent(share) == text


def findings(report, **changes):
    return {f.text: f.good for f in list_findings(report.model_copy(update=changes))}


def test_findings_list_problems(report):
    footprints = report.footprints.model_copy(
        update={"duplicates": 1, "overlaps": 1200, "dropped": 1, "tiny": 20}
    )
    moved = report.shift.model_copy(
        update={"dx": 3.0, "dy": 4.0, "east_m": 1.5, "north_m": -2.0, "strength": 20.0,
                "error": 0.1, "tiles": 40}
    )  # fmt: skip
    empty = report.splits["val"].model_copy(
        update={"pixels": 100, "ignored": 0, "classes": {"ground": 99, "building": 1}}
    )
    found = findings(
        report, footprints=footprints, shift=moved, failed=3, splits=report.splits | {"val": empty}
    )
    share = format_percent(20 / report.footprints.number)
    wrong = [text for text, good in found.items() if not good]
    assert [
        text for text in wrong if not text.startswith(("The splits", "1 duplicate footprint."))
    ] == [
        "The labels are shifted by 5.0 pixels: moving them 1.5 m east and 2 m south would align "
        "them with the image. Check the sample tiles below; `geoseg align` moves each outline onto "
        "its building. This matters most where houses are small.",
        "1,200 pairs of footprints with an overlap of more than 10 % of the smaller one.",
        "2 invalid footprints repaired.",
        "1 feature without a polygon left out.",
        f"{share} of the footprints are smaller than 3 × 3 pixels, too small for a network to "
        "detect.",
        "3 tiles could not be cut.",
    ]
    assert any(
        re.fullmatch(r"The splits differ: building covers \d+ % of \w+ but 1.0 % of val\.", text)
        for text in wrong
    )


def test_findings_confirm_good_labels(report):
    near = report.shift.model_copy(
        update={"dx": 0.3, "dy": 0.4, "strength": 20.0, "error": 0.1, "tiles": 40}
    )
    clean = report.footprints.model_copy(update={"repaired": None})
    even = dict.fromkeys(report.splits, report.total)
    found = findings(report, shift=near, footprints=clean, splits=even)
    assert found == {
        "The labels are aligned with the image to within 0.5 pixels.": True,
        "There are no duplicate or overlapping footprints.": True,
        "Each class has a similar share in every split.": True,
    }


def test_histogram_edges():
    bars = Histogram(name="x", low=1.0, high=3.0, counts=(4, 0, 1, 2))
    assert bars.edges == [1.0, 1.5, 2.0, 2.5, 3.0]


# The command line


def test_tile_writes_the_report_and_info_shows_it(tmp_path, town, monkeypatch, capsys):
    def geoseg(*arguments):
        monkeypatch.setattr("sys.argv", ["geoseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        assert not exit_info.value.code
        return capsys.readouterr().out

    folder, _ = write_town_tiles(tmp_path, town, moved=(2, 0))
    arguments = ("tile", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", "-o", folder)
    for _ in range(2):  # the report is replaced together with the folder
        out = geoseg(*arguments, "--size", 96, "--gap", 0, "--overwrite")
    line = re.search(r"^labels: (.*); see (.*)$", out, re.MULTILINE)
    assert line[1] == format_headline(load_label_report(folder))
    assert re.search(r"shift -[12]\.\d, -?0\.\d px \(clear\)", line[1])
    assert line[2] == str(folder / PAGE_NAME)
    assert (folder / PAGE_NAME).stat().st_size > 50_000
    shown = geoseg("info", folder)
    assert line[1] in shown
    assert line[2] in shown


def test_no_folder_is_left_if_the_last_step_fails(tmp_path):
    made = write_scene(tmp_path)
    plan = plan_tiles([made.path], made.labels, TileOptions(**SMALL))

    def fail(folder):
        assert (folder / "tiles.json").is_file()
        raise LabelError("fails")

    with pytest.raises(LabelError):
        tile_scenes(plan, tmp_path / "tiles", finish=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.gpkg", "scene.tif"]
    tile_scenes(plan, tmp_path / "tiles", finish=write_label_report)
    assert load_label_report(tmp_path / "tiles").total.tiles == 24


@pytest.mark.realdata
def test_labels_of_a_real_town_are_aligned(realdata, tmp_path):
    scene, labels = realdata / "banepa" / "scene.tif", realdata / "banepa" / "footprints.geojson"
    options = {"gsd_m": 0.6, "size": 128, "overlap": 0, "fractions": (0.7, 0.15, 0.15)}
    report = measure_labels(cut(scene, labels, tmp_path / "tiles", **options))
    assert report.footprints.number == 1231
    assert report.shift.clear
    assert report.shift.length < 0.3


def test_a_footprint_with_impossible_latitudes_has_no_area():
    layer = gpd.GeoDataFrame(
        geometry=[shapely.box(10, 95, 11, 120), shapely.box(10, 0, 10.01, 0.02)], crs=4326
    )
    beyond, real = geodesic_areas_m2(layer)
    assert beyond == 0
    assert real == pytest.approx(1113.2 * 2211.5, rel=1e-3)


@pytest.mark.parametrize("column", [np.inf, -np.inf, np.nan])
def test_an_outline_with_coordinates_that_are_no_numbers_is_not_drawn(column):
    grid = Grid(CRS.from_epsg(32645), Affine(0.5, 0, 500_000, 0, -0.5, 3e6), 40, 30)
    damaged = shapely.box(500_001, 3e6 - 4, 500_003, 3e6 - 1)
    whole = shapely.box(500_002, 3e6 - 6, 500_004, 3e6 - 3)
    points = shapely.get_coordinates(damaged)
    points[1, 0] = column
    layer = gpd.GeoDataFrame(geometry=[shapely.set_coordinates(damaged, points), whole], crs=32645)
    drawn = trace_footprints(grid, layer, Window(0, 0, 30, 40))
    assert drawn == trace_footprints(grid, layer.iloc[1:], Window(0, 0, 30, 40))
    assert drawn.count("M") == 1
