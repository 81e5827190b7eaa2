"""Names of several scenes: folders, patterns, lists of files, STAC items and catalogs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from glob import glob, has_magic
from pathlib import Path

from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.paths import (
    has_raster_suffix,
    is_a_folder,
    is_missing,
    is_remote,
    list_rasters,
    may_be_stac,
    no_such_file,
)
from geoseg.geo.raster import is_raster

_LIST = ".txt"


@dataclass(frozen=True)
class FoundScene:
    """A scene that was found by its name.

    Attributes:
        name: The name by which it is opened.
        date: When it was acquired, if a STAC item says so; see `read_date` for other scenes.
    """

    name: str
    date: datetime | None = None


def expand_scene_names(
    names: str | Path | Sequence[str | Path], asset: str | None = None
) -> list[str]:
    """Return the names of the scenes that are meant; arguments and errors as of `find_scenes`."""
    return [scene.name for scene in find_scenes(names, asset)]


def find_scenes(
    names: str | Path | Sequence[str | Path],
    asset: str | None = None,
    failed: dict[str, SceneReadError] | None = None,
) -> list[FoundScene]:
    """Return the scenes that are meant, in order.

    Args:
        names: One or several of: a file, or another name that GDAL opens; a folder, for all rasters
            directly in it; a pattern such as `2023/*.tif` (`**` for folders below), which finds
            rasters only unless it ends in another suffix; a text file with one of these per line,
            relative to its folder, in which lines that begin with `#` are comments; a STAC item,
            item collection, collection or static catalog, as a file or an address.
        asset: Key of the asset of STAC items; by its role when None.
        failed: Gets the errors of STAC documents and items that cannot be used, by their names;
            None to raise them.

    Raises:
        SceneReadError: If a folder, pattern or list has no scene, or a STAC document or item cannot
            be used.
        ConfigError: If a list cannot be read.
    """
    given = [names] if isinstance(names, str | Path) else list(names)
    if not given or "" in given:
        raise ConfigError("no scene was given")
    scenes: list[FoundScene] = []
    for name in (name for one in given for name in _expand(str(one))):
        if may_be_stac(name):
            scenes += _find_in_stac(name, asset, failed)
        else:
            scenes.append(FoundScene(name))
    return scenes


def _find_in_stac(
    name: str, asset: str | None, failed: dict[str, SceneReadError] | None
) -> list[FoundScene]:
    # pystac, which this imports, is needed for STAC only.
    from geoseg.geo.stac import find_items, find_raster

    if is_missing(name):
        return [FoundScene(name)]  # is refused like any other missing file
    scenes = []
    with _collected(name, failed):
        for item in find_items(name, failed):
            with _collected(item.name, failed):
                scenes.append(FoundScene(find_raster(item, asset), item.date))
    return scenes


@contextmanager
def _collected(name: str, failed: dict[str, SceneReadError] | None) -> Iterator[None]:
    """Put the error of a block among those that failed, or raise it if they are not wanted."""
    try:
        yield
    except SceneReadError as error:
        if failed is None:
            raise
        failed[name] = error


def _expand(name: str) -> Iterator[str]:
    path = Path(name)
    if is_remote(name) or name.lstrip().startswith("<"):  # the text of a VRT
        yield name
    elif path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() == _LIST and path.is_file() and not is_raster(path):
        yield from _in_list(path)
    elif has_magic(name) and not path.exists():
        yield from _matching(name)
    else:
        yield name


def _in_folder(folder: Path) -> list[str]:
    rasters = list_rasters(folder)
    if not rasters:
        raise SceneReadError(is_a_folder(folder, "raster"))
    return [str(file) for file in rasters]


def _matching(pattern: str) -> list[str]:
    files = [name for name in sorted(glob(pattern, recursive=True)) if Path(name).is_file()]
    suffix = Path(pattern).suffix
    if not suffix or has_magic(suffix):  # sidecar files match it, too
        files = [name for name in files if has_raster_suffix(name)]
    if not files:
        raise SceneReadError(f"{pattern}: matches no raster; check the pattern")
    return files


def _in_list(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no text in UTF-8; save it as such") from error
    lines = [line.strip() for line in lines]
    named = [(n, line) for n, line in enumerate(lines, start=1) if line and line[0] != "#"]
    if not named:
        raise SceneReadError(f"{path}: lists no scene; write one per line")
    for number, line in named:
        local = str(path.parent / line)
        name = line if is_remote(line) or (":" in line and is_missing(local)) else local
        if ":" not in name and not has_magic(name) and is_missing(name):
            raise SceneReadError(f"{path}, line {number}: {no_such_file(line)}")
        if Path(name).suffix.lower() == _LIST:
            raise ConfigError(f"{path}, line {number}: {line} is a list, too; name its scenes")
        yield from _expand(name)
