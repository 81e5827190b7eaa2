"""The synthetic town: what it says of itself is exactly true."""

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from scipy.ndimage import binary_dilation, binary_erosion

from geoseg.errors import ConfigError
from geoseg.town import build_town, write_town
from geoseg.vector import read_footprints


@pytest.fixture(scope="module")
def town():
    return build_town(384, 512, seed=7)


def burnt(town):
    return rasterize(
        town.footprints.geometry, town.grid.shape, transform=town.grid.transform, dtype="uint8"
    )


def test_the_same_arguments_give_the_same_bytes(town):
    again = build_town(384, 512, seed=7)
    assert again.image.tobytes() == town.image.tobytes()
    assert again.footprints.to_wkb().equals(town.footprints.to_wkb())
    other = build_town(384, 512, seed=8)
    assert other.image.tobytes() != town.image.tobytes()


def test_footprints_are_valid_disjoint_and_whole(town):
    shapes = town.footprints.geometry
    assert len(shapes) > 40
    assert shapes.is_valid.all()
    assert shapes.within(town.grid.polygon.buffer(1e-6)).all()
    left, right = shapes.sindex.query(shapes, predicate="intersects")
    pairs = left < right
    shared = (
        shapes.iloc[left[pairs]]
        .reset_index(drop=True)
        .intersection(shapes.iloc[right[pairs]].reset_index(drop=True))
    )
    assert shared.area.max() < 1e-6
    assert list(town.footprints.id) == list(range(1, len(shapes) + 1))


def test_row_houses_share_walls(town):
    rows = town.footprints[town.footprints.kind == "row_house"].geometry
    assert len(rows) > 10
    left, right = rows.sindex.query(rows, predicate="touches")
    walls = shapely.length(shapely.intersection(rows.values[left], rows.values[right]))
    # All but the ends of a row share two walls of several metres, to the vertex.
    assert (walls > 4).sum() > len(rows)
    vertices = [set(map(tuple, shapely.get_coordinates(shape))) for shape in rows]
    assert all(
        len(vertices[i] & vertices[j]) >= 2
        for i, j, wall in zip(left, right, walls, strict=True)
        if wall > 4
    )


def test_every_kind_appears_and_courtyards_have_a_hole():
    footprints = build_town(700, 900, seed=7).footprints
    kinds = footprints.kind.value_counts()
    assert {"house", "l_shape", "row_house", "courtyard", "hall"} <= set(kinds.index)
    yards = footprints[footprints.kind == "courtyard"].geometry
    assert all(len(yard.interiors) == 1 for yard in yards)
    assert kinds["row_house"] > 0.2 * len(footprints)


def test_the_picture_shows_the_footprints(town):
    inside = burnt(town) == 1
    core = binary_erosion(inside, iterations=2) & town.valid
    around = binary_dilation(inside, iterations=8) & ~binary_dilation(inside, iterations=2)
    around &= town.valid
    red, green = town.image[0].astype(float), town.image[1].astype(float)
    # Gardens are green, roofs are not.
    assert np.mean((green - red)[around]) - np.mean((green - red)[core]) > 10
    shifted = np.roll(core, (30, 45), axis=(0, 1)) & town.valid
    assert np.mean((red - green)[core]) > np.mean((red - green)[shifted]) + 10


@pytest.mark.parametrize(
    ("dtype", "nodata", "bands"),
    [
        ("uint8", 0, 3),
        ("uint8", 255, 1),
        ("uint16", 0, 4),
        ("float32", np.nan, 8),
        ("int16", -9, 2),
    ],
)
def test_nodata_is_where_nothing_is_valid_and_nowhere_else(dtype, nodata, bands):
    town = build_town(120, 170, seed=2, dtype=dtype, nodata=nodata, bands=bands)
    assert town.image.shape == (bands, 120, 170)
    assert town.image.dtype == dtype
    empty = np.isnan(town.image) if nodata is np.nan else town.image == nodata
    for band in empty:
        assert np.array_equal(band, ~town.valid)
    # A right triangle in the top right corner.
    assert 0.02 < 1 - town.valid.mean() < 0.05
    assert not town.valid[0, -1]
    hidden = shapely.area(town.footprints.geometry.values).sum()
    assert hidden > 0


def test_without_a_corner_everything_is_valid():
    assert build_town(60, 90, nodata_corner=False).valid.all()
    assert build_town(60, 90, nodata=None).valid.all()


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:2056"])
@pytest.mark.parametrize("gsd_m", [0.3, 1.0])
def test_pixels_measure_what_was_asked(crs, gsd_m):
    town = build_town(80, 130, crs=crs, gsd_m=gsd_m)
    assert town.grid.axis_gsd_m == pytest.approx((gsd_m, gsd_m), rel=0.01)
    assert town.grid.crs == rasterio.CRS.from_user_input(crs)


def test_a_rotated_town_is_the_same_town():
    straight, turned = build_town(200, 260, seed=3), build_town(200, 260, seed=3, rotation_deg=25)
    assert straight.image.tobytes() == turned.image.tobytes()
    assert turned.grid.transform.b != 0
    np.testing.assert_allclose(straight.footprints.area, turned.footprints.area, rtol=1e-6)
    assert np.mean(burnt(straight) == burnt(turned)) > 0.999


def test_files_hold_the_town(town, tmp_path):
    scene, footprints = write_town(town, tmp_path)
    with rasterio.open(scene) as source:
        assert np.array_equal(source.read(), town.image)
        assert source.descriptions == ("red", "green", "blue")
        assert source.nodata == 0
    read = read_footprints(footprints)
    assert read.geometry.geom_equals_exact(town.footprints.geometry, 1e-9).all()
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif", "footprints.gpkg"}


@pytest.mark.parametrize(
    "wrong", [{"bands": 0}, {"gsd_m": 0}, {"dtype": "complex64"}, {"dtype": "uint8", "nodata": 300}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ConfigError):
        build_town(60, 90, **wrong)
