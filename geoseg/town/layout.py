"""Layout of the synthetic town in pixels: buildings, surfaces and trees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine

from geoseg.town.roofs import (
    BUILDERS,
    Building,
    Face,
    build_courtyard,
    build_hall,
    move,
    rectangle,
)
from geoseg.town.streets import KERB_M, ROAD_M, CityBlock, Frame, Streets, build_streets

# Distance between buildings that do not share a wall, and from the scene's edge.
_GAP_M = 2.0
_EDGE_PIXELS = 1.0

# Styles of the sides of successive blocks, each once per shuffled round so that every larger town
# has all of them; and the probability of each builder on a side.
_SIDES = ("rows", "houses", "houses", "mixed", "houses", "garden")
_BUILT = {
    "rows": {"row": 1.0},
    "houses": {"house": 0.65, "l_shape": 0.35},
    "mixed": {"house": 0.5, "l_shape": 0.3, "row": 0.2},
}
_YARDS = ("lawn", "meadow", "lawn", "gravel", "soil")
_CARS = ("car_white", "car_white", "car_silver", "car_black", "car_red", "car_blue")


@dataclass(frozen=True)
class TownLayout:
    """A town in pixel space.

    Attributes:
        buildings: All buildings, entirely inside the scene; they are disjoint or share a wall.
        outlines: Their exact polygons, in the same order.
        surfaces: Streets, yards and cars, in painting order.
        trees: Crowns (n, 3): x, y, radius.
    """

    buildings: tuple[Building, ...]
    outlines: tuple[shapely.Polygon, ...]
    surfaces: tuple[Face, ...]
    trees: np.ndarray


@dataclass(frozen=True)
class _Lot:
    buildings: list[Building]
    surfaces: list[Face]


def build_layout(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    gsd_m: float,
    density: float,
    hidden: shapely.Polygon,
) -> TownLayout:
    """Lay out a town.

    Args:
        rng: Random number generator.
        shape: Scene (height, width) in pixels.
        gsd_m: Metres per pixel.
        density: Fraction of lots with buildings; above 1 the gaps shrink instead.
        hidden: Area without data, in pixels; a building mostly inside is left out.
    """
    height, width = shape
    scene = shapely.box(0, 0, width, height)
    streets = build_streets(rng, shape, gsd_m)
    styles = _shuffled_styles(rng)
    lots, trees = [], []
    for block in streets.blocks(scene):
        lots += list(_fill_block(rng, streets.frame, block, styles, density))
        trees.append(_plant(rng, streets.frame, block))
    buildings, outlines = _select_buildings(lots, scene, hidden, gsd_m)
    surfaces = [face for lot in lots for face in lot.surfaces]
    crowns = _clear_of(np.concatenate([np.empty((0, 3)), *trees]), outlines)
    surfaces += [*_pave(streets), *_drive(rng, streets)]
    return TownLayout(buildings, outlines, tuple(surfaces), crowns)


def _shuffled_styles(rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from rng.permutation(_SIDES).tolist()


def _fill_block(
    rng: np.random.Generator, frame: Frame, block: CityBlock, styles: Iterator[str], density: float
) -> Iterator[_Lot]:
    """Yield a block's lots: sometimes one that is as deep as the block, then both sides."""
    start = block.left + rng.uniform(2, 5)
    if rng.random() < 0.4:
        lot, width = _deep_lot(rng, block.size[1])
        if rng.random() < density:
            yield _placed(lot, frame.pose(start + width / 2, block.top))
        start += width + rng.uniform(5, 9)
    for far in (False, True):
        style = next(styles)
        if style != "garden":
            yield from _fill_side(rng, frame, block, (start, far, style), density)


