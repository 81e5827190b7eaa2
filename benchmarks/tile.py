"""What cutting tiles costs, against what floor, how it scales, and what memory it takes.

    python benchmarks/tile.py [per_core] [two_workers] [memory] [--repeat 3] [--tiles 2500]

Prints one JSON line per part, all of them where none is named; every figure is of this one run,
on a synthetic town that is laid out again and again by a GDAL VRT, its footprints with it.

- `per_core`: tiles per second of CPU, and the ratio to a bare loop that reads the same windows
  with rasterio and writes the very same files, to the byte, with targets that lie in memory.
- `two_workers`: how much faster `--workers 2` cuts than one process, from the first result of a
  worker on and with the start of the processes.
- `memory`: peak memory of the whole verb, in a process of its own, on 8192² and 32768² pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window
from shapely.affinity import translate

from geoseg.execution import run_tasks
from geoseg.options import TileOptions
from geoseg.survey import survey_tiles
from geoseg.tiles import TilesPlan, plan_tiles, read_tiles, tile_scenes, tile_window
from geoseg.town import build_town, write_town
from geoseg.vector import write_footprints

# Side of the town that is repeated, in pixels, and of the scenes whose memory is compared.
TOWN = 2048
SIDES = (8192, 32768)

# Stripes of this size hold whole tiles only: the bare loop pads none.
WHOLE = TileOptions(fractions=(0.5, 0.25, 0.25), gap=0)

# Two processes compile nothing and share nothing; the first rounds of tasks warm them up.
WARM_TASKS = 8


def main() -> None:
    """Runs the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="per_core, two_workers, memory")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the best counts")
    parser.add_argument("--tiles", type=int, default=2500, help="tiles of two_workers, about")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "per_core": partial(per_core, repeat=arguments.repeat),
        "two_workers": partial(two_workers, repeat=arguments.repeat, tiles=arguments.tiles),
        "memory": memory,
    }
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        parser.error(f"{unknown[0]} is no part; choose from {', '.join(parts)}")
    with tempfile.TemporaryDirectory() as work:
        write_town(build_town(TOWN, TOWN, seed=7), Path(work))
        for name in arguments.parts or parts:
            print(json.dumps({"part": name, **parts[name](Path(work))}), flush=True)


def repeat_town(town: Path, side: int) -> tuple[Path, Path]:
    """Lays a town out until a square of `side` pixels is full: a VRT, and a FlatGeobuf."""
    scene, labels = town / f"scene_{side}.vrt", town / f"footprints_{side}.fgb"
    if labels.exists():
        return scene, labels
    with rasterio.open(town / "scene.tif") as source:
        grid, names, count = source.profile, source.descriptions, side // TOWN
        geo = ", ".join(map(str, source.transform.to_gdal()))
        wkt = source.crs.to_wkt().replace('"', "&quot;")
    bands = "".join(_repeated_band(index, name, count) for index, name in enumerate(names, 1))
    scene.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>{bands}</VRTDataset>"
    )
    footprints = gpd.read_file(town / "footprints.gpkg")
    step = TOWN * grid["transform"].a, TOWN * grid["transform"].e
    write_footprints(labels, _repeated_footprints(footprints, step, count), crs=footprints.crs)
    return scene, labels


def _repeated_band(index: int, name: str, count: int) -> str:
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">scene.tif</SourceFilename>'
        f'<SourceBand>{index}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{TOWN}" '
        f'ySize="{TOWN}"/><DstRect xOff="{column * TOWN}" yOff="{row * TOWN}" xSize="{TOWN}" '
        f'ySize="{TOWN}"/></SimpleSource>'
        for row in range(count)
        for column in range(count)
    )
    return (
        f'<VRTRasterBand dataType="Byte" band="{index}"><Description>{name}</Description>'
        f"<NoDataValue>0</NoDataValue><ColorInterp>{name.capitalize()}</ColorInterp>{sources}"
        "</VRTRasterBand>"
    )


def _repeated_footprints(
    footprints: gpd.GeoDataFrame, step: tuple[float, float], count: int
) -> Iterator[gpd.GeoDataFrame]:
    for row in range(count):
        for column in range(count):
            moved = footprints.translate(column * step[0], row * step[1])
            yield footprints.set_geometry(moved)


