"""Writes the index of a tiles folder: its tables, the areas of its splits, and `tiles.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from pydantic import ValidationError

from geoseg.credentials import hide_credentials
from geoseg.data.labels import LayerLabels, RasterLabels
from geoseg.data.splits import SPLITS
from geoseg.data.tiles.checks import list_values
from geoseg.data.tiles.tile_index import FOOTPRINTS_NAME, FailedTile, TilesInfo
from geoseg.data.tiles.tiling_plan import TilingPlan
from geoseg.errors import EmptyDatasetError, LabelError
from geoseg.geo.crs import has_location
from geoseg.geo.plain_names import writable_name
from geoseg.geo.vector import to_crs_near, wrap_lonlat, write_layers, write_parts
from geoseg.options.headers import MAX_PLACES, PlaceBands, first_problem

# Columns of tiles that are only needed to compute statistics; not written to tiles.parquet.
_INTERNAL_COLUMNS = ("pixels", "sums", "squares", "of_value", "scene_index")


def write_index(plan: TilingPlan, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Choose the tiles that stay in a folder, and write its tables, areas and `tiles.json`.

    Args:
        plan: Plan of the folder.
        rows: Results of `cut_tile_row` for all tiles.
        folder: The folder with the cut tiles; files of tiles that do not stay are removed.

    Raises:
        EmptyDatasetError: If no tile could be cut, or no training tile has a valid pixel.
        LabelError: If a class has no pixel.
    """
    failed = [row for row in rows if "error" in row]
    if len(failed) == len(rows):
        raise EmptyDatasetError(failed[0]["error"])
    cut = pd.DataFrame([row for row in rows if "error" not in row])
    tiles = plan.tiles.merge(cut, on="id", sort=False)
    kept = _choose_kept(tiles, plan)
    _remove_files(tiles.id[~kept], folder)
    tiles = tiles[kept].reset_index(drop=True)
    _write_tables(plan, tiles, _summarise(plan, tiles, failed), folder)


def _choose_kept(tiles: gpd.GeoDataFrame, plan: TilingPlan) -> pd.Series:
    """Return which tiles are kept: those with data, but only some empty training tiles.

    Validation and test splits keep their empty tiles, so that false positives there count. If
    every class is a class to learn, no tile is empty.
    """
    options = plan.options
    if not plan.scheme.has_background:
        return pd.Series(tiles.valid_fraction > 0)
    kept = tiles.valid_fraction > 0
    empty = tiles.index[kept & (tiles.split == "train") & (tiles.building_fraction == 0)]
    order = np.random.default_rng(options.seed).permutation(len(empty))
    kept[empty[order[round(len(empty) * options.keep_empty) :]]] = False
    chosen: pd.Series = kept
    return chosen


def _remove_files(ids: pd.Series, folder: Path) -> None:
    for id_ in ids:
        # The files may be removed already, if the job was interrupted after this step.
        (folder / "images" / f"{id_}.tif").unlink(missing_ok=True)
        (folder / "targets" / f"{id_}.tif").unlink(missing_ok=True)


def _summarise(
    plan: TilingPlan, tiles: gpd.GeoDataFrame, failed: Sequence[dict[str, Any]]
) -> TilesInfo:
    train = tiles[tiles.split == "train"]
    if train.empty:
        raise _no_training_data_error(plan, bool(len(tiles)))
    _check_classes(plan, np.sum(tiles.of_value.tolist(), axis=0))
    try:
        return _build_info(plan, tiles, failed)
    except ValidationError as error:
        raise LabelError(
            f"{plan.scenes[0].path}: cannot be tiled ({first_problem(error)}); check the names and "
            "values of its bands with geoseg info, and its classes"
        ) from error


def _build_info(
    plan: TilingPlan,
    tiles: gpd.GeoDataFrame,
    failed: Sequence[dict[str, Any]],
) -> TilesInfo:
    first, options = plan.scenes[0], plan.options
    train = tiles[tiles.split == "train"]
    mean, std = _measure_bands(train)
    return TilesInfo(
        bands=first.bands,
        dtype=plan.dtype,
        scene_dtypes=tuple(sorted({scene.dtype for scene in plan.scenes})),
        gsd_m=round(float(options.gsd_m or plan.grids[0].gsd_m), 6),
        nodata=first.nodata if first.nodata is None or np.isfinite(first.nodata) else None,
        size=options.size,
        overlap=options.overlap_px,
        classes=plan.scheme.names,
        colours=plan.scheme.colours,
        background=plan.scheme.background_name,
        targets=options.target_names,
        mean=mean,
        std=std,
        place_bands=_measure_places(plan, train),
        scenes=tuple(info.name for info in plan.scenes),
        places=plan.places,
        blank={info.name: round(info.blank.share, 4) for info in plan.scenes if info.blank},
        merged=plan.merged,
        labels=hide_credentials(plan.labels_path),
        where=options.where,
        split=_describe_split(plan),
        tiles={split: int((tiles.split == split).sum()) for split in SPLITS},
        shared_pixels=plan.shared_pixels,
        failed=_describe_failed(plan, failed),
    )


