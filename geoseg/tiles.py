"""Scenes and footprints → a folder of tiles to train on.

tiles/
images/ID.tif     the scene's bands, (C, size, size)
targets/ID.tif    building, border: 0, 1, or 255 where there is no data
tiles.parquet     one row per tile: id, scene, window, split, fractions, geometry
footprints.parquet  the labels, as they were burnt
train.geojson, val.geojson, test.geojson   the ground of each split
tiles.json        what a model must know of the tiles
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from rasterio.windows import Window

from geoseg.errors import ConfigError, EmptyDatasetError, GridMismatchError, LabelError
from geoseg.grid import Grid
from geoseg.journal import claim_output
from geoseg.labels import IGNORE, TARGETS, Labels, check_labels, read_labels
from geoseg.options import TileOptions
from geoseg.raster import Scene, SceneInfo, read_info, write_array
from geoseg.splits import (
    SPLITS,
    STRATEGIES,
    Region,
    count_shared_pixels,
    drop_shared,
    merge_regions,
)
from geoseg.tiling import TilePlan

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

# Blocks of the split `blocks` are this many tiles wide.
_TILES_PER_BLOCK = 2


class TilesInfo(BaseModel):
    """What `tiles.json` holds.

    Attributes:
        bands: Names of the image bands, in order.
        dtype: Data type of the images.
        gsd_m: Ground sampling distance, metres per pixel.
        nodata: The scenes' sentinel; in the tiles nodata is masked.
        size: Tile side.
        overlap: Pixels shared by neighbouring tiles.
        classes: Class names.
        targets: Meaning of each target band.
        ignore: Target value of pixels that count for nothing.
        mean: Per band over the valid pixels of the training split.
        std: Per band over the valid pixels of the training split.
        scenes: Paths of the scenes.
        labels: Path of the footprints.
        where: Attribute filter of the footprints.
        split: How the ground was separated: strategy, fractions, seed.
        tiles: Number of tiles per split.
        shared_pixels: Pixels that two splits share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    bands: tuple[str, ...]
    dtype: str
    gsd_m: float
    nodata: float | None
    size: int
    overlap: int
    classes: tuple[str, ...] = ("building",)
    targets: tuple[str, ...] = TARGETS
    ignore: int = IGNORE
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scenes: tuple[str, ...]
    labels: str
    where: str | None
    split: dict[str, Any]
    tiles: dict[str, int]
    shared_pixels: int


@dataclass(frozen=True)
class TilesPlan:
    """What `geoseg tile` will do, before it reads a pixel.

    Attributes:
        scenes: The scenes.
        grids: The grid that each is tiled on.
        labels: The footprints on each.
        tiles: One row per tile, in longitude and latitude.
        ground: One row per split, in longitude and latitude.
        shared_pixels: Pixels that two splits share.
        options: How scenes are cut.
    """

    scenes: list[SceneInfo]
    grids: list[Grid]
    labels: list[Labels]
    tiles: gpd.GeoDataFrame
    ground: gpd.GeoDataFrame
    shared_pixels: int
    options: TileOptions
    labels_path: str

    @property
    def counts(self) -> dict[str, int]:
        """Tiles per split."""
        return {split: int((self.tiles.split == split).sum()) for split in SPLITS}

    @property
    def bytes(self) -> int:
        """Size of the images and targets before compression."""
        pixel = np.dtype(self.scenes[0].dtype).itemsize * len(self.scenes[0].bands) + len(TARGETS)
        return int(len(self.tiles) * self.options.size**2 * pixel)


@dataclass(frozen=True)
class RowTask:
    """One row of tiles of one scene: a recipe that any process can carry out."""

    folder: Path
    scene: str
    bands: tuple[int, ...]
    grid: Grid
    size: int
    labels: Labels
    ids: list[str]
    windows: list[Window] = field(repr=False)


