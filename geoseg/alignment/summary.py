"""Figures of an alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geoseg.alignment.layer import Alignment

_DIRECTIONS = (
    *("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"),
)


@dataclass(frozen=True)
class AlignSummary:
    """How the polygons of a layer were moved.

    Attributes:
        polygons: Number of polygons in the layer.
        moved: Number that were moved.
        median_m: Median length of their shifts in metres, 0 without any, like all that follow.
        p90_m: Length of shift that nine of ten do not exceed, in metres.
        east_m: Median of their shifts to the east, in metres.
        north_m: Median of their shifts to the north, in metres.
        outside: Number of polygons outside the scene or on nodata.
        unsupported: Number of other polygons where the probabilities have no building.
        dropped: Number of features that are no polygons and were left out.
        repaired: Number of invalid polygons that were repaired.
        flattened: Number of polygons that lost their Z, which some vertices did not have.
        raised: Number of polygons without Z that got Z = 0, since the format of the output needs it
            where others have Z.
    """

    polygons: int
    moved: int
    median_m: float
    p90_m: float
    east_m: float
    north_m: float
    outside: int
    unsupported: int
    dropped: int
    repaired: int
    flattened: int
    raised: int

    @property
    def direction_deg(self) -> float:
        """Direction of the median shift, degrees clockwise from north; NaN without a shift."""
        if self.east_m == 0 and self.north_m == 0:
            return math.nan
        return math.degrees(math.atan2(self.east_m, self.north_m)) % 360

    def describe(self) -> str:
        """Return the figures in one line."""
        parts = [f"{self.polygons} polygons, {self.moved} moved"]
        if self.moved:
            shift = math.hypot(self.east_m, self.north_m)
            parts[0] += f" by {self.median_m:.2f} m (median; 90 % by at most {self.p90_m:.2f} m)"
            parts.append(f"in common {shift:.2f} m{_name_direction(self.direction_deg)}")
        counts = {
            "without a building in the probabilities": self.unsupported,
            "outside the scene or on nodata": self.outside,
            "repaired": self.repaired,
            "not a polygon and left out": self.dropped,
            "without Z at some vertex, now without any": self.flattened,
            "without Z, which the format sets to 0": self.raised,
        }
        parts += [f"{count} {what}" for what, count in counts.items() if count]
        return "; ".join(parts)


def summarize_alignment(alignment: Alignment, raised: int = 0) -> AlignSummary:
    """Return the figures of an alignment.

    Args:
        alignment: The alignment.
        raised: See `AlignSummary`.
    """
    frame = alignment.frame
    shifts = frame[["shift_x_m", "shift_y_m"]].to_numpy()
    moved = shifts[(shifts != 0).any(axis=1)]
    lengths = np.hypot(*moved.T) if len(moved) else np.zeros(1)
    east, north = np.median(moved, axis=0).tolist() if len(moved) else (0.0, 0.0)
    return AlignSummary(
        polygons=len(frame),
        moved=len(moved),
        median_m=float(np.median(lengths)),
        p90_m=float(np.quantile(lengths, 0.9)),
        east_m=east,
        north_m=north,
        outside=alignment.outside,
        unsupported=alignment.unsupported,
        dropped=int(frame.attrs.get("dropped", 0)),
        repaired=int(frame.attrs.get("repaired", 0)),
        flattened=int(frame.attrs.get("flattened", 0)),
        raised=raised,
    )


def _name_direction(degrees: float) -> str:
    if not math.isfinite(degrees):
        return ""
    step = 360 / len(_DIRECTIONS)
    return f" to the {_DIRECTIONS[round(degrees / step) % len(_DIRECTIONS)]}"
