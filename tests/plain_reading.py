"""Rasters as plain rasterio reads them, to judge by what geoseg makes of them."""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import calculate_default_transform, reproject
from rasterio.windows import Window
from shapely.geometry import Polygon, box

# Of a raster with a longer side only a part is cut, for speed.
_LARGE = 150
_PART = 128


@dataclass(frozen=True)
class Place:
    """Where plain rasterio finds a raster."""

    crs: rasterio.CRS
    transform: Affine
    height: int
    width: int
    points: list | None


def read_georeferencing(path):
    """Read it from the transform or GCPs; None if there is none or the file cannot be opened."""
    try:
        with rasterio.open(path) as source:
            if source.crs and not source.transform.is_identity:
                return Place(source.crs, source.transform, *source.shape, None)
            points, crs = source.gcps
            if not points or not crs:
                return None
            transform, width, height = calculate_default_transform(
                crs, crs, source.width, source.height, gcps=points
            )
            return Place(crs, transform, height, width, points)
    except (RasterioError, IndexError):
        return None


def describe(path):
    try:
        with rasterio.open(path) as source:
            kinds = sorted(set(source.dtypes))
            placed = "transform" if source.crs and not source.transform.is_identity else "-"
            if source.gcps[0]:
                placed = "gcps"
            return {"bands": source.count, "dtype": ",".join(kinds), "placed by": placed}
    except (RasterioError, IndexError):
        return {}


def read_plainly(path, window=None):
    """Data (C, H, W), 0 where it is not valid, and valid (H, W)."""
    with rasterio.open(path) as source:
        alpha = [i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha]
        numbers = [i for i in source.indexes if i not in alpha]
        data = source.read(numbers, window=window)
        valid = read_validity(source, numbers, alpha, window)
        if source.colorinterp[0] == ColorInterp.palette:
            colours = np.zeros((256, 4), np.uint8)
            for index, colour in source.colormap(1).items():
                colours[index] = colour
            seen = colours[data[0]].transpose(2, 0, 1)
            data, valid = seen[:3], valid & (seen[3] > 0)
    valid &= np.isfinite(data).all(axis=0)
    return np.where(valid, data, 0), valid


def read_validity(source, numbers, alpha, window, shape=None):
    where = {"window": window, "out_shape": shape}
    flags = source.mask_flag_enums[0]
    nodata, dtype = source.nodata, source.dtypes[0]
    if alpha:
        valid = source.read(alpha[0], **where) > 0
    elif MaskFlags.per_dataset in flags:
        valid = source.read_masks(numbers[0], **where) > 0
    else:
        valid = True
    if nodata is None:
        return valid & (source.read_masks(numbers[0], **where) > -1)
    differs = [source.read(number, **where) != nodata for number in numbers]
    if np.isnan(nodata):
        differs = [~np.isnan(source.read(number, **where)) for number in numbers]
    # A sentinel that may be a colour says something only where all bands have it.
    is_colour = nodata == 0 or (nodata == 255 and dtype == "uint8")
    return valid & (np.any(differs, axis=0) if is_colour else np.all(differs, axis=0))


def warp_plainly(data, valid, place, tile):
    """The whole of a raster on the grid of a tile, by GDAL's warper; NaN where it is not valid."""
    found = []
    where = {"gcps": place.points} if place.points else {"src_transform": place.transform}
    for band in data:
        warped = np.full(tile.shape, np.nan)
        reproject(
            np.where(valid, band, np.nan).astype(np.float64), warped, src_crs=place.crs, **where,
            dst_crs=place.crs, dst_transform=tile.transform, src_nodata=np.nan, dst_nodata=np.nan,
            resampling=Resampling.bilinear, tolerance=0.001,
        )  # fmt: skip
        found.append(warped)
    return np.stack(found)


# Labels


def write_labels(path, place, folder):
    """A footprint on pixels that hold data; the options that cut tiles around it."""
    row, column = find_data(path, place)
    sides = min(7, place.width - column), min(6, place.height - row)
    labels, areas = folder / "labels.gpkg", folder / "areas.gpkg"
    write_polygon(labels, place, Window(column, row, *sides))
    size = 64 if min(place.height, place.width) >= 64 else 32
    options = {"labels": labels, "size": size, "overlap": 0}
    if max(place.height, place.width) <= _LARGE:
        return {**options, "fractions": (1, 0, 0)}
    left, top = max(0, column - _PART // 2), max(0, row - _PART // 2)
    write_polygon(areas, place, Window(left, top, _PART, _PART), split="train")
    return {**options, "split": "areas", "areas": str(areas)}


def write_any(folder):
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326).to_file(folder / "labels.gpkg")
    return folder / "labels.gpkg"


