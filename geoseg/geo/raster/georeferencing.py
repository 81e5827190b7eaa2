"""Georeferencing of scenes by transform, GCPs or RPCs, and warping to a grid."""

from __future__ import annotations

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

from geoseg.credentials import get_logger
from geoseg.errors import MissingCRSError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster.opening import describe, open_description
from geoseg.geo.raster.placeholder import placeholder_grid

logger = get_logger(__name__)

GeoreferencedBy = Literal["transform", "gcps", "rpcs", "assumed"]

# Largest error of GDAL's approximate transformer in pixels; its default of 1/8 moves outlines
# visibly, and it refuses 0.
_WARP_TOLERANCE = 0.001

# Rows and columns of the blocks of a warped dataset, GDAL's default.
_BLOCK = (128, 512)

# Sidecar files of a raster, which GDAL reads together with it.
_SIDECARS = {".msk": "its mask", ".ovr": "its overviews"}

_LONGITUDE_LATITUDE = CRS.from_epsg(4326)


@dataclass(frozen=True)
class Georeferencing:
    """Georeferencing of a raster.

    Attributes:
        grid: The raster's pixel grid; without a transform the one that GDAL suggests: north up,
            with about as many pixels as the raster has.
        by: Its source: the transform, ground control points, rational polynomial
            coefficients, or an assumed pixel size at a placeholder location.
        options: Further options of GDAL's warper for `by`.
    """

    grid: Grid
    by: GeoreferencedBy
    options: dict[str, Any]


def read_georeferencing(
    source: Any, path: str, assume_gsd_m: float | None = None
) -> Georeferencing:
    """Read the georeferencing of a raster: transform, else GCPs, else RPCs, as GDAL's tools do.

    Args:
        source: The dataset.
        path: As given by the user.
        assume_gsd_m: Pixel size in metres of a raster without any; see `placeholder_grid`.

    Raises:
        MissingCRSError: If it has none.
        SceneReadError: If it is invalid.
    """
    if source.crs is not None and not source.transform.is_identity:
        return Georeferencing(
            _build_grid(path, source.crs, source.transform, source.height, source.width),
            "transform",
            {},
        )
    points, crs = source.gcps
    crs = crs or source.crs
    if points and crs is not None:
        return _fit_grid(source, path, "gcps", crs, gcps=points)
    rpcs = source.rpcs
    if rpcs is not None:
        # The mean height of the terrain; there is no elevation model.
        options = {"RPC_HEIGHT": rpcs.height_off}
        return _fit_grid(source, path, "rpcs", _LONGITUDE_LATITUDE, rpcs=rpcs, **options)
    has_nothing = source.crs is None and source.transform.is_identity and not points
    if has_nothing and assume_gsd_m is not None:
        grid = placeholder_grid(path, source.height, source.width, assume_gsd_m)
        return Georeferencing(grid, "assumed", {})
    raise _missing_georeferencing(source, path, bool(points))


def warn_if_approximate(
    georeferencing: Georeferencing, path: str, assume_gsd_m: float | None = None
) -> None:
    """Warn if the georeferencing is approximate or a placeholder, or if none had to be assumed.

    Args:
        georeferencing: Result of `read_georeferencing`.
        path: As given by the user.
        assume_gsd_m: The pixel size that was to be assumed.
    """
    if georeferencing.by == "assumed":
        logger.warning(
            "%s: has no georeferencing; a placeholder location near the equator is used, with "
            "pixels of %g m",
            path,
            georeferencing.grid.transform.a,
        )
    elif assume_gsd_m is not None:
        logger.warning(
            "%s: --assume-gsd has no effect, because the file has georeferencing (pixels of %.3g "
            "m)",
            path,
            georeferencing.grid.gsd_m,
        )
    if georeferencing.by == "rpcs":
        logger.warning(
            "%s: georeferenced by its RPCs at a height of %g m, without terrain; in hills "
            "positions may be wrong by many metres (gdalwarp -rpc -to RPC_DEM=dem.tif in.tif "
            "out.tif is exact)",
            path,
            georeferencing.options["RPC_HEIGHT"],
        )


