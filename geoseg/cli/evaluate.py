"""`geoseg evaluate`."""

from __future__ import annotations

import click

from geoseg.cli.options import (
    config_options,
    output_option,
    overwrite_option,
    refuse_missing,
    resolve,
)
from geoseg.errors import ConfigError


@click.command()
@click.argument("footprints")
@click.option("--truth", required=True, metavar="FOOTPRINTS", help="The true footprints.")
@output_option("Folder for report.json and report.gpkg.")
@click.option("--aoi", metavar="POLYGONS", help="Compare only inside these polygons.")
@click.option("--where", help='Attribute filter of the truth, e.g. "label == 1".')
@click.option(
    "--iou", "threshold", type=float, default=0.5, show_default=True, help="IoU of a match."
)
@click.option("--min-area-m2", type=float, help="Smaller buildings do not count.  [default: 0]")
@overwrite_option
@config_options
def command(
    footprints: str,
    truth: str,
    output: str,
    aoi: str | None,
    where: str | None,
    threshold: float,
    min_area_m2: float | None,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Score footprints against the truth, by the SpaceNet building metric.

    Two .csv files in SpaceNet's format are scored per image and per city; a mask.tif per class
    and pixel, the classes by the --config that its tiles were made with.
    """
    refuse_missing(footprints, truth)
    settings = resolve(config, overrides)
    from geoseg.evaluation import evaluate, evaluate_mask, format_classes, format_table
    from geoseg.geo.raster import is_mask

    if is_mask(footprints):
        if min_area_m2 is not None:
            raise ConfigError("--min-area-m2 is of footprints; a mask is compared by its pixels")
        found = evaluate_mask(
            footprints, truth, output, classes=settings.tile.classes, aoi=aoi, where=where,
            overwrite=overwrite,
        )  # fmt: skip
        click.echo(format_classes(found))
        click.echo(f"mean IoU {found.mean_iou:.3f}, accuracy {found.accuracy:.3f} → {output}")
        return

    report = evaluate(
        footprints,
        truth,
        output,
        aoi=aoi,
        where=where,
        threshold=threshold,
        min_area_m2=min_area_m2,
        overwrite=overwrite,
    )
    click.echo(format_table(report))
    click.echo(f"F1 {report.f1:.3f}, pixel IoU {report.iou_pixel:.3f} → {output}")
