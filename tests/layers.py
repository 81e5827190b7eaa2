"""Helpers for tests of vectorization."""

import geopandas as gpd
import numpy as np
from pools import WorkersOf

from geoseg.api import vectorize as api
from geoseg.geo.raster import read_prob, write_array
from geoseg.options import VectorizeOptions
from geoseg.vectorization.components.labelling import label_block, merge_blocks


def vectorize(
    prob,
    output,
    *,
    thresholds=None,
    block_px=None,
    crf=None,
    run=map,
    max_memory_gb=4.0,
    workers=None,
    **given,
):
    """The number of polygons in the layer that `geoseg.vectorize` writes.

    Args:
        prob: Raster of probabilities.
        output: The layer.
        thresholds: Thresholds, of which those that are set replace the raster's.
        block_px: See `VectorizeOptions`.
        crf: See `VectorizeOptions`.
        run: Called with a function and tasks; yields results or failures.
        max_memory_gb: See `Workers`.
        workers: Instead of `run`.
        **given: Further arguments of `geoseg.vectorize`.
    """
    changes = thresholds.model_dump(exclude={"temperature", "confidence"}) if thresholds else {}
    if thresholds and "min_area_m2" in thresholds.model_fields_set and not read_prob(prob).classes:
        # These thresholds are the whole model's: parts and holes follow its minimum area.
        for name in {"min_part_m2", "min_hole_m2"} - thresholds.model_fields_set:
            changes[name] = thresholds.min_area_m2
    options = VectorizeOptions(**changes, block_px=block_px, crf=crf)
    workers = workers or WorkersOf(run=run, max_memory_gb=max_memory_gb)
    return api.vectorize(prob, output, options=options, workers=workers, **given).count


def make_layer(prob, folder, **options):
    """Vectorize a probability raster into a file and read it."""
    path = folder / "layer.parquet"
    vectorize(prob, path, overwrite=True, **options)
    return gpd.read_parquet(path).drop(columns="bbox", errors="ignore")


def write_floats(path, grid, body, border, valid):
    """Write a float probability raster."""
    bands = [body] if border is None else [body, border]
    names = ("building", "border")[: len(bands)]
    write_array(path, grid, np.stack(bands), valid=valid, descriptions=names)
    return path


def find_components(values, rows):
    """Find the components of an array, in blocks of some rows."""
    tops = range(0, len(values), rows)
    parts = [label_block(values[top : top + rows], top) for top in tops]
    return merge_blocks(parts, values.shape[1])
