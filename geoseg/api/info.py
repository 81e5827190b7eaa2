"""Describe a file: a raster, a layer, a folder of tiles or a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoseg.credentials import hide_credentials
from geoseg.errors import DataError, GeosegError, SceneReadError, VectorReadError
from geoseg.geo.paths import is_missing, no_such_file
from geoseg.networks.architectures import ARCHITECTURES
from geoseg.networks.model_file import MODEL_NAME, load_spec, shipped_models
from geoseg.options import PredictOptions

_TILES_NAME = "tiles.json"

# Of a model card: the characters that are read, and the columns of its scores: area, a score,
# options.
_LONGEST_CARD, _FEWEST_COLUMNS = 1_000_000, 3


def describe_file(path: str | Path) -> dict[str, Any]:
    """Describe a file by values that JSON can hold; `kind` says what it is.

    Args:
        path: A raster, a vector layer, a folder of tiles, a run or a model; the name of a shipped
            model.

    Returns:
        The description; `problem` is the reason for which geoseg cannot use a raster or a layer.

    Raises:
        GeosegError: If it does not exist, or is nothing of these.
    """
    name, file = str(path), Path(path)
    if (file / _TILES_NAME).is_file():
        return _describe_tiles(file)
    if (file / MODEL_NAME).is_file():
        return _describe_model(file / MODEL_NAME)
    if file.suffix == ".safetensors":
        return _describe_model(file)
    if not file.exists() and name in shipped_models():
        return _describe_model(shipped_models()[name])
    if is_missing(name):
        raise SceneReadError(no_such_file(name))
    return _describe_data(name)


def _describe_tiles(folder: Path) -> dict[str, Any]:
    from geoseg.data.label_report import JSON_NAME, PAGE_NAME, format_headline, load_label_report
    from geoseg.data.tiles import count_place_tiles, load_tiles_info

    described: dict[str, Any] = {
        "kind": "tiles", "path": str(folder), **load_tiles_info(folder).model_dump(mode="json"),
        "tiles_of_places": count_place_tiles(folder),
    }  # fmt: skip
    if (folder / JSON_NAME).is_file():
        described["label report"] = format_headline(load_label_report(folder))
        described["page"] = str(folder / PAGE_NAME)
    return described


def _describe_model(file: Path) -> dict[str, Any]:
    spec = load_spec(file)
    return {
        "kind": "model",
        "path": str(file),
        "task": ARCHITECTURES[spec.arch].task,
        **spec.model_dump(mode="json"),
        "scores": _read_scores(file.with_suffix(".md")),
    }


def _read_scores(card: Path) -> list[str]:
    """Return the rows of the table of scores in a model card, one line each.

    None without a card, or if the file of this name is another text: its first column must be
    `area`, its last one `options`, and each row must have a cell for each column.
    """
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST_CARD)
    except OSError:  # none, or a folder
        return []
    _, _, section = text.partition("\n## Scores\n")
    table = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.strip().strip("|").split("|")] for line in table]
    header = rows[0] if rows else []
    if len(header) < _FEWEST_COLUMNS or (header[0], header[-1]) != ("area", "options"):
        return []
    if any(len(row) != len(header) for row in rows):
        return []
    return [_format_scores(header[1:-1], row) for row in rows[2:]]


def _format_scores(names: Sequence[str], row: Sequence[str]) -> str:
    place, *scores, options = row
    listed = ", ".join(f"{name} {score}" for name, score in zip(names, scores, strict=True))
    return f"{listed}: {place}" + (f" ({options})" if options != "none" else "")


def _describe_data(name: str) -> dict[str, Any]:
    from geoseg.geo.raster.description import describe_raster

    try:
        described = describe_raster(name)
    except DataError as error:
        return _describe_layer(name, error)
    if not (described["bands"] or described["subdatasets"]):
        try:
            return _describe_layer(name, SceneReadError(f"{name}: has no bands"))
        except SceneReadError:
            pass  # a raster without bands, then
    return {
        "kind": "raster", "path": hide_credentials(name), **described,
        "default_model": described["problem"] or _try_default_model(name),
    }  # fmt: skip


def _try_default_model(name: str) -> str:
    """Return whether the default model can read a raster, or why not."""
    from geoseg.prediction.prediction_job import plan_job

    try:
        plan_job(name, None, PredictOptions(keep_blank=True))
    except GeosegError as error:
        return str(error)
    return "can read it"


def _describe_layer(name: str, as_raster: DataError) -> dict[str, Any]:
    """Describe a vector layer; if it is none, the error is that of reading a raster."""
    from geoseg.geo.vector import list_layers, read_footprints

    try:
        layers = list_layers(name)
    except VectorReadError as error:
        if Path(name).is_dir():
            raise SceneReadError(
                f"{name}: is a folder without tiles, a model or a layer; give a file in it"
            ) from error
        raise SceneReadError(
            f"{name}: neither a raster nor a vector layer; give a GeoTIFF, a vector layer or a "
            "model.safetensors"
        ) from as_raster
    described: dict[str, Any] = {"kind": "layer", "path": hide_credentials(name), "layers": layers}
    try:
        layer = read_footprints(name)
    except GeosegError as error:
        return {**described, "problem": str(error)}
    return {
        **described,
        "polygons": len(layer),
        "dropped": layer.attrs.get("dropped", 0),
        "repaired": layer.attrs.get("repaired", 0),
        "crs": layer.crs.to_string(),
        "bounds": layer.total_bounds.tolist() if len(layer) else None,
        "columns": [str(column) for column in layer.columns if column != "geometry"],
        "problem": None,
    }
