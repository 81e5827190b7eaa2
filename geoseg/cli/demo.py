"""The command `geoseg demo`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve
from geoseg.cli.progress import progress_bar


@click.command()
@output_option("Folder for everything.")
@click.option("--size", nargs=2, type=int, default=(896, 1280), show_default=True, metavar="H W")
@click.option("--seed", type=int, default=7, show_default=True, help="Random seed of the town.")
@click.option("--crs", default="EPSG:32633", show_default=True)
@click.option("--bands", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--dtype", default="uint8", show_default=True)
@click.option("--gsd", type=float, default=0.5, show_default=True, help="Metres per pixel.")
@click.option("--scene-only", is_flag=True, help="Write the town and its footprints only.")
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
    """Predict a real scene, then run all steps on a synthetic town.

    The scene is a village in Zanzibar, on which the default model was not trained. Its prediction
    is evaluated and shown in sample/sample.jpg. Options and settings apply to the town: train on
    part of it, predict all of it, and evaluate on the quarter that was kept from training. The
    result is shown in demo.png.
    """
    settings = resolve("demo", config or "configs/demo.yaml", overrides)
    folder = Path(output)
    from geoseg.api.demo import SCENE_NAME, TRUTH_NAME, run_demo, write_demo_town
    from geoseg.town import build_town

    start = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - start:5.0f} s] {line}", err=True)

    town = build_town(*size, seed=seed, gsd_m=gsd, crs=crs, bands=bands, dtype=dtype)
    write_demo_town(town, folder, overwrite=overwrite)
    scene, truth = folder / SCENE_NAME, folder / TRUTH_NAME
    if not scene_only:
        _show_sample(folder, say)
    say(f"town: {size[0]} rows x {size[1]} columns, {len(town.footprints)} buildings → {scene}")
    if scene_only:
        click.echo(f"{scene} {truth}")
        return
    with progress_bar() as progress:
        report = run_demo(folder, settings, report=say, progress=progress)
    if report is None:
        return
    click.echo(
        f"town, own model: building F1 on the held-out area {report.f1:.3f}, "
        f"pixel IoU {report.iou_pixel:.3f}"
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


def _show_sample(folder: Path, say: Callable[[str], None]) -> None:
    """Predict and evaluate the sample, and print its scores and outputs."""
    from geoseg.api.demo import SAMPLE_NAME, SAMPLE_PICTURE_NAME, run_sample

    with progress_bar() as progress:
        report = run_sample(folder, report=say, progress=progress)
    click.echo(
        f"sample, default model: building F1 {report.f1:.3f}, pixel IoU {report.iou_pixel:.3f}"
    )
    for name in ("scene.tif", "out/footprints.gpkg", "report", SAMPLE_PICTURE_NAME):
        click.echo(f"  {folder / SAMPLE_NAME / name}")
