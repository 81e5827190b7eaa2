"""`geoseg models`."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """List the networks.

    Any of them takes any encoder: --set model.arch=NAME --set model.encoder=NAME.
    """
    from geoseg.models import list_architectures, list_encoders

    click.echo("architectures (model.arch):")
    for name in list_architectures():
        click.echo(f"  {name}")
    click.echo("encoders (model.encoder), besides tu-NAME for any network of timm:")
    encoders = list_encoders()
    width = max(map(len, encoders)) + 2
    for start in range(0, len(encoders), 4):
        click.echo("  " + "".join(f"{name:<{width}}" for name in encoders[start : start + 4]))
