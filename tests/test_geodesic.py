"""Areas and perimeters on the ellipsoid."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from geoseg.geo.vector.geodesic import geodesic_measures

WGS84 = CRS.from_epsg(4326)


def star(lon, lat, size_m, seed):
    """A polygon with some corners around a place, and a hole."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = rng.uniform(0.6, 1, 9) * size_m / 2
    local = CRS.from_proj4(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +ellps=WGS84")
    corners = np.column_stack([reach * np.cos(angles), reach * np.sin(angles)])
    to_lonlat = Transformer.from_crs(local, 4326, always_xy=True).transform
    rings = [np.column_stack(to_lonlat(*(corners * share).T)) for share in (1, 0.2)]
    return shapely.Polygon(rings[0], [rings[1][::-1]])


def perimeter_of(polygon):
    rings = (polygon.exterior, *polygon.interiors)
    return sum(Geod(ellps="WGS84").geometry_length(ring) for ring in rings)


@given(st.floats(-179, 179), st.floats(-86, 86), st.floats(0.5, 480), st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_small_polygons_are_measured_to_a_millionth(lon, lat, size_m, seed):
    polygon = star(lon, lat, size_m, seed)
    (area,), (perimeter,) = geodesic_measures(np.array([polygon], dtype=object), WGS84)
    plane = CRS.from_proj4(f"+proj=laea +lat_0={lat} +lon_0={lon} +ellps=WGS84")
    to_plane = Transformer.from_crs(4326, plane, always_xy=True).transform
    equal = shapely.transform(polygon, lambda points: np.column_stack(to_plane(*points.T)))
    assert area == pytest.approx(equal.area, rel=1e-6)
    assert perimeter == pytest.approx(perimeter_of(polygon), rel=1e-6)


@pytest.mark.parametrize("size_m", [450, 2_000, 200_000])
def test_small_and_large_polygons_are_measured_together(size_m):
    polygons = np.array([star(12, 48, size_m, 1), star(12, 70, 20, 2)], dtype=object)
    areas, perimeters = geodesic_measures(polygons, WGS84)
    for polygon, area, perimeter in zip(polygons, areas, perimeters, strict=True):
        expected, _ = Geod(ellps="WGS84").geometry_area_perimeter(polygon)
        assert area == pytest.approx(abs(expected), rel=1e-5)
        assert perimeter == pytest.approx(perimeter_of(polygon), rel=1e-6)


def test_the_scale_of_a_projection_does_not_count():
    metres = np.array([shapely.box(500_000, 5_000_000, 500_020, 5_000_010)], dtype=object)
    (area,), (perimeter,) = geodesic_measures(metres, CRS.from_epsg(32633))
    assert area == pytest.approx(200 / 0.9996**2, rel=1e-6)
    assert perimeter == pytest.approx(60 / 0.9996, rel=1e-6)


def test_an_empty_polygon_does_not_change_how_others_are_measured():
    polygon = star(12, 60, 30, 1)
    alone = geodesic_measures(np.array([polygon], dtype=object), WGS84)
    both = geodesic_measures(np.array([polygon, shapely.Polygon()], dtype=object), WGS84)
    for one, two in zip(alone, both, strict=True):
        assert two.tolist() == [one[0], 0.0]
