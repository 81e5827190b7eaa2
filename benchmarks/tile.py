"""Benchmark of tiling: speed per core, scaling and memory.

    python benchmarks/tile.py [per_core] [two_workers] [memory] [--repeat 3]

Prints one JSON line per part, by default for all parts. Large scenes are repetitions of a
synthetic town by a GDAL VRT, with repeated footprints.

- `per_core`: tiles per CPU second, and the ratio to a minimal loop that reads the same windows with
  rasterio and writes the same files, byte for byte, with targets from memory.
- `two_workers`: speed-up of two processes over one, without and with their start-up time.
- `memory`: peak memory of the verb in a separate process, for 8192² and 32768² pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.windows import Window

from geoseg.data.label_report import write_label_report
from geoseg.data.tiles import TilingPlan, plan_tiles, tile_scenes
from geoseg.geo.vector import write_footprints
from geoseg.jobs.pool import Pool, Success
from geoseg.jobs.workers import Workers
from geoseg.options import TileOptions
from geoseg.town import build_town, write_town

# Sides in pixels of the repeated town and of the scenes for `memory`.
TOWN = 2048
SIDES = (8192, 32768)

# Stripes of these fractions contain whole tiles only, since the minimal loop does not pad tiles.
WHOLE = TileOptions(fractions=(0.5, 0.25, 0.25), gap=0)


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="per_core, two_workers, memory")
    parser.add_argument("--repeat", type=int, default=3, help="repeats; the fastest counts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "per_core": partial(per_core, repeat=arguments.repeat),
        "two_workers": partial(two_workers, repeat=arguments.repeat),
        "memory": memory,
    }
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; choose from {', '.join(parts)}")
    with tempfile.TemporaryDirectory() as work:
        write_town(build_town(TOWN, TOWN, seed=7), Path(work))
        for name in arguments.parts or parts:
            print(json.dumps({"part": name, **parts[name](Path(work))}), flush=True)


def repeat_town(town: Path, side: int) -> tuple[Path, Path]:
    """Repeat a town up to a square of `side` pixels, as a VRT and a FlatGeobuf."""
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
    """Measure tiles per CPU second of geoseg and of the minimal loop."""
    scene, labels, output = town / "scene.tif", town / "footprints.gpkg", town / "tiles"
    sums = {"plan": 0.0, "ours": 0.0, "bare": 0.0, "report": 0.0}
    count = 0
    for _ in range(repeat):
        with adding_to(sums, "plan"):
            plan = plan_tiles([scene], labels, WHOLE)
        turns = Turns(scene, town / "bare", sums)
        cut(plan, output, OpenWorkers(pool=turns))
        with adding_to(sums, "report"):
            write_label_report(output)
        check_same_files(output, town / "bare")
        count += len(plan.tiles)
    return {
        "tiles": count,
        "tiles_per_s": round(count / sums["ours"], 1),
        "bare_tiles_per_s": round(count / sums["bare"], 1),
        "ratio": round(sums["bare"] / sums["ours"], 3),
        "ms_per_tile": {name: round(1e3 * seconds / count, 2) for name, seconds in sums.items()},
    }


@contextmanager
def adding_to(sums: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of a code block to a sum."""
    start = time.process_time()
    yield
    sums[name] += time.process_time() - start


def cut(plan: TilingPlan, output: Path, workers: Workers) -> None:
    """Cut all tiles of a plan into a new folder."""
    shutil.rmtree(output, ignore_errors=True)
    tile_scenes(plan, output, workers=workers)


def two_workers(town: Path, *, repeat: int) -> dict[str, Any]:
    """Time tiling by one process, by two running ones, and by two that are started first."""
    scene, labels = repeat_town(town, SIDES[0])
    plan = plan_tiles([scene], labels, TileOptions())
    warming = plan_tiles([town / "scene.tif"], town / "footprints.gpkg", TileOptions())
    seconds: dict[str, list[float]] = {"serial": [], "two": [], "two_with_start": []}
    two = Workers(processes=2)
    with two.open() as pool:
        running = OpenWorkers(pool=pool)
        cut(warming, town / "warm", running)
        choices = {"serial": Workers(), "two": running, "two_with_start": two}
        for number in range(repeat):
            for name, workers in choices.items():
                # Into a new folder: the file system is slow for seconds after a large deletion.
                output = town / f"many_{name}_{number}"
                start = time.perf_counter()
                tile_scenes(plan, output, workers=workers)
                seconds[name].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in seconds.items()}
    return {
        "tiles": len(plan.tiles),
        "seconds": {name: round(value, 1) for name, value in best.items()},
        "speedup": round(best["serial"] / best["two"], 2),
        "speedup_with_start": round(best["serial"] / best["two_with_start"], 2),
    }


