"""Findings about the labels, as sentences for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geoseg.data.label_report.class_counts import BACKGROUND
from geoseg.data.label_report.summary import (
    FootprintStatistics,
    LabelReport,
    LabelShift,
    format_percent,
)

# Larger shifts between labels and image are reported.
_SHIFT_PX = 1.0

# A component of a shift is left out if it is smaller than this share of the other one.
_MINOR_SHARE = 0.05

# Splits are reported as different above this ratio of class shares.
_MAX_RATIO = 2.0

# Larger shares of nodata pixels and of tiny footprints are reported.
_LARGE_SHARE = 0.2


@dataclass(frozen=True)
class Finding:
    """A sentence about the labels.

    Attributes:
        good: False if the user should check something.
        text: The finding, and what to do about it.
    """

    good: bool
    text: str


def list_findings(report: LabelReport) -> list[Finding]:
    """List the findings, those to check first."""
    findings = [
        *_check_shift(report.shift),
        *_check_scene_shifts(report.scene_shifts),
        *(_check_footprints(report.footprints) if report.footprints else ()),
        *_check_splits(report),
        *_check_tiles(report),
        *_describe_merged(report),
    ]
    return sorted(findings, key=lambda finding: finding.good)


def format_shift_m(shift: LabelShift) -> str:
    """Format a shift in metres, e.g. `1.2 m east and 0.3 m south`, or `1.2 m east`."""
    east, north = shift.east_m, shift.north_m
    components = [
        f"{abs(metres):.2g} m {positive if metres > 0 else negative}"
        for metres, positive, negative in ((east, "east", "west"), (north, "north", "south"))
        if abs(metres) > _MINOR_SHARE * max(abs(east), abs(north))
    ]
    return " and ".join(components) or "0 m"


def _check_shift(shift: LabelShift | None) -> Iterator[Finding]:
    if shift is None:
        yield Finding(
            False, "The shift could not be measured: no tile has both labels and image edges."
        )
    elif not shift.clear:
        yield Finding(
            False,
            "The shift between labels and image is unclear: no shift of up to "
            f"{shift.reach} pixels fits clearly better than the others. Check the sample tiles "
            "below.",
        )
    elif shift.length > max(_SHIFT_PX, 2 * shift.error):
        yield Finding(
            False,
            f"The labels are shifted by {shift.length:.1f} pixels: moving them "
            f"{format_shift_m(shift)} would align them with the image. Check the sample tiles "
            "below; `geoseg align` moves each outline onto its building. This matters most where "
            "houses are small.",
        )
    else:
        yield Finding(
            True, f"The labels are aligned with the image to within {shift.length:.1f} pixels."
        )


def _check_scene_shifts(shifts: dict[str, LabelShift]) -> Iterator[Finding]:
    for scene, shift in shifts.items():
        if shift.clear and shift.length > max(_SHIFT_PX, 2 * shift.error):
            yield Finding(
                False,
                f"In {scene}, moving the labels {format_shift_m(shift)} would align them with "
                "the image.",
            )


def _check_footprints(statistics: FootprintStatistics) -> Iterator[Finding]:
    if statistics.duplicates:
        yield Finding(
            False,
            f"{_count(statistics.duplicates, 'duplicate footprint')}. In an evaluation against "
            "these labels, each copy needs its own match.",
        )
    if statistics.overlaps:
        yield Finding(
            False,
            f"{_count(statistics.overlaps, 'pair')} of footprints with an overlap of more than "
            "10 % of the smaller one.",
        )
    if statistics.repaired:
        yield Finding(False, f"{_count(statistics.repaired, 'invalid footprint')} repaired.")
    if statistics.dropped:
        yield Finding(False, f"{_count(statistics.dropped, 'feature')} without a polygon left out.")
    if statistics.tiny > _LARGE_SHARE * statistics.number:
        yield Finding(
            False,
            f"{format_percent(statistics.tiny / statistics.number)} of the footprints are smaller "
            "than 3 × 3 pixels, too small for a network to detect.",
        )
    if not (statistics.duplicates or statistics.overlaps):
        yield Finding(True, "There are no duplicate or overlapping footprints.")


def _check_splits(report: LabelReport) -> Iterator[Finding]:
    even = True
    for name in report.total.classes:
        if name == BACKGROUND:
            continue
        shares = {split: counts.shares[name] for split, counts in report.splits.items()}
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        if shares[most] > _MAX_RATIO * shares[least]:
            even = False
            yield Finding(
                False,
                f"The splits differ: {name} covers {format_percent(shares[most])} of {most} but "
                f"{format_percent(shares[least])} of {least}.",
            )
    if even and len(report.splits) > 1:
        yield Finding(True, "Each class has a similar share in every split.")


def _check_tiles(report: LabelReport) -> Iterator[Finding]:
    if report.total.ignored_share > _LARGE_SHARE:
        yield Finding(
            False, f"{format_percent(report.total.ignored_share)} of the pixels have no data."
        )
    if report.failed:
        yield Finding(False, f"{_count(report.failed, 'tile')} could not be cut.")
    for band in report.bands:
        if max(band.counts) == sum(band.counts):
            yield Finding(False, f"Band {band.name} contains a single value only.")


def _describe_merged(report: LabelReport) -> Iterator[Finding]:
    if report.merged:
        names = ", ".join(Path(scene).name for scene in report.merged)
        yield Finding(
            True,
            f"Touching buildings are merged in the labels of {names}: walls inside a footprint "
            "are unknown, and ignored in training.",
        )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
