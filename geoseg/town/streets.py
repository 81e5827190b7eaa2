"""Street network of the synthetic town: slightly curved lines with blocks between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine

ROAD_M = 3.3  # half the width of a carriageway
KERB_M = 5.0  # from a street's centre line to the gardens


@dataclass(frozen=True)
class Frame:
    """Mapping of town coordinates to the scene's pixels.

    Town coordinates (u, v) are metres from the scene's centre along the streets. A rotation and
    one long wave across each axis make the streets oblique and curved; lengths change by less
    than 1 %.

    Attributes:
        centre: Pixel (x, y) of the scene's centre.
        angle_deg: Rotation of the street network in the image.
        waves: Amplitude, angular frequency per metre and phase of each axis' wave.
        gsd_m: Metres per pixel.
    """

    centre: tuple[float, float]
    angle_deg: float
    waves: tuple[tuple[float, float, float], tuple[float, float, float]]
    gsd_m: float

    def at(self, u: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
        """Convert town coordinates to pixels (x, y), along the last axis."""
        (swing_u, pace_u, phase_u), (swing_v, pace_v, phase_v) = self.waves
        x = u + swing_u * np.sin(pace_u * np.asarray(v) + phase_u)
        y = v + swing_v * np.sin(pace_v * np.asarray(u) + phase_v)
        cos, sin = math.cos(math.radians(self.angle_deg)), math.sin(math.radians(self.angle_deg))
        return np.stack(
            [
                self.centre[0] + (cos * x - sin * y) / self.gsd_m,
                self.centre[1] + (sin * x + cos * y) / self.gsd_m,
            ],
            axis=-1,
        )

    def pose(self, u: float, v: float, *, turn_deg: float = 0.0) -> Affine:
        """Return the transform from metres around (u, v), x along the street, to pixels."""
        here, ahead = self.at(u, v), self.at(u + 1.0, v)
        angle = math.degrees(math.atan2(ahead[1] - here[1], ahead[0] - here[0]))
        return (
            Affine.translation(here[0], here[1])
            * Affine.rotation(angle + turn_deg)
            * Affine.scale(1 / self.gsd_m)
        )


@dataclass(frozen=True)
class CityBlock:
    """The area between four streets, in town metres, without the streets."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def size(self) -> tuple[float, float]:
        """(width, depth) in metres."""
        return self.right - self.left, self.bottom - self.top


@dataclass(frozen=True)
class Streets:
    """Lines of equal u and of equal v, which extend beyond the scene on every side."""

    frame: Frame
    us: np.ndarray
    vs: np.ndarray

    def lines(self) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield each street as town points (n, 2), and whether it runs along u."""
        along_u = np.arange(self.us[0], self.us[-1], 5.0)
        along_v = np.arange(self.vs[0], self.vs[-1], 5.0)
        for v in self.vs:
            yield np.column_stack([along_u, np.full_like(along_u, v)]), True
        for u in self.us:
            yield np.column_stack([np.full_like(along_v, u), along_v]), False

    def blocks(self, scene: shapely.Polygon) -> Iterator[CityBlock]:
        """Yield the blocks that intersect the scene's outline, in pixels."""
        shapely.prepare(scene)
        for top, bottom in zip(self.vs[:-1], self.vs[1:], strict=True):
            for left, right in zip(self.us[:-1], self.us[1:], strict=True):
                u = np.array([left, right, right, left])
                v = np.array([top, top, bottom, bottom])
                if scene.intersects(shapely.Polygon(self.frame.at(u, v)).envelope):
                    yield CityBlock(left + KERB_M, top + KERB_M, right - KERB_M, bottom - KERB_M)


def build_streets(rng: np.random.Generator, shape: tuple[int, int], gsd_m: float) -> Streets:
    """Build a random street network that covers a scene.

    Args:
        rng: Random number generator.
        shape: Scene (height, width) in pixels.
        gsd_m: Metres per pixel.
    """
    height, width = shape
    frame = Frame(
        centre=(width / 2, height / 2),
        angle_deg=float(rng.choice([-1, 1]) * rng.uniform(6, 22)),
        waves=(_draw_wave(rng), _draw_wave(rng)),
        gsd_m=gsd_m,
    )
    reach = gsd_m * math.hypot(height, width) / 2 + 30
    return Streets(frame, _draw_lines(rng, reach, 85, 125), _draw_lines(rng, reach, 56, 68))


def _draw_wave(rng: np.random.Generator) -> tuple[float, float, float]:
    length = rng.uniform(350, 500)
    return rng.uniform(4, 8), 2 * math.pi / length, rng.uniform(0, 2 * math.pi)


def _draw_lines(rng: np.random.Generator, reach: float, low: float, high: float) -> np.ndarray:
    steps = rng.uniform(low, high, int(2 * reach / low) + 3)
    return -reach - rng.uniform(0, low) + np.concatenate([[0.0], np.cumsum(steps)])
