"""Painting of the synthetic town as an image of reflectances."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

from geoseg.town.layout import TownLayout
from geoseg.town.roofs import Building, Face

# Reflectance in red, green, blue and near infrared; opacity; strength of the texture.
_MATERIALS: dict[str, tuple[float, float, float, float, float, float]] = {
    "clay": (0.62, 0.34, 0.25, 0.50, 1, 0.05),
    "brick": (0.50, 0.27, 0.22, 0.42, 1, 0.05),
    "brown": (0.42, 0.32, 0.26, 0.38, 1, 0.05),
    "slate": (0.30, 0.33, 0.40, 0.32, 1, 0.05),
    "grey": (0.50, 0.50, 0.51, 0.46, 1, 0.04),
    "beige": (0.66, 0.58, 0.46, 0.55, 1, 0.04),
    "white": (0.82, 0.82, 0.80, 0.74, 1, 0.03),
    "steel": (0.56, 0.61, 0.66, 0.55, 1, 0.03),
    "coping": (0.56, 0.52, 0.48, 0.48, 1, 0.03),
    "chimney": (0.22, 0.18, 0.17, 0.20, 1, 0.03),
    "solar": (0.12, 0.15, 0.27, 0.12, 1, 0.02),
    "skylight": (0.72, 0.80, 0.85, 0.60, 1, 0.02),
    "asphalt": (0.36, 0.36, 0.37, 0.33, 1, 0.04),
    "pavement": (0.50, 0.48, 0.45, 0.46, 0.9, 0.05),
    "paving": (0.55, 0.52, 0.48, 0.50, 0.9, 0.06),
    "concrete": (0.46, 0.45, 0.43, 0.42, 0.9, 0.06),
    "marking": (0.80, 0.80, 0.78, 0.72, 0.8, 0.02),
    "lawn": (0.30, 0.43, 0.20, 0.66, 0.6, 0.07),
    "meadow": (0.40, 0.44, 0.24, 0.60, 0.5, 0.10),
    "gravel": (0.50, 0.46, 0.38, 0.46, 0.5, 0.08),
    "soil": (0.44, 0.35, 0.26, 0.42, 0.5, 0.10),
    "earth": (0.44, 0.35, 0.26, 0.42, 1, 0.10),
    "grass": (0.30, 0.38, 0.21, 0.60, 1, 0.10),
    "dry": (0.46, 0.44, 0.29, 0.52, 1, 0.10),
    "tree": (0.20, 0.31, 0.15, 0.58, 1, 0.28),
    "car_white": (0.88, 0.88, 0.88, 0.80, 1, 0.01),
    "car_silver": (0.62, 0.63, 0.65, 0.60, 1, 0.01),
    "car_black": (0.12, 0.12, 0.13, 0.12, 1, 0.01),
    "car_red": (0.60, 0.14, 0.13, 0.50, 1, 0.01),
    "car_blue": (0.18, 0.25, 0.50, 0.30, 1, 0.01),
    "glass": (0.15, 0.18, 0.20, 0.15, 1, 0.01),
}

_SUPERSAMPLING = 3
_STRIP_ROWS = 128
_SHADOW_PER_HEIGHT = 0.75  # a sun 53 degrees high
_SHADOW_DARKNESS = 0.55
_RELIEF = 0.24  # how much a slope towards the sun gains and one away from it loses
_BLUR_PIXELS = 0.55
_SENSOR_NOISE = 0.012


@dataclass(frozen=True)
class _Patch:
    """A polygon of one colour: corners (n, 2) in pixels and a row of the palette."""

    ring: np.ndarray
    paint: np.ndarray


def paint_scene(
    rng: np.random.Generator, layout: TownLayout, shape: tuple[int, int], bands: int, gsd_m: float
) -> np.ndarray:
    """Paint a town.

    Args:
        rng: Random number generator.
        layout: Layout of the town.
        shape: Scene (height, width) in pixels.
        bands: Bands; 1 is panchromatic, the first four are red, green, blue, near infrared.
        gsd_m: Metres per pixel.

    Returns:
        Reflectance (C, H, W), float32 in 0..1.
    """
    palette = _palette(bands)
    angle = rng.uniform(math.radians(-140), math.radians(-40))
    shade = np.array([math.cos(angle), math.sin(angle)])  # where shadows point
    scene = _paint_terrain(rng, palette, shape, gsd_m)
    grain = _noise(rng, shape, max(1.2, 0.7 / gsd_m))
    surfaces = [_patch(palette, face) for face in layout.surfaces]
    shadows = [
        _Patch(ring, np.ones(1, np.float32))
        for ring in _shadow_rings(layout, shade * _SHADOW_PER_HEIGHT / gsd_m)
    ]
    roofs = [
        _patch(palette, face, 1 - _RELIEF * float(np.dot(face.slope, shade)))
        for building in layout.buildings
        for face in building.faces
    ]
    crowns = _crowns(rng, palette, layout.trees, shade)
    _cover(scene, surfaces, grain)
    _darken(scene, shadows)
    _cover(scene, [*roofs, *crowns], grain)
    for band in scene:
        gaussian_filter(band, _BLUR_PIXELS, output=band)
    scene += _SENSOR_NOISE * rng.standard_normal(scene.shape, np.float32)
    return np.clip(scene, 0, 1, out=scene)


def _palette(bands: int) -> dict[str, np.ndarray]:
    """Return the paint of each material, float32 (C + 2,).

    Reflectance of every band, already multiplied by the opacity; opacity; texture.
    """
    mix = np.zeros((bands, 4))
    if bands == 1:
        mix[0, :3] = 1 / 3
    else:
        for band in range(bands):
            # Bands after the near infrared are mixtures of two of the first four.
            mix[band, band % 4] += 1 if band < 4 else 0.6
            mix[band, (band * 3 + 2) % 4] += 0 if band < 4 else 0.4
    return {
        name: np.array([*(mix * row[:4]).sum(axis=1) * row[4], *row[4:]], np.float32)
        for name, row in _MATERIALS.items()
    }


def _patch(palette: dict[str, np.ndarray], face: Face, light: float = 1.0) -> _Patch:
    paint = palette[face.material].copy()
    paint[:-2] *= face.tone * light
    return _Patch(face.ring, paint)


def _paint_terrain(
    rng: np.random.Generator, palette: dict[str, np.ndarray], shape: tuple[int, int], gsd_m: float
) -> np.ndarray:
    """Return grass with dry parts and bare soil (C, H, W)."""
    grass, dry, soil = (palette[name][:-2, None, None] for name in ("grass", "dry", "earth"))
    drought = np.clip(0.4 + 0.3 * _noise(rng, shape, 35 / gsd_m), 0, 1)
    bare = np.clip(0.8 * _noise(rng, shape, 12 / gsd_m) - 1.0, 0, 0.8)
    texture = 1 + 0.07 * _noise(rng, shape, 3 / gsd_m) + 0.06 * _noise(rng, shape, 0.8 / gsd_m)
    scene: np.ndarray = grass + drought * (dry - grass)
    scene += bare * (soil - scene)
    return scene * texture


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Return smooth noise (H, W) of mean 0 and variance 1, a cubic B-spline of random values."""
    cell = max(cell, 1.0)
    field = rng.standard_normal([int(size / cell) + 5 for size in shape], np.float32)
    for axis, size in enumerate(shape):
        position = np.arange(size) / cell
        base = position.astype(int)
        t = (position - base).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        along = (-1, 1) if axis == 0 else (1, -1)
        field = sum(
            weight.reshape(along) * field.take(base + step, axis)
            for step, weight in enumerate(weights)
        )
    return field * np.float32(315 / 151)


