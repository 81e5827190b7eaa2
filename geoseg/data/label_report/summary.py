"""What a survey of tiles found: plain values, as `labels.json` holds them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoseg.errors import EmptyDatasetError

JSON_NAME = "labels.json"
PAGE_NAME = "labels.html"

# A shift is clear if its peak stands this many deviations above the background, lies within
# the reach and moves by no more than a pixel when other tiles are drawn. Labels laid over other
# ground reach 5 deviations by chance, some 8 where tiles are few and small, but then their peak
# jumps by the whole reach; of fewer tiles than these it may not.
CLEAR_STRENGTH = 6.0
CLEAR_ERROR_PX = 1.0
CLEAR_TILES = 6


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SplitCounts(_Frozen):
    """What tiles hold; a pixel that several tiles share counts in each, as training sees it.

    Attributes:
        tiles: Number of tiles.
        pixels: All their pixels.
        ignored: Pixels without data, which count for nothing.
        classes: Pixels of each class.
        footprints: Footprints of each class; those of a split have their middle in its tiles.
            None where labels are a raster.
    """

    tiles: int
    pixels: int
    ignored: int
    classes: dict[str, int]
    footprints: dict[str, int] | None

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that are ignored."""
        return self.ignored / max(1, self.pixels)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class in the pixels that count."""
        counted = max(1, self.pixels - self.ignored)
        return {name: pixels / counted for name, pixels in self.classes.items()}


class Histogram(_Frozen):
    """How often values occur, in bins of equal width.

    Attributes:
        name: What is counted.
        low: Where the first bin starts.
        high: Where the last bin ends.
        counts: Values in each bin.
        below: Values below `low`.
        above: Values above `high`.
    """

    name: str
    low: float
    high: float
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0

    @property
    def edges(self) -> list[float]:
        """Borders of the bins, one more than there are bins."""
        step = (self.high - self.low) / len(self.counts)
        return [self.low + step * i for i in range(len(self.counts) + 1)]


class FootprintStatistics(_Frozen):
    """The footprints on the scenes; one that lies on two scenes counts on each.

    Attributes:
        number: How many.
        repaired: How many were invalid and mended; None if not known.
        dropped: Features that were no polygons and are left out; None if not known.
        duplicates: FootprintStatistics that repeat another one, within 5 % of their common area.
        overlaps: Other pairs that share more than 10 % of the smaller one.
        tiny: FootprintStatistics smaller than 3 x 3 pixels.
        area_m2: Quantiles of the area on the ground.
        areas: Histogram of the decimal logarithm of the area in square metres.
    """

    number: int
    repaired: int | None
    dropped: int | None
    duplicates: int
    overlaps: int
    tiny: int
    area_m2: dict[str, float]
    areas: Histogram


class LabelShift(_Frozen):
    """By how much labels are to be moved to fit the image.

    Attributes:
        dx: Pixels along the image's columns, positive to the right.
        dy: Pixels along the image's rows, positive downwards; both whatever way the grid
            lies on the ground.
        east_m: The same on the ground, positive to the east.
        north_m: The same on the ground, positive to the north.
        error: How far the shift moves, in pixels, in two of three draws of other tiles.
        strength: Height of the peak above the background, in deviations of the background.
        reach: Shifts up to this many pixels were tried.
        tiles: Tiles that were looked at.
        surface: Strength at every shift tried, (rows, columns) from -reach to reach; for the
            page only, not kept in `labels.json`.
    """

    dx: float
    dy: float
    east_m: float
    north_m: float
    error: float
    strength: float
    reach: int
    tiles: int
    surface: tuple[tuple[float, ...], ...] = Field(default=(), exclude=True, repr=False)

    @property
    def length(self) -> float:
        """Length of the shift in pixels."""
        return math.hypot(self.dx, self.dy)

    @property
    def clear(self) -> bool:
        """Whether the shift can be relied on."""
        inside = max(abs(self.dx), abs(self.dy)) < self.reach - 0.5
        steady = self.error <= CLEAR_ERROR_PX and self.tiles >= CLEAR_TILES
        return inside and steady and self.strength >= CLEAR_STRENGTH


class LabelReport(_Frozen):
    """What a survey of a folder of tiles found.

    Attributes:
        exclusive: Whether each pixel is of one of several classes, instead of building or not.
        scenes: Paths of the scenes.
        labels: Path of the labels.
        size: Tile side.
        gsd_m: Metres on the ground per pixel.
        failed: Tiles that could not be cut.
        total: Counts over all tiles.
        splits: The tiles of each split that has some.
        footprints: None where labels are a raster.
        shift: Over all scenes; None if no tile has both labels and edges.
        scene_shifts: Per scene, where there are several and enough tiles of one.
        bands: Values of each band, of a sample of the training tiles' valid pixels.
        sheet: Ids of the tiles that the page shows.
    """

    format: Literal[1] = 1
    exclusive: bool
    scenes: tuple[str, ...]
    labels: str
    size: int
    gsd_m: float
    failed: int
    # Stored as "ground" since the first version of the file.
    total: SplitCounts = Field(validation_alias="ground", serialization_alias="ground")
    splits: dict[str, SplitCounts]
    footprints: FootprintStatistics | None
    shift: LabelShift | None
    scene_shifts: dict[str, LabelShift]
    bands: tuple[Histogram, ...]
    sheet: tuple[str, ...]


def load_label_report(folder: str | Path) -> LabelReport:
    """Reads `labels.json`.

    Raises:
        EmptyDatasetError: If the file is missing or damaged.
    """
    path = Path(folder) / JSON_NAME
    try:
        return LabelReport.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise EmptyDatasetError(f"{path}: is missing; tile the scenes again") from error
    except (ValidationError, ValueError) as error:
        raise EmptyDatasetError(
            f"{path}: is damaged or of another version of geoseg; tile the scenes again"
        ) from error


def format_headline(report: LabelReport) -> str:
    """A report in one line: how many, how much of the ground, how well they lie."""
    shares = {name: percent(share) for name, share in report.total.shares.items()}
    if report.exclusive:
        said = ", ".join(f"{share} {name}" for name, share in shares.items())
    else:
        said = f"{list(shares.values())[-1]} of the ground"
    if report.footprints:
        number = f"{report.footprints.number:,} footprints"
        said = f"{number}: {said}" if report.exclusive else f"{number} on {said}"
        for name in ("repaired", "dropped", "duplicates", "overlaps"):
            count = getattr(report.footprints, name)
            said += f", {count:,} {name}" if count else ""
    return f"{said}; {describe_shift(report.shift)}"


def describe_shift(shift: LabelShift | None) -> str:
    """A shift in a few words."""
    if shift is None or not shift.clear:
        return "shift unclear"
    # Adding zero turns -0.0 into 0.0.
    dx, dy = (round(value, 1) + 0.0 for value in (shift.dx, shift.dy))
    return f"shift {dx:.1f}, {dy:.1f} px (clear)"


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage of two digits or so."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"
