"""`geoseg train`."""

from __future__ import annotations

import sys

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, resolve


@click.command()
@click.argument("tiles")
@output_option("Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from where the run stopped.")
@click.option("--find-lr", is_flag=True, help="Try 100 learning rates, name a good one, and stop.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the settings, and stop.")
@overwrite_option
@config_options
def command(
    tiles: str,
    output: str,
    resume: bool,
    find_lr: bool,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a network on a folder of tiles.

    Writes model.safetensors, metrics.csv, curves.png, validation.png and, of buildings,
    reliability.png into the run's folder.
    """
    settings = resolve(config, overrides)
    if dry_run:
        import yaml

        from geoseg.tiles import load_tiles_info

        info = load_tiles_info(tiles)
        click.echo(
            f"{tiles}: {info.tiles['train']} tiles to train on, {info.tiles['val']} to validate"
        )
        chosen = settings.model_dump(mode="json", include={"model", "train"})
        click.echo(yaml.safe_dump(chosen, sort_keys=False).rstrip())
        return
    if find_lr:
        from geoseg.find_lr import find_lr as search

        found = search(tiles, output, model=settings.model, options=settings.train)
        click.echo(f"--set train.lr={found.lr:.1e} → {found.picture}")
        return
    from geoseg.train import train

    result = train(
        tiles,
        output,
        model=settings.model,
        options=settings.train,
        resume=resume,
        overwrite=overwrite,
        progress_bar=sys.stderr.isatty(),
        report=lambda line: click.echo(line, err=True),
    )
    scores = f"val pixel IoU {result.val_iou:.3f}"
    if result.val_f1 is not None:
        scores += f", val building F1 {result.val_f1:.3f}"
    click.echo(f"{result.minutes:.1f} min, {scores} → {result.model}")
