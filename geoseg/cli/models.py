"""The command `geoseg models`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from geoseg.cli.options import config_options, resolve

if TYPE_CHECKING:
    from geoseg.networks.models.card import ModelCard


@click.command()
@click.argument("name", required=False)
@click.option("--encoder", help="Encoder.  [default: the architecture's own]")
@click.option("--bands", type=click.IntRange(1), default=3, show_default=True)
@click.option("--classes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_options
def command(
    name: str | None,
    encoder: str | None,
    bands: int,
    classes: int,
    as_json: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """List the architectures, or show size, encoder and paper of one.

    Train any of them with --set model.arch=NAME, and choose another encoder with --set
    model.encoder=NAME. Options of an architecture are set with --set model.options.KEY=VALUE,
    also in this command.
    """
    from geoseg.networks.architectures import list_architectures
    from geoseg.networks.models.card import make_card

    chosen = () if name is None else (f"model.arch={name}",)
    model = resolve("models", config, (*overrides, *chosen), model__encoder=encoder).model
    if name is not None:
        card = make_card(name, model.encoder, bands=bands, classes=classes, options=model.options)
        click.echo(json.dumps(card.to_dict(), indent=2) if as_json else _format_card(card))
        return
    cards = (make_card(arch, bands=bands, classes=classes) for arch in list_architectures())
    if as_json:
        click.echo(json.dumps([card.to_dict() for card in cards], indent=2))
        return
    click.echo("architecture         parameters  GMAC 512²  stride  encoder, paper")
    for card in cards:
        click.echo(_format_row(card))
    _list_encoders()


def _format_row(card: ModelCard) -> str:
    return (
        f"{card.arch:<20} {card.parameters / 1e6:>8.2f} M  {card.multiply_adds / 1e9:>9.1f}  "
        f"{card.output_stride:>6}  {card.encoder or '(its own)'}, {card.paper}"
    )


def _format_card(card: ModelCard) -> str:
    rows = {
        "architecture": card.arch,
        "encoder": card.encoder or "(its own)",
        "paper": card.paper,
        "bands": f"{card.bands}",
        "classes": f"{card.classes}",
        **{f"options.{key}": f"{value}" for key, value in card.options.items()},
        "parameters": f"{card.parameters:,}",
        "  of the encoder": f"{card.encoder_parameters:,}",
        "multiply-adds": f"{card.multiply_adds:,} for 512 x 512 pixels",
        "output stride": f"{card.output_stride}",
    }
    return "\n".join(f"{name:<17} {value}" for name, value in rows.items())


def _list_encoders() -> None:
    from geoseg.networks.models import list_encoders

    click.echo("encoders (model.encoder); tu-NAME for any other network of timm:")
    encoders = list_encoders()
    width = max(map(len, encoders)) + 2
    for start in range(0, len(encoders), 4):
        click.echo("  " + "".join(f"{name:<{width}}" for name in encoders[start : start + 4]))
