"""Reading the index and the metadata of a tiles folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import geopandas as gpd
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rasterio.windows import Window

from geoseg.data.labels import IGNORE
from geoseg.data.splits import SPLITS
from geoseg.data.tiles.places import PlaceName, name_places
from geoseg.data.tiles.tile_table import check_table
from geoseg.errors import EmptyDatasetError, VectorReadError, one_line
from geoseg.geo.training_area import format_area
from geoseg.geo.vector import ParquetParts, read_footprints, read_geoparquet
from geoseg.jobs.files import read_text
from geoseg.options.headers import (
    ClassNames,
    Colour,
    Deviation,
    Mean,
    Name,
    Names,
    Overlap,
    PixelSize,
    PixelType,
    Places,
    TileSide,
    check_classes,
    check_lengths,
    first_problem,
)

FOOTPRINTS_NAME = "footprints.parquet"

Target = Literal["building", "border", "contact", "distance", "class"]


class FailedTile(BaseModel):
    """A tile that could not be cut.

    Attributes:
        id: Id of the tile.
        scene: Path of its scene.
        window: (column, row, width, height) on the scene's grid at the tiles' pixel size.
        error: Reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scene: str
    window: tuple[int, int, int, int]
    error: str


class TilesInfo(BaseModel):
    """Contents of `tiles.json`.

    Attributes:
        bands: Names of the image bands, in order.
        dtype: Data type of the images.
        scene_dtypes: Data types of the scenes; `dtype` holds the values of all of them.
        gsd_m: Ground sampling distance, metres per pixel.
        nodata: Nodata value of the first scene; tiles mark nodata by their mask instead.
        size: Tile side.
        overlap: Pixels shared by neighbouring tiles.
        classes: Class names; exclusive ones in the order of their mask values.
        colours: #rrggbb of each exclusive class.
        background: Name of the exclusive class of pixels without a label.
        targets: Name of each target band.
        ignore: Target value of ignored pixels.
        mean: Mean per band over the valid pixels of the training split.
        std: Standard deviation per band over the valid pixels of the training split.
        scenes: Paths of the scenes.
        place_bands: Statistics of the bands in each place with training tiles; empty if there is
            only one, or more than are stored.
        places: Name of each scene's place; empty if the folder was made before places were stored.
        blank: Share of each scene with blank areas that is blank and treated as nodata.
        merged: Paths of the scenes whose labels merge touching buildings.
        labels: Path of the footprints.
        where: Attribute filter of the footprints.
        split: How the scenes were split: strategy, gap, fractions, seed.
        tiles: Number of tiles per split.
        shared_pixels: Number of pixels that are in tiles of two splits.
        failed: Tiles that could not be cut and are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    bands: Names
    dtype: PixelType
    scene_dtypes: tuple[PixelType, ...] = ()
    gsd_m: PixelSize
    nodata: float | None
    size: TileSide
    overlap: Overlap
    classes: ClassNames
    colours: tuple[Colour, ...] = ()
    background: Name | None = None
    targets: tuple[Target, ...] = Field(min_length=1, max_length=4)
    ignore: int = Field(IGNORE, ge=IGNORE, le=IGNORE)
    mean: tuple[Mean, ...]
    std: tuple[Deviation, ...]
    scenes: tuple[str, ...] = Field(min_length=1)
    place_bands: Places = ()
    places: tuple[PlaceName, ...] = ()
    blank: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    merged: tuple[str, ...] = ()
    labels: str
    where: str | None
    split: dict[str, Any]
    tiles: dict[str, Annotated[int, Field(ge=0)]]
    shared_pixels: int = Field(ge=0)
    failed: tuple[FailedTile, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_lengths(self.bands, self.mean, self.std, self.size, self.overlap, self.place_bands)
        check_classes(self.classes, self.colours, self.background, self.outputs, self.exclusive)
        if self.targets != ("class",) and (
            self.targets[0] != "building" or len(set(self.targets)) < len(self.targets)
        ):
            raise ValueError("targets must be class alone, or begin with building")
        if not set(self.merged) <= set(self.scenes) or len(set(self.merged)) < len(self.merged):
            raise ValueError("merged must list some of the scenes, each once")
        if self.merged and self.exclusive:
            raise ValueError("merged must be empty for exclusive classes")
        if self.places and len(self.places) != len(self.scenes):
            raise ValueError("places must have a name for each scene")
        return self

    @property
    def scene_places(self) -> dict[str, str]:
        """Name of the place of each scene; each is its own place if places were not stored."""
        places = self.places or name_places(self.scenes, range(len(self.scenes)))
        return dict(zip(self.scenes, places, strict=True))

    @property
    def exclusive(self) -> bool:
        """Whether each pixel belongs to one of several classes, instead of building or not."""
        return self.targets == ("class",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output channels of a network trained on these targets."""
        return self.classes if self.exclusive else self.targets


def describe_training_area(folder: str | Path) -> str | None:
    """Return the area of the training and validation tiles, in longitude and latitude, as WKT.

    Returns:
        None if the folder has no such areas, or if they have too many corners for a tag of a file.
    """
    files = [Path(folder) / f"{split}.geojson" for split in ("train", "val")]
    shapes = [shape for file in files if file.is_file() for shape in read_footprints(file).geometry]
    return format_area(shapes)