@dataclass(frozen=True)
class OpenWorkers(Workers):
    """Workers whose pool is open already.

    Attributes:
        pool: The pool.
    """

    pool: Pool = field(kw_only=True)

    @contextmanager
    def open(self, *_: Any, **__: Any) -> Iterator[Pool]:
        """Return the pool."""
        yield self.pool


class Turns(Pool):
    """Pool that alternates between geoseg and the minimal loop.

    Both then run under the same load of the machine. The minimal loop reads windows of a scene and
    writes them with the targets rasterized by geoseg, which are in memory.

    Args:
        scene: The scene.
        output: Output folder of the minimal loop.
        sums: CPU seconds by name, to which the measured times are added.
    """

    def __init__(self, scene: Path, output: Path, sums: dict[str, float]) -> None:
        super().__init__(1)
        self._scene, self._output, self._sums = scene, output, sums
        shutil.rmtree(output, ignore_errors=True)
        for kind in ("images", "targets"):
            (output / kind).mkdir(parents=True)

    def settle(self) -> None:
        """Return at once: tasks run one after the other."""

    def outcomes(
        self, function: Callable[[Any], Any], tasks: Iterable[Any]
    ) -> Iterator[Success[Any]]:
        """Run tasks in order, each followed by the minimal loop on the same tiles."""
        remaining = iter(tasks)
        while True:
            with adding_to(self._sums, "ours"):
                task = next(remaining, None)
                if task is None:
                    return
                result = function(task)
            targets = [_read_targets(task.folder, name) for name, _ in task.tiles]
            with adding_to(self._sums, "bare"):
                self._cut(task.tiles, targets)
            with adding_to(self._sums, "ours"):
                yield Success(result)  # geoseg writes the journal before it continues

    def _cut(self, tiles: list[tuple[str, Window]], targets: list[Any]) -> None:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(self._scene) as scene:
            for (name, window), (mask, target) in zip(tiles, targets, strict=True):
                georeferencing = {"crs": scene.crs, "transform": scene.window_transform(window)}
                image = self._output / "images" / f"{name}.tif"
                self._write(image, scene.read(window=window), mask, None, georeferencing)
                self._write(
                    self._output / "targets" / f"{name}.tif", target, None, 255, georeferencing
                )

    def _write(
        self,
        path: Path,
        array: np.ndarray,
        mask: np.ndarray | None,
        nodata: int | None,
        georeferencing: dict[str, Any],
    ) -> None:
        names = _NAMES[path.parent.name]
        count, height, width = array.shape
        shape = {"count": count, "height": height, "width": width, "dtype": array.dtype.name}
        colours = {"photometric": "rgb" if path.parent.name == "images" else "minisblack"}
        profile = _STORED | shape | colours | georeferencing
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
_NAMES = {"images": ("red", "green", "blue"), "targets": ("building", "border")}


def _read_targets(tiles: Path, name: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Read the validity mask of a tile's image, if it has one, and its targets."""
    with (
        rasterio.open(tiles / "images" / f"{name}.tif") as image,
        rasterio.open(tiles / "targets" / f"{name}.tif") as target,
    ):
        mask = image.read_masks(1)
        return (None if mask.all() else mask), target.read()


def check_same_files(one: Path, other: Path) -> None:
    """Raise if images or targets of two folders of tiles differ."""
    for file in sorted(one.rglob("*.tif")):
        if file.read_bytes() != (other / file.relative_to(one)).read_bytes():
            raise AssertionError(f"{file}: differs from the file of the minimal loop")


def memory(town: Path) -> dict[str, Any]:
    """Measure the peak memory of the verb in MB by scene side."""
    peaks, seconds = {}, {}
    for side in SIDES:
        scene, labels = repeat_town(town, side)
        arguments = [scene, "--labels", labels, "-o", town / "large", *FEW_TILES]
        measured = json.loads(run_separately(MEASURED_VERB, arguments).splitlines()[-1])
        peaks[side], seconds[side] = measured["peak_mb"], measured["seconds"]
    return {
        "peak_mb": peaks,
        "seconds": seconds,
        "growth_mb": round(peaks[SIDES[1]] - peaks[SIDES[0]], 1),
    }


# Large tiles without overlap: few files, but the whole scene is read, split and reported.
FEW_TILES = ("--size", "1024", "--overlap", "0", "--split", "blocks", "--overwrite")

# VmHWM, since the peak reported by `resource` includes that of the parent process before exec.
MEASURED_VERB = """
import json, re, time
from pathlib import Path
from geoseg.cli import main
start = time.perf_counter()
try:
    main()
finally:
    peak_kb = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    seconds = time.perf_counter() - start
    print(json.dumps({"peak_mb": round(int(peak_kb) / 1024, 1), "seconds": round(seconds, 1)}))
"""


def run_separately(program: str, arguments: list[Any]) -> str:
    """Run `geoseg tile` by a program in a separate process, and return its output."""
    command = [sys.executable, "-c", program, "tile", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
