"""From a probability raster to footprints, the same however the raster is cut."""

from geoseg.options import Thresholds
from geoseg.vector.measure import geodesic_measures
from geoseg.vectorize.components import Component, find_components
from geoseg.vectorize.layer import iter_footprints, vectorize, vectorize_arrays
from geoseg.vectorize.place import join_batches, place_footprints
from geoseg.vectorize.prob import ArrayProb, ClassProb, Prob, ProbSource, SceneProb, likeliest
from geoseg.vectorize.separate import fill_holes, separate
from geoseg.vectorize.thresholds import (
    CLASSES_TAG,
    THRESHOLDS_TAG,
    describe_classes,
    read_classes,
    read_thresholds,
    refuse_thresholds,
)
from geoseg.vectorize.trace import simplify_coverage, trace

__all__ = [
    "CLASSES_TAG",
    "THRESHOLDS_TAG",
    "ArrayProb",
    "ClassProb",
    "Component",
    "Prob",
    "ProbSource",
    "SceneProb",
    "Thresholds",
    "describe_classes",
    "fill_holes",
    "find_components",
    "geodesic_measures",
    "iter_footprints",
    "join_batches",
    "likeliest",
    "place_footprints",
    "read_classes",
    "read_thresholds",
    "refuse_thresholds",
    "separate",
    "simplify_coverage",
    "trace",
    "vectorize",
    "vectorize_arrays",
]