def _shadow_rings(layout: TownLayout, throw: np.ndarray) -> Iterable[np.ndarray]:
    """Yield polygons in shadow; `throw` is in pixels per metre of height."""
    for building in layout.buildings:
        yield from _swept(building, throw * building.height_m)
    for x, y, radius in layout.trees:
        yield _circle(x, y, radius) + throw * 3.0


def _swept(building: Building, shift: np.ndarray) -> Iterable[np.ndarray]:
    rings = [building.shell] if building.hole is None else [building.shell, building.hole]
    for ring in rings:
        for head, tail in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            yield np.array([head, tail, tail + shift, head + shift])
    if building.hole is None:
        yield building.shell + shift


def _circle(x: float, y: float, radius: float, corners: int = 12) -> np.ndarray:
    turn = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.column_stack([x + radius * np.cos(turn), y + radius * np.sin(turn)])


def _crowns(
    rng: np.random.Generator, palette: dict[str, np.ndarray], trees: np.ndarray, shade: np.ndarray
) -> list[_Patch]:
    """Return each tree as three nested blobs that are brighter towards the sun."""
    patches = []
    for x, y, radius in trees:
        paint = palette["tree"].copy()
        paint[:-2] *= rng.uniform(0.75, 1.3) * rng.uniform(0.92, 1.08, len(paint) - 2)
        for size, light in ((1.0, 0.75), (0.75, 1.0), (0.4, 1.25)):
            centre = np.array([x, y]) - shade * radius * (1 - size) * 0.7
            ring = _circle(0, 0, radius * size) * rng.uniform(0.85, 1.1, (12, 1)) + centre
            blob = paint.copy()
            blob[:-2] *= light
            patches.append(_Patch(ring, blob))
    return patches


