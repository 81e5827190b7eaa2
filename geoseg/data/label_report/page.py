"""The page `labels.html`: everything in one file, no script, nothing from the network."""

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
from geoseg.data.label_report.findings import format_move, list_findings
from geoseg.data.label_report.measurement import measure_labels, open_footprints_if_any
from geoseg.data.label_report.summary import (
    JSON_NAME,
    PAGE_NAME,
    FootprintStatistics,
    LabelReport,
    LabelShift,
    SplitCounts,
    percent,
)
from geoseg.data.tiles import load_tiles_info, read_tiles
from geoseg.jobs.journal import replace_file

# Colours of the classes, in bars and outlines; what is no class in particular is grey.
_PLAIN = (BACKGROUND, "background")
_PLAIN_COLOUR = "#d3d9e0"
_CLASS_COLOURS = ("#ffd23f", "#37e2d5", "#ff6b6b", "#b892ff", "#7bd389", "#ff9f5a", "#5ab0ff")

# More bands than these are not drawn.
_BANDS = 16


def write_label_report(
    folder: str | Path, *, repaired: int | None = None, dropped: int | None = None
) -> LabelReport:
    """Measures the labels of a folder of tiles and writes the report into it.

    Args:
        folder: A folder made by `geoseg tile`.
        repaired: How many footprints were invalid and mended, if known.
        dropped: How many features were no polygons and are left out, if known.
    """
    report = measure_labels(folder, repaired=repaired, dropped=dropped)
    save_label_report(report, folder)
    return report