def plan_tiles(scenes: Sequence[str | Path], labels: str | Path, options: TileOptions) -> TilesPlan:
    """Plans the tiles of scenes, reading no pixel.

    Raises:
        DataError: If scenes or labels cannot be read or do not belong together.
        ConfigError: If a scene lacks a band, or is too small for its blocks.
    """
    places = [_absolute(str(scene)) for scene in scenes]
    repeated = next((place for place in places if places.count(place) > 1), None)
    if repeated:
        raise ConfigError(f"{repeated}: is given twice; name each scene once")
    infos = [read_info(scene, bands=options.bands) for scene in scenes]
    _check_same_bands(infos)
    gsd_m = options.gsd_m or infos[0].grid.gsd_m
    grids = [info.grid.resampled(gsd_m) for info in infos]
    on_scenes = [
        read_labels(labels, grid, where=options.where, layer=options.layer) for grid in grids
    ]
    check_labels(on_scenes, labels, options.where, options.layer)

    regions = [
        STRATEGIES[options.split](
            *grid.shape,
            fractions=options.fractions,
            block=options.size * _TILES_PER_BLOCK,
            seed=options.seed + index,
        )
        for index, grid in enumerate(grids)
    ]
    records = [
        record
        for index, grid in enumerate(grids)
        for region in regions[index]
        for record in _region_tiles(index, infos[index].path, grid, region, options)
    ]
    common = grids[0].crs.to_wkt()
    pixel_area = abs(grids[0].transform.determinant)
    tiles = drop_shared(_to_common(records, grids, common), pixel_area)
    shared = count_shared_pixels(tiles, pixel_area)
    ground = merge_regions([_region_ground(g, r) for g, r in zip(grids, regions, strict=True)])
    return TilesPlan(
        infos, grids, on_scenes, tiles.to_crs(4326), ground, shared, options, str(labels)
    )


def tile_scenes(
    plan: TilesPlan,
    output: str | Path,
    *,
    overwrite: bool = False,
    run: Run = map,
    progress: Callable[[int, int], None] | None = None,
) -> TilesInfo:
    """Cuts the tiles of a plan into a folder, which appears only when complete.

    Args:
        plan: From `plan_tiles`.
        output: The folder.
        overwrite: Replace it if it is there.
        run: Calls a function on every task and yields the results in order; `map` does so
            in this process.
        progress: Told the finished and the total number of tiles.

    Returns:
        What `tiles.json` holds.

    Raises:
        OutputExistsError: If the folder is there and may not be overwritten, or holds the
            scenes or the footprints.
        LabelError: If no pixel of any tile is a building.
        EmptyDatasetError: If no training tile has a valid pixel.
    """
    inputs = (*(scene.path for scene in plan.scenes), plan.labels_path)
    with claim_output(output, overwrite=overwrite, inputs=inputs) as folder:
        (folder / "images").mkdir(parents=True)
        (folder / "targets").mkdir()
        rows = []
        for part in run(cut_row, _row_tasks(plan, folder)):
            rows += part
            if progress:
                progress(len(rows), len(plan.tiles))
        tiles = plan.tiles.merge(pd.DataFrame(rows), on="id", sort=False)
        _drop_empty(tiles, folder)
        tiles = tiles[tiles.valid_fraction > 0].reset_index(drop=True)
        info = _summarise(plan, tiles)
        _write_index(plan, tiles, info, folder)
    return info


def cut_row(task: RowTask) -> list[dict[str, Any]]:
    """Cuts one row of tiles and writes their files.

    Returns:
        Per tile: id, valid and building fraction, and sums per band over its valid pixels.
    """
    rows = []
    with Scene(task.scene, bands=task.bands, grid=task.grid) as scene:
        for id_, window in zip(task.ids, task.windows, strict=True):
            data, valid = scene.read(window)
            target = task.labels.burn(window, valid)
            data, valid, target = _pad(data, valid, target, task.size)
            grid = task.grid.window_grid(Window(window.col_off, window.row_off, *data.shape[:0:-1]))
            name = f"{id_}.tif"
            write_array(
                task.folder / "images" / name, grid, data, valid=valid,
                descriptions=scene.info.bands,
            )  # fmt: skip
            write_array(
                task.folder / "targets" / name, grid, target, nodata=IGNORE, descriptions=TARGETS
            )
            rows.append(_measure(id_, data, valid, target))
    return rows


