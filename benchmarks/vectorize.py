"""Benchmark of vectorization: speed compared with GDAL, scaling, and quality of outlines.

    python benchmarks/vectorize.py [verb] [stages] [speed] [growth] [--repeat 3]
    python benchmarks/vectorize.py versions --prob PROB --before CHECKOUT [--side 10000]
    python benchmarks/vectorize.py quality --prob PROB --truth FOOTPRINTS [--aoi POLYGONS]
    python benchmarks/vectorize.py picture --prob PROB --scene SCENE --window ROW,COLUMN,SIDE -o PNG

Prints one JSON line per part.

- `verb`: `geoseg vectorize` as a user runs it, whole processes, on a probability raster of 10,000²
  with 20,000 buildings: with all defaults, with two workers, without regularization, and the exact
  outlines of pixels; ratios to a process that reads the raster and calls `rasterio.features.shapes`
  and `shapely.geometry.shape`, and to the same followed by `buildingregulariser` on one core, if
  that package is installed. Medians of `--repeat` turns.
- `stages`: where the time of the verb goes, in one process: seconds of each stage without the
  stages inside it; the objects are runs of pixels, seeds, watershed and holes. `--prob` measures
  another raster.
- `speed`: tracing the exact outlines of 20,000 buildings in an array of 10,000² by two threads,
  compared with `rasterio.features.shapes` over the array and `shapely.geometry.shape`: the ratio of
  seconds, and whether the polygons are the same.
- `growth`: the verb on a probability raster of 10,000² and on one of 20,000² with four times the
  buildings, each in a separate process: the ratios of wall-clock seconds and of CPU seconds, which
  depend less on other processes, and the peak memory.
- `versions`: the verb of this checkout and that of another one on a probability raster, which is
  mirrored or cropped to `--side` rows and columns if that is given. Medians of `--repeat` turns.
- `quality`: building F1@0.5, mean IoU of matched buildings, vertices per building and share of
  right angles (within 3 degrees), for four kinds of outlines of one probability raster.
- `picture`: part of a scene with the polygonized mask and with the footprints.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import shapes
from rasterio.windows import Window
from shapely.geometry import shape
from stopwatch import Stopwatch

from geoseg.api.vectorize import vectorize
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, open_for_writing
from geoseg.options import VectorizeOptions
from geoseg.vectorization.components.labelling import Components, label_block, merge_blocks
from geoseg.vectorization.components.runs import find_runs, label_runs
from geoseg.vectorization.components.trace_windows import TraceWindow, plan_windows
from geoseg.vectorization.outlines.rings import trace_rings
from geoseg.vectorization.outlines.tracing import move_polygons

SIDE, BUILDINGS, BLOCK = 10_000, 20_000, 2048
VERB = (sys.executable, "-m", "geoseg", "vectorize", "PROB", "-o", "OUTPUT")
RIGHT_DEGREES = 3.0
# Functions of each stage, as of `Stopwatch.watch`.
OUTLINES = "geoseg.vectorization.outlines"
STAGES = {
    "reading": ["geoseg.vectorization.prob_sources:SceneProb.read"],
    "components": [
        "geoseg.vectorization.tasks:find_components",
        "geoseg.vectorization.components.labelling:merge_blocks",
        "geoseg.vectorization.components.selection:select_components",
    ],
    "objects": ["geoseg.vectorization.objects.buildings:find_objects"],
    "tracing": ["geoseg.vectorization.footprints:_outline"],
    "zones": [f"{OUTLINES}.zones:find_zones"],
    "simplification": [f"{OUTLINES}.simplification:simplify_within"],
    "right angles": [f"{OUTLINES}.shaping:shape_outlines"],
    "attributes": [
        "geoseg.vectorization.footprints:trace_buildings",
        "geoseg.vectorization.footprint_frames:build_frame",
    ],
    # The layer is written while its footprints are read back and numbered.
    "windows to files": ["geoseg.geo.vector.writer:write_parts"],
    "numbering and writing": ["pyogrio:write_arrow"],
}
KINDS: dict[str, dict[str, Any]] = {
    "raw": {"simplify_m": 0, "subpixel": False, "regularize": False},
    "simplified": {"subpixel": False, "regularize": False},
    "subpixel": {"regularize": False},
    "regularized": {},
}


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="verb, stages, speed, growth, versions, quality, picture",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, help="repeats; of speed the fastest counts"
    )
    for name in ("prob", "truth", "aoi"):
        parser.add_argument(f"--{name}", help="for quality, and --prob for stages and versions")
    parser.add_argument("--before", help="checkout of another version, for versions")
    parser.add_argument("--side", type=int, help="rows and columns, for versions")
    for name in ("scene", "window"):
        parser.add_argument(f"--{name}", help="for picture")
    parser.add_argument("-o", "--output", help="PNG file, for picture")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "verb": partial(verb, repeat=arguments.repeat),
        "stages": partial(stages, arguments.prob),
        "speed": partial(speed, repeat=arguments.repeat),
        "growth": growth,
        "versions": partial(
            versions, arguments.prob, arguments.before, arguments.side, repeat=arguments.repeat
        ),
        "quality": partial(quality, arguments.prob, arguments.truth, arguments.aoi),
        "picture": partial(
            picture, arguments.prob, arguments.scene, arguments.window, arguments.output
        ),
    }
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; choose from {', '.join(parts)}")
    if "versions" in arguments.parts and not (arguments.prob and arguments.before):
        parser.error("versions needs --prob and --before")
    for name in arguments.parts or ("verb", "stages", "speed", "growth"):
        print(json.dumps({"part": name, **parts[name]()}), flush=True)


def build_mask(side: int, buildings: int) -> np.ndarray:
    """Build a mask of rotated rectangles on a lattice, uint8 (side, side)."""
    rng, across = np.random.default_rng(0), round(buildings**0.5)
    mask, cell = np.zeros((side, side), dtype=np.uint8), side / across
    rows, columns = np.mgrid[-34:34, -34:34]
    for place in range(across**2):
        y, x = (np.array(divmod(place, across)) + 0.5) * cell + rng.uniform(-8, 8, 2)
        half, turn = rng.uniform(10, 22, 2), rng.uniform(0, np.pi)
        along = columns * np.cos(turn) + rows * np.sin(turn)
        inside = (np.abs(along) < half[0]) & (
            np.abs(rows * np.cos(turn) - columns * np.sin(turn)) < half[1]
        )
        top, left = int(y) - 34, int(x) - 34
        part = mask[max(top, 0) : top + 68, max(left, 0) : left + 68]
        part |= inside[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
    return mask


def verb(*, repeat: int) -> dict[str, Any]:
    """Time whole processes, in turns, so that all have the same conditions."""
    commands: dict[str, list[str]] = {
        "shapes": [sys.executable, "-c", POLYGONIZED, "PROB"],
        "defaults": [*VERB],
        "defaults, 2 workers": [*VERB, "--workers", "2"],
        "not regularized": [*VERB, "--no-regularize"],
        "raw": [*VERB, "--no-regularize", "--no-subpixel", "--set", "vectorize.simplify_m=0"],
    }
    if importlib.util.find_spec("buildingregulariser"):
        commands["buildingregulariser"] = [sys.executable, "-c", POLYGONIZED, "PROB", "regularize"]
    with tempfile.TemporaryDirectory() as work:
        seconds = time_in_turns(commands, write_prob(Path(work) / "whole.tif", 1), repeat)
    found = {"seconds": seconds, "to_shapes": ratios(seconds, "shapes")}
    if "buildingregulariser" in commands:
        found["to_peer"] = ratios(seconds, "buildingregulariser")
    return found


def versions(prob: str, before: str, side: int | None, *, repeat: int) -> dict[str, Any]:
    """Time the verb of two checkouts, in turns."""
    checkouts = {"before": Path(before).resolve(), "now": Path(__file__).resolve().parents[1]}
    with tempfile.TemporaryDirectory() as work:
        copied = mirror(Path(prob), Path(work) / "prob.tif", side)
        seconds = time_in_turns(
            {name: [*VERB] for name in checkouts}, copied, repeat,
            {name: {"PYTHONPATH": str(path)} for name, path in checkouts.items()},
        )  # fmt: skip
        count = vectorize(copied, Path(work) / "layer.parquet").count
        with rasterio.open(copied) as source:
            shape = source.shape
    return {
        "shape": shape,
        "footprints": count,
        "seconds": seconds,
        "times_as_fast": round(seconds["before"] / seconds["now"], 2),
    }


def mirror(prob: Path, path: Path, side: int | None) -> Path:
    """Write the bands of a raster, mirrored or cropped to a number of pixels.

    Its tags are left out: another version may refuse its thresholds. Both have their defaults.
    """
    with rasterio.open(prob) as source:
        values, valid = source.read(), source.dataset_mask() > 0
        more = [(0, max(0, (side or 0) - length)) for length in source.shape]
        values = np.pad(values, [(0, 0), *more], mode="symmetric")[:, :side, :side]
        valid = np.pad(valid, more, mode="symmetric")[:side, :side]
        grid = Grid(source.crs, source.transform, *valid.shape)
        with open_for_writing(
            path, grid, count=len(values), dtype=values.dtype.name, scratch=True,
            descriptions=source.descriptions, masked=not valid.all(),
        ) as sink:  # fmt: skip
            sink.write(values)
            if not valid.all():
                sink.write_mask(valid)
    return path


def time_in_turns(
    commands: dict[str, list[str]],
    prob: Path,
    repeat: int,
    variables: dict[str, dict[str, str]] | None = None,
) -> dict[str, float]:
    """Return the median seconds of each command, with the files for PROB and OUTPUT.

    Args:
        commands: Words of each command.
        prob: Raster of probabilities.
        repeat: Number of turns.
        variables: Additional environment variables of commands.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            output = prob.with_suffix(".gpkg")
            output.unlink(missing_ok=True)
            start = time.perf_counter()
            files = {"PROB": str(prob), "OUTPUT": str(output)}
            subprocess.run(
                [files.get(word, word) for word in command],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | (variables or {}).get(name, {}), cwd=prob.parent,
            )  # fmt: skip
            seconds[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def stages(prob: str | None) -> dict[str, Any]:
    """Time each stage of the verb in this process; imports are not counted."""
    stopwatch = Stopwatch(nested=True)
    with tempfile.TemporaryDirectory() as work:
        raster = Path(prob) if prob else write_prob(Path(work) / "whole.tif", 1)
        with stopwatch.watch(STAGES):
            start = time.perf_counter()
            count = vectorize(raster, Path(work) / "layer.gpkg").count
            total = time.perf_counter() - start
    seconds = {name: round(stopwatch.seconds[name], 2) for name in STAGES}
    rest = round(total - sum(seconds.values()), 2)
    return {"footprints": count, "seconds": round(total, 2), "stages": {**seconds, "rest": rest}}


def speed(*, repeat: int) -> dict[str, Any]:
    """Time the same polygons by geoseg and by GDAL."""
    mask = build_mask(SIDE, BUILDINGS)
    best = {"gdal": np.inf, "runs": np.inf}
    for _ in range(repeat):
        start = time.perf_counter()
        theirs = [shape(geometry) for geometry, _ in shapes(mask, mask=mask > 0, connectivity=4)]
        best["gdal"] = min(best["gdal"], time.perf_counter() - start)
        start = time.perf_counter()
        ours = trace_mask(mask)
        best["runs"] = min(best["runs"], time.perf_counter() - start)
    return {
        "polygons": len(ours),
        "seconds": {name: round(value, 2) for name, value in best.items()},
        "times_as_fast": round(best["gdal"] / best["runs"], 2),
        "same": sorted_wkb(ours) == sorted_wkb(np.array(theirs, dtype=object)),
    }


def trace_mask(mask: np.ndarray) -> np.ndarray:
    """Trace the outlines of all components, labelled in strips of rows."""
    grid = Grid(rasterio.CRS.from_epsg(32633), Affine.identity(), *mask.shape)
    tops = range(0, len(mask), BLOCK)
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda top: label_block(mask[top : top + BLOCK], top), tops))
        components = merge_blocks(parts, mask.shape[1])
        margins = np.ones(len(components), dtype=np.int64)
        shares = plan_windows(components, grid, BLOCK, margins)
        return np.concatenate(list(pool.map(partial(trace_window, mask, components), shares)))


