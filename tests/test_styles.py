"""Colours that colour-blind people tell apart, and texts that cannot break a style."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoseg.api.model import Probabilities
from geoseg.geo import styles
from geoseg.geo.grid import Grid
from geoseg.jobs.files import is_own_style

# Linear RGB as dichromats see it (Machado, Oliveira and Fernandes 2009, severity 1).
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, sight):
    """L*, a*, b* of a colour #rrggbb as it is seen."""
    rgb = np.frombuffer(bytes.fromhex(colour[1:7]), np.uint8) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = TO_XYZ @ np.clip(np.array(SEEN[sight]) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SEEN)
def test_colours_differ_for_everybody(sight):
    confidences = [colour for *_, colour in styles.LIMITS_OF_RULES.classes()]
    report = [styles.FOUND_COLOUR, styles.WRONG_COLOUR, styles.MISSED_COLOUR]
    for colours in (confidences, report):
        assert len(colours) == 3
        seen = [lab(colour, sight) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 35


@pytest.mark.parametrize("sight", SEEN)
def test_probabilities_get_lighter(sight):
    lightness = [lab(colour, sight)[0] for _, colour in styles._RAMP]
    assert (np.diff(lightness) > 5).all()
    assert styles._RAMP[0][1].endswith("00")


def test_names_of_classes_may_be_anything(tmp_path):
    name = "<road & \"path\" 'x'> ü"
    mask = styles.mask_style({1: (name, "#00ff00")})
    layer = styles.class_style({"class": "Class"}, {name: "#00ff00"})
    (entry,) = ElementTree.fromstring(mask).iter("paletteEntry")
    (category,) = ElementTree.fromstring(layer).iter("category")
    assert entry.get("label") == category.get("value") == category.get("label") == name
    styles.write_raster_style(tmp_path / "mask.tif", mask)
    assert is_own_style(tmp_path / "mask.qml")
    assert (tmp_path / "mask.qml").read_text(encoding="utf-8") == mask


def test_classes_without_colours_get_some():
    names = ("other", "water", "wood")
    assert styles.choose_class_colours(names, ("#1", "#2", "#3"), "water") == {
        "other": "#1", "wood": "#3",
    }  # fmt: skip
    chosen = styles.choose_class_colours(names, (), None)
    assert list(chosen) == list(names)
    assert len(set(chosen.values())) == 3


@pytest.mark.parametrize(
    ("bands", "background", "shown"),
    [(("building", "border"), None, "1"), (("other", "water"), "other", "2"),
     (("water", "other"), "other", "1"), (("other",), "other", "1")],
)  # fmt: skip
def test_the_band_of_the_background_is_not_shown(bands, background, shown):
    (renderer,) = ElementTree.fromstring(
        styles.prob_style(bands, background).partition("\n")[2]
    ).iter("rasterrenderer")
    assert renderer.get("band") == shown


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_probabilities_in_memory_are_saved_with_a_style(tmp_path, dtype):
    grid = Grid(rasterio.CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), 6, 9)
    data = np.linspace(0, 255 if dtype == "uint8" else 1, 54).reshape(1, 6, 9).astype(dtype)
    Probabilities(data, grid).save(tmp_path / "p.tif")
    assert (tmp_path / "p.qml").read_text(encoding="utf-8") == styles.prob_style(("building",))
    with rasterio.open(tmp_path / "p.tif") as source:
        assert (source.read(1) * source.scales[0]).max() == pytest.approx(1)