def open_warped(
    view: Any,
    georeferencing: Georeferencing,
    grid: Grid,
    *,
    alpha: bool,
    nodata: float | None,
    is_colour: bool,
) -> Any:
    """Warp a view of a scene bilinearly to a grid.

    The value of a pixel does not depend on the window it is read with.

    Args:
        view: From `open_view`, or a dataset with data bands only.
        georeferencing: Georeferencing of the scene.
        grid: The grid to read on.
        alpha: Whether the view's last band is alpha.
        nodata: The scene's sentinel.
        is_colour: Whether the sentinel may also be a colour: only pixels that have it in all
            bands are nodata then, which the alpha band says if there is one.

    Returns:
        A dataset on the grid: the data bands, then alpha. There is no alpha band if validity is
        given only by a sentinel that cannot be a colour; the warp then keeps the sentinel.
    """
    options = {
        "resampling": Resampling.bilinear,
        "tolerance": _WARP_TOLERANCE,
        # Otherwise GDAL derives the kernel's width from each window's rounded extent, and a
        # pixel depends on the window it is read with.
        "XSCALE": str(georeferencing.grid.axis_gsd_m[0] / grid.axis_gsd_m[0]),
        "YSCALE": str(georeferencing.grid.axis_gsd_m[1] / grid.axis_gsd_m[1]),
        **_validity_options(view.count, alpha, nodata, is_colour),
        **georeferencing.options,
    }
    if georeferencing.by in ("transform", "assumed"):
        target = {"transform": grid.transform, "height": grid.height, "width": grid.width}
        return WarpedVRT(view, crs=grid.crs, **target, **options)
    # A WarpedVRT with a given transform ignores GCPs and RPCs; so one without is created, and the
    # grid is written into its description.
    with WarpedVRT(view, src_crs=georeferencing.grid.crs, crs=grid.crs, **options) as suggested:
        document = describe(suggested)
    return open_description(_set_grid(document, grid))


def _validity_options(
    count: int, alpha: bool, nodata: float | None, is_colour: bool
) -> dict[str, Any]:
    """Return the options by which the warp keeps validity.

    As alpha: from a mask or alpha band, or from a sentinel that counts only where all bands have
    it. Or as a sentinel that cannot be a colour, which `Scene.read` looks for in each band.
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


def _build_grid(path: str, crs: CRS, transform: Any, height: int, width: int) -> Grid:
    try:
        return Grid(crs, transform, height, width)
    except ValueError as error:
        raise SceneReadError(
            f"{path}: has an invalid transform, {error}; gdal_translate -a_ullr ULX ULY LRX LRY "
            "in.tif out.tif writes one"
        ) from error


def _fit_grid(
    source: Any, path: str, by: GeoreferencedBy, crs: CRS, **model: Any
) -> Georeferencing:
    """Fit a grid to ground control points or RPCs."""
    try:
        transform, width, height = calculate_default_transform(
            crs, crs, source.width, source.height, **model
        )
    except (CPLE_BaseError, RasterioError, ValueError) as error:
        what = "ground control points" if by == "gcps" else "RPCs"
        raise SceneReadError(
            f"{path}: its {what} give no valid location (at least three points that are not on "
            "one line are needed); gdal_translate -a_srs EPSG:CODE -a_ullr ULX ULY LRX LRY in.tif "
            "out.tif sets it"
        ) from error
    options = {name: value for name, value in model.items() if name.isupper()}
    return Georeferencing(_build_grid(path, crs, transform, height, width), by, options)


def _missing_georeferencing(source: Any, path: str, has_points: bool) -> MissingCRSError:
    stem, dot, suffix = path.rpartition(".")
    if dot + suffix.lower() in _SIDECARS:
        return MissingCRSError(
            f"{path}: is only a sidecar file of {Path(stem).name}, "
            f"{_SIDECARS[dot + suffix.lower()]}; give that file itself"
        )
    if has_points:
        return MissingCRSError(
            f"{path}: has ground control points but no CRS; gdal_translate -a_srs EPSG:CODE in.tif "
            "out.tif sets it"
        )
    if source.crs is not None:
        return MissingCRSError(
            f"{path}: has a CRS but no transform (it is the identity); gdalwarp or "
            "gdal_translate -a_ullr ULX ULY LRX LRY in.tif out.tif writes one"
        )
    if source.transform.is_identity:
        return MissingCRSError(
            f"{path}: has no georeferencing; add it with gdal_translate -a_srs EPSG:CODE -a_ullr "
            "ULX ULY LRX LRY in.tif out.tif, or use --assume-gsd METRES"
        )
    return MissingCRSError(
        f"{path}: has a transform but no coordinate reference system; gdal_edit.py -a_srs "
        "EPSG:CODE file.tif or rio edit-info --crs EPSG:CODE file.tif writes one"
    )


def _set_grid(document: str, grid: Grid) -> str:
    """Set the grid in the description of a warp; its CRS stays the same."""
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
