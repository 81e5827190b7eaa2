"""Data types of the label report, as stored in `labels.json`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from geoseg.errors import EmptyDatasetError, counted
from geoseg.jobs.files import read_text

JSON_NAME = "labels.json"
PAGE_NAME = "labels.html"

# A shift is clear if its peak exceeds the background by this many standard deviations, is within
# the search range and moves by at most one pixel when the tiles are resampled. Labels of an
# unrelated area reach 5 deviations by chance, and about 8 with few small tiles; but then the peak
# jumps across the whole search range between resamplings, unless there are too few tiles.
CLEAR_STRENGTH = 6.0
CLEAR_ERROR_PX = 1.0
CLEAR_TILES = 6


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SplitCounts(_Frozen):
    """Counts of tiles, pixels and footprints, of one split or of all tiles.

    Pixels in overlaps are counted once per tile, as in training.

    Attributes:
        tiles: Number of tiles.
        pixels: Number of pixels, ignored ones included.
        ignored: Number of pixels that are nodata or belong to no class.
        classes: Number of pixels per class.
        footprints: Number of footprints per class, assigned to splits by their representative
            points. None if the labels are a mask raster.
    """

    tiles: int
    pixels: int
    ignored: int
    classes: dict[str, int]
    footprints: dict[str, int] | None

    @property
    def ignored_share(self) -> float:
        """Ignored pixels as a share of all pixels."""
        return self.ignored / max(1, self.pixels)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class in the pixels that are not ignored."""
        counted = max(1, self.pixels - self.ignored)
        return {name: pixels / counted for name, pixels in self.classes.items()}


class Histogram(_Frozen):
    """A histogram with bins of equal width.

    Attributes:
        name: Name of the quantity.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        counts: Number of values per bin.
        below: Number of values below `low`.
        above: Number of values above `high`.
    """

    name: str
    low: float
    high: float
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0

    @property
    def edges(self) -> list[float]:
        """Edges of the bins, one more than there are bins."""
        step = (self.high - self.low) / len(self.counts)
        return [self.low + step * i for i in range(len(self.counts) + 1)]


class FootprintStatistics(_Frozen):
    """Statistics of the footprints; one that is part of two scenes is counted in each.

    Attributes:
        number: Number of footprints.
        repaired: Number of invalid footprints that were repaired; None if unknown.
        dropped: Number of features that are not polygons and were left out; None if unknown.
        duplicates: Number of footprints that repeat another one (IoU above 0.95).
        overlaps: Number of other pairs that share more than 10 % of the smaller footprint.
        tiny: Number of footprints smaller than 3 x 3 pixels.
        area_m2: Quantiles of the geodesic area in square metres.
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
    """Estimated shift that would align the labels with the image.

    Attributes:
        dx: Shift along the columns in pixels, positive to the right.
        dy: Shift along the rows in pixels, positive downwards.
        east_m: The shift in metres, positive to the east.
        north_m: The shift in metres, positive to the north.
        error: Uncertainty in pixels: two of three bootstrap samples of tiles are within it.
        strength: Height of the peak above the background, in standard deviations of the
            background.
        reach: Largest shift that was tried, in pixels.
        tiles: Number of tiles measured.
        surface: Strength at each shift, (rows, columns) from -reach to reach. Shown on the page,
            not stored in `labels.json`.
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
        """Whether the estimate is reliable."""
        inside = max(abs(self.dx), abs(self.dy)) < self.reach - 0.5
        steady = self.error <= CLEAR_ERROR_PX and self.tiles >= CLEAR_TILES
        return inside and steady and self.strength >= CLEAR_STRENGTH


class LabelReport(_Frozen):
    """Report on the labels of a folder of tiles.

    Attributes:
        exclusive: Whether the classes are exclusive; otherwise pixels are building or not.
        scenes: Paths of the scenes.
        labels: Path of the labels.
        merged: Paths of the scenes whose labels merge touching buildings.
        size: Tile side in pixels.
        gsd_m: Ground sampling distance, metres per pixel.
        failed: Number of tiles that could not be cut.
        total: Counts over all tiles.
        splits: Counts per split, without empty splits.
        footprints: Statistics of the footprints; None if the labels are a mask raster.
        shift: Shift over all scenes; None if no tile has both labels and image edges.
        scene_shifts: Shift per scene, if there are several scenes with enough tiles each.
        bands: Histogram of each band, from valid pixels of a sample of training tiles.
        sheet: Ids of the sample tiles shown on the page.
    """

    format: Literal[1] = 1
    exclusive: bool
    scenes: tuple[str, ...]
    labels: str
    merged: tuple[str, ...] = ()
    size: int
    gsd_m: float
    failed: int
    # Programs read `labels.json`: its key is older than the name of the attribute, and stays.
    total: SplitCounts = Field(validation_alias="ground", serialization_alias="ground")
    splits: dict[str, SplitCounts]
    footprints: FootprintStatistics | None
    shift: LabelShift | None
    scene_shifts: dict[str, LabelShift]
    bands: tuple[Histogram, ...]
    sheet: tuple[str, ...]


def load_label_report(folder: str | Path) -> LabelReport:
    """Read `labels.json`.

    Args:
        folder: Folder of tiles.

    Raises:
        EmptyDatasetError: If the file is missing or damaged.
    """
    path = Path(folder) / JSON_NAME
    try:
        return LabelReport.model_validate_json(read_text(path))
    except OSError as error:
        raise EmptyDatasetError(f"{path}: does not exist; tile the scenes again") from error
    except ValueError as error:
        raise EmptyDatasetError(
            f"{path}: is damaged or from another version of geoseg; tile the scenes again"
        ) from error


def format_headline(report: LabelReport) -> str:
    """Summarize a report in one line: footprints, class shares and shift."""
    shares = {name: format_percent(share) for name, share in report.total.shares.items()}
    if report.exclusive:
        text = ", ".join(f"{share} {name}" for name, share in shares.items())
    else:
        text = f"{list(shares.values())[-1]} of the pixels"
        for split, counts in report.splits.items():
            if not list(counts.shares.values())[-1]:
                text += f", none in {split}"
    if report.footprints:
        number = counted(report.footprints.number, "footprint") + _format_splits(report)
        text = f"{number}: {text}" if report.exclusive else f"{number} on {text}"
        for name in ("repaired", "dropped", "duplicates", "overlaps"):
            count = getattr(report.footprints, name)
            text += f", {count:,} {name}" if count else ""
    return f"{text}; {format_shift_px(report.shift)}"


def _format_splits(report: LabelReport) -> str:
    """Return the number of footprints in each split, e.g. ` (54 in train, 39 in val)`."""
    counts = {
        split: sum(one.footprints.values())
        for split, one in report.splits.items()
        if one.footprints
    }
    parts = ", ".join(f"{count:,} in {split}" for split, count in counts.items())
    return f" ({parts})" if parts else ""


def format_shift_px(shift: LabelShift | None) -> str:
    """Format a shift in pixels, or `shift unclear`."""
    if shift is None or not shift.clear:
        return "shift unclear"
    # Adding zero turns -0.0 into 0.0.
    dx, dy = (round(value, 1) + 0.0 for value in (shift.dx, shift.dy))
    return f"shift {dx:.1f}, {dy:.1f} px (clear)"


def format_percent(share: float) -> str:
    """Format a share from 0 to 1 as a percentage with about two significant digits."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"
