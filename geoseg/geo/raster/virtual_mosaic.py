"""Virtual mosaics (VRT) of rasters that are adjacent on one grid."""

from __future__ import annotations

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
) -> None:
    """Write a VRT of rasters which together cover a grid, with a mask if one of them has one.

    Args:
        path: Final name, `.vrt`, in a folder above the parts.
        grid: Grid of the mosaic.
        parts: Files, each with its window.
        bands: Names of the bands, which each file has in this order.
        dtype: Data type of all of them.
        scales: Factor of each band from stored to real values.
        tags: Dataset tags.
    """
    path, parts = Path(path), list(parts)
    size = {"rasterXSize": str(grid.width), "rasterYSize": str(grid.height)}
    mosaic = ElementTree.Element("VRTDataset", size)
    ElementTree.SubElement(mosaic, "SRS").text = grid.crs.to_wkt()
    transform = ElementTree.SubElement(mosaic, "GeoTransform")
    transform.text = ", ".join(map(repr, grid.transform.to_gdal()))
    if tags:
        metadata = ElementTree.SubElement(mosaic, "Metadata")
        for key, value in tags.items():
            ElementTree.SubElement(metadata, "MDI", {"key": key}).text = value
    kind = {"dataType": typename_fwd[dtype_rev[dtype]]}
    for number, name in enumerate(bands, start=1):
        band = ElementTree.SubElement(mosaic, "VRTRasterBand", {**kind, "band": str(number)})
        ElementTree.SubElement(band, "Description").text = name
        if scales:
            ElementTree.SubElement(band, "Scale").text = repr(scales[number - 1])
        band.extend(_sources(path, parts, str(number)))
    if any(_has_mask(file) for file, _ in parts):
        mask = ElementTree.SubElement(ElementTree.SubElement(mosaic, "MaskBand"), "VRTRasterBand")
        mask.set("dataType", "Byte")
        mask.extend(_sources(path, parts, "mask,1"))
    path.write_bytes(ElementTree.tostring(mosaic))


def _has_mask(file: Path) -> bool:
    with open_raster(file) as part:
        return MaskFlags.per_dataset in part.mask_flag_enums[0]


def _sources(
    path: Path, parts: Sequence[tuple[Path, Window]], band: str
) -> Iterator[ElementTree.Element]:
    for file, window in parts:
        source = ElementTree.Element("SimpleSource")
        name = ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "1"})
        name.text = file.relative_to(path.parent).as_posix()
        ElementTree.SubElement(source, "SourceBand").text = band
        size = {"xSize": str(window.width), "ySize": str(window.height)}
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        offset = {"xOff": str(window.col_off), "yOff": str(window.row_off)}
        ElementTree.SubElement(source, "DstRect", {**offset, **size})
        yield source
