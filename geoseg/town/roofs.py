"""Buildings of the synthetic town: exact outlines and roofs.

Every builder returns a building in local coordinates in metres: x is along the street with 0 in
the middle of the front, y is away from the street with 0 at the front wall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine

_ROOFS = ("clay", "clay", "brick", "brown", "slate", "grey", "beige")
_FLAT_ROOFS = ("white", "grey", "beige", "steel")


@dataclass(frozen=True)
class Face:
    """One plane polygon of a roof, or of an object on it.

    Attributes:
        ring: Corners (n, 2).
        material: Name of its colour.
        tone: Factor on the colour.
        slope: Unit vector that points downhill; (0, 0) where flat.
    """

    ring: np.ndarray
    material: str
    tone: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)

    def moved(self, pose: Affine) -> Face:
        """Return the face under a similarity transform."""
        scale = abs(pose.determinant) ** 0.5
        x, y = self.slope
        slope = (pose.a * x + pose.b * y) / scale, (pose.d * x + pose.e * y) / scale
        return replace(self, ring=move(self.ring, pose), slope=slope)


@dataclass(frozen=True)
class Building:
    """A building's outline and roof.

    Attributes:
        kind: `house`, `l_shape`, `row_house`, `courtyard` or `hall`.
        shell: Corners of the outline (n, 2), not closed.
        hole: Corners of the courtyard (m, 2), or None.
        faces: The roof, in painting order.
        height_m: Height in metres, which determines the length of the shadow.
    """

    kind: str
    shell: np.ndarray
    hole: np.ndarray | None
    faces: tuple[Face, ...]
    height_m: float

    def moved(self, pose: Affine) -> Building:
        """This building under a similarity transform; equal corners stay equal."""
        return replace(
            self,
            shell=move(self.shell, pose),
            hole=None if self.hole is None else move(self.hole, pose),
            faces=tuple(face.moved(pose) for face in self.faces),
        )


def move(points: np.ndarray, pose: Affine) -> np.ndarray:
    """Points (n, 2) under an affine transform.

    Elementwise, because equal points must give equal bits, which matrix products do not guarantee.
    """
    x, y = points[:, 0], points[:, 1]
    return np.column_stack(
        [pose.a * x + pose.b * y + pose.c, pose.d * x + pose.e * y + pose.f],
    )


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle parallel to the axes."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def build_house(rng: np.random.Generator) -> Building:
    """Build a rectangular house with a gabled, hipped or flat roof."""
    width, depth = rng.uniform(9, 14), rng.uniform(8, 11)
    box = (-width / 2, 0.0, width / 2, depth)
    roof = str(rng.choice(_ROOFS))
    tone = rng.uniform(0.85, 1.15)
    style = rng.choice(["gable", "hip", "flat"], p=[0.6, 0.25, 0.15])
    if style == "flat":
        faces = _flat(rng, box, str(rng.choice(_FLAT_ROOFS)), tone)
    else:
        faces = _gable(box, roof, tone, hip=0.3 * depth if style == "hip" else 0.0)
        faces += _roof_objects(rng, box)
    return Building("house", rectangle(*box), None, tuple(faces), rng.uniform(4, 6))


def build_l_shape(rng: np.random.Generator) -> Building:
    """Build a house with a wing at a right angle."""
    width, depth = rng.uniform(13, 17), rng.uniform(12, 14.5)
    body, wing = rng.uniform(6.5, 8), rng.uniform(6, 7.5)
    roof, tone = str(rng.choice(_ROOFS)), rng.uniform(0.85, 1.15)
    ridge, spine = body / 2, wing / 2
    corners = [(0, 0), (width, 0), (width, body), (wing, body), (wing, depth), (0, depth)]
    parts: list[tuple[list[tuple[float, float]], tuple[float, float]]] = [
        ([(0, 0), (width, 0), (width, ridge), (spine, ridge)], (0, -1)),
        ([(wing, body), (width, body), (width, ridge), (spine, ridge)], (0, 1)),
        ([(0, 0), (spine, ridge), (spine, depth), (0, depth)], (-1, 0)),
        ([(wing, body), (spine, ridge), (spine, depth), (wing, depth)], (1, 0)),
    ]
    faces = [Face(np.array(ring, float), roof, tone, slope) for ring, slope in parts]
    chimney = rectangle(width * 0.7, ridge + 0.4, width * 0.7 + 0.9, ridge + 1.3)
    faces.append(Face(chimney, "chimney"))
    pose = Affine.translation(-width / 2, 0)
    if rng.random() < 0.5:
        pose = Affine.scale(-1, 1) * pose
    shell = np.array(corners, float)
    return Building("l_shape", shell, None, tuple(faces), rng.uniform(4, 6)).moved(pose)


def build_row(rng: np.random.Generator, count: int) -> list[Building]:
    """Build a row of houses whose shared walls have identical end points.

    Neighbours differ in brightness, often in colour, and a raised wall separates their roofs.
    """
    depth, height_m = rng.uniform(9, 11), rng.uniform(5, 7)
    cuts = np.concatenate([[0.0], np.cumsum(rng.uniform(6, 7.5, count))])
    cuts -= cuts[-1] / 2
    main, other = rng.choice(_ROOFS, 2)
    wall_tone = rng.choice([0.55, 1.5])
    houses = []
    for index in range(count):
        left, right = float(cuts[index]), float(cuts[index + 1])
        box = (left, 0.0, right, depth)
        roof = str(main if rng.random() < 0.6 else other)
        tone = (0.88, 1.1)[index % 2] * rng.uniform(0.95, 1.05)
        faces = _gable(box, roof, tone) + _roof_objects(rng, box)
        for wall in (left, right - 0.35):
            faces.append(Face(rectangle(wall, 0, wall + 0.35, depth), "coping", wall_tone))
        houses.append(Building("row_house", rectangle(*box), None, tuple(faces), height_m))
    return houses


def build_courtyard(rng: np.random.Generator, depth: float) -> Building:
    """Build four wings around a courtyard, `depth` metres deep."""
    width, wing = rng.uniform(26, 34), rng.uniform(8, 10)
    roof, tone = str(rng.choice(_ROOFS)), rng.uniform(0.85, 1.15)
    rings = [
        rectangle(-width / 2 + inset, inset, width / 2 - inset, depth - inset)
        for inset in (0.0, wing / 2, wing)
    ]
    faces = []
    for side, (x, y) in enumerate([(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]):
        pair = [side, (side + 1) % 4]
        for outer, inner, sign in ((rings[0], rings[1], 1.0), (rings[1], rings[2], -1.0)):
            ring = np.concatenate([outer[pair], inner[pair[::-1]]])
            faces.append(Face(ring, roof, tone, (sign * x, sign * y)))
    return Building("courtyard", rings[0], rings[2], tuple(faces), rng.uniform(8, 10))


def build_hall(rng: np.random.Generator, depth: float) -> Building:
    """Build a large hall with a flat or low roof and strips of skylights, `depth` metres deep."""
    width = rng.uniform(22, 36)
    box = (-width / 2, 0.0, width / 2, depth)
    roof, tone = str(rng.choice(_FLAT_ROOFS)), rng.uniform(0.9, 1.1)
    faces = _flat(rng, box, roof, tone) if rng.random() < 0.6 else _gable(box, roof, tone)
    for x in np.arange(-width / 2 + 4, width / 2 - 4, 6.0):
        faces.append(Face(rectangle(x, 3, x + 1.4, depth - 3), "skylight"))
    return Building("hall", rectangle(*box), None, tuple(faces), rng.uniform(6, 8))


def _gable(
    box: tuple[float, float, float, float], roof: str, tone: float, *, hip: float = 0.0
) -> list[Face]:
    left, front, right, back = box
    if back - front > 1.2 * (right - left) and hip:
        return [_transposed(f) for f in _gable((front, left, back, right), roof, tone, hip=hip)]
    ridge = (front + back) / 2
    head, tail = (left + hip, ridge), (right - hip, ridge)
    parts: list[tuple[Sequence[tuple[float, float]], tuple[float, float]]] = [
        ([(left, front), (right, front), tail, head], (0, -1)),
        ([(left, back), (right, back), tail, head], (0, 1)),
    ]
    if hip:
        parts.append(([(left, front), head, (left, back)], (-1, 0)))
        parts.append(([(right, front), tail, (right, back)], (1, 0)))
    faces = [Face(np.array(ring, float), roof, tone, slope) for ring, slope in parts]
    line = rectangle(left + hip, ridge - 0.15, right - hip, ridge + 0.15)
    return [*faces, Face(line, roof, tone * 1.25)]


def _transposed(face: Face) -> Face:
    return replace(face, ring=face.ring[:, ::-1], slope=face.slope[::-1])


def _flat(
    rng: np.random.Generator, box: tuple[float, float, float, float], roof: str, tone: float
) -> list[Face]:
    left, front, right, back = box
    rim = rectangle(left + 0.5, front + 0.5, right - 0.5, back - 0.5)
    faces = [Face(rectangle(*box), roof, tone * 1.2), Face(rim, roof, tone)]
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(left + 1, right - 2.5), rng.uniform(front + 1, back - 2.5)
        faces.append(Face(rectangle(x, y, x + 1.5, y + 1.3), "steel", rng.uniform(0.6, 1.2)))
    return faces


def _roof_objects(rng: np.random.Generator, box: tuple[float, float, float, float]) -> list[Face]:
    """Return a chimney and sometimes solar panels or roof windows, in one half of the roof."""
    left, front, right, back = box
    ridge, depth = (front + back) / 2, back - front
    x = rng.uniform(left + 1, right - 2)
    things = [Face(rectangle(x, ridge + 0.4, x + 0.8, ridge + 1.3), "chimney")]
    chance = rng.random()
    if chance < 0.2:
        panel = rectangle(left + 1, front + 0.12 * depth, right - 1.5, front + 0.38 * depth)
        things.append(Face(panel, "solar"))
    elif chance < 0.5:
        for offset in (0.25, 0.65):
            x = left + offset * (right - left)
            things.append(Face(rectangle(x, front + 1.2, x + 1, front + 2.4), "skylight"))
    return things


BUILDERS: dict[str, Callable[[np.random.Generator], list[Building]]] = {
    "house": lambda rng: [build_house(rng)],
    "l_shape": lambda rng: [build_l_shape(rng)],
    "row": lambda rng: build_row(rng, int(rng.integers(3, 9))),
}
