"""The command `geoseg evaluate`."""

from __future__ import annotations

import click

from geoseg.cli.options import (
    config_options,
    output_option,
    overwrite_option,
    refuse_missing,
    resolve,
)


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
@click.option("--boxes", is_flag=True, help="Compare bounding boxes, in the CRS of the footprints.")
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
    boxes: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Score footprints against the truth by the SpaceNet building metric.

    Two .csv files in SpaceNet's format are scored per image and per city. A mask.tif is scored per
    class and pixel; pass the --config that its tiles were made with.
    """
    refuse_missing(footprints, truth)
    settings = resolve("evaluate", config, overrides)
    from geoseg.api.evaluate import evaluate
    from geoseg.evaluation import ClassReport, format_classes, format_table

    report = evaluate(
        footprints,
        truth,
        output,
        aoi=aoi,
        where=where,
        iou=threshold,
        min_area_m2=min_area_m2,
        boxes=boxes,
        classes=settings.tile.classes,
        overwrite=overwrite,
    )
    if isinstance(report, ClassReport):
        click.echo(format_classes(report))
        click.echo(f"mean IoU {report.mean_iou:.3f}, accuracy {report.accuracy:.3f} → {output}")
    else:
        click.echo(format_table(report))
        click.echo(f"F1 {report.f1:.3f}, pixel IoU {report.iou_pixel:.3f} → {output}")