def load_tiles_info(folder: str | Path) -> TilesInfo:
    """Read `tiles.json`.

    Raises:
        EmptyDatasetError: If the folder is not a tiles folder.
    """
    path = Path(folder) / "tiles.json"
    if Path(folder).is_file():
        raise EmptyDatasetError(f"{folder}: is a file; give the folder that geoseg tile made")
    if not Path(folder).is_dir():
        raise EmptyDatasetError(
            f"{folder}: no such folder; check the path, or make tiles with geoseg tile"
        )
    if not path.is_file():
        raise EmptyDatasetError(
            f"{folder}: is not a tiles folder, since it has no tiles.json; give one that geoseg "
            "tile made"
        )
    try:
        return TilesInfo.model_validate_json(read_text(path))
    except ValueError as error:
        raise EmptyDatasetError(
            f"{path}: is damaged or from another version of geoseg ({first_problem(error)}); tile "
            "the scenes again"
        ) from error


def read_tiles(folder: str | Path) -> gpd.GeoDataFrame:
    """Read `tiles.parquet`: one row per tile, in the order in which they were cut.

    `class_pixels` holds the number of pixels of each value 0, 1 ... of the first target band.

    Raises:
        EmptyDatasetError: If the folder is not a tiles folder, or the table is damaged.
    """
    info, path = load_tiles_info(folder), Path(folder) / "tiles.parquet"
    tiles = _read_table(path)
    try:
        check_table(tiles, info.size, info.size - info.overlap)
    except ValueError as error:
        raise _damaged(path, error) from error
    return tiles


def _read_table(path: Path) -> gpd.GeoDataFrame:
    try:
        return read_geoparquet(path)
    except VectorReadError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> EmptyDatasetError:
    return EmptyDatasetError(f"{path}: is damaged ({one_line(error)}); tile the scenes again")


def find_tile_places(folder: str | Path, info: TilesInfo, tiles: pd.DataFrame) -> list[str]:
    """Return the name of each tile's place.

    Args:
        folder: The folder of tiles, for the message.
        info: Its metadata.
        tiles: Rows of its table of tiles.

    Raises:
        EmptyDatasetError: If a tile is of a scene that the metadata do not list.
    """
    places = tiles.scene.map(info.scene_places)
    if places.isna().any():
        unknown = ValueError("a tile is of a scene that tiles.json does not list")
        raise _damaged(Path(folder) / "tiles.parquet", unknown)
    names: list[str] = places.tolist()
    return names


def count_place_tiles(folder: str | Path) -> dict[str, dict[str, int]]:
    """Return the numbers of scenes, and of tiles in each split, of each place.

    Raises:
        EmptyDatasetError: As `read_tiles`.
    """
    info, tiles = load_tiles_info(folder), read_tiles(folder)
    scenes = Counter(info.scene_places.values())
    found = Counter(zip(find_tile_places(folder, info, tiles), tiles.split, strict=True))
    return {
        place: {"scenes": count, **{split: found[place, split] for split in SPLITS}}
        for place, count in scenes.items()
    }


def list_scenes(folder: str | Path, split: str) -> list[str]:
    """Return the paths of the scenes that have tiles in a split.

    Raises:
        EmptyDatasetError: If the split has no tile.
    """
    tiles = read_tiles(folder)
    scenes: list[str] = tiles.scene[tiles.split == split].unique().tolist()
    if not scenes:
        raise EmptyDatasetError(
            f"{folder}: has no tile in split {split}; tile again with other --fractions"
        )
    return scenes


def has_footprints(folder: str | Path) -> bool:
    """Return whether a tiles folder has footprints: the labels of some scene were polygons."""
    return (Path(folder) / FOOTPRINTS_NAME).is_file()


def read_tile_footprints(folder: str | Path) -> gpd.GeoDataFrame:
    """Read `footprints.parquet`: labels in longitude and latitude, with the scene of each.

    With exclusive classes, column `value` holds the mask value of each.

    Raises:
        EmptyDatasetError: If the file is missing or damaged.
    """
    path = _footprints_path(folder)
    footprints = _read_table(path)
    if "scene" not in footprints:
        raise _damaged(path, ValueError("column scene is missing"))
    return footprints


def open_tile_footprints(folder: str | Path) -> ParquetParts:
    """Open `footprints.parquet` to be read part by part, for more labels than fit in memory."""
    return ParquetParts(_footprints_path(folder))


def _footprints_path(folder: str | Path) -> Path:
    path = Path(folder) / FOOTPRINTS_NAME
    if not path.is_file():
        raise EmptyDatasetError(
            f"{path}: is missing, but polygons are needed here; tile the scenes again, and if "
            "their labels were a mask raster, with polygons of it (gdal_polygonize.py)"
        )
    return path


def tile_window(tile: Any) -> Window:
    """Return the window of a row of `tiles.parquet`, on its scene's grid."""
    return Window(tile.col_off, tile.row_off, tile.width, tile.height)
