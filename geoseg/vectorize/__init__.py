"""From a probability raster to footprints, the same however the raster is cut."""

from geoseg.options import Thresholds
from geoseg.vector.measure import geodesic_measures
from geoseg.vectorize.buildings import BUILDING_COLUMNS
from geoseg.vectorize.components import Component, Components, describe_block, join_parts
from geoseg.vectorize.holes import fill_holes
from geoseg.vectorize.layer import vectorize, vectorize_arrays, write_layer
from geoseg.vectorize.memory import choose_layout
from geoseg.vectorize.outlines import cross_rings, simplify, step_rings
from geoseg.vectorize.place import Traced, join_frames, place_footprints
from geoseg.vectorize.prob import (
    ArrayProb,
    ClassProb,
    Prob,
    ProbSource,
    SceneProb,
    likeliest,
    open_prob,
)
from geoseg.vectorize.rings import Rings, trace_rings
from geoseg.vectorize.runs import Runs, find_runs, label_runs
from geoseg.vectorize.separate import seed_score, separate, split_necks
from geoseg.vectorize.thresholds import (
    CLASSES_TAG,
    THRESHOLDS_TAG,
    describe_classes,
    read_classes,
    read_thresholds,
    refuse_thresholds,
)

__all__ = [
    "BUILDING_COLUMNS",
    "CLASSES_TAG",
    "THRESHOLDS_TAG",
    "ArrayProb",
    "ClassProb",
    "Component",
    "Components",
    "Prob",
    "ProbSource",
    "Rings",
    "Runs",
    "SceneProb",
    "Thresholds",
    "Traced",
    "choose_layout",
    "cross_rings",
    "describe_block",
    "describe_classes",
    "fill_holes",
    "find_runs",
    "geodesic_measures",
    "join_frames",
    "join_parts",
    "label_runs",
    "likeliest",
    "open_prob",
    "place_footprints",
    "read_classes",
    "read_thresholds",
    "refuse_thresholds",
    "seed_score",
    "separate",
    "simplify",
    "split_necks",
    "step_rings",
    "trace_rings",
    "vectorize",
    "vectorize_arrays",
    "write_layer",
]