def write_polygon(path, place, window, **attributes):
    (top, bottom), (left, right) = window.toranges()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    polygon = Polygon([place.transform * corner for corner in corners])
    frame = {name: [value] for name, value in attributes.items()}
    gpd.GeoDataFrame(frame, geometry=[polygon], crs=place.crs.to_wkt()).to_file(path)


def find_data(path, place):
    """Row and column of the valid pixel that is nearest to the middle."""
    if place.points:
        return place.height // 2, place.width // 2
    thinned = (min(150, place.height), min(150, place.width))
    with rasterio.open(path) as source:
        alpha = [i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha]
        numbers = [i for i in source.indexes if i not in alpha]
        try:
            valid = read_validity(source, numbers, alpha, None, thinned)
        except RasterioError:
            return place.height // 2, place.width // 2
    rows, columns = (
        np.nonzero(valid)[axis] / thinned[axis] + 0.5 / thinned[axis] for axis in (0, 1)
    )
    if not len(rows):
        return place.height // 2, place.width // 2
    nearest = np.argmin((rows - 0.5) ** 2 + (columns - 0.5) ** 2)
    return int(rows[nearest] * place.height), int(columns[nearest] * place.width)


# Comparing


def compare(path, place, folder, labels):
    """Compares all tiles with the plain reading; how many pixels were valid."""
    (footprint,) = gpd.read_file(labels).geometry
    pixels = built = 0
    whole = None
    images = sorted((folder / "images").iterdir())
    assert images
    for image in images:
        with rasterio.open(image) as tile, rasterio.open(folder / "targets" / image.name) as target:
            data, valid = tile.read(), tile.dataset_mask() > 0
            assert target.transform.almost_equals(tile.transform)
            mask = target.read(1)
            offset = ~place.transform * tile.transform
            if place.points is None and is_shift(offset):
                expected, known = cut_plainly(path, place, offset, tile.shape)
                np.testing.assert_array_equal(valid, known)
                np.testing.assert_array_equal(data, expected)
                assert data.dtype == expected.dtype
            else:
                whole = whole or read_plainly(path)
                check_warped(data, valid, warp_plainly(*whole, place, tile))
            shape, transform = tile.shape, tile.transform
        inside = rasterize([footprint], shape, transform=transform, dtype="uint8")
        np.testing.assert_array_equal(mask, np.where(valid, inside, 255))
        pixels += int(valid.sum())
        built += int((mask == 1).sum())
    assert built > 0
    return pixels


def is_shift(offset):
    """Whether a transform from pixels to pixels moves by whole pixels, and does nothing else."""
    moved = np.array([offset.c, offset.f])
    turned = np.array([offset.a - 1, offset.b, offset.d, offset.e - 1])
    return np.abs(turned).max() < 1e-6 and np.abs(moved - moved.round()).max() < 1e-3


def cut_plainly(path, place, offset, shape):
    """What plain rasterio reads at the place of a tile; 0 and not valid beyond the raster."""
    left, top = round(offset.c), round(offset.f)
    height, width = min(shape[0], place.height - top), min(shape[1], place.width - left)
    data, valid = read_plainly(path, Window(left, top, width, height))
    missing = [(0, shape[0] - height), (0, shape[1] - width)]
    return np.pad(data, [(0, 0), *missing]), np.pad(valid, missing)


def check_warped(data, valid, expected):
    """Warped pixels agree but for rounding; validity but for the pixels that an edge cuts."""
    known = np.isfinite(expected).all(axis=0)
    assert (valid == known).mean() > 0.98
    both = valid & known
    # GDAL guesses the width of its kernel from what is read, geoseg takes the grids'.
    rounding = 0.501 if data.dtype.kind in "iu" else 0
    tolerance = rounding + 0.01 * np.ptp(expected[:, both])
    difference = np.abs(data[:, both] - expected[:, both])
    assert (difference <= tolerance).mean() > 0.99, difference.max()
    assert (data[:, ~valid] == 0).all()