def per_core(town: Path, *, repeat: int) -> dict[str, Any]:
    """Tiles per second of CPU: cut by geoseg, and by the bare loop."""
    scene, labels, output = town / "scene.tif", town / "footprints.gpkg", town / "tiles"
    ours, bare, whole = [], [], []
    for _ in range(repeat):
        start = time.process_time()
        plan = plan_tiles([scene], labels, WHOLE)
        cutting = Clock(time.process_time)
        cut(plan, output, cutting.run, survey=True)
        whole.append(time.process_time() - start)
        ours.append(cutting.seconds())
        bare.append(BareLoop(scene, output, town / "bare").seconds())
    check_same_files(output, town / "bare")
    count = len(read_tiles(output))
    return {
        "tiles": count,
        "tiles_per_s": round(count / min(ours), 1),
        "bare_tiles_per_s": round(count / min(bare), 1),
        "ratio": round(min(bare) / min(ours), 3),
        "cutting_s": round(min(ours), 2),
        "verb_with_plan_and_report_s": round(min(whole), 2),
    }


def cut(plan: TilesPlan, output: Path, run: Any, *, survey: bool = False) -> None:
    """Cuts all tiles of a plan anew."""
    shutil.rmtree(output, ignore_errors=True)
    tile_scenes(plan, output, run=run, finish=survey_tiles if survey else None)


@dataclass
class Clock:
    """Runs tasks and notes when each result came.

    Attributes:
        now: Tells the time.
        inner: What runs the tasks.
        times: When the tasks were handed over, and when each result was taken up.
    """

    now: Callable[[], float]
    inner: Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]] = map
    times: list[float] = field(default_factory=list)

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """As `map`."""
        self.times.append(self.now())
        for result in self.inner(function, tasks):
            yield result
            self.times.append(self.now())

    def seconds(self, skipped: int = 0) -> float:
        """From the start, or a later result, to the last result."""
        return self.times[-1] - self.times[skipped]


class BareLoop:
    """Reads windows of a scene, writes them and targets that are there already, and that is all.

    Args:
        scene: The scene.
        tiles: A folder of its tiles, of which it takes windows, targets and masks.
        output: Where to write.
    """

    def __init__(self, scene: Path, tiles: Path, output: Path) -> None:
        self._scene, self._output = scene, output
        self._names = {kind: _band_names(tiles / kind) for kind in ("images", "targets")}
        self._tiles = [
            (tile.id, tile_window(tile), *_read_burnt(tiles, tile.id))
            for tile in read_tiles(tiles).itertuples()
        ]
        shutil.rmtree(output, ignore_errors=True)
        for kind in ("images", "targets"):
            (output / kind).mkdir(parents=True)

    def seconds(self) -> float:
        """CPU seconds of the loop."""
        start = time.process_time()
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(self._scene) as scene:
            for name, window, mask, target in self._tiles:
                place = {"crs": scene.crs, "transform": scene.window_transform(window)}
                image = self._output / "images" / f"{name}.tif"
                self._write(image, scene.read(window=window), mask, None, place)
                self._write(self._output / "targets" / f"{name}.tif", target, None, 255, place)
        return time.process_time() - start

    def _write(
        self,
        path: Path,
        array: np.ndarray,
        mask: np.ndarray | None,
        nodata: int | None,
        place: dict[str, Any],
    ) -> None:
        names = self._names[path.parent.name]
        count, height, width = array.shape
        shape = {"count": count, "height": height, "width": width, "dtype": array.dtype.name}
        colours = {"photometric": "rgb" if names == _RGB else "minisblack"}
        profile = _STORED | shape | colours | place
        with rasterio.open(path, "w", nodata=nodata, **profile) as sink:
            sink.descriptions = names
            sink.write(array)
            if mask is not None:
                sink.write_mask(mask)


_STORED = {
    "driver": "GTiff",
    "compress": "deflate",
    "predictor": 2,
    "zlevel": 6,
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "bigtiff": "if_safer",
}
_RGB = ("red", "green", "blue")


def _band_names(folder: Path) -> tuple[str, ...]:
    with rasterio.open(next(folder.glob("*.tif"))) as source:
        names: tuple[str, ...] = source.descriptions
    return names


def _read_burnt(tiles: Path, name: str) -> tuple[np.ndarray | None, np.ndarray]:
    """The mask of a tile's image, where it has one, and its targets."""
    with (
        rasterio.open(tiles / "images" / f"{name}.tif") as image,
        rasterio.open(tiles / "targets" / f"{name}.tif") as target,
    ):
        mask = image.read_masks(1)
        return (None if mask.all() else mask), target.read()


def check_same_files(one: Path, other: Path) -> None:
    """Raises if two folders of tiles differ in a byte of an image or a target."""
    for file in sorted(other.rglob("*.tif")):
        if file.read_bytes() != (one / file.relative_to(other)).read_bytes():
            raise AssertionError(f"{file}: differs from what geoseg wrote")
