"""`geoseg vectorize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from geoseg.cli.options import (
    config_options,
    output_option,
    overwrite_option,
    parse_memory,
    refuse_missing,
    resolve,
)
from geoseg.cli.progress import progress_bar

if TYPE_CHECKING:
    from geoseg.geo.raster import ProbInfo
    from geoseg.options import Thresholds

# How much narrower on each side a neck is where --split parts buildings, metres.
_SPLIT_M = 1.0


@click.command()
@click.argument("prob")
@output_option("Footprints: .geojson .geojsonl .shp .gpkg .fgb .parquet .csv, by suffix.")
@click.option(
    "--threshold", type=float,
    help="Least building probability, 0-1; the core of a building must also reach vectorize.seed.  "
    "[default: the model's]",
)  # fmt: skip
@click.option(
    "--min-area-m2", type=float, help="Smaller footprints are dropped.  [default: the model's]"
)
@click.option(
    "--simplify-m",
    type=float,
    help="Outlines may move by about this, metres.  [default: the model's]",
)
@click.option(
    "--min-hole-m2", type=float, help="Smaller holes are filled.  [default: --min-area-m2]"
)
@click.option("--min-confidence", type=float, help="Less sure ones are dropped, 0-1.  [default: 0]")
@click.option(
    "--split", is_flag=True, help="Part buildings at narrow necks, see vectorize.split_m."
)
@click.option(
    "--regularize/--no-regularize", default=None, help="Right angles where buildings have them."
)
@click.option(
    "--subpixel/--no-subpixel", default=None, help="Outlines between pixels, or along them."
)
@click.option(
    "--crf",
    "scene",
    metavar="SCENE",
    help="First refine the probabilities by the colours of this scene with a dense CRF.",
)
@click.option("--workers", type=click.IntRange(1), default=1, help="Local processes.  [default: 1]")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, e.g. tcp://host:8786.")
@click.option("--max-memory", metavar="SIZE", help="Of a process, e.g. 2GB.  [default: 4GB]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@overwrite_option
@config_options
def command(
    prob: str,
    output: str,
    threshold: float | None,
    min_area_m2: float | None,
    simplify_m: float | None,
    min_hole_m2: float | None,
    min_confidence: float | None,
    split: bool,
    regularize: bool | None,
    subpixel: bool | None,
    scene: str | None,
    workers: int,
    scheduler: str | None,
    max_memory: str | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Turn a probability raster into footprints.

    Touching buildings are separated; walls run at right angles where they did about so. Each
    footprint has its area in square metres and a confidence. An interrupted run goes on when it is
    started again.
    """
    refuse_missing(prob, *([scene] if scene else []))
    settings = resolve(
        config,
        overrides,
        vectorize__body=threshold,
        vectorize__min_area_m2=min_area_m2,
        vectorize__simplify_m=simplify_m,
        vectorize__min_hole_m2=min_hole_m2,
        vectorize__min_confidence=min_confidence,
        vectorize__split_m=_SPLIT_M if split else None,
        vectorize__regularize=regularize,
        vectorize__subpixel=subpixel,
        vectorize__max_memory_gb=parse_memory(max_memory),
    )
    from geoseg.geo.raster import read_prob
    from geoseg.geo.vector import check_suffix
    from geoseg.jobs.journal import check_output
    from geoseg.jobs.workers import open_workers
    from geoseg.options import check_thresholds
    from geoseg.prediction.crf.refinement import check_colours
    from geoseg.vectorization.layer import vectorize

    info = read_prob(prob)
    if info.classes:
        check_thresholds(settings.vectorize)
    thresholds = settings.vectorize.over(info.thresholds)
    if dry_run:
        check_suffix(output)
        inputs = [prob, *([scene] if scene else [])]
        check_output(output, overwrite=overwrite, inputs=inputs, is_file=True)
        if scene:
            check_colours(prob, scene)
        click.echo(_describe(info, thresholds, settings.vectorize.max_memory_gb))
        return
    with open_workers(workers, scheduler) as run, progress_bar() as progress:
        count = vectorize(
            prob,
            output,
            thresholds=thresholds,
            scene=scene,
            crf=settings.predict.crf,
            max_memory_gb=settings.vectorize.max_memory_gb,
            overwrite=overwrite,
            run=run,
            progress=progress,
        )
    click.echo(f"{count} footprints → {output}")


def _describe(prob: ProbInfo, thresholds: Thresholds, max_memory_gb: float) -> str:
    from geoseg.vectorization.block_layout import choose_layout
    from geoseg.vectorization.prob_sources import prob_bands

    prob_bands(prob)
    grid, classes = prob.grid, prob.classes
    layout = choose_layout(grid, max_memory_gb)
    wanted = (
        f"classes {', '.join(name for name in classes.names if name != classes.background)}"
        if classes
        else f"buildings where their probability is at least {thresholds.body:g}"
    )
    blocks = -(-grid.height // layout.rows)
    return (
        f"{prob.path}: {grid.height} x {grid.width} pixels of {grid.gsd_m:.3g} m; {wanted}; "
        f"{thresholds.min_area_m2:g} m² or more; searched in {blocks} blocks of {layout.rows} "
        f"rows, traced in windows of {layout.side} pixels"
    )
