"""What a person should know of the labels before training on them, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from geoseg.data.label_report.class_counts import BACKGROUND
from geoseg.data.label_report.summary import FootprintStatistics, LabelReport, LabelShift, percent

# Labels that lie further beside the image than this are worth moving.
_SHIFT_PX = 1.0

# The smaller part of a move is not said if it is less than this of the larger.
_ASIDE = 0.05

# Splits differ if one has this many times the other's share of a class.
_UNEVEN = 2.0

# More than this share without data, or of footprints that are tiny, is worth a word.
_MUCH = 0.2


@dataclass(frozen=True)
class Finding:
    """A sentence about the labels.

    Attributes:
        good: False where something should be looked at.
        text: What was found, and what to do.
    """

    good: bool
    text: str


def list_findings(report: LabelReport) -> list[Finding]:
    """Lists what should be looked at, then what is well."""
    found = [
        *_of_shift(report.shift),
        *_of_scenes(report.scene_shifts),
        *(_of_footprints(report.footprints) if report.footprints else ()),
        *_of_splits(report),
        *_of_tiles(report),
    ]
    return sorted(found, key=lambda finding: finding.good)


def format_move(shift: LabelShift) -> str:
    """A move on the ground, e.g. `1.2 m east and 0.3 m south`, or `1.2 m east`."""
    east, north = shift.east_m, shift.north_m
    said = [
        f"{abs(metres):.2g} m {ahead if metres > 0 else back}"
        for metres, ahead, back in ((east, "east", "west"), (north, "north", "south"))
        if abs(metres) > _ASIDE * max(abs(east), abs(north))
    ]
    return " and ".join(said) or "0 m"


def _of_shift(shift: LabelShift | None) -> Iterator[Finding]:
    if shift is None:
        yield Finding(False, "No tile has both labels and edges, so no shift could be measured.")
    elif not shift.clear:
        yield Finding(
            False,
            "Whether the labels lie on the image cannot be told: their outlines follow its edges "
            f"no better at one place than at others within {shift.reach} pixels. Look at the "
            "tiles below.",
        )
    elif shift.length > max(_SHIFT_PX, 2 * shift.error):
        yield Finding(
            False,
            f"The labels lie {shift.length:.1f} pixels beside the image: moving them "
            f"{format_move(shift)} would fit better. Look at the tiles below before you do.",
        )
    else:
        yield Finding(True, f"The labels lie on the image, to {shift.length:.1f} pixels.")


def _of_scenes(shifts: dict[str, LabelShift]) -> Iterator[Finding]:
    for scene, shift in shifts.items():
        if shift.clear and shift.length > max(_SHIFT_PX, 2 * shift.error):
            yield Finding(
                False,
                f"On {scene} by itself, moving the labels {format_move(shift)} would fit better.",
            )


def _of_footprints(found: FootprintStatistics) -> Iterator[Finding]:
    if found.duplicates:
        yield Finding(
            False,
            f"{_count(found.duplicates, 'footprint')} repeat another one. Where scenes are judged "
            "by these labels, each would have to be found twice.",
        )
    if found.overlaps:
        yield Finding(
            False,
            f"{_count(found.overlaps, 'pair')} of footprints overlap by more than a tenth of the "
            "smaller one.",
        )
    if found.repaired:
        yield Finding(
            False, f"{_count(found.repaired, 'footprint')} had invalid outlines, now repaired."
        )
    if found.dropped:
        yield Finding(False, f"{_count(found.dropped, 'feature')} without a polygon left out.")
    if found.tiny > _MUCH * found.number:
        yield Finding(
            False,
            f"{percent(found.tiny / found.number)} of the footprints are smaller than 3 × 3 "
            "pixels, too small for a network to see.",
        )
    if not (found.duplicates or found.overlaps):
        yield Finding(True, "No footprint repeats or overlaps another one.")


def _of_splits(report: LabelReport) -> Iterator[Finding]:
    even = True
    for name in report.total.classes:
        if name == BACKGROUND:
            continue
        shares = {split: ground.shares[name] for split, ground in report.splits.items()}
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        if shares[most] > _UNEVEN * shares[least]:
            even = False
            yield Finding(
                False,
                f"The splits differ: {name} covers {percent(shares[most])} of {most} but "
                f"{percent(shares[least])} of {least}.",
            )
    if even and len(report.splits) > 1:
        yield Finding(True, "Every class has a like share of every split.")


def _of_tiles(report: LabelReport) -> Iterator[Finding]:
    if report.total.ignored_share > _MUCH:
        yield Finding(
            False, f"{percent(report.total.ignored_share)} of the pixels are without data."
        )
    if report.failed:
        yield Finding(False, f"{_count(report.failed, 'tile')} could not be cut.")
    for band in report.bands:
        if max(band.counts) == sum(band.counts):
            yield Finding(False, f"Band {band.name} holds a single value.")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
