"""The command `geoseg info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from geoseg.options import Thresholds


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def command(path: str, as_json: bool) -> None:
    """Describe a raster, a layer, a tiles folder or a model.

    If geoseg cannot use a raster or a layer, the reason and the remedy are printed, too. Shipped
    models are given by their names, such as buildings.
    """
    from geoseg.api.info import describe_file

    described = describe_file(path)
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    problem = described.pop("problem", None)
    format_lines = _FORMATS.get(described["kind"], _format_values)
    lines = list(format_lines(described))
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        click.echo(f"{name:<{width}}{value}")
    if problem:
        click.echo(f"geoseg: {' '.join(problem.splitlines())}", err=True)


def _format_raster(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "raster", f"{described['path']} ({described['driver']})"
    yield "pixels", f"{described['height']} x {described['width']} (height x width)"
    for number, band in enumerate(described["bands"], start=1):
        yield f"band {number}", _format_band(band)
    yield "validity", described["validity"]
    if described["blank"]:
        yield "blank", f"{described['blank']}; nodata unless --keep-blank"
    yield "crs", described["crs"] or "none"
    if "gsd_m" in described:
        yield "gsd", "{:.4g} x {:.4g} m per pixel".format(*described["gsd_m"])
        yield "bounds", _join(f"{value:.10g}" for value in described["bounds"])
    if described.get("degrees"):
        west, south, east, north = described["degrees"]
        yield "degrees", f"longitude {west:g} to {east:g}, latitude {south:g} to {north:g}"
    for name in described["subdatasets"]:
        yield "subdataset", name
    if described["thresholds"]:
        yield "thresholds", _format_thresholds(described["thresholds"])
    yield "default model", described["default_model"]


def _format_thresholds(tag: str) -> str:
    """Return the thresholds that are set; the tag itself if another program wrote it."""
    try:
        thresholds = Thresholds.model_validate_json(tag).model_dump(exclude_none=True)
    except ValueError:
        return tag
    rule = thresholds.pop("confidence", None)
    texts = [f"{name} {value if isinstance(value, bool) else f'{value:g}'}"
             for name, value in thresholds.items()]  # fmt: skip
    return ", ".join([*texts, *(["confidences by a rule"] if rule else [])])


def _format_band(band: dict[str, Any]) -> str:
    text = f"{band['name']}, {band['dtype']}"
    if band["nodata"] is not None:
        text += f", nodata {band['nodata']}"
    if found := band["statistics"]:
        text += f", {found['minimum']} to {found['maximum']}, mean {found['mean']:.4g}"
    return text


def _format_model(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a user of a model needs to know; `--json` prints all of it."""
    yield "model", described["path"]
    kind = "boxes" if described["task"] == "boxes" else "probabilities"
    yield "output", f"{kind} of {_join(described['outputs'])}"
    encoder = described["encoder"]
    yield "network", described["arch"] + (f" with {encoder}" if encoder else "")
    dtypes = described["scene_dtypes"] or [described["dtype"]]
    yield (
        "input",
        f"{' or '.join(dtypes)}, bands {_join(described['bands'])}; "
        f"pixels of {described['gsd_m']:.3g} m, tiles of {described['size']} pixels",
    )
    origin = described["provenance"]
    yield from _format_training(origin)
    iou = "mean IoU of classes" if described["exclusive"] else "pixel IoU"
    scores = {"building F1": origin.get("val_f1"), iou: origin.get("val_iou")}
    if known := [f"{name} {score:.2f}" for name, score in scores.items() if score is not None]:
        yield "validation", f"{', '.join(known)}, on the tiles by which the model was chosen"
    calibration = origin.get("calibration")
    if described["task"] != "boxes" and not described["exclusive"]:
        yield "confidence", _format_confidence(described["thresholds"], calibration)
    for line in described["scores"]:
        yield "score", line
    if "licence" in origin:
        yield "licence", str(origin["licence"])
    yield "all settings", "geoseg info --json"


def _format_confidence(thresholds: dict[str, Any], calibration: Any) -> str:
    """Say how confidences are computed, and how far they were off on validation tiles."""
    if not thresholds.get("confidence"):
        return "mean probability inside a footprint"
    text = "probability that a footprint is a building"
    if isinstance(calibration, dict) and "footprint_ece" in calibration:
        text += (
            f"; mean error {calibration['footprint_ece']} on {calibration.get('footprints')} "
            "footprints of validation tiles"
        )
    least = thresholds.get("min_confidence")
    return text + (f"; footprints below {least:g} are dropped" if least else "")


def _format_training(origin: Any) -> Iterator[tuple[str, str]]:
    """Yield what a model was trained on, then the same of the models that it was continued from.

    The header of another program may hold anything.
    """
    while isinstance(origin, dict):
        scenes, tiles = origin.get("scenes"), origin.get("tiles")
        if isinstance(scenes, list) and scenes:
            known = isinstance(tiles, dict) and "train" in tiles
            counts = f"; {tiles['train']} training tiles" if known and tiles else ""
            yield "trained on", _shorten([str(scene) for scene in scenes]) + counts
        yield from _format_sources(origin.get("sources"))
        start = origin.get("start")
        if not isinstance(start, dict):
            return
        yield "continued from", str(start.get("model"))
        origin = start.get("provenance")
        if isinstance(origin, dict) and "licence" in origin:
            yield "its licence", str(origin["licence"])


def _format_sources(sources: Any) -> Iterator[tuple[str, str]]:
    """Yield where the training data comes from, one line per source."""
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            yield "source", f"{source.get('data')} ({source.get('licence')})"


def _format_tiles(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield all values, and the tiles of each place in one line."""
    of_places = described["tiles_of_places"]
    hidden = ("places", "tiles_of_places")
    yield from _format_values({key: one for key, one in described.items() if key not in hidden})
    for place, counts in of_places.items():
        scenes = "1 scene" if counts["scenes"] == 1 else f"{counts['scenes']} scenes"
        tiles = _join(f"{count} {split}" for split, count in counts.items() if split != "scenes")
        yield f"place {place}", f"{scenes}; tiles: {tiles}"


def _shorten(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _format_values(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield described["kind"], described["path"]
    values = {key: value for key, value in described.items() if key not in ("kind", "path")}
    yield from _flatten(values)


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _join(value) if isinstance(value, list) else str(value)


def _join(values: Any) -> str:
    return ", ".join(f"{v:.10g}" if isinstance(v, float) else str(v) for v in values)


_FORMATS = {"raster": _format_raster, "model": _format_model, "tiles": _format_tiles}