def _cover(scene: np.ndarray, patches: Sequence[_Patch], grain: np.ndarray) -> None:
    """Paint patches over the scene in order, in place."""
    for rows, paint in _strips(scene.shape[1:], patches):
        colour, opacity, texture = paint[:-2], paint[-2], paint[-1]
        scene[:, rows] *= 1 - opacity
        scene[:, rows] += colour * (1 + texture * grain[rows])


def _darken(scene: np.ndarray, shadows: Sequence[_Patch]) -> None:
    for rows, paint in _strips(scene.shape[1:], shadows):
        scene[:, rows] *= 1 - _SHADOW_DARKNESS * paint[0]


def _strips(
    shape: tuple[int, ...], patches: Sequence[_Patch]
) -> Iterable[tuple[slice, np.ndarray]]:
    """Yield strips of rows and their paint (P, h, W), antialiased.

    Antialiasing needs a raster of several times the scene's size, so it is done in strips.
    """
    if not patches:
        return
    height, width = shape
    table = np.stack([np.zeros_like(patches[0].paint), *(patch.paint for patch in patches)])
    tops = np.array([patch.ring[:, 1].min() for patch in patches])
    bottoms = np.array([patch.ring[:, 1].max() for patch in patches])
    for top in range(0, height, _STRIP_ROWS):
        rows = slice(top, min(top + _STRIP_ROWS, height))
        found = np.flatnonzero((tops < rows.stop) & (bottoms > rows.start))
        if len(found):
            yield rows, _sampled(patches, found, table, (rows, width))


def _sampled(
    patches: Sequence[_Patch], found: np.ndarray, table: np.ndarray, area: tuple[slice, int]
) -> np.ndarray:
    rows, width = area
    fine = _SUPERSAMPLING
    labels = rasterize(
        (
            ({"type": "Polygon", "coordinates": [_closed(patches[i].ring)]}, int(i) + 1)
            for i in found
        ),
        out_shape=((rows.stop - rows.start) * fine, width * fine),
        transform=Affine.translation(0, rows.start) * Affine.scale(1 / fine),
        dtype="int32",
    )
    total = np.zeros((rows.stop - rows.start, width, table.shape[1]), np.float32)
    for i, j in itertools.product(range(fine), repeat=2):
        total += table.take(labels[i::fine, j::fine], axis=0)
    return np.moveaxis(total, -1, 0) / np.float32(fine * fine)


def _closed(ring: np.ndarray) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = ring.tolist()
    return [*points, points[0]]
