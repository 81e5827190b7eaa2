"""The command `geoseg tile`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import (
    INCOMPLETE,
    asset_option,
    config_options,
    output_option,
    overwrite_option,
    parse_bands,
    read_workers,
    refuse_missing,
    resolve,
    workers_options,
)
from geoseg.cli.progress import progress_bar
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.api.results import TileResult
    from geoseg.data.forecast import Forecast


@click.command()
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "--labels",
    required=True,
    metavar="FOOTPRINTS",
    help="Footprints in any format and CRS, or a mask; {} is replaced by the name of each scene.",
)
@output_option("Folder for the tiles.")
@click.option(
    "--for",
    "for_model",
    metavar="MODEL",
    help="Cut as this model needs it, to continue it with geoseg train --from.",
)
@click.option("--where", help='Attribute filter of the footprints, e.g. "label == 1".')
@click.option("--layer", help="Layer of the footprints, where there are several.")
@click.option(
    "--merged",
    multiple=True,
    metavar="PATTERN",
    help="Scenes whose labels merge touching buildings, e.g. accra.tif or '*'. May be repeated.",
)
@asset_option
@click.option("--bands", help="Bands by number or name, e.g. 3,2,1.  [default: all]")
@click.option(
    "--gsd", type=float, metavar="METRES", help="Pixel size on the ground.  [default: the scene's]"
)
@click.option(
    "--assume-gsd",
    type=float,
    metavar="METRES",
    help="Pixel size of scenes without georeferencing.",
)
@click.option("--size", type=int, help="Tile side in pixels.  [default: 256]")
@click.option("--overlap", type=int, help="Pixels shared with the neighbour.  [default: half]")
@click.option(
    "--split",
    type=click.Choice(["stripes", "blocks", "kfold", "scenes", "areas"]),
    help="How the splits are separated.  [default: stripes]",
)
@click.option(
    "--fractions", metavar="T,V,T", help="Shares of train, val and test.  [default: 0.7,0.15,0.15]"
)
@click.option(
    "--gap", type=int, help="Pixels between splits.  [default: a tile, less in small scenes]"
)
@click.option("--fold", type=int, help="Fold that is used for testing.  [default: 0]")
@click.option(
    "--areas",
    metavar="FILE",
    help="Polygons of the labelled areas; an attribute `split` says train, val or test.",
)
@click.option(
    "--keep-empty", type=float, help="Share of empty training tiles to keep.  [default: 1]"
)
@click.option(
    "--keep-blank",
    is_flag=True,
    default=None,
    help="Use blank areas (large, of one value) as an image.  [default: as nodata]",
)
@click.option("--seed", type=int, help="Random seed.  [default: 0]")
@workers_options()
@click.option("--dry-run", is_flag=True, help="Print tiles, disk, time and memory, and stop.")
@overwrite_option
@config_options
def command(
    scenes: tuple[str, ...],
    labels: str,
    output: str,
    for_model: str | None,
    where: str | None,
    layer: str | None,
    merged: tuple[str, ...],
    asset: str | None,
    bands: str | None,
    gsd: float | None,
    assume_gsd: float | None,
    size: int | None,
    overlap: int | None,
    split: str | None,
    fractions: str | None,
    gap: int | None,
    fold: int | None,
    areas: str | None,
    keep_empty: float | None,
    keep_blank: bool | None,
    seed: int | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Cut scenes and footprints into tiles to train on.

    Areas for training, validation and test are separated first. The number of pixels that they
    share is printed; it is 0 unless you drew overlapping areas.
    """
    if split is None and (areas or fold is not None):
        split = "areas" if areas else "kfold"
    refuse_missing(*scenes)
    settings = resolve(
        "tile",
        config,
        overrides,
        tile__where=where,
        tile__layer=layer,
        tile__merged=merged or None,
        tile__asset=asset,
        tile__bands=parse_bands(bands),
        tile__gsd_m=gsd,
        tile__assume_gsd_m=assume_gsd,
        tile__size=size,
        tile__overlap=overlap,
        tile__split=split,
        tile__fractions=_parse_fractions(fractions),
        tile__gap=gap,
        tile__fold=fold,
        tile__areas=areas,
        tile__keep_empty=keep_empty,
        tile__keep_blank=keep_blank,
        tile__seed=seed,
    )
    workers = read_workers(given)
    from geoseg.api.tile import forecast_tile, plan_tile, tile

    what: dict[str, Any] = {
        "options": settings.tile, "for_model": for_model, "overwrite": overwrite,
    }  # fmt: skip
    if dry_run:
        plan = plan_tile(scenes, labels, output, **what)
        click.echo("\n".join(plan.describe()))
        click.echo(_describe_forecast(forecast_tile(plan, workers=workers)))
        return
    with progress_bar() as progress:
        result = tile(
            scenes,
            labels,
            output,
            workers=workers,
            report=click.echo,
            progress=progress,
            **what,
        )
    click.echo(_describe_result(result, output))
    for failed in result.info.failed:
        click.echo(f"geoseg: left out tile {failed.id}: {failed.error}", err=True)
    if result.info.failed:
        sys.exit(INCOMPLETE)


def _describe_result(result: TileResult, output: str) -> str:
    from geoseg.data.label_report import PAGE_NAME, format_headline

    counts = ", ".join(f"{count} {split}" for split, count in result.counts.items())
    return (
        f"pixels shared between splits: {result.shared_pixels}; gap between them: {result.gap} "
        f"pixels ({result.gap * result.info.gsd_m:.3g} m)\n"
        f"labels: {format_headline(result.report)}; see {Path(output) / PAGE_NAME}\n"
        f"{sum(result.counts.values())} tiles ({counts}) → {output}"
    )


def _parse_fractions(fractions: str | None) -> tuple[str, ...] | None:
    if fractions is None:
        return None
    shares = tuple(fractions.split(","))
    if len(shares) != 3:
        raise ConfigError(
            f"--fractions {fractions}: give three shares, of train, val and test, as in "
            "0.7,0.15,0.15"
        )
    return shares


def _describe_forecast(forecast: Forecast) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in forecast.tiles.items())
    processes = "1 process" if forecast.workers == 1 else f"{forecast.workers} processes"
    lines = [
        f"of these about {sum(forecast.tiles.values())} are kept ({counts})",
        f"disk: about {_size(forecast.bytes)}, compressed",
        f"time: about {_duration(forecast.seconds)} on {processes}, of which "
        f"{_duration(forecast.report_seconds)} for the label report",
    ]
    if forecast.memory is not None:
        lines.append(f"memory: about {_size(forecast.memory)} at the peak, all processes together")
    lines.append(f"estimated from {forecast.sampled} tiles, cut into a temporary folder")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, count / 1e6):.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
