"""Acquisition dates of rasters, from their metadata."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from geoseg.geo.raster.opening import open_raster

# Domain and key of the metadata, the most specific first: the TIFF tag may be the date at which the
# file was written.
_KEYS = (
    ("IMAGERY", "ACQUISITIONDATETIME"),
    (None, "ACQUISITION_DATE"),
    (None, "TIFFTAG_DATETIME"),
)
_TIFF_FORMAT = "%Y:%m:%d %H:%M:%S"


def read_date(path: str | Path) -> datetime | None:
    """Read when a scene was acquired, in UTC unless its metadata name another time zone.

    Returns:
        None if the metadata have no date that can be read.

    Raises:
        SceneReadError: If the scene does not exist or is not a raster.
    """
    with open_raster(path) as source:
        dates = [_parse(source.tags(ns=domain).get(key, "")) for domain, key in _KEYS]
    return next((date for date in dates if date is not None), None)


def _parse(text: str) -> datetime | None:
    text = text.strip(" \0")
    for parse in (datetime.fromisoformat, lambda text: datetime.strptime(text, _TIFF_FORMAT)):
        try:
            date = parse(text)
        except ValueError:
            continue
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    return None