def _fill_side(
    rng: np.random.Generator,
    frame: Frame,
    block: CityBlock,
    side: tuple[float, bool, str],
    density: float,
) -> Iterator[_Lot]:
    u, far, style = side
    kinds, shares = zip(*_BUILT[style].items(), strict=True)
    while True:
        kind = str(rng.choice(kinds, p=shares))
        row = BUILDERS[kind](rng)
        width = _width(row)
        gap = max(_GAP_M + 0.5, rng.uniform(4, 10) / max(1.0, density))
        setback = rng.uniform(2.5, 4) if kind == "row" else rng.uniform(3, 6)
        tilt = 0.0 if kind == "row" else rng.uniform(-3, 3)
        if u + width > block.right - 2:
            return
        lot = _Lot(row, _yard(rng, row, gap, setback))
        if rng.random() < density:
            v = block.bottom - setback if far else block.top + setback
            yield _placed(lot, frame.pose(u + width / 2, v, turn_deg=180 * far + tilt))
        u += width + gap


def _width(row: list[Building]) -> float:
    return float(np.ptp(np.concatenate([building.shell for building in row])[:, 0]))


def _deep_lot(rng: np.random.Generator, depth: float) -> tuple[_Lot, float]:
    if rng.random() < 0.6:
        deep = min(depth - 8, rng.uniform(28, 36))
        building = build_courtyard(rng, deep)
        surface = str(rng.choice(["lawn", "paving"]))
    else:
        deep = min(depth - 8, rng.uniform(16, 30))
        building = build_hall(rng, deep)
        surface = "concrete"
    width = _width([building])
    yard = Face(rectangle(-width / 2 - 2, 0, width / 2 + 2, depth), surface)
    building = building.moved(Affine.translation(0, (depth - deep) / 2))
    return _Lot([building], [yard]), width


def _yard(rng: np.random.Generator, row: list[Building], gap: float, setback: float) -> list[Face]:
    """Return a garden around each building of a lot and a path from the street to its front."""
    faces = []
    margin = min(gap, 5) / 2 if len(row) == 1 else 0.0
    for building in row:
        (left, front), (right, back) = building.shell.min(axis=0), building.shell.max(axis=0)
        garden = rectangle(left - margin, front - setback, right + margin, back + 6)
        faces.append(Face(garden, str(rng.choice(_YARDS)), rng.uniform(0.85, 1.15)))
        wide = rng.uniform(1.2, 3.0)
        x = rng.uniform(left, right - wide)
        path = rectangle(x, front - setback - 1, x + wide, front + 0.5)
        faces.append(Face(path, "paving", rng.uniform(0.85, 1.1)))
    return faces


def _placed(lot: _Lot, pose: Affine) -> _Lot:
    return _Lot(
        [building.moved(pose) for building in lot.buildings],
        [face.moved(pose) for face in lot.surfaces],
    )


def _select_buildings(
    lots: list[_Lot], scene: shapely.Polygon, hidden: shapely.Polygon, gsd_m: float
) -> tuple[tuple[Building, ...], tuple[shapely.Polygon, ...]]:
    """Select buildings that are inside the scene, visible, and disjoint from earlier lots."""
    inside = scene.buffer(-_EDGE_PIXELS, join_style="mitre")
    kept = []
    for number, lot in enumerate(lots):
        for building in lot.buildings:
            holes = [] if building.hole is None else [building.hole]
            outline = shapely.Polygon(building.shell, holes)
            seen = outline.area - outline.intersection(hidden).area
            if outline.within(inside) and seen >= 0.5 * outline.area:
                kept.append((number, building, outline))
    if not kept:
        return (), ()
    owner = np.array([number for number, _, _ in kept])
    outlines = [outline for _, _, outline in kept]
    tree = shapely.STRtree(outlines)
    near = np.sort(tree.query(outlines, "dwithin", _GAP_M / gsd_m), axis=0).T
    dropped: set[int] = set()
    for first, second in np.unique(near, axis=0).tolist():
        if owner[first] != owner[second] and first not in dropped:
            dropped.add(second)
    chosen = [item for index, item in enumerate(kept) if index not in dropped]
    return tuple(item[1] for item in chosen), tuple(item[2] for item in chosen)


