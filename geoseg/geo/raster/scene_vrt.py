"""GDAL VRT of a scene's bands: one data type, palette as colours, validity as alpha."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp, MaskFlags

from geoseg.errors import SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import describe, open_description
from geoseg.options.headers import MAX_NAME

_PALETTE_COLOURS = ("red", "green", "blue")
_PALETTE_ALPHA = 4

# Elements of a VRT with the georeferencing.
_GEOREFERENCING = ("SRS", "GeoTransform", "GCPList")

# Characters that no name in a file may have.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

# Any opacity above 0 is valid, whatever the data type of the alpha band.
_OPAQUE = "0:0,1:255"


# 64-bit integers are counts and keys, not measured light; means and warps would round them.
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True)
class Band:
    """A band as users number them.

    Attributes:
        name: Its description, else its colour, else `bandN`.
        number: Number in GDAL, from 1.
        dtype: Data type.
        nodata: Sentinel within the range of its data type, or None.
        colour: Component (1 to 3) of the palette that GDAL's band has indexes of; 0 without one.
        is_alpha: Whether it is an alpha band.
    """

    name: str
    number: int
    dtype: str
    nodata: float | None
    colour: int = 0
    is_alpha: bool = False


def list_bands(source: Any, *, palette: bool = True) -> list[Band]:
    """List the bands of a dataset.

    Args:
        source: The dataset.
        palette: Whether a palette that is its only data band is listed as red, green and blue,
            instead of as the band of its indexes.
    """
    bands = [
        Band(
            name,
            number,
            dtype,
            _possible_nodata(nodata, dtype),
            is_alpha=colour == ColorInterp.alpha,
        )
        for number, (name, dtype, nodata, colour) in enumerate(
            zip(_names(source), source.dtypes, source.nodatavals, source.colorinterp, strict=True),
            start=1,
        )
    ]
    data = [band for band in bands if not band.is_alpha]
    if palette and len(data) == 1 and has_palette(source, data[0].number):
        number = data[0].number
        colours = [
            Band(name, number, "uint8", None, colour)
            for colour, name in enumerate(_PALETTE_COLOURS, start=1)
        ]
        return colours + [band for band in bands if band.is_alpha]
    return bands


def validity_band(source: Any, bands: Sequence[Band]) -> str | None:
    """Return the mask or alpha band, as a VRT names bands: `4`, `mask,1`, or None.

    Alpha counts in every data type, not only in those in which GDAL uses it as a mask.

    Args:
        source: The dataset.
        bands: Bands that are read; an alpha band among them counts as data.
    """
    alpha = next((i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha), None)
    if alpha is not None:
        return None if any(band.number == alpha for band in bands) else str(alpha)
    if MaskFlags.per_dataset in source.mask_flag_enums[bands[0].number - 1]:
        return f"mask,{bands[0].number}"
    return None


def check_dtypes(bands: Sequence[Band], path: str) -> None:
    """Check that bands have a data type that geoseg reads; raise `SceneReadError` if not."""
    unsupported = next((band.dtype for band in bands if band.dtype not in _DTYPES), None)
    if unsupported is None:
        return
    if unsupported.startswith("complex"):
        raise SceneReadError(
            f"{path}: has {unsupported} pixels, geoseg reads integers and real numbers; "
            "convert with gdal_translate -ot Float32"
        )
    raise SceneReadError(
        f"{path}: has {unsupported} pixels, geoseg reads integers of up to 32 bits, float32 and "
        "float64; convert with gdal_translate -ot Int32 or -ot Float64"
    )


def differing_nodata(bands: Sequence[Band]) -> bool:
    """Return whether bands have different sentinels; bands without one are skipped."""
    found = {str(float(band.nodata)) for band in bands if band.nodata is not None}
    return len(found) > 1


def may_be_colour(nodata: float | None, dtype: str) -> bool:
    """Return whether a valid pixel may have the sentinel in some of its bands.

    Pure red has 0 in two bands, so a sentinel of 0, or of 255 in bytes, counts only where
    all bands have it. Other sentinels, such as -9999, count in any band.
    """
    return nodata is not None and (nodata == 0 or (nodata == 255 and dtype == "uint8"))


def open_view(
    source: Any,
    bands: Sequence[Band],
    validity: str | None,
    assumed: Grid | None = None,
    mask: str | None = None,
) -> Any:
    """Open bands of a dataset as a new dataset, with an alpha band if more than a sentinel counts.

    Args:
        source: The dataset.
        bands: Its bands, in order.
        validity: From `validity_band`.
        assumed: Grid of a dataset without georeferencing.
        mask: Raster of the valid pixels, to be used instead of `validity`.

    Returns:
        A dataset of `bands` in their common data type and, after them, alpha: 0 or 255.
        With a palette, or with different sentinels, there is always an alpha band.
    """
    view, name = _describe_bands(source, bands, assumed)
    if mask is not None:
        _add_band(view, "uint8", _opacity(mask, "1"), ColorInterp.alpha)
    elif parts := _validity_parts(source, name, bands, validity):
        _add_band(view, "uint8", _intersect(parts, view.attrib), ColorInterp.alpha)
    return open_description(ElementTree.tostring(view, encoding="unicode"))


def describe_masked_view(
    source: Any, bands: Sequence[Band], validity: str | None, mask: str | None = None
) -> tuple[str, bool]:
    """Return bands of a dataset as the text of a VRT whose mask band says which pixels are valid.

    Args:
        source: The dataset.
        bands: Its bands, in order.
        validity: From `validity_band`.
        mask: Raster of the valid pixels, to be used instead of `validity` and sentinels.

    Returns:
        The text, and whether it has a mask band; without one all pixels are valid.
    """
    view, name = _describe_bands(source, bands)
    if mask is not None:
        parts = [[_opacity(mask, "1")]]
    else:
        parts = _all_validity_parts(source, name, bands, validity)
    if parts:
        masked = ElementTree.SubElement(view, "MaskBand")
        _add_band(masked, "uint8", _intersect(parts, view.attrib))
    return ElementTree.tostring(view, encoding="unicode"), bool(parts)


def _describe_bands(
    source: Any, bands: Sequence[Band], assumed: Grid | None = None
) -> tuple[ElementTree.Element, str]:
    """Return a VRT of bands of a dataset in their common data type, and the dataset's name."""
    described = ElementTree.fromstring(describe(source))
    name = source_name(source, described)
    size = {"rasterXSize": str(source.width), "rasterYSize": str(source.height)}
    view = ElementTree.Element("VRTDataset", size)
    view.extend(part for part in described if _is_georeferencing(part))
    if assumed is not None:
        ElementTree.SubElement(view, "SRS").text = assumed.crs.to_wkt()
        ElementTree.SubElement(view, "GeoTransform").text = ", ".join(
            map(repr, assumed.transform.to_gdal())
        )
    dtype = _common_dtype(bands)
    for band in bands:
        _add_band(view, dtype, _data_source(name, band))
    return view, name


