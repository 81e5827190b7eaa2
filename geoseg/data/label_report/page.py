"""The page `labels.html`: a single file without scripts or external resources."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import cycle
from pathlib import Path

from geoseg.data.label_report.charts import draw_areas, draw_band, draw_shift
from geoseg.data.label_report.class_counts import BACKGROUND
from geoseg.data.label_report.contact_sheet import TilePicture, draw_sheet, read_nearby_footprints
from geoseg.data.label_report.findings import format_shift_m, list_findings
from geoseg.data.label_report.measurement import measure_labels, open_footprints_if_any
from geoseg.data.label_report.summary import (
    JSON_NAME,
    PAGE_NAME,
    FootprintStatistics,
    LabelReport,
    LabelShift,
    SplitCounts,
    format_percent,
)
from geoseg.data.tiles import load_tiles_info, read_tiles
from geoseg.jobs.files import replace_file

# Colours of the classes in bars and outlines; the background is grey.
_BACKGROUND_NAMES = (BACKGROUND, "background")
_BACKGROUND_COLOUR = "#d3d9e0"
_CLASS_COLOURS = ("#ffd23f", "#37e2d5", "#ff6b6b", "#b892ff", "#7bd389", "#ff9f5a", "#5ab0ff")

# Only the first bands are drawn, since hyperspectral images have hundreds.
_MAX_BANDS = 16


def write_label_report(
    folder: str | Path, *, repaired: int | None = None, dropped: int | None = None
) -> LabelReport:
    """Measure the labels of a folder of tiles and write the report into it.

    Args:
        folder: Folder written by `geoseg tile`.
        repaired: Number of invalid footprints that were repaired, if known.
        dropped: Number of features that are not polygons and were left out, if known.

    Returns:
        The report.

    Raises:
        EmptyDatasetError: If the folder is not a folder of tiles or contains none.
        SceneReadError: If a tile cannot be read.
    """
    report = measure_labels(folder, repaired=repaired, dropped=dropped)
    save_label_report(report, folder)
    return report


def save_label_report(report: LabelReport, folder: str | Path) -> None:
    """Write `labels.json` and `labels.html` into the folder of tiles that was measured.

    Args:
        report: Result of `measure_labels`. A report loaded from `labels.json` has no figure of
            the shift.
        folder: Folder of tiles.
    """
    folder = Path(folder)
    info = load_tiles_info(folder)
    tiles, parts = read_tiles(folder), open_footprints_if_any(folder)
    shown = tiles[tiles.id.isin(report.sheet)]
    footprints = None if parts is None else read_nearby_footprints(parts, shown)
    pictures = draw_sheet(folder, report.sheet, tiles, footprints, info, report.bands)
    with replace_file(folder / PAGE_NAME) as partial:
        partial.write_text(build_page(report, pictures), encoding="utf-8")
    with replace_file(folder / JSON_NAME) as partial:
        partial.write_text(report.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")


def build_page(report: LabelReport, pictures: Sequence[TilePicture]) -> str:
    """Build the page as HTML text."""
    title = escape(f"Label report: {Path(report.labels).name}")
    style = files("geoseg.data.label_report").joinpath("page.css").read_text(encoding="utf-8")
    colours = _class_colours(report)
    sections = [
        _header(report),
        _key_figures(report),
        _findings(report),
        _contact_sheet(pictures, colours),
        _split_table(report, colours),
        _footprint_tables(report.footprints) if report.footprints else "",
        _shift_table(report),
        _band_histograms(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _header(report: LabelReport) -> str:
    scenes = ", ".join(Path(scene).name for scene in report.scenes[:3])
    more = f" and {len(report.scenes) - 3:,} more" if len(report.scenes) > 3 else ""
    return (
        f"<header><h1>Label report: {escape(Path(report.labels).name)}</h1>\n"
        f"<p>{escape(scenes)}{more}; {report.total.tiles:,} tiles of {report.size} × "
        f"{report.size} pixels, {report.gsd_m:.3g} m per pixel</p></header>"
    )


def _key_figures(report: LabelReport) -> str:
    name, share = list(report.total.shares.items())[-1]
    cards = [(format_percent(share), f"of the pixels with data are {name}")]
    if report.exclusive:
        cards = [(f"{len(report.total.classes)}", "classes")]
    if report.footprints:
        cards.insert(0, (f"{report.footprints.number:,}", "footprints"))
        cards.append((f"{report.footprints.area_m2['median']:,.3g} m²", "median footprint area"))
    cards.append((format_percent(report.total.ignored_share), "of the pixels have no data"))
    if report.shift and report.shift.clear:
        cards.append((f"{report.shift.length:.1f} px", "shift between labels and image"))
    else:
        cards.append(("unclear", "shift between labels and image"))
    items = "".join(f"<li><b>{value}</b>{escape(text)}</li>" for value, text in cards)
    return f'<ul class="cards">{items}</ul>'


def _findings(report: LabelReport) -> str:
    items = "".join(
        f'<li class="{"good" if finding.good else "look"}">{escape(finding.text)}</li>'
        for finding in list_findings(report)
    )
    return f'<section><h2>Findings</h2>\n<ul class="findings">{items}</ul></section>'


def _contact_sheet(pictures: Iterable[TilePicture], colours: dict[str, str]) -> str:
    tiles = "\n".join(_tile(picture, colours) for picture in pictures)
    return (
        "<section><h2>Sample tiles</h2>\n<p>Tiles of each split, sorted by their share of labelled "
        "pixels. Move the pointer over a tile to hide the outlines.</p>\n"
        f'<div class="sheet">\n{tiles}\n</div></section>'
    )


def _tile(picture: TilePicture, colours: dict[str, str]) -> str:
    paths = "".join(
        f'<path class="halo" d="{path}"/><path d="{path}" stroke="{colours[name]}"/>'
        for name, path in picture.outlines.items()
    )
    return (
        f'<figure tabindex="0"><div class="photo">{_image(picture.png, f"tile {picture.id}")}'
        f'<svg viewBox="0 0 {picture.size} {picture.size}">{paths}</svg></div>\n'
        f'<figcaption><span class="{picture.split}">{picture.split}</span> '
        f"<code>{escape(picture.id)}</code> {format_percent(picture.share)}</figcaption></figure>"
    )


def _split_table(report: LabelReport, colours: dict[str, str]) -> str:
    names = list(report.total.classes)
    if not report.exclusive:
        names[0] = "background"
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = [_split_row("all", report.total, colours)]
    rows += [_split_row(split, counts, colours) for split, counts in report.splits.items()]
    return (
        "<section><h2>Pixels and footprints per split</h2>\n<p>Class shares refer to the pixels "
        "with data. Pixels in overlapping tiles are counted once per tile. Each footprint is "
        "counted in the split whose tiles contain its centre; geoseg evaluate counts every "
        "footprint of which a part is inside the area, so its number is larger.</p>\n<table>"
        f"<tr><th></th><th>tiles</th><th>footprints</th>{heads}<th>no data</th><th></th></tr>\n"
        + "\n".join(rows)
        + "</table></section>"
    )


def _split_row(split: str, counts: SplitCounts, colours: dict[str, str]) -> str:
    shares = counts.shares
    cells = "".join(f"<td>{format_percent(share)}</td>" for share in shares.values())
    parts = "".join(
        f'<i style="width:{100 * share:.2f}%;background:{colours[name]}"></i>'
        for name, share in reversed(shares.items())
    )
    footprints = "–" if counts.footprints is None else f"{sum(counts.footprints.values()):,}"
    return (
        f'<tr><th><span class="{split}">{split}</span></th><td>{counts.tiles:,}</td>'
        f"<td>{footprints}</td>{cells}<td>{format_percent(counts.ignored_share)}</td>"
        f'<td class="bar">{parts}</td></tr>'
    )


def _footprint_tables(statistics: FootprintStatistics) -> str:
    histogram = _image(draw_areas(statistics), "histogram of footprint areas")
    heads = "".join(f"<th>{name}</th>" for name in statistics.area_m2)
    cells = "".join(f"<td>{area:,.4g}</td>" for area in statistics.area_m2.values())
    checks = {
        "invalid, repaired": statistics.repaired,
        "not a polygon, left out": statistics.dropped,
        "duplicates": statistics.duplicates,
        "overlapping pairs": statistics.overlaps,
        "smaller than 3 × 3 pixels": statistics.tiny,
    }
    items = "".join(
        f"<tr><th>{name}</th><td>{'–' if count is None else f'{count:,}'}</td></tr>"
        for name, count in checks.items()
    )
    return (
        f"<section><h2>Footprints</h2>\n<div class='pair'>{histogram}"
        f"<table>{items}</table></div>\n<p>Area in m²:</p>\n"
        f"<table><tr>{heads}</tr><tr>{cells}</tr></table></section>"
    )


def _shift_table(report: LabelReport) -> str:
    if report.shift is None:
        return ""
    rows = [_shift_row("all", report.shift)]
    rows += [_shift_row(Path(scene).name, shift) for scene, shift in report.scene_shifts.items()]
    table = (
        "<table><tr><th></th><th>right</th><th>down</th><th>±</th><th>distance</th>"
        "<th>strength</th><th></th></tr>" + "".join(rows) + "</table>"
    )
    picture = (
        _image(draw_shift(report.shift), "agreement at each shift") if report.shift.surface else ""
    )
    return (
        "<section><h2>Alignment of labels and image</h2>\n"
        f"<div class='pair'>{picture}<div><p>The labels of {report.shift.tiles} tiles were shifted "
        f"by up to {report.shift.reach} pixels in each direction. Bright pixels of the figure are "
        "shifts at which the label outlines agree with edges of the image. The circle marks the "
        "best one: the shift in pixels to the right and down that would align the labels. A "
        "single sharp spot is a reliable result; many similar spots are not.</p>\n"
        f"{table}</div></div></section>"
    )


def _shift_row(name: str, shift: LabelShift) -> str:
    return (
        f"<tr><th>{escape(name)}</th><td>{shift.dx:.1f}</td><td>{shift.dy:.1f}</td>"
        f"<td>{shift.error:.1f}</td><td>{format_shift_m(shift)}</td><td>{shift.strength:.0f}</td>"
        f"<td>{'clear' if shift.clear else 'unclear'}</td></tr>"
    )


def _band_histograms(report: LabelReport) -> str:
    shown = report.bands[:_MAX_BANDS]
    more = (
        f"; the first {_MAX_BANDS} of {len(report.bands)} bands"
        if report.bands[_MAX_BANDS:]
        else ""
    )
    figures = "\n".join(
        f"<figure><figcaption>{escape(band.name)}</figcaption>"
        f"{_image(draw_band(band), 'histogram')}</figure>"
        for band in shown
    )
    return (
        f"<section><h2>Band values</h2>\n<p>Valid pixels of training tiles{more}.</p>\n"
        f'<div class="bands">\n{figures}\n</div></section>'
    )


def _class_colours(report: LabelReport) -> dict[str, str]:
    colours = dict.fromkeys(_BACKGROUND_NAMES, _BACKGROUND_COLOUR)
    named = [name for name in report.total.classes if name not in _BACKGROUND_NAMES]
    return colours | dict(zip(named, cycle(_CLASS_COLOURS), strict=False))


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
