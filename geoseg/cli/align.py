"""The command `geoseg align`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import (
    config_options,
    output_option,
    overwrite_option,
    read_workers,
    refuse_missing,
    resolve,
    workers_options,
)
from geoseg.cli.progress import progress_bar

if TYPE_CHECKING:
    from geoseg.api.align import AlignPlan


@click.command()
@click.argument("labels")
@click.option("--scene", metavar="SCENE", help="The scene on which the polygons were drawn.")
@click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL",
    help="A model file, the folder of a run, or buildings, the default model; repeat it to average "
    "several.  [default: buildings]",
)  # fmt: skip
@click.option(
    "--prob", metavar="PROB",
    help="Building probabilities instead of a model, e.g. of one that never saw these labels.",
)  # fmt: skip
@output_option("Aligned polygons: .geojson .geojsonl .shp .gpkg .fgb .parquet, by suffix.")
@click.option("--layer", help="Layer of the labels, where there are several.")
@click.option(
    "--max-shift", type=float, metavar="METRES", help="Greatest shift of a polygon.  [default: 3]"
)
@workers_options()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@overwrite_option
@config_options
def command(
    labels: str,
    scene: str | None,
    models: tuple[str, ...],
    prob: str | None,
    output: str,
    layer: str | None,
    max_shift: float | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Move polygons that are beside their buildings onto them.

    Each polygon is moved by a few metres at most, to where the probabilities of a model agree best
    with it. Polygons that touch are moved together.
    """
    refuse_missing(labels, *(file for file in (scene, prob) if file))
    workers = read_workers(given)
    settings = resolve("align", config, overrides, align__max_shift_m=max_shift)
    what: dict[str, Any] = {
        "scene": scene,
        "model": list(models) or None,
        "prob": prob,
        "layer": layer,
        "options": settings.align,
        "predict": settings.predict,
        "overwrite": overwrite,
    }
    from geoseg.api.align import align, plan_align

    if dry_run:
        click.echo(_describe(plan_align(labels, output, **what)))
        return
    with progress_bar() as progress:
        result = align(labels, output, workers=workers, progress=progress, **what)
    click.echo(f"{result.summary.describe()} → {output}")


def _describe(plan: AlignPlan) -> str:
    grid = plan.grid
    by = plan.prob.path if plan.prob else f"predicted by {plan.job.models[0]}" if plan.job else ""
    return (
        f"{plan.labels}: {len(plan.layer)} polygons, moved by at most "
        f"{plan.options.max_shift_m:g} m; probabilities: {by}; {grid.height} x {grid.width} pixels "
        f"of {grid.gsd_m:.3g} m"
    )
