"""Names that GDAL's bindings take literally, for files with any legal name.

rasterio and pyogrio take some names apart: `a!b.gpkg` as the member b of an archive a, `zip:b` as
a URI, and pyogrio drops `;`, `?` and line breaks. Both refuse names that are not UTF-8. Such files
are read and written under another name, by symbolic links in a temporary folder.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from geoseg.geo.paths import is_remote
from geoseg.jobs.files import process_folder

_UNSAFE = re.compile(r"[!;?#\x00-\x1f\x7f\ud800-\udfff]|^[A-Za-z][A-Za-z0-9+.-]+:")


def readable_name(path: str | Path) -> str:
    """Return a name under which GDAL's bindings read a file: its own, if it is taken literally.

    Args:
        path: A local file, or a name that only GDAL opens, which is returned unchanged.
    """
    name = str(path)
    if not _UNSAFE.search(name) or is_remote(name) or not Path(name).exists():
        return name
    return _link(Path(name).absolute())


@lru_cache(maxsize=1024)
def _link(file: Path) -> str:
    """Return a link to a file, in a folder that also has links to its sidecar files."""
    folder = process_folder() / secrets.token_hex(8)
    folder.mkdir()
    if not _UNSAFE.search(file.name):
        (folder / "d").symlink_to(file.parent, target_is_directory=True)
        return str(folder / "d" / file.name)
    stem = _UNSAFE.sub("_", file.stem)
    # A Shapefile has several files, and others have sidecar files.
    for sibling in file.parent.iterdir():
        if sibling.name.startswith(f"{file.stem}."):
            ending = sibling.name.removeprefix(file.stem)
            (folder / f"{stem}{ending}").symlink_to(sibling)
    return str(folder / f"{stem}{file.suffix}")


@contextmanager
def writable_name(path: Path) -> Iterator[Path]:
    """Yield a name under which GDAL's bindings write a file, which then gets its own name.

    Args:
        path: A file that does not exist, in an existing folder. Further files of the same stem
            (those of a Shapefile) get their names, too.
    """
    if not _UNSAFE.search(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="geoseg_") as links:
        folder = Path(links) / "d"
        folder.symlink_to(path.parent.absolute(), target_is_directory=True)
        # If this process is killed, the file is recognised as a temporary one.
        plain = f".geoseg.{secrets.token_hex(4)}.partial"
        try:
            yield folder / f"{plain}{_UNSAFE.sub('_', path.suffix)}"
            for file in path.parent.glob(f"{plain}.*"):
                ending = path.suffix if file.suffix == path.suffix else file.suffix
                os.replace(file, path.with_name(f"{path.stem}{ending}"))
        finally:
            for file in path.parent.glob(f"{plain}*"):
                file.unlink(missing_ok=True)