def load_tiles_info(folder: str | Path) -> TilesInfo:
    """Reads `tiles.json`.

    Raises:
        EmptyDatasetError: If the folder is no tiles folder.
    """
    path = Path(folder) / "tiles.json"
    if not path.is_file():
        raise EmptyDatasetError(
            f"{folder}: holds no tiles.json; make the folder with geoseg tile SCENE --labels "
            f"FOOTPRINTS -o {folder}"
        )
    try:
        return TilesInfo.model_validate(json.loads(path.read_text()))
    except (ValidationError, ValueError) as error:
        raise EmptyDatasetError(
            f"{path}: is damaged or of another version of geoseg; tile the scenes again"
        ) from error


def read_tiles(folder: str | Path) -> gpd.GeoDataFrame:
    """Reads `tiles.parquet`, one row per tile, in the order in which they were cut."""
    return gpd.read_parquet(Path(folder) / "tiles.parquet")


def tile_window(tile: Any) -> Window:
    """The window of a row of `tiles.parquet` on its scene's grid."""
    return Window(tile.col_off, tile.row_off, tile.width, tile.height)


def _check_same_bands(infos: Sequence[SceneInfo]) -> None:
    first = infos[0]
    for info in infos[1:]:
        if info.bands != first.bands or info.dtype != first.dtype:
            raise GridMismatchError(
                f"{info.path}: has bands {', '.join(info.bands)} of {info.dtype}, but "
                f"{first.path} has {', '.join(first.bands)} of {first.dtype}; choose common bands "
                "with --bands"
            )


def _region_tiles(
    index: int, scene: str, grid: Grid, region: Region, options: TileOptions
) -> Iterator[dict[str, Any]]:
    area = region.window
    for tile in TilePlan(area.height, area.width, options.size, options.overlap_px):
        window = Window(
            area.col_off + tile.window.col_off,
            area.row_off + tile.window.row_off,
            tile.window.width,
            tile.window.height,
        )
        yield {
            "id": f"{index:03d}_{window.row_off:06d}_{window.col_off:06d}",
            "scene": scene,
            "scene_index": index,
            "row_off": int(window.row_off),
            "col_off": int(window.col_off),
            "height": int(window.height),
            "width": int(window.width),
            "split": region.split,
            "geometry": grid.window_polygon(window),
        }


def _to_common(records: list[dict[str, Any]], grids: list[Grid], common: str) -> gpd.GeoDataFrame:
    frame = pd.DataFrame(records)
    parts = [
        gpd.GeoDataFrame(part, geometry="geometry", crs=grids[int(str(index))].crs.to_wkt())
        for index, part in frame.groupby("scene_index", sort=True)
    ]
    return gpd.GeoDataFrame(pd.concat([part.to_crs(common) for part in parts], ignore_index=True))


def _region_ground(grid: Grid, regions: Sequence[Region]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"split": [region.split for region in regions]},
        geometry=[grid.window_polygon(region.window) for region in regions],
        crs=grid.crs.to_wkt(),
    )


def _row_tasks(plan: TilesPlan, folder: Path) -> Iterator[RowTask]:
    for (index, _), part in plan.tiles.groupby(["scene_index", "row_off"], sort=True):
        grid, labels = plan.grids[index], plan.labels[index]
        windows = [tile_window(tile) for tile in part.itertuples()]
        strip = grid.window_polygon(_bounding_window(windows, labels.border_px))
        near = labels.footprints.iloc[np.sort(labels.footprints.sindex.query(strip))]
        yield RowTask(
            folder=folder,
            scene=_absolute(plan.scenes[index].path),
            bands=plan.scenes[index].indexes,
            grid=grid,
            size=plan.options.size,
            labels=Labels(grid, near.reset_index(drop=True)),
            ids=list(part.id),
            windows=windows,
        )


