"""The command `geoseg vectorize`."""

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
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.api.vectorize import VectorizePlan

# Metres by which a neck is narrower on each side where --split separates buildings.
_SPLIT_M = 1.0


@click.command()
@click.argument("prob")
@output_option("Footprints: .geojson .geojsonl .shp .gpkg .fgb .parquet .csv, by suffix.")
@click.option(
    "--threshold", type=float,
    help="Lowest probability of a building pixel, 0-1; see also vectorize.seed.  "
    "[default: the model's]",
)  # fmt: skip
@click.option(
    "--min-area-m2", type=float, help="Smaller footprints are dropped.  [default: the model's]"
)
@click.option(
    "--simplify-m", type=float,
    help="Distance of removed vertices, metres.  [default: the model's]",
)  # fmt: skip
@click.option(
    "--min-hole-m2", type=float, help="Smaller holes are filled.  [default: --min-area-m2]"
)
@click.option(
    "--min-confidence",
    type=float,
    help="Less certain ones are dropped, 0-1.  [default: the model's]",
)
@click.option(
    "--split", is_flag=True, help="Separate buildings at narrow necks, see vectorize.split_m."
)
@click.option(
    "--regularize/--no-regularize", default=None, help="Make outlines right-angled where they fit."
)
@click.option(
    "--subpixel/--no-subpixel",
    default=None,
    help="Draw outlines where the probability crosses the threshold, or along pixel edges.",
)
@click.option("--mask", is_flag=True, help="The raster is a mask: all values but 0 are building.")
@click.option(
    "--crf", "scene", metavar="SCENE",
    help="First refine the probabilities by the colours of this scene with a dense CRF.",
)  # fmt: skip
@workers_options()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@overwrite_option
@config_options
def command(
    prob: str,
    output: str,
    threshold: float | None,
    split: bool,
    mask: bool,
    scene: str | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Turn a raster of probabilities into footprints.

    Touching buildings are separated; outlines become right-angled where they fit. Each footprint
    has its area in square metres and a confidence. An interrupted job continues when it is
    started again.
    """
    refuse_missing(prob, *([scene] if scene else []))
    workers = read_workers(given)
    settings = resolve(
        "vectorize",
        config,
        overrides,
        vectorize__body=threshold,
        vectorize__split_m=_SPLIT_M if split else None,
        **{f"vectorize__{name}": value for name, value in given.items()},
    )
    options = settings.vectorize
    if scene is None and any(name.strip().startswith("vectorize.crf") for name in overrides):
        raise ConfigError("--set vectorize.crf: has no effect without --crf SCENE; give a scene")
    if scene is None:  # a configuration may serve commands with and without --crf
        options = options.model_copy(update={"crf": None})
    what: dict[str, Any] = {"options": options, "mask": mask, "scene": scene}
    what["overwrite"] = overwrite
    from geoseg.api.vectorize import plan_vectorize, vectorize

    if dry_run:
        click.echo(_describe(plan_vectorize(prob, output, **what), workers.max_memory_gb))
        return
    with progress_bar() as progress:
        result = vectorize(prob, output, workers=workers, progress=progress, **what)
    click.echo(f"{result.count} footprints → {output}")


def _describe(plan: VectorizePlan, max_memory_gb: float) -> str:
    grid, layout = plan.prob.grid, plan.choose_layout(max_memory_gb)
    classes, thresholds = plan.prob.classes, plan.thresholds
    wanted = (
        f"classes {', '.join(name for name in classes.names if name != classes.background)}"
        if classes
        else f"buildings of probability {thresholds.body:g} or more"
    )
    blocks = -(-grid.height // layout.rows)
    return (
        f"{plan.prob.path}: {grid.height} x {grid.width} pixels of {grid.gsd_m:.3g} m; {wanted}; "
        f"{thresholds.min_area_m2:g} m² or more; searched in {blocks} blocks of {layout.rows} "
        f"rows, traced in windows of {layout.side} pixels"
    )
