"""`geoseg export`."""

from __future__ import annotations

import click

from geoseg.cli.options import output_option, overwrite_option


@click.command()
@click.argument("model")
@output_option("A file: .onnx (runs in QGIS with Deepness), .pt2 (torch.export), .json (STAC MLM).")
@overwrite_option
def command(model: str, output: str, overwrite: bool) -> None:
    """Write a model in the format of another program.

    What was written is run against the original before it appears.
    """
    from geoseg.networks.export import export
    from geoseg.networks.model_file import find_model

    click.echo(f"{model} → {export(find_model(model), output, overwrite=overwrite)}")
