"""The command `geoseg export`."""

from __future__ import annotations

import click

from geoseg.cli.options import output_option, overwrite_option


@click.command()
@click.argument("model")
@output_option("A file: .onnx (runs in QGIS with Deepness), .pt2 (torch.export), .json (STAC MLM).")
@overwrite_option
def command(model: str, output: str, overwrite: bool) -> None:
    """Export a model to the format of another program.

    The exported model is run and compared with the original before it appears.
    """
    from geoseg.api.export import export

    click.echo(f"{model} → {export(model, output, overwrite=overwrite)}")