def trace_window(mask: np.ndarray, components: Components, share: TraceWindow) -> np.ndarray:
    """Trace the outlines of the components of one window."""
    window = share.window
    runs = find_runs(mask[window.toslices()])
    owners, _ = label_runs(runs, diagonal=True)
    places = components.match_runs(runs.with_values(owners + 1), window)
    runs = runs.pick(np.isin(places, share.indices))
    pieces, _ = label_runs(runs, diagonal=False)
    return move_polygons(trace_rings(runs, pieces).polygons(), window.col_off, window.row_off)


def sorted_wkb(polygons: np.ndarray) -> list[bytes]:
    """Return normalized polygons as sorted WKB, independent of ring starts and of their order."""
    normal: list[bytes] = sorted(shapely.to_wkb(shapely.normalize(polygons)).tolist())
    return normal


def growth() -> dict[str, Any]:
    """Measure time and memory of the verb on a raster and on one four times as large."""
    seconds, cpu, peaks, counts = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as work:
        for times in (1, 2):
            prob = write_prob(Path(work) / f"{times}.tif", times)
            command = [sys.executable, "-c", MEASURED, str(prob), f"{prob}.gpkg"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            side = SIDE * times
            seconds[side], cpu[side], peaks[side], counts[side] = json.loads(done.splitlines()[-1])
    return {
        "footprints": counts,
        "seconds": seconds,
        "ratio": round(seconds[2 * SIDE] / seconds[SIDE], 2),
        "cpu_seconds": cpu,
        "cpu_ratio": round(cpu[2 * SIDE] / cpu[SIDE], 2),
        "peak_mb": peaks,
        "growth_mb": round(max(peaks.values()) - min(peaks.values()), 1),
    }


def write_prob(path: Path, times: int) -> Path:
    """Write a probability raster of the mask, repeated `times` times in both directions."""
    values = build_mask(SIDE, BUILDINGS) * np.uint8(230)
    grid = Grid(
        rasterio.CRS.from_epsg(32633), Affine(0.3, 0, 5e5, 0, -0.3, 5e6), *(SIDE * times,) * 2
    )
    with open_for_writing(
        path, grid, count=1, dtype="uint8", descriptions=["building"], masked=False, scratch=True
    ) as sink:
        for row in range(0, SIDE * times, 500):
            part = values[row % SIDE : row % SIDE + 500]
            for left in range(0, SIDE * times, SIDE):
                sink.write(part, 1, window=Window(left, row, SIDE, 500))
    return path


# What a user would write without geoseg; with a second argument also right angles.
POLYGONIZED = """
import sys
import geopandas as gpd, rasterio
from rasterio.features import shapes
from shapely.geometry import shape
with rasterio.open(sys.argv[1]) as source:
    mask = (source.read(1) >= 128).astype("uint8")
    found = shapes(mask, mask=mask > 0, connectivity=4, transform=source.transform)
    polygons = [shape(geometry) for geometry, _ in found]
    crs = source.crs
if len(sys.argv) > 2:
    from buildingregulariser import regularize_geodataframe
    frame = gpd.GeoDataFrame(geometry=polygons, crs=crs)
    print(len(regularize_geodataframe(frame, num_cores=1)))
"""


def ratios(seconds: dict[str, float], floor: str) -> dict[str, float]:
    """Return the seconds of all others in terms of one of them."""
    return {name: round(one / seconds[floor], 2) for name, one in seconds.items() if name != floor}


# VmHWM, since the peak reported by `resource` includes that of the parent process before exec.
MEASURED = """
import json, re, sys, time
from pathlib import Path
from geoseg.api.vectorize import vectorize
start, cpu = time.perf_counter(), time.process_time()
count = vectorize(sys.argv[1], sys.argv[2]).count
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([round(seconds, 1), round(cpu, 1), round(peak / 1024, 1), count]))
"""


def quality(prob: str, truth: str, aoi: str | None) -> dict[str, Any]:
    """Score each kind of outlines."""
    scores = {}
    with tempfile.TemporaryDirectory() as work:
        for name, changes in KINDS.items():
            layer = Path(work) / f"{name}.gpkg"
            vectorize(prob, layer, options=VectorizeOptions.model_validate(changes))
            report = evaluate(layer, truth, aoi=aoi)
            outlines = gpd.read_file(layer, layer="footprints").geometry.to_numpy()
            scores[name] = {
                "f1": round(report.f1, 4),
                "mean_iou": round(report.mean_iou, 4),
                "vertices": round(float(shapely.get_num_coordinates(outlines).mean()) - 1, 1),
                "right_angles": round(share_of_right_angles(outlines), 3),
            }
    return scores


def picture(prob: str, scene: str, window: str, output: str) -> dict[str, Any]:
    """Draw part of a scene with the polygonized mask and with the footprints."""
    row, column, side = map(int, window.split(","))
    part = Window(column, row, side, side)
    with Scene(scene) as source:
        (red, green, blue, *_), _ = source.read(part)
        grid = source.grid
    # Without seeds and border, each connected component of the mask becomes one polygon.
    before = {**KINDS["raw"], "seed": 0.01, "border": 0.0}
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.3), layout="constrained")
    counts = []
    with tempfile.TemporaryDirectory() as work:
        for axis, (title, changes) in zip(
            axes, {"polygonized mask": before, "geoseg vectorize": {}}.items(), strict=True
        ):
            layer = Path(work) / "layer.gpkg"
            options = VectorizeOptions.model_validate(changes)
            vectorize(prob, layer, options=options, overwrite=True)
            frame = gpd.read_file(layer, layer="footprints", bbox=grid.window_polygon(part).bounds)
            axis.imshow(np.dstack([red, green, blue]), extent=(0, side, side, 0))
            for ring in shapely.get_rings(frame.geometry.to_numpy()):
                x, y = grid.to_pixels(*shapely.get_coordinates(ring).T)
                axis.plot(x - column, y - row, color="#ffd400", linewidth=1.4)
            axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
            axis.set_title(f"{title}: {len(frame)} polygons")
            counts.append(len(frame))
    figure.savefig(output, dpi=80)
    return {"polygons": dict(zip(("before", "after"), counts, strict=True))}


def share_of_right_angles(polygons: np.ndarray) -> float:
    """Return the share of vertices with an angle of 90 degrees."""
    right = total = 0
    for ring in shapely.get_rings(polygons):
        points = shapely.get_coordinates(ring)[:-1]
        arriving = points - np.roll(points, 1, axis=0)
        leaving = np.roll(points, -1, axis=0) - points
        cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
        turns = np.degrees(np.abs(np.arctan2(cross, (arriving * leaving).sum(axis=1))))
        right += int((np.abs(turns - 90) <= RIGHT_DEGREES).sum())
        total += len(points)
    return right / max(total, 1)


if __name__ == "__main__":
    main()
