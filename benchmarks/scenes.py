"""Benchmark of predictions of many scenes: agreement with one scene, memory, growth, shards.

python benchmarks/scenes.py town --model runs/a --scene demo/scene.tif --truth TRUTH
python benchmarks/scenes.py growth --model runs/a --scene demo/scene.tif
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

import geoseg

# Rows and columns of scenes into which the town is cut, and the pixels that neighbours share.
_ROWS, _COLUMNS, _SHARED = 3, 4, 64

# Side of the scenes whose number grows, and the numbers.
_SIDE, _COUNTS = 2048, (10, 50, 200)


def main() -> None:
    """Run the part that was chosen, and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["town", "growth"])
    parser.add_argument("--model", required=True, help="a model file, or the folder of a run")
    parser.add_argument("--scene", required=True, help="a scene")
    parser.add_argument("--truth", help="its true footprints, for town")
    parser.add_argument("--other-crs", default="EPSG:32632", help="CRS of a half of the scenes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--side", type=int, default=_SIDE, help="of the scenes of growth")
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS, help="of scenes")
    parser.add_argument("--work", help="folder that is kept  [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary)
        work.mkdir(exist_ok=True, parents=True)
        part = {"town": town, "growth": growth}[options.part]
        print(json.dumps({"part": options.part, **part(options, work)}))


def town(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Compare the footprints of a town in one scene with those of its parts."""
    parts = cut(options.scene, work / "parts")
    mixed = [
        part if number % 2 == (number // _COLUMNS) % 2
        else warp(part, work / "mixed" / part.name, options.other_crs, 4/3)
        for number, part in enumerate(parts)
    ]  # fmt: skip
    other = warp(Path(options.scene), work / "warped.tif", options.other_crs, 4 / 3)
    tries = {
        "one": [Path(options.scene)], "one, other grid": [other], "one grid": parts,
        "two grids": mixed,
    }  # fmt: skip
    found = {}
    for name, scenes in tries.items():
        output = work / name.replace(", ", "_").replace(" ", "_")
        result = geoseg.predict(scenes, output, model=options.model, overwrite=True)
        found[name] = _describe(result, options.truth, work / "report")
    return found


def cut(scene: str, folder: Path) -> list[Path]:
    """Cut a scene into overlapping parts."""
    folder.mkdir(exist_ok=True)
    parts = []
    with rasterio.open(scene) as source:
        for row in range(_ROWS):
            for column in range(_COLUMNS):
                top, bottom = _span(row, _ROWS, source.height)
                left, right = _span(column, _COLUMNS, source.width)
                window = Window(left, top, right - left, bottom - top)
                path = folder / f"part_{row}{column}.tif"
                profile = {
                    **source.profile, "height": window.height, "width": window.width,
                    "transform": source.window_transform(window),
                }  # fmt: skip
                with rasterio.open(path, "w", **profile) as sink:
                    sink.write(source.read(window=window))
                    sink.descriptions = source.descriptions
                parts.append(path)
    return parts


def _span(index: int, count: int, length: int) -> tuple[int, int]:
    begin, end = index * length // count, (index + 1) * length // count
    return max(0, begin - _SHARED // 2), min(length, end + _SHARED // 2)


def warp(scene: Path, path: Path, crs: str, factor: float) -> Path:
    """Warp a scene to another CRS with pixels that are larger by a factor."""
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(scene) as source:
        resolution = source.res[0] * factor
        transform, width, height = calculate_default_transform(
            source.crs, crs, source.width, source.height, *source.bounds, resolution=resolution
        )
        with WarpedVRT(
            source, crs=crs, transform=transform, width=width, height=height,
            resampling=Resampling.average if factor > 1.5 else Resampling.bilinear,
        ) as warped:  # fmt: skip
            profile = {**warped.profile, "driver": "GTiff"}
            with rasterio.open(path, "w", **profile) as sink:
                sink.write(warped.read())
                sink.descriptions = source.descriptions
    return path


def _describe(result: geoseg.PredictResult, truth: str | None, report: Path) -> dict[str, Any]:
    footprints = result.footprints
    polygons = footprints.geometry.to_numpy()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    smaller = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second])) / smaller
    described = {
        "footprints": len(footprints),
        "largest_overlap": float(shared.max(initial=0)),
        "statuses": footprints["reg_status"].value_counts().to_dict(),
    }
    if truth:
        found = geoseg.evaluate(result.footprints_path, truth, report, overwrite=True)
        described["f1"] = round(found.f1, 4)
    return described


@dataclass
class Measured:
    """What a command took."""

    seconds: float
    peak_mb: float


def growth(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Predict more and more scenes, which are virtual copies of one."""
    found: dict[str, Any] = {}
    for count in options.counts:
        folder = write_copies(options.scene, work / f"scenes_{count}", count, options.side)
        measured = measure(
            [sys.executable, "-m", "geoseg", "predict", str(folder), "-m", options.model, "-o",
             str(work / f"out_{count}"), "--overwrite", "--workers", str(options.workers)]
        )  # fmt: skip
        found[str(count)] = {
            "seconds": round(measured.seconds, 1),
            "seconds_per_scene": round(measured.seconds / count, 3),
            "peak_mb": round(measured.peak_mb),
        }
    return found


def write_copies(scene: str, folder: Path, count: int, side: int) -> Path:
    """Write VRTs side by side, each of a square that is filled with copies of one scene."""
    folder.mkdir(exist_ok=True)
    per_row = int(np.ceil(np.sqrt(count)))
    with rasterio.open(scene) as source:
        bands, nodata = source.count, source.nodata
        for number in range(count):
            row, column = divmod(number, per_row)
            # Neighbours share some pixels.
            transform = source.transform * rasterio.Affine.translation(
                column * (side - _SHARED), row * (side - _SHARED)
            )
            copies = [
                (left, top)
                for top in range(0, side, source.height) for left in range(0, side, source.width)
            ]  # fmt: skip
            text = [f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">',
                    f"<SRS>{source.crs.to_wkt().replace('<', '&lt;')}</SRS><GeoTransform>",
                    ", ".join(map(repr, transform.to_gdal())), "</GeoTransform>"]  # fmt: skip
            for band in range(1, bands + 1):
                text.append(f'<VRTRasterBand dataType="Byte" band="{band}">')
                text.append(f"<Description>{source.descriptions[band - 1]}</Description>")
                if nodata is not None:
                    text.append(f"<NoDataValue>{nodata}</NoDataValue>")
                for left, top in copies:
                    size = f'xSize="{source.width}" ySize="{source.height}"'
                    text.append(
                        f"<SimpleSource><SourceFilename>{Path(scene).absolute()}</SourceFilename>"
                        f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
                        f'<DstRect xOff="{left}" yOff="{top}" {size}/></SimpleSource>'
                    )
                text.append("</VRTRasterBand>")
            text.append("</VRTDataset>")
            (folder / f"{number:04d}.vrt").write_text("".join(text))
    return folder


def measure(command: Sequence[str]) -> Measured:
    """Run a command; return seconds and the peak memory of its largest process."""
    begun, peak = time.perf_counter(), 0
    process = psutil.Popen(command)
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, *(one.memory_info().rss for one in family))
        except psutil.Error:  # one has ended
            pass
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return Measured(time.perf_counter() - begun, peak / 1e6)


if __name__ == "__main__":
    main()
