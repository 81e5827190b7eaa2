"""The command `geoseg merge`."""

from __future__ import annotations

from typing import Any

import click

from geoseg.cli.options import output_option, overwrite_option, read_workers, workers_options
from geoseg.cli.predict import exit_if_left_out, list_files
from geoseg.cli.progress import progress_bar


@click.command()
@click.argument("shards", nargs=-1, required=True, metavar="SHARD...")
@output_option("A folder, or one file, by its suffix, as of geoseg predict.")
@workers_options()
@overwrite_option
def command(shards: tuple[str, ...], output: str, overwrite: bool, **given: Any) -> None:
    """Merge the shards of a prediction to the outputs of the whole job.

    Shards are the folders that geoseg predict --shard N/M wrote, all M of them. The outputs are
    those that one job without shards would have written, and the shards are left as they are.
    """
    workers = read_workers(given)
    from geoseg.api.shards import merge

    with progress_bar() as progress:
        result = merge(shards, output, overwrite=overwrite, workers=workers, progress=progress)
    click.echo(f"{result.scene} → {list_files(result)}")
    exit_if_left_out(result.left_out)
