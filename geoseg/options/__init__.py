"""The settings of each step, with their defaults, units and ranges: they live here once.

Values only: nothing here imports torch or rasterio, so that a misspelt key fails at once.
"""

from geoseg.options.align import AlignOptions
from geoseg.options.augment import AUGMENT_PRESETS, AugmentOptions
from geoseg.options.base import Options
from geoseg.options.crf import CRFOptions
from geoseg.options.loss import (
    PIXELWISE,
    USUAL_LOSS,
    USUAL_LOSS_OF_CLASSES,
    BceOptions,
    CrossEntropyOptions,
    FocalOptions,
    LossOptions,
    LovaszHingeOptions,
    LovaszSoftmaxOptions,
    OverlapOptions,
    TermOptions,
    TverskyOptions,
    WeightMapOptions,
)
from geoseg.options.predict import PredictOptions
from geoseg.options.tile import ClassOptions, TileOptions
from geoseg.options.train import ModelOptions, TrainOptions
from geoseg.options.vectorize import Thresholds, VectorizeOptions, check_thresholds

__all__ = [
    "AUGMENT_PRESETS",
    "PIXELWISE",
    "USUAL_LOSS",
    "USUAL_LOSS_OF_CLASSES",
    "AlignOptions",
    "AugmentOptions",
    "BceOptions",
    "CRFOptions",
    "ClassOptions",
    "CrossEntropyOptions",
    "FocalOptions",
    "LossOptions",
    "LovaszHingeOptions",
    "LovaszSoftmaxOptions",
    "ModelOptions",
    "Options",
    "OverlapOptions",
    "PredictOptions",
    "TermOptions",
    "Thresholds",
    "TileOptions",
    "TrainOptions",
    "TverskyOptions",
    "VectorizeOptions",
    "WeightMapOptions",
    "check_thresholds",
]