def _absolute(path: str) -> str:
    """A local path that workers in other folders find too; others as they are."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _bounding_window(windows: Sequence[Window], halo: int) -> Window:
    left = min(w.col_off for w in windows) - halo
    top = min(w.row_off for w in windows) - halo
    right = max(w.col_off + w.width for w in windows) + halo
    bottom = max(w.row_off + w.height for w in windows) + halo
    return Window(left, top, right - left, bottom - top)


def _pad(
    data: np.ndarray, valid: np.ndarray, target: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fills a tile that is cut short by its region with nodata."""
    missing = [(0, size - length) for length in valid.shape]
    return (
        np.pad(data, [(0, 0), *missing]),
        np.pad(valid, missing),
        np.pad(target, [(0, 0), *missing], constant_values=IGNORE),
    )


def _measure(id_: str, data: np.ndarray, valid: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    pixels = data[:, valid].astype(np.float64)
    count = int(valid.sum())
    buildings = int((target[0] == 1).sum())
    return {
        "id": id_,
        "valid_fraction": count / valid.size,
        "building_fraction": buildings / max(1, count),
        "pixels": count,
        "sums": pixels.sum(axis=1),
        "squares": (pixels**2).sum(axis=1),
    }


def _drop_empty(tiles: gpd.GeoDataFrame, folder: Path) -> None:
    for id_ in tiles.id[tiles.valid_fraction == 0]:
        (folder / "images" / f"{id_}.tif").unlink()
        (folder / "targets" / f"{id_}.tif").unlink()


def _summarise(plan: TilesPlan, tiles: gpd.GeoDataFrame) -> TilesInfo:
    train = tiles[tiles.split == "train"]
    if train.empty:
        raise EmptyDatasetError(
            f"{plan.scenes[0].path}: no training tile has a valid pixel; check nodata and splits"
        )
    if not (tiles.building_fraction > 0).any():
        raise LabelError(
            f"{plan.labels_path}: class building has no pixel in any tile; check that the "
            "footprints lie on the scene and are larger than a pixel"
        )
    pixels = train.pixels.sum()
    mean = train.sums.sum() / pixels
    std = np.sqrt(np.maximum(train.squares.sum() / pixels - mean**2, 0))
    first, options = plan.scenes[0], plan.options
    return TilesInfo(
        bands=first.bands,
        dtype=first.dtype,
        gsd_m=round(float(options.gsd_m or plan.grids[0].gsd_m), 6),
        nodata=first.nodata if first.nodata is None or np.isfinite(first.nodata) else None,
        size=options.size,
        overlap=options.overlap_px,
        mean=tuple(round(float(m), 6) for m in mean),
        # A band without contrast must not divide by zero.
        std=tuple(round(float(s), 6) or 1.0 for s in std),
        scenes=tuple(info.path for info in plan.scenes),
        labels=plan.labels_path,
        where=options.where,
        split={"by": options.split, "fractions": list(options.fractions), "seed": options.seed},
        tiles={split: int((tiles.split == split).sum()) for split in SPLITS},
        shared_pixels=plan.shared_pixels,
    )


def _write_index(plan: TilesPlan, tiles: gpd.GeoDataFrame, info: TilesInfo, folder: Path) -> None:
    columns = [c for c in tiles.columns if c not in ("pixels", "sums", "squares", "scene_index")]
    tiles[columns].to_parquet(folder / "tiles.parquet")
    labels = [
        label.footprints[["geometry"]].assign(scene=scene.path).to_crs(4326)
        for scene, label in zip(plan.scenes, plan.labels, strict=True)
    ]
    footprints = gpd.GeoDataFrame(pd.concat(labels, ignore_index=True))
    footprints.to_parquet(folder / "footprints.parquet")
    for split, part in plan.ground.groupby("split"):
        part.to_file(folder / f"{split}.geojson", driver="GeoJSON", RFC7946="YES")
    (folder / "tiles.json").write_text(info.model_dump_json(indent=2) + "\n")


__all__ = [
    "TilesInfo",
    "TilesPlan",
    "cut_row",
    "load_tiles_info",
    "plan_tiles",
    "read_tiles",
    "tile_scenes",
    "tile_window",
]
