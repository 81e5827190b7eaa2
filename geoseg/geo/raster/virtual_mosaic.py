"""Virtual mosaics (VRT) of rasters that are adjacent on one grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import open_raster


def write_mosaic(
    path: str | Path,
    grid: Grid,
    parts: Iterable[tuple[Path, Window]],
    *,
    bands: Sequence[str],
    dtype: str,
    scales: Sequence[float] = (),
    tags: dict[str, str] | None = None,
    nodata: int | None = None,
    has_gaps: bool = False,
) -> None:
    """Write a VRT of rasters on a grid, with a mask if one of them has one.

    Args:
        path: Final name, `.vrt`. The parts keep their places relative to it.
        grid: Grid of the mosaic.
        parts: Files, each with its window, which may extend beyond the grid.
        bands: Names of the bands, which each file has in this order.
        dtype: Data type of all of them.
        scales: Factor of each band from stored to real values.
        tags: Dataset tags.
        nodata: Value that the parts have in pixels that are nodata, instead of a mask.
        has_gaps: Whether some pixels of the grid are in no part, and so nodata.
    """
    path, parts = Path(path), list(parts)
    mosaic = start_mosaic(grid)
    if tags:
        metadata = ElementTree.SubElement(mosaic, "Metadata")
        for key, value in tags.items():
            ElementTree.SubElement(metadata, "MDI", {"key": key}).text = value
    for number, name in enumerate(bands, start=1):
        band = add_band(mosaic, number, name, dtype)
        if nodata is not None:
            ElementTree.SubElement(band, "NoDataValue").text = str(nodata)
        if scales:
            ElementTree.SubElement(band, "Scale").text = repr(scales[number - 1])
        band.extend(_sources(path, parts, str(number)))
    if nodata is None and (has_gaps or any(_has_mask(file) for file, _ in parts)):
        add_mask_band(mosaic).extend(_sources(path, parts, "mask,1"))
    path.write_bytes(ElementTree.tostring(mosaic))


def _has_mask(file: Path) -> bool:
    with open_raster(file) as part:
        return MaskFlags.per_dataset in part.mask_flag_enums[0]


def _sources(
    path: Path, parts: Sequence[tuple[Path, Window]], band: str
) -> Iterator[ElementTree.Element]:
    for file, window in parts:
        name = Path(os.path.relpath(file, path.parent)).as_posix()
        yield placed_source("SimpleSource", name, band, window)


def start_mosaic(grid: Grid) -> ElementTree.Element:
    """Return a VRT without bands on a grid."""
    size = {"rasterXSize": str(grid.width), "rasterYSize": str(grid.height)}
    mosaic = ElementTree.Element("VRTDataset", size)
    ElementTree.SubElement(mosaic, "SRS").text = grid.crs.to_wkt()
    transform = ElementTree.SubElement(mosaic, "GeoTransform")
    transform.text = ", ".join(map(repr, grid.transform.to_gdal()))
    return mosaic


def add_band(
    mosaic: ElementTree.Element, number: int, name: str, dtype: str
) -> ElementTree.Element:
    """Add a band without sources to a VRT, and return it."""
    kind = {"dataType": typename_fwd[dtype_rev[dtype]], "band": str(number)}
    band = ElementTree.SubElement(mosaic, "VRTRasterBand", kind)
    ElementTree.SubElement(band, "Description").text = name
    return band


def add_mask_band(mosaic: ElementTree.Element) -> ElementTree.Element:
    """Add a mask band without sources to a VRT, and return it."""
    mask = ElementTree.SubElement(ElementTree.SubElement(mosaic, "MaskBand"), "VRTRasterBand")
    mask.set("dataType", "Byte")
    return mask


def placed_source(
    kind: str, name: str, band: str, window: Window, **settings: str
) -> ElementTree.Element:
    """Return a whole raster as a source of a band of a VRT.

    Args:
        kind: `SimpleSource` or `ComplexSource`.
        name: File, relative to the folder of the VRT.
        band: Its band, as GDAL names it: `1`, or `mask,1`.
        window: Its pixels in the VRT.
        **settings: Further elements of the source.
    """
    source = ElementTree.Element(kind)
    ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "1"}).text = name
    ElementTree.SubElement(source, "SourceBand").text = band
    size = {"xSize": str(window.width), "ySize": str(window.height)}
    ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    offset = {"xOff": str(window.col_off), "yOff": str(window.row_off)}
    ElementTree.SubElement(source, "DstRect", {**offset, **size})
    for tag, text in settings.items():
        ElementTree.SubElement(source, tag).text = text
    return source