def _plant(rng: np.random.Generator, frame: Frame, block: CityBlock) -> np.ndarray:
    """Return trees of a block (n, 3): single ones, groups, and rows along the streets."""
    width, depth = block.size
    loose = rng.uniform((0, 0), (width, depth), (rng.poisson(width * depth / 450), 2))
    middles = rng.uniform((0, 0), (width, depth), (rng.integers(1, 4), 2))
    clumps = np.repeat(middles, rng.integers(2, 7, len(middles)), axis=0)
    clumps = clumps + rng.normal(0, 4, clumps.shape)
    lines = [np.empty((0, 2))]
    if rng.random() < 0.4:
        along = np.arange(2, width, rng.uniform(8, 12))
        lines.append(np.column_stack([along, np.full_like(along, -0.6)]))
    points = np.concatenate([loose, clumps, *lines])
    points = np.clip(points, -0.6, (width + 0.6, depth + 0.6))
    points += np.array([block.left, block.top])
    radius = rng.uniform(1.3, 3.8, len(points)) / frame.gsd_m
    return np.column_stack([frame.at(points[:, 0], points[:, 1]), radius])


def _clear_of(crowns: np.ndarray, outlines: tuple[shapely.Polygon, ...]) -> np.ndarray:
    """Drop trees that would cover a roof by more than a third of their radius."""
    if not outlines or not len(crowns):
        return crowns
    points = shapely.points(crowns[:, :2])
    hits = shapely.STRtree(outlines).query(points, "dwithin", crowns[:, 2] * 0.67)[0]
    return np.delete(crowns, np.unique(hits), axis=0)


def _pave(streets: Streets) -> Iterator[Face]:
    """Yield pavements, then carriageways, then centre line markings."""
    gsd_m = streets.frame.gsd_m
    lines = [
        shapely.LineString(streets.frame.at(line[:, 0], line[:, 1])) for line, _ in streets.lines()
    ]
    for half_m, material in ((KERB_M - 0.2, "pavement"), (ROAD_M, "asphalt")):
        for line in lines:
            ring = line.buffer(half_m / gsd_m, cap_style="flat").exterior.coords
            yield Face(np.asarray(ring), material)
    for line in itertools.islice(lines, 0, None, 2):
        stops = np.arange(0, line.length, 9 / gsd_m)
        heads = shapely.get_coordinates(line.interpolate(stops))
        tails = shapely.get_coordinates(line.interpolate(stops + 3 / gsd_m))
        for head, tail in zip(heads, tails, strict=True):
            yield Face(_stroke(head, tail, 0.12 / gsd_m), "marking")


def _stroke(head: np.ndarray, tail: np.ndarray, half: float) -> np.ndarray:
    ahead = tail - head
    side = np.array([-ahead[1], ahead[0]]) * half / max(float(np.hypot(*ahead)), 1e-9)
    return np.array([head + side, tail + side, tail - side, head - side])


def _drive(rng: np.random.Generator, streets: Streets) -> Iterator[Face]:
    """Yield cars, each a body and its windows."""
    for line, along_u in streets.lines():
        start, stop = line[0], line[-1]
        length = float(np.abs(stop - start).sum())
        for distance in np.cumsum(rng.uniform(8, 45, int(length / 26))):
            lane = rng.choice([-1, 1]) * rng.choice([1.3, ROAD_M - 0.9])
            shift = np.array([0.0, lane] if along_u else [lane, 0.0])
            u, v = start + (stop - start) * distance / length + shift
            pose = streets.frame.pose(u, v, turn_deg=0 if along_u else 90)
            body, tone = rectangle(-2.2, -0.9, 2.2, 0.9), rng.uniform(0.85, 1.1)
            yield Face(move(body, pose), str(rng.choice(_CARS)), tone)
            for rear in (-1.6, 0.7):
                glass = rectangle(rear, -0.7, rear + 0.6, 0.7)
                yield Face(move(glass, pose), "glass")
