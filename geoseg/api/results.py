"""Results of the verbs: paths, figures, and methods that read the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

# Name of the index of many scenes in their folder.
INDEX = "index.gpkg"

if TYPE_CHECKING:
    import geopandas as gpd

    from geoseg.alignment import AlignSummary
    from geoseg.data.label_report import LabelReport
    from geoseg.data.tiles import TilesInfo


@dataclass(frozen=True)
class TileResult:
    """A folder of tiles.

    Attributes:
        folder: The folder.
        info: Contents of its `tiles.json`: bands, statistics, classes, counts per split.
        gap: Pixels that tiles of different splits are apart at least.
    """

    folder: Path
    info: TilesInfo
    gap: int

    @property
    def counts(self) -> dict[str, int]:
        """Number of tiles per split."""
        return dict(self.info.tiles)

    @property
    def shared_pixels(self) -> int:
        """Pixels that two splits share; 0 unless the user drew overlapping areas."""
        return self.info.shared_pixels

    @cached_property
    def report(self) -> LabelReport:
        """The label report, read from `labels.json`."""
        from geoseg.data.label_report import load_label_report

        return load_label_report(self.folder)

    @property
    def findings(self) -> list[str]:
        """What to check in the labels, in sentences, the most important first."""
        from geoseg.data.label_report.findings import list_findings

        return [finding.text for finding in list_findings(self.report)]


@dataclass(frozen=True)
class VectorizeResult:
    """A layer of footprints, or of the polygons of each class.

    Attributes:
        path: The layer.
        count: Number of polygons.
    """

    path: Path
    count: int

    @cached_property
    def footprints(self) -> gpd.GeoDataFrame:
        """All polygons with their columns, read from the layer."""
        return read_layer(self.path)


@dataclass(frozen=True)
class AlignResult:
    """A layer of aligned polygons.

    Attributes:
        path: The layer.
        summary: How the polygons were moved.
    """

    path: Path
    summary: AlignSummary

    @cached_property
    def footprints(self) -> gpd.GeoDataFrame:
        """All polygons with their columns, read from the layer."""
        return read_layer(self.path)


@dataclass(frozen=True)
class PredictResult:
    """The outputs of a predicted scene; those that were not requested are None.

    Attributes:
        scene: The scene, as it was given; of several, their number in words.
        prob_path: Raster of probabilities; of several scenes, the virtual mosaic of the first ones
            that have one pixel grid.
        mask_path: Raster of classes, likewise.
        footprints_path: Layer of footprints.
        index_path: Index of several scenes: what became of each, and where it is.
        left_out: Why scenes were left out, by their names, where several were given.
    """

    scene: str
    prob_path: Path | None = None
    mask_path: Path | None = None
    footprints_path: Path | None = None
    index_path: Path | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were written, without the styles beside the rasters."""
        files = (self.prob_path, self.mask_path, self.footprints_path, self.index_path)
        return tuple(file for file in files if file is not None)

    @cached_property
    def count(self) -> int | None:
        """Number of footprints in the layer; None without a layer, or of a SpaceNet CSV."""
        from geoseg.geo.vector import LAYER_SUFFIXES, count_features

        path = self.footprints_path
        if path is None or path.suffix.lower() not in LAYER_SUFFIXES:
            return None
        return count_features(path)

    @cached_property
    def footprints(self) -> gpd.GeoDataFrame:
        """All footprints with their columns, read from the layer.

        Raises:
            ConfigError: If no layer was written.
        """
        from geoseg.errors import ConfigError

        if self.footprints_path is None:
            raise ConfigError(
                f"{self.scene}: no layer of footprints was written; predict into a folder, or run "
                "geoseg.vectorize on prob_path"
            )
        return read_layer(self.footprints_path)


@dataclass(frozen=True)
class ShardResult:
    """A part of a prediction, to be merged with the others.

    Attributes:
        folder: Its folder.
        shard: Its number, and the number of all.
        left_out: Why scenes were left out, by their names, where several were given.
    """

    folder: Path
    shard: tuple[int, int]
    left_out: Mapping[str, str] = field(default_factory=dict)


def read_layer(path: Path) -> gpd.GeoDataFrame:
    """Read a layer that geoseg wrote, with all its columns.

    Raises:
        ConfigError: If its format holds no georeferenced polygons.
    """
    import geopandas as gpd

    from geoseg.errors import ConfigError
    from geoseg.geo.plain_names import readable_name

    suffix, name = path.suffix.lower(), readable_name(path)
    if suffix == ".csv":
        raise ConfigError(f"{path}: a SpaceNet CSV has no coordinates; choose another format")
    if suffix == ".parquet":
        return gpd.read_parquet(name).drop(columns="bbox", errors="ignore")
    layer = {"layer": "footprints"} if suffix == ".gpkg" else {}
    return gpd.read_file(name, **layer)