def _measure_places(plan: TilingPlan, train: gpd.GeoDataFrame) -> tuple[PlaceBands, ...]:
    """Return the statistics of each place, in the order of the scenes; empty for a single one."""
    of_scene = np.array(plan.places, dtype=object)
    of_tile = of_scene[train.scene_index.to_numpy()]
    names = [name for name in dict.fromkeys(plan.places) if (of_tile == name).any()]
    if not 1 < len(names) <= MAX_PLACES:
        return ()
    measured = ((name, _measure_bands(train[of_tile == name])) for name in names)
    return tuple(PlaceBands(name=name, mean=mean, std=std) for name, (mean, std) in measured)


def _measure_bands(tiles: gpd.GeoDataFrame) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each band over the valid pixels of tiles."""
    pixels = tiles.pixels.sum()
    mean = np.sum(tiles.sums.tolist(), axis=0) / pixels
    squares = np.sum(tiles.squares.tolist(), axis=0) / pixels
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    # A band without contrast must not divide by zero.
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) or 1.0 for s in std)


def _no_training_data_error(plan: TilingPlan, elsewhere: bool) -> EmptyDatasetError:
    first = plan.scenes[0]
    what = f"{first.path}: no training tile has a valid pixel"
    if elsewhere:
        return EmptyDatasetError(f"{what}, but other splits have some; choose another --split")
    if first.nodata is None:
        return EmptyDatasetError(
            f"{what}, all pixels are masked; check the scene's mask with gdalinfo, or use another "
            "scene"
        )
    return EmptyDatasetError(
        f"{what}, all pixels have the nodata value {first.nodata:g}; if that is data, remove the "
        "value with gdal_edit.py -unsetnodata file.tif, else use another scene"
    )


def _check_classes(plan: TilingPlan, of_value: np.ndarray) -> None:
    """Check that each class has pixels, as a class without examples cannot be learnt."""
    scheme = plan.scheme
    named = enumerate(scheme.names) if scheme.exclusive else [(1, scheme.names[0])]
    # The background may have no pixel: labels may cover everything.
    absent = [
        name for value, name in named if not of_value[value] and value != scheme.background_value
    ]
    if absent:
        check = "that they are larger than a pixel"
        if scheme.exclusive:
            check = f"tile.classes.values (--set tile.classes.values.{absent[0]}=null drops it)"
            unclassed: Counter[str] = Counter()
            for labels in plan.labels:
                if not isinstance(labels, RasterLabels):
                    unclassed += Counter(labels.unclassed)
            if unclassed:
                check += f"; values of no class: {list_values(unclassed)}"
        raise LabelError(
            f"{plan.labels_path}: class {absent[0]} has no pixel in any tile; check that the "
            f"labels are located where the scene has data, and {check}"
        )


def _describe_failed(plan: TilingPlan, failed: Sequence[dict[str, Any]]) -> tuple[FailedTile, ...]:
    tiles = plan.tiles.set_index("id")
    rows = ((row, tiles.loc[row["id"]]) for row in failed)
    return tuple(
        FailedTile(
            id=row["id"],
            scene=tile.scene,
            window=(tile.col_off, tile.row_off, tile.width, tile.height),
            error=row["error"],
        )
        for row, tile in rows
    )


def _describe_split(plan: TilingPlan) -> dict[str, Any]:
    options = plan.options
    description: dict[str, Any] = {"by": options.split, "gap": plan.gap, "seed": options.seed}
    if options.split == "kfold":
        return description | {"folds": options.folds, "fold": options.fold}
    return description | {"fractions": list(options.fractions)}


def _write_tables(plan: TilingPlan, tiles: gpd.GeoDataFrame, info: TilesInfo, folder: Path) -> None:
    columns = [c for c in tiles.columns if c not in _INTERNAL_COLUMNS]
    with writable_name(folder / "tiles.parquet") as name:
        tiles[columns].assign(class_pixels=tiles.of_value).to_parquet(name)
    _write_footprints(plan, info, folder / FOOTPRINTS_NAME)
    for split, part in plan.regions.groupby("split"):
        if not has_location(part.crs):  # GeoJSON has longitude and latitude only
            write_layers(folder / f"{split}.gpkg", {str(split): part})
            continue
        part = part.set_geometry([wrap_lonlat(shape) for shape in part.geometry], crs=part.crs)
        with writable_name(folder / f"{split}.geojson") as name:
            part.to_file(name, driver="GeoJSON", RFC7946="YES")
    (folder / "tiles.json").write_text(info.model_dump_json(indent=2) + "\n")


def _write_footprints(plan: TilingPlan, info: TilesInfo, path: Path) -> None:
    """Write the polygons that were rasterized, in parts if there are many; none for masks."""
    kept = ["value", "scene", "geometry"] if info.exclusive else ["scene", "geometry"]

    def parts() -> Iterator[gpd.GeoDataFrame]:
        for scene, labels in zip(plan.scenes, plan.labels, strict=True):
            if not isinstance(labels, RasterLabels):
                for part in labels.iter_footprints():
                    part = part.assign(scene=scene.name)[kept]
                    yield to_crs_near(part, plan.tiles.crs, labels.grid)

    if any(isinstance(labels, LayerLabels) for labels in plan.labels):
        write_parts(path, parts())
    elif polygons := list(parts()):
        with writable_name(path) as name:
            gpd.GeoDataFrame(pd.concat(polygons, ignore_index=True)).to_parquet(name)
