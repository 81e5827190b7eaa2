"""The command `geoseg demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve
from geoseg.cli.progress import progress_bar

if TYPE_CHECKING:
    from geoseg.config import Config
    from geoseg.evaluation import Report


@click.command()
@output_option("Folder for everything.")
@click.option("--size", nargs=2, type=int, default=(896, 1280), show_default=True, metavar="H W")
@click.option("--seed", type=int, default=7, show_default=True, help="Random seed of the town.")
@click.option("--crs", default="EPSG:32633", show_default=True)
@click.option("--bands", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--dtype", default="uint8", show_default=True)
@click.option("--gsd", type=float, default=0.5, show_default=True, help="Metres per pixel.")
@click.option("--scene-only", is_flag=True, help="Write the town and its footprints, and stop.")
@click.option("--min-f1", type=float, default=0.0, help="Exit with 1 if building F1 is lower.")
@overwrite_option
@config_options
def command(
    output: str,
    size: tuple[int, int],
    seed: int,
    crs: str,
    bands: int,
    dtype: str,
    gsd: float,
    scene_only: bool,
    min_f1: float,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Run all steps on a synthetic town.

    Train on part of the town, predict all of it, and evaluate on the quarter that was kept from
    training. The result is shown in demo.png.
    """
    settings = resolve(config or "configs/demo.yaml", overrides)
    folder = Path(output)
    from geoseg.jobs.lock import lock_output
    from geoseg.jobs.manifest import add_names_to_manifest
    from geoseg.jobs.output import folder_output
    from geoseg.town import build_town, write_town

    start = time.monotonic()
    with folder_output(folder, overwrite=overwrite) as work:
        town = build_town(*size, seed=seed, gsd_m=gsd, crs=crs, bands=bands, dtype=dtype)
        write_town(town, work.result)
    scene, truth = folder / "scene.tif", folder / "footprints.gpkg"
    _say(start, f"town: {size[0]} x {size[1]} pixels, {len(town.footprints)} buildings → {scene}")
    if scene_only:
        click.echo(f"{scene} {truth}")
        return
    add_names_to_manifest(folder, ["demo.png"])
    with lock_output(folder):
        report = _run(settings, folder, scene, truth, start)
    if report is None:
        return
    click.echo(
        f"building F1 on the held-out area {report.f1:.3f}, pixel IoU {report.iou_pixel:.3f}"
    )
    for name in ("out/footprints.gpkg", "out/prob.tif", "out/mask.tif", "report", "demo.png"):
        click.echo(f"  {folder / name}")
    if report.f1 < min_f1:
        click.echo(
            f"geoseg demo: the outputs are complete, but F1 {report.f1:.3f} is below {min_f1:g}; a "
            "slow or busy machine needs longer, e.g. --set train.max_minutes=15",
            err=True,
        )
        sys.exit(1)


def _run(settings: Config, folder: Path, scene: Path, truth: Path, start: float) -> Report | None:
    from geoseg import evaluate, predict, tile, train
    from geoseg.geo.vector import read_footprints
    from geoseg.training.figures import draw_comparison

    _say(start, f"tile: {scene} → {folder / 'tiles'}")
    tiles = tile(scene, truth, folder / "tiles", options=settings.tile)
    counts = ", ".join(f"{count} {split}" for split, count in tiles.counts.items())
    _say(start, f"tile: {counts} tiles, pixels shared between splits: {tiles.shared_pixels}")

    minutes = settings.train.max_minutes
    _say(start, "train" + (f": {minutes:g} minutes" if minutes else ""))
    run = train(
        tiles.folder,
        folder / "run",
        model=settings.model,
        options=settings.train,
        report=lambda line: _say(start, f"train: {line}"),
    )
    if run is None:
        return None  # one of several processes that trained; the first continues
    _say(start, f"predict: {scene} → {folder / 'out'}")
    with progress_bar() as progress:
        predicted = predict(
            scene,
            folder / "out",
            model=run.model,
            options=settings.predict,
            vectorize=settings.vectorize,
            progress=progress,
        )

    _say(start, "evaluate: on the area that was kept from training")
    layer = folder / "out" / "footprints.gpkg"
    aoi = folder / "tiles" / "test.geojson"
    report = cast("Report", evaluate(layer, truth, folder / "report", aoi=aoi))
    draw_comparison(
        scene,
        read_footprints(truth),
        predicted.footprints,
        folder / "demo.png",
        title=f"F1 {report.f1:.2f} on the right-hand quarter, which was kept from training",
    )
    return report


def _say(start: float, line: str) -> None:
    click.echo(f"[{time.monotonic() - start:5.0f} s] {line}", err=True)
