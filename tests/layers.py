"""Layers that `vectorize` makes, as frames."""

import geopandas as gpd
import numpy as np

from geoseg.geo.raster import write_array
from geoseg.vectorization.components.labelling import label_block, merge_blocks
from geoseg.vectorization.layer import vectorize


def make_layer(prob, folder, **options):
    """The layer of a probability raster, by way of a file in a folder."""
    path = folder / "layer.parquet"
    vectorize(prob, path, overwrite=True, **options)
    return gpd.read_parquet(path).drop(columns="bbox", errors="ignore")


def write_floats(path, grid, body, border, valid):
    """A probability raster that holds the very numbers."""
    bands = [body] if border is None else [body, border]
    names = ("building", "border")[: len(bands)]
    write_array(path, grid, np.stack(bands), valid=valid, descriptions=names)
    return path


def find_components(values, rows):
    """Components of an array, from blocks of so many rows."""
    tops = range(0, len(values), rows)
    parts = [label_block(values[top : top + rows], top) for top in tops]
    return merge_blocks(parts, values.shape[1])
