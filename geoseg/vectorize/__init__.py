"""From a probability raster to footprints, the same however the raster is cut."""

from geoseg.options import Thresholds
from geoseg.vector.measure import geodesic_measures
from geoseg.vectorize.components import Component, find_components
from geoseg.vectorize.layer import (
    iter_footprints,
    join_batches,
    place_footprints,
    vectorize,
    vectorize_arrays,
)
from geoseg.vectorize.prob import ArrayProb, Prob, ProbSource, SceneProb
from geoseg.vectorize.separate import fill_holes, separate
from geoseg.vectorize.thresholds import THRESHOLDS_TAG, read_thresholds
from geoseg.vectorize.trace import simplify_coverage, trace

__all__ = [
    "THRESHOLDS_TAG",
    "ArrayProb",
    "Component",
    "Prob",
    "ProbSource",
    "SceneProb",
    "Thresholds",
    "fill_holes",
    "find_components",
    "geodesic_measures",
    "iter_footprints",
    "join_batches",
    "place_footprints",
    "read_thresholds",
    "separate",
    "simplify_coverage",
    "trace",
    "vectorize",
    "vectorize_arrays",
]
