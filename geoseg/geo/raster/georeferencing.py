"""Where a scene lies, by its transform or by a model of its sensor, and how it is warped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform

from geoseg.errors import MissingCRSError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import describe, open_description
from geoseg.geo.raster.placeholder import assume_place

logger = logging.getLogger(__name__)

PlacedBy = Literal["transform", "gcps", "rpcs", "assumed"]

# Pixels of error that GDAL's approximate transformer may make; its default of 1/8 moves
# outlines visibly, and exactly 0 is refused.
_WARP_TOLERANCE = 0.001

# Rows and columns that a warp computes at a time, as GDAL chooses them itself.
_BLOCK = (128, 512)

# Files that GDAL keeps beside a raster and finds by itself.
_PARTS = {".msk": "its mask", ".ovr": "its overviews"}

_LONGITUDE_LATITUDE = CRS.from_epsg(4326)


@dataclass(frozen=True)
class Place:
    """How a raster lies on the ground.

    Attributes:
        grid: The pixels' own grid; without a transform the one that GDAL suggests: north up,
            about as many pixels as the raster has.
        by: What says so: the transform, ground control points, rational polynomials, or nothing
            but an assumption.
        options: What GDAL must know besides to follow `by`.
    """

    grid: Grid
    by: PlacedBy
    options: dict[str, Any]


def find_place(source: Any, path: str, assume_gsd_m: float | None = None) -> Place:
    """Finds where a raster lies, in the order in which GDAL's own tools look for it.

    Args:
        source: The dataset.
        path: As given by the user.
        assume_gsd_m: Pixel size of a raster that does not say at all; see `assume_place`.

    Raises:
        MissingCRSError: If it does not say.
        SceneReadError: If what it says is no place.
    """
    if source.crs is not None and not source.transform.is_identity:
        return Place(
            _grid(path, source.crs, source.transform, source.height, source.width), "transform", {}
        )
    points, crs = source.gcps
    crs = crs or source.crs
    if points and crs is not None:
        return _fitted(source, path, "gcps", crs, gcps=points)
    rpcs = source.rpcs
    if rpcs is not None:
        # The ground's mean height stands in for the terrain.
        options = {"RPC_HEIGHT": rpcs.height_off}
        return _fitted(source, path, "rpcs", _LONGITUDE_LATITUDE, rpcs=rpcs, **options)
    placeless = source.crs is None and source.transform.is_identity and not points
    if placeless and assume_gsd_m is not None:
        grid = assume_place(path, source.height, source.width, assume_gsd_m)
        return Place(grid, "assumed", {})
    raise _nowhere(source, path, bool(points))


def warn_of_place(place: Place, path: str) -> None:
    """Tells that a place is approximate, or invented, where it is."""
    if place.by == "assumed":
        logger.warning(
            "%s: does not say where it lies; laid at an invented place on the equator, with "
            "pixels of %g m",
            path,
            place.grid.transform.a,
        )
    if place.by == "rpcs":
        logger.warning(
            "%s: placed by its RPCs at the height of %g m, without terrain; hills and footprints "
            "may be off by many metres (gdalwarp -rpc -to RPC_DEM=dem.tif in.tif out.tif is exact)",
            path,
            place.options["RPC_HEIGHT"],
        )


def open_warped(
    view: Any, place: Place, grid: Grid, *, alpha: bool, nodata: float | None, is_colour: bool
) -> Any:
    """Warps a view of a scene bilinearly to a grid.

    A pixel does not depend on the window that it is read with.

    Args:
        view: From `open_view`, or a dataset with nothing but data bands.
        place: Where the scene lies.
        grid: The grid to read on.
        alpha: Whether the view's last band is alpha.
        nodata: The scene's sentinel.
        is_colour: Whether only pixels that have the sentinel in all bands are nodata; and none
            where there is an alpha band.

    Returns:
        A dataset on the grid: the data bands, then alpha, unless a sentinel that is no colour is
        all that says what is valid; it comes through the warp as it is then.
    """
    options = {
        "resampling": Resampling.bilinear,
        "tolerance": _WARP_TOLERANCE,
        # Else GDAL takes the kernel's width from each window's rounded extent, and a pixel
        # depends on the window that it is read with.
        "XSCALE": str(place.grid.axis_gsd_m[0] / grid.axis_gsd_m[0]),
        "YSCALE": str(place.grid.axis_gsd_m[1] / grid.axis_gsd_m[1]),
        **_validity_options(view.count, alpha, nodata, is_colour),
        **place.options,
    }
    if place.by in ("transform", "assumed"):
        target = {"transform": grid.transform, "height": grid.height, "width": grid.width}
        return WarpedVRT(view, crs=grid.crs, **target, **options)
    # Of the two ways to make a WarpedVRT, only the one without a transform follows control points
    # and polynomials; so the grid is written into what that one describes.
    with WarpedVRT(view, src_crs=place.grid.crs, crs=grid.crs, **options) as suggested:
        document = describe(suggested)
    return open_description(_on_grid(document, grid))


def _validity_options(
    count: int, alpha: bool, nodata: float | None, is_colour: bool
) -> dict[str, Any]:
    """How validity travels through the warp.

    As alpha: by a mask or alpha band, or by a sentinel that only counts where all bands have
    it. Or as a sentinel that is no colour, by which `Scene.read` finds it in any band.
    """
    if nodata is None or (alpha and is_colour):
        return {"add_alpha": not alpha}
    if is_colour:
        return {"add_alpha": True, "src_nodata": nodata, "UNIFIED_SRC_NODATA": "YES"}
    initial = [str(nodata)] * (count - alpha) + ["0"] * alpha
    return {
        "src_nodata": nodata,
        "nodata": nodata,
        "UNIFIED_SRC_NODATA": "NO",
        "INIT_DEST": ",".join(initial),
    }


def _grid(path: str, crs: CRS, transform: Any, height: int, width: int) -> Grid:
    try:
        return Grid(crs, transform, height, width)
    except ValueError as error:
        raise SceneReadError(
            f"{path}: has no place on the ground, {error}; gdal_translate -a_ullr ULX ULY LRX LRY "
            "in.tif out.tif writes one"
        ) from error


def _fitted(source: Any, path: str, by: PlacedBy, crs: CRS, **model: Any) -> Place:
    """The place that a model of the sensor gives: ground control points or polynomials."""
    try:
        transform, width, height = calculate_default_transform(
            crs, crs, source.width, source.height, **model
        )
    except (CPLE_BaseError, RasterioError, ValueError) as error:
        what = "ground control points" if by == "gcps" else "RPCs"
        raise SceneReadError(
            f"{path}: its {what} place it nowhere (three that do not lie on a line are the least); "
            "gdal_translate -a_srs EPSG:CODE -a_ullr ULX ULY LRX LRY in.tif out.tif places it"
        ) from error
    options = {name: value for name, value in model.items() if name.isupper()}
    return Place(_grid(path, crs, transform, height, width), by, options)


def _nowhere(source: Any, path: str, has_points: bool) -> MissingCRSError:
    stem, dot, suffix = path.rpartition(".")
    if dot + suffix.lower() in _PARTS:
        return MissingCRSError(
            f"{path}: is only a part of {Path(stem).name}, {_PARTS[dot + suffix.lower()]}; give "
            "that file itself"
        )
    if has_points:
        return MissingCRSError(
            f"{path}: has ground control points but no CRS; gdal_translate -a_srs EPSG:CODE in.tif "
            "out.tif names theirs"
        )
    if source.crs is not None:
        return MissingCRSError(
            f"{path}: has a CRS but no position (its transform is the identity); gdalwarp or "
            "gdal_translate -a_ullr ULX ULY LRX LRY in.tif out.tif writes one"
        )
    if source.transform.is_identity:
        return MissingCRSError(
            f"{path}: has neither a coordinate reference system nor a position; gdal_translate "
            "-a_srs EPSG:CODE -a_ullr ULX ULY LRX LRY in.tif out.tif writes both, --assume-gsd "
            "METRES does without"
        )
    return MissingCRSError(
        f"{path}: has no coordinate reference system; gdal_edit.py -a_srs EPSG:CODE file.tif "
        "writes one"
    )


def _on_grid(document: str, grid: Grid) -> str:
    """Puts a described warp on another grid of the same CRS."""
    warped = ElementTree.fromstring(document)
    warped.set("rasterYSize", str(grid.height))
    warped.set("rasterXSize", str(grid.width))
    forward, backward = grid.transform.to_gdal(), (~grid.transform).to_gdal()
    texts = {
        "GeoTransform": forward,
        "DstGeoTransform": forward,
        "DstInvGeoTransform": backward,
        "BlockYSize": (min(_BLOCK[0], grid.height),),
        "BlockXSize": (min(_BLOCK[1], grid.width),),
    }
    for part in warped.iter():
        if part.tag in texts:
            part.text = ", ".join(repr(value) for value in texts[part.tag])
    return ElementTree.tostring(warped, encoding="unicode")
