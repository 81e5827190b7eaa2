"""The command `geoseg info`."""

from __future__ import annotations

from pathlib import Path

import click

from geoseg.errors import DataError, SceneReadError
from geoseg.networks.model_file import shipped_models


@click.command()
@click.argument("path")
def command(path: str) -> None:
    """Describe a scene, a tiles folder, a model or a layer.

    Shipped models are given by their names, such as buildings.
    """
    if (Path(path) / "tiles.json").is_file():
        lines = _tiles(path)
    elif (Path(path) / "model.safetensors").is_file():
        lines = _model(str(Path(path) / "model.safetensors"))
    elif Path(path).is_dir():
        raise SceneReadError(
            f"{path}: is a folder without tiles or a model; give a scene, a tiles folder, a model "
            "or a layer"
        )
    elif path.endswith(".safetensors"):
        lines = _model(path)
    elif not Path(path).exists() and path in shipped_models():
        lines = _model(str(shipped_models()[path]))
    else:
        lines = _scene_or_layer(path)
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        click.echo(f"{name:<{width}}{value}")


def _tiles(path: str) -> list[tuple[str, object]]:
    from geoseg.data.label_report import JSON_NAME, PAGE_NAME, format_headline, load_label_report
    from geoseg.data.tiles import load_tiles_info

    lines = _flat(load_tiles_info(path).model_dump())
    if (Path(path) / JSON_NAME).is_file():
        lines.append(("label report", format_headline(load_label_report(path))))
        lines.append(("page", Path(path) / PAGE_NAME))
    return lines


def _model(path: str) -> list[tuple[str, object]]:
    from geoseg.networks.model_file import load_spec

    return _flat(load_spec(path).model_dump())


def _scene_or_layer(path: str) -> list[tuple[str, object]]:
    from geoseg.geo.raster import read_info

    try:
        info = read_info(path)
    except DataError as error:
        try:
            return _layer(path)
        except DataError:
            if Path(path).exists():
                raise SceneReadError(
                    f"{path}: is not a scene, tiles folder, model or layer that geoseg reads; give "
                    "a GeoTIFF, a vector layer or a model.safetensors"
                ) from error
            raise error from None
    grid = info.grid
    gsd_x, gsd_y = grid.axis_gsd_m
    return [
        ("scene", path),
        ("pixels", f"{grid.height} x {grid.width} (height x width)"),
        ("gsd", f"{gsd_x:.4g} x {gsd_y:.4g} m per pixel"),
        ("crs", grid.crs.to_string()),
        ("bounds", ", ".join(f"{value:.10g}" for value in grid.bounds)),
        ("bands", ", ".join(info.bands)),
        ("dtype", info.dtype),
        ("nodata", info.nodata),
    ]


def _layer(path: str) -> list[tuple[str, object]]:
    from geoseg.geo.vector import read_footprints

    layer = read_footprints(path)
    return [
        ("layer", path),
        ("polygons", len(layer)),
        ("dropped", layer.attrs.get("dropped", 0)),
        ("repaired", layer.attrs.get("repaired", 0)),
        ("crs", layer.crs.to_string()),
        ("bounds", ", ".join(f"{value:.10g}" for value in layer.total_bounds)),
        ("columns", ", ".join(column for column in layer.columns if column != "geometry")),
    ]


def _flat(values: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
            lines.append((f"{prefix}{name}", shown))
    return lines