def _common_dtype(bands: Sequence[Band]) -> str:
    return str(np.result_type(*(band.dtype for band in bands)))


def _possible_nodata(nodata: float | None, dtype: str) -> float | None:
    """Return the sentinel, or None if no pixel can have it: -9999 in bytes, 0.5 in integers."""
    if nodata is None or not dtype.startswith(("int", "uint")):
        return nodata
    limits = np.iinfo(dtype)
    return nodata if limits.min <= nodata <= limits.max and nodata == int(nodata) else None


def name_band(description: str | None, colour: ColorInterp, number: int) -> str:
    """Return the name of a band: its description, else its colour, else `bandN`.

    Control characters in it become spaces, and it is cut to the length that files may have.
    """
    if description and (name := clean_name(description)).strip():
        return name
    named = colour not in (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
    return colour.name if named else f"band{number}"


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether bands have only default names (`band1`, `2`): only their order counts."""
    return all(name.lower().removeprefix("band").isdigit() for name in names)


def clean_name(text: str) -> str:
    """Return a name of a band as geoseg stores it, see `name_band`."""
    return _CONTROL.sub(" ", text)[:MAX_NAME]


def _names(source: Any) -> list[str]:
    bands = zip(source.descriptions, source.colorinterp, strict=True)
    return [name_band(*band, number) for number, band in enumerate(bands, start=1)]


def has_palette(source: Any, number: int) -> bool:
    """Return whether the values of a band are indexes of a palette."""
    if source.colorinterp[number - 1] != ColorInterp.palette:
        return False
    try:
        return bool(source.colormap(number))
    except ValueError:  # tagged as a palette, but there is none
        return False


def source_name(source: Any, described: ElementTree.Element) -> str:
    """Return the name by which GDAL opens the dataset; of a VRT, its description."""
    name = described.findtext("VRTRasterBand/SimpleSource/SourceFilename")
    if source.driver == "VRT" or name is None:
        return ElementTree.tostring(described, encoding="unicode")
    return name


def _is_georeferencing(part: ElementTree.Element) -> bool:
    return part.tag in _GEOREFERENCING or (part.tag == "Metadata" and part.get("domain") == "RPC")


def _add_band(
    view: ElementTree.Element,
    dtype: str,
    sources: ElementTree.Element | Sequence[ElementTree.Element],
    colour: ColorInterp = ColorInterp.undefined,
) -> None:
    kind = {"dataType": typename_fwd[dtype_rev[dtype]]}
    band = ElementTree.SubElement(view, "VRTRasterBand", kind)
    ElementTree.SubElement(band, "ColorInterp").text = colour.name.capitalize()
    # A later source is written over an earlier one, except where it has its own nodata value.
    band.extend([sources] if isinstance(sources, ElementTree.Element) else sources)


def _vrt_source(kind: str, name: str, band: str, **parts: str) -> ElementTree.Element:
    source = ElementTree.Element(kind)
    ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "0"}).text = name
    ElementTree.SubElement(source, "SourceBand").text = band
    for tag, text in parts.items():
        ElementTree.SubElement(source, tag).text = text
    return source


def _data_source(name: str, band: Band) -> ElementTree.Element:
    if band.colour:
        component = {"ColorTableComponent": str(band.colour)}
        return _vrt_source("ComplexSource", name, str(band.number), **component)
    return _vrt_source("SimpleSource", name, str(band.number))


def _palette_alpha(name: str, number: int) -> ElementTree.Element:
    """Return a source of the palette's opacity."""
    component = {"ColorTableComponent": str(_PALETTE_ALPHA)}
    return _vrt_source("ComplexSource", name, str(number), **component)


def _validity_parts(
    source: Any, name: str, bands: Sequence[Band], validity: str | None
) -> list[list[ElementTree.Element]]:
    """Return what makes pixels valid, of which all must hold, each as sources of 0 or 255.

    There is nothing if a warp or `Scene` finds the validity in the values of the bands alone.
    """
    parts = [] if validity is None else [[_opacity(name, validity)]]
    palette = next((band.number for band in bands if band.colour), None)
    if palette is not None:
        index = source.nodatavals[palette - 1]
        entry = Band("", palette, "", _possible_nodata(index, source.dtypes[palette - 1]))
        parts.append([_palette_alpha(name, palette)])
        return parts + ([] if entry.nodata is None else [[_differs_from_nodata(name, entry)]])
    if differing_nodata(bands):
        return parts + _own_nodata(name, bands)
    nodata = next((band.nodata for band in bands if band.nodata is not None), None)
    if parts and may_be_colour(nodata, _common_dtype(bands)):
        parts.append([_differs_from_nodata(name, replace(band, nodata=nodata)) for band in bands])
    return parts


def _all_validity_parts(
    source: Any, name: str, bands: Sequence[Band], validity: str | None
) -> list[list[ElementTree.Element]]:
    """Return what makes pixels valid, as `_validity_parts`, with sentinels and NaN in any case."""
    parts = _validity_parts(source, name, bands, validity)
    if any(band.colour for band in bands):
        return parts
    nodata = next((band.nodata for band in bands if band.nodata is not None), None)
    if nodata is not None and not differing_nodata(bands):
        parts += _own_nodata(name, [replace(band, nodata=nodata) for band in bands])
    numbers = [band for band in bands if band.dtype.startswith("float")]
    nan = float("nan")
    return parts + [[_differs_from_nodata(name, replace(band, nodata=nan))] for band in numbers]


def _own_nodata(name: str, bands: Sequence[Band]) -> list[list[ElementTree.Element]]:
    """Return the parts of the validity by each band's own sentinel.

    A sentinel that cannot be a colour counts in its band alone; those that may be a colour, only
    where all bands that have a sentinel have theirs.
    """
    marked = [band for band in bands if band.nodata is not None]
    exact = [band for band in marked if not may_be_colour(band.nodata, band.dtype)]
    return [
        [_differs_from_nodata(name, band) for band in group]
        for group in (marked, *([band] for band in exact))
    ]


def _intersect(
    parts: Sequence[Sequence[ElementTree.Element]], size: dict[str, str]
) -> Sequence[ElementTree.Element]:
    """Return sources of 255 where all parts are 255, and of 0 elsewhere."""
    if len(parts) == 1:
        return parts[0]
    document = ElementTree.Element("VRTDataset", size)
    for part in parts:
        _add_band(document, "uint8", part)
    nested = ElementTree.tostring(document, encoding="unicode")
    return [_vrt_source("SimpleSource", nested, "1")] + [
        _vrt_source("ComplexSource", nested, str(number), NODATA="255")
        for number in range(2, len(parts) + 1)
    ]


def _differs_from_nodata(name: str, band: Band) -> ElementTree.Element:
    """Return a source of 255 where a band is not its sentinel."""
    parts = {"ScaleOffset": "255", "ScaleRatio": "0", "NODATA": repr(band.nodata)}
    return _vrt_source("ComplexSource", name, str(band.number), **parts)


def _opacity(name: str, validity: str) -> ElementTree.Element:
    return _vrt_source("ComplexSource", name, validity, LUT=_OPAQUE)
