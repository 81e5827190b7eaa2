"""Environment variables that libraries read when they are loaded.

QGIS, conda and PostGIS set some of them for all programs of a machine, and lead PROJ and GDAL to
the data of another installation. The libraries in rasterio then read data of another version, and
know no coordinate reference system.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import MutableMapping
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path

_PROJ, _GDAL = ("PROJ_DATA", "PROJ_LIB"), "GDAL_DATA"

# Turns of the loop in which a thread waits before it sleeps.
_SPINS = "20000"

# What `geoseg doctor` reports.
removed: list[str] = []

_LAYOUT = "SELECT value FROM metadata WHERE key = 'DATABASE.LAYOUT.VERSION.{}'"


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Let threads of OpenMP, such as those of torch, wait busily for a short time only.

    By default they wait busily for longer. As soon as another program needs one of the
    cores, each of the thousands of waits of a training step lasts until the system takes the core
    from the thread that waits, and the training is more than ten times slower. Threads that sleep
    at once (`OMP_WAIT_POLICY=passive`) cost a quarter of the speed on an idle machine.

    Args:
        environment: `os.environ`, before torch is loaded. What the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)


def drop_unsuitable_data(environment: MutableMapping[str, str]) -> list[str]:
    """Remove variables whose data do not suit the libraries that rasterio brings.

    Args:
        environment: `os.environ`.

    Returns:
        A line for each variable that was removed; they are kept in `removed`, too.
    """
    bundled = _bundled_folder()
    if bundled is None:  # built against the libraries of the system, which has its own data
        return []
    for name in (*_PROJ, _GDAL):
        folders = map(Path, filter(None, environment.get(name, "").split(os.pathsep)))
        suits = _suits_gdal if name == _GDAL else partial(_suits_proj, bundled / "proj_data")
        if name not in environment or any(map(suits, folders)):
            continue
        value = environment[name]
        del environment[name]
        library = name.partition("_")[0]
        removed.append(
            f"{name}={value}: is not the data of this {library}; using the data that come with "
            f"rasterio (unset {name} to avoid this message)"
        )
    return removed


def _bundled_folder() -> Path | None:
    """Return the folder of rasterio if it contains data, without importing it."""
    spec = find_spec("rasterio")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return folder if folder and (folder / "proj_data" / "proj.db").is_file() else None


def _suits_gdal(folder: Path) -> bool:
    return (folder / "gdalvrt.xsd").is_file()


def _suits_proj(bundled: Path, folder: Path) -> bool:
    found, needed = _read_layout(folder), _read_layout(bundled)
    if found is None or needed is None:
        return needed is None
    return found[0] == needed[0] and found[1] >= needed[1]


def _read_layout(folder: Path) -> tuple[int, int] | None:
    """Read the version of the layout of a PROJ database; None if there is none."""
    file = folder / "proj.db"
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            major, minor = (
                int(database.execute(_LAYOUT.format(part)).fetchone()[0])
                for part in ("MAJOR", "MINOR")
            )
    except (sqlite3.Error, TypeError, ValueError):
        return None
    return major, minor
