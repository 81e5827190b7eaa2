"""What a folder of tiles says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
from pydantic import BaseModel, ConfigDict, ValidationError
from rasterio.windows import Window

from geoseg.data.labels import IGNORE
from geoseg.errors import EmptyDatasetError
from geoseg.geo.vector import ParquetParts

FOOTPRINTS_NAME = "footprints.parquet"


class FailedTile(BaseModel):
    """A tile that could not be cut.

    Attributes:
        id: Of the tile.
        scene: Path of its scene.
        window: (column, row, width, height) on the scene's grid at the tiles' pixel size.
        error: Why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scene: str
    window: tuple[int, int, int, int]
    error: str


class TilesInfo(BaseModel):
    """What `tiles.json` holds.

    Attributes:
        bands: Names of the image bands, in order.
        dtype: Data type of the images.
        scene_dtypes: Data types of the scenes, whose numbers the images hold.
        gsd_m: Ground sampling distance, metres per pixel.
        nodata: The scenes' sentinel; in the tiles nodata is masked.
        size: Tile side.
        overlap: Pixels shared by neighbouring tiles.
        classes: Class names; exclusive ones in the order of their mask values.
        colours: Of exclusive classes, #rrggbb each.
        background: Of exclusive classes, that of ground where no label lies.
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
        failed: Tiles that could not be cut and are not there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    bands: tuple[str, ...]
    dtype: str
    scene_dtypes: tuple[str, ...] = ()
    gsd_m: float
    nodata: float | None
    size: int
    overlap: int
    classes: tuple[str, ...]
    colours: tuple[str, ...] = ()
    background: str | None = None
    targets: tuple[str, ...]
    ignore: int = IGNORE
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scenes: tuple[str, ...]
    labels: str
    where: str | None
    split: dict[str, Any]
    tiles: dict[str, int]
    shared_pixels: int
    failed: tuple[FailedTile, ...] = ()

    @property
    def exclusive(self) -> bool:
        """Whether each pixel is of one of several classes, instead of building or not."""
        return self.targets == ("class",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the channels of a network that learns these targets mean."""
        return self.classes if self.exclusive else self.targets


def load_tiles_info(folder: str | Path) -> TilesInfo:
    """Reads `tiles.json`.

    Raises:
        EmptyDatasetError: If the folder is no tiles folder.
    """
    path = Path(folder) / "tiles.json"
    if Path(folder).is_file():
        raise EmptyDatasetError(f"{folder}: is a file; give the folder that geoseg tile made")
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
    """Reads `tiles.parquet`, one row per tile, in the order in which they were cut.

    Its `class_pixels` are the pixels of each value of the first target band, from 0.
    """
    return gpd.read_parquet(Path(folder) / "tiles.parquet")


def list_scenes(folder: str | Path, split: str) -> list[str]:
    """Paths of the scenes that hold ground of a split.

    Raises:
        EmptyDatasetError: If there is none.
    """
    tiles = read_tiles(folder)
    found: list[str] = tiles.scene[tiles.split == split].unique().tolist()
    if not found:
        raise EmptyDatasetError(
            f"{folder}: has no tile in split {split}; tile again with other --fractions"
        )
    return found


def has_footprints(folder: str | Path) -> bool:
    """Whether labels were polygons, of some scenes at least; of masks no footprints are kept."""
    return (Path(folder) / FOOTPRINTS_NAME).is_file()


def read_tile_footprints(folder: str | Path) -> gpd.GeoDataFrame:
    """Reads `footprints.parquet`: the labels in longitude and latitude, and the scene of each.

    Of exclusive classes each has its mask value, too.

    Raises:
        EmptyDatasetError: If the file is missing.
    """
    return gpd.read_parquet(_footprints_path(folder))


def open_tile_footprints(folder: str | Path) -> ParquetParts:
    """What `read_tile_footprints` reads, a part at a time where they are many."""
    return ParquetParts(_footprints_path(folder))


def _footprints_path(folder: str | Path) -> Path:
    path = Path(folder) / FOOTPRINTS_NAME
    if not path.is_file():
        raise EmptyDatasetError(
            f"{path}: is missing; tile the scenes again, and if their labels were a mask raster, "
            "with polygons of it (gdal_polygonize.py): this needs outlines"
        )
    return path


def tile_window(tile: Any) -> Window:
    """The window of a row of `tiles.parquet` on its scene's grid."""
    return Window(tile.col_off, tile.row_off, tile.width, tile.height)