def save_label_report(report: LabelReport, folder: str | Path) -> None:
    """Writes `labels.json` and `labels.html` into the folder of tiles that was measured.

    Args:
        report: From `measure_labels`; one that was loaded lacks the picture of the shift.
        folder: The folder of tiles.
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
    """Builds the page as one HTML text."""
    style = files("geoseg.data.label_report").joinpath("page.css").read_text(encoding="utf-8")
    colours = _colours(report)
    sections = [
        _header(report),
        _cards(report),
        _findings(report),
        _sheet(pictures, colours),
        _grounds(report, colours),
        _footprints(report.footprints) if report.footprints else "",
        _shifts(report),
        _bands(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Labels: {escape(Path(report.labels).name)}</title>\n<style>\n{style}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _header(report: LabelReport) -> str:
    scenes = ", ".join(Path(scene).name for scene in report.scenes[:3])
    more = f" and {len(report.scenes) - 3:,} more" if len(report.scenes) > 3 else ""
    return (
        f"<header><h1>{escape(Path(report.labels).name)}</h1>\n"
        f"<p>on {escape(scenes)}{more}, in {report.total.tiles:,} tiles of {report.size} × "
        f"{report.size} pixels, {report.gsd_m:.3g} m each</p></header>"
    )


def _cards(report: LabelReport) -> str:
    name, share = list(report.total.shares.items())[-1]
    cards = [(percent(share), f"of the ground is {name}")]
    if report.exclusive:
        cards = [(f"{len(report.total.classes)}", "classes")]
    if report.footprints:
        cards.insert(0, (f"{report.footprints.number:,}", "footprints"))
        cards.append((f"{report.footprints.area_m2['median']:,.3g} m²", "is the median footprint"))
    cards.append((percent(report.total.ignored_share), "of the pixels have no data"))
    if report.shift and report.shift.clear:
        cards.append((f"{report.shift.length:.1f} px", "between labels and image"))
    else:
        cards.append(("unclear", "how far labels lie beside the image"))
    items = "".join(f"<li><b>{value}</b>{escape(text)}</li>" for value, text in cards)
    return f'<ul class="cards">{items}</ul>'


def _findings(report: LabelReport) -> str:
    items = "".join(
        f'<li class="{"good" if finding.good else "look"}">{escape(finding.text)}</li>'
        for finding in list_findings(report)
    )
    return f'<section><h2>What to know</h2>\n<ul class="findings">{items}</ul></section>'


def _sheet(pictures: Iterable[TilePicture], colours: dict[str, str]) -> str:
    tiles = "\n".join(_tile(picture, colours) for picture in pictures)
    return (
        "<section><h2>Look at the labels</h2>\n<p>Tiles of each split, from full to empty "
        "ground. Point at a picture to see it without the outlines.</p>\n"
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
        f"<code>{escape(picture.id)}</code> {percent(picture.share)}</figcaption></figure>"
    )


def _grounds(report: LabelReport, colours: dict[str, str]) -> str:
    names = list(report.total.classes)
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = [_ground("all", report.total, colours)]
    rows += [_ground(split, ground, colours) for split, ground in report.splits.items()]
    return (
        "<section><h2>Ground</h2>\n<p>Shares are of the pixels with data, counted in every tile. "
        'A footprint belongs to the split that its middle lies in.</p>\n<table class="ground">'
        f"<tr><th></th><th>tiles</th><th>footprints</th>{heads}<th>no data</th><th></th></tr>\n"
        + "\n".join(rows)
        + "</table></section>"
    )


def _ground(split: str, ground: SplitCounts, colours: dict[str, str]) -> str:
    shares = ground.shares
    cells = "".join(f"<td>{percent(share)}</td>" for share in shares.values())
    parts = "".join(
        f'<i style="width:{100 * share:.2f}%;background:{colours[name]}"></i>'
        for name, share in reversed(shares.items())
    )
    footprints = "–" if ground.footprints is None else f"{sum(ground.footprints.values()):,}"
    return (
        f'<tr><th><span class="{split}">{split}</span></th><td>{ground.tiles:,}</td>'
        f"<td>{footprints}</td>{cells}<td>{percent(ground.ignored_share)}</td>"
        f'<td class="bar">{parts}</td></tr>'
    )


def _footprints(found: FootprintStatistics) -> str:
    heads = "".join(f"<th>{name}</th>" for name in found.area_m2)
    cells = "".join(f"<td>{area:,.4g}</td>" for area in found.area_m2.values())
    counts = {
        "invalid, repaired": found.repaired,
        "left out, no polygon": found.dropped,
        "repeating another": found.duplicates,
        "overlapping pairs": found.overlaps,
        "below 3 × 3 pixels": found.tiny,
    }
    items = "".join(
        f"<tr><th>{name}</th><td>{'–' if count is None else f'{count:,}'}</td></tr>"
        for name, count in counts.items()
    )
    return (
        f"<section><h2>Footprints</h2>\n<div class='pair'>{_image(draw_areas(found), 'areas')}"
        f"<table>{items}</table></div>\n<p>Area on the ground in m²:</p>\n"
        f"<table><tr>{heads}</tr><tr>{cells}</tr></table></section>"
    )


def _shifts(report: LabelReport) -> str:
    if report.shift is None:
        return ""
    rows = [_shift("all", report.shift)]
    rows += [_shift(Path(scene).name, shift) for scene, shift in report.scene_shifts.items()]
    table = (
        "<table><tr><th></th><th>right</th><th>down</th><th>±</th><th>on the ground</th>"
        "<th>strength</th><th></th></tr>" + "".join(rows) + "</table>"
    )
    picture = _image(draw_shift(report.shift), "fit by shift") if report.shift.surface else ""
    return (
        "<section><h2>Do the labels lie on the image?</h2>\n"
        f"<div class='pair'>{picture}<div><p>The labels of {report.shift.tiles} tiles were moved "
        f"over their images by up to {report.shift.reach} pixels; bright is where their outlines "
        "meet the most edges. The ring marks the best fit: by how much the labels are to be "
        "moved, in pixels along the image's columns (right) and rows (down). One sharp spot is "
        "a sure answer, many like it are none.</p>\n"
        f"{table}</div></div></section>"
    )


def _shift(name: str, shift: LabelShift) -> str:
    return (
        f"<tr><th>{escape(name)}</th><td>{shift.dx:.1f}</td><td>{shift.dy:.1f}</td>"
        f"<td>{shift.error:.1f}</td><td>{format_move(shift)}</td><td>{shift.strength:.0f}</td>"
        f"<td>{'clear' if shift.clear else 'unclear'}</td></tr>"
    )


def _bands(report: LabelReport) -> str:
    shown = report.bands[:_BANDS]
    more = f", the first {_BANDS} of {len(report.bands)} bands" if report.bands[_BANDS:] else ""
    figures = "\n".join(
        f"<figure><figcaption>{escape(band.name)}</figcaption>"
        f"{_image(draw_band(band), 'histogram')}</figure>"
        for band in shown
    )
    return (
        f"<section><h2>Bands</h2>\n<p>Values of the valid pixels of training tiles{more}.</p>\n"
        f'<div class="bands">\n{figures}\n</div></section>'
    )


def _colours(report: LabelReport) -> dict[str, str]:
    colours = dict.fromkeys(_PLAIN, _PLAIN_COLOUR)
    named = [name for name in report.total.classes if name not in _PLAIN]
    return colours | dict(zip(named, cycle(_CLASS_COLOURS), strict=False))


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
