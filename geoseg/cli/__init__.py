"""Command line: options in, one summary line out."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

import click

from geoseg.cli.environment import drop_unsuitable_data, let_threads_sleep
from geoseg.credentials import hide_credentials
from geoseg.errors import GeosegError, describe_os_error
from geoseg.version import __version__

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import TracebackType

# Exit code after ctrl-C, as in shells.
_INTERRUPTED = 130

# Help line of each command. A command is imported only when it runs.
COMMANDS = {
    "tile": "Cut scenes and footprints into tiles to train on.",
    "train": "Train a network on tiles.",
    "predict": "Find the buildings of a scene: probabilities, mask, footprints.",
    "merge": "Merge the shards of a prediction (predict --shard).",
    "vectorize": "Turn a probability raster into footprints.",
    "align": "Move labels that are beside their buildings.",
    "evaluate": "Score footprints against the truth.",
    "export": "Export a model as ONNX for QGIS, as torch.export, or as a STAC item.",
    "demo": "Predict a real scene, then run all steps on a synthetic town.",
    "models": "List the architectures.",
    "info": "Describe a scene, a tiles folder, a model or a layer.",
    "doctor": "Check this machine.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"geoseg.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="geoseg")
def cli() -> None:
    """From a GeoTIFF to a map layer.

    \b
    geoseg tile scene.tif --labels footprints.geojson -o tiles/
    geoseg train tiles/ -o runs/a --config configs/small.yaml
    geoseg predict other.tif -m runs/a/model.safetensors -o out/
    geoseg vectorize out/prob.tif -o other.geojson
    geoseg evaluate out/footprints.gpkg --truth truth.gpkg -o report/
    """  # noqa: D301


def main() -> None:
    """Run the command line; an error that a user can correct ends with one line and code 2."""
    _allow_any_character(sys.stdout)
    sys.unraisablehook = _report_unraisable
    sys.excepthook = _report_exception
    let_threads_sleep(os.environ)
    for line in drop_unsuitable_data(os.environ):
        _complain(line)
    sys.exit(_run())


def _allow_any_character(stream: TextIO) -> None:
    """Write `?` for characters that an encoding does not have, such as `→` in Windows' cp1252.

    A finished job must not end with a UnicodeEncodeError because its output is redirected.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def _report_unraisable(ignored: UnraisableHookArgs) -> None:
    """Print an exception that Python cannot raise, unless GDAL's own message is the reason.

    GDAL quotes the bytes of a damaged file, and rasterio's logger cannot decode them. The error
    itself is still raised, and printed on one line.
    """
    source = f"{ignored.err_msg} {ignored.object}"
    if isinstance(ignored.exc_value, UnicodeDecodeError) and "rasterio" in source:
        return
    sys.__unraisablehook__(ignored)


def _report_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an exception that ends the program; rasterio prints what it ignores here as well."""
    if trace is None and kind is UnicodeDecodeError:
        return
    sys.__excepthook__(kind, error, trace)


def _run() -> int:
    """Run the command and return its exit code."""
    if "" in sys.argv[1:]:
        _complain("an argument is empty; is a variable of your shell not set?")
        return 2
    if not sys.argv[1:]:  # versions of click differ in what they do then
        click.echo(click.Context(cli, info_name="geoseg").get_help(), err=True)
        return 2
    try:
        code = cli(prog_name="geoseg", standalone_mode=False)
    except click.ClickException as error:
        _complain(_usage_line(error))
    except click.Abort:
        _complain("interrupted; existing outputs are unchanged, run the same command again")
        return _INTERRUPTED
    except GeosegError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{describe_os_error(error)}; check the path, its permissions and the disk")
    except MemoryError:
        _complain("out of memory; lower --max-memory, or use a machine with more memory")
    else:
        return code if isinstance(code, int) else 0
    return 2


def _complain(message: str) -> None:
    """Print an error on one line; names of files may contain line breaks."""
    line = hide_credentials(" ".join(message.splitlines()))
    click.echo(f"geoseg: {line}", err=True)


def _usage_line(error: click.ClickException) -> str:
    """Return a usage error in one line, with a suggestion where there is one."""
    ctx = getattr(error, "ctx", None)
    what = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.NoSuchOption):
        what = f"No such option '{error.option_name}'"
    page = f"see {ctx.command_path if ctx else 'geoseg'} --help"
    hint = _suggest(error, ctx) if ctx else ""
    if hint:
        page = f"{hint} {page}" if hint.endswith("?") else f"{hint}; {page}"
    return f"{what}; {page}"


def _suggest(error: click.ClickException, ctx: click.Context) -> str:
    # pydantic, which this imports, is not needed for the help.
    from geoseg.cli.hints import suggest_command, suggest_for_word, suggest_option

    words = sys.argv[1:]
    if ctx.command is cli:
        name = next((word for word in words if not word.startswith("-")), "")
        return "" if name in COMMANDS or not name else suggest_command(name, list(COMMANDS))
    if isinstance(error, click.NoSuchOption):
        return suggest_option(str(ctx.info_name), ctx.command, error.option_name, words)
    verb = str(ctx.info_name)
    message = error.format_message()
    hints = (suggest_for_word(verb, word) for word in words if word in message)
    return next(filter(None, hints), "")
