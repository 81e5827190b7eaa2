"""geoseg: from GeoTIFF scenes to map layers of building footprints or land cover.

    import geoseg

    result = geoseg.predict("scene.tif", "out/")  # the default model
    result.footprints  # a GeoDataFrame, read when it is needed

The names below are imported when they are first used, so that `import geoseg` is fast. See
docs/python.md for examples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from geoseg.version import __version__

if TYPE_CHECKING:
    from geoseg import errors
    from geoseg.alignment import AlignSummary
    from geoseg.api.align import align
    from geoseg.api.evaluate import evaluate
    from geoseg.api.export import export
    from geoseg.api.model import Model, Probabilities, load_model
    from geoseg.api.predict import predict
    from geoseg.api.results import (
        AlignResult,
        PredictResult,
        ShardResult,
        TileResult,
        VectorizeResult,
    )
    from geoseg.api.shards import merge, predict_shard
    from geoseg.api.tile import tile
    from geoseg.api.train import find_lr, train
    from geoseg.api.vectorize import vectorize
    from geoseg.config import Config, load_config
    from geoseg.evaluation import ClassReport, Report
    from geoseg.geo.grid import Grid
    from geoseg.jobs.workers import Workers
    from geoseg.options import (
        AlignOptions,
        ClassOptions,
        CRFOptions,
        ModelOptions,
        PredictOptions,
        Thresholds,
        TileOptions,
        TrainOptions,
        VectorizeOptions,
    )
    from geoseg.training.lr_finder import FoundRate
    from geoseg.training.run import TrainResult

# Public name → the module that defines it.
_MODULES = {
    "AlignOptions": "geoseg.options",
    "AlignResult": "geoseg.api.results",
    "AlignSummary": "geoseg.alignment",
    "CRFOptions": "geoseg.options",
    "ClassOptions": "geoseg.options",
    "ClassReport": "geoseg.evaluation",
    "Config": "geoseg.config",
    "FoundRate": "geoseg.training.lr_finder",
    "Grid": "geoseg.geo.grid",
    "Model": "geoseg.api.model",
    "ModelOptions": "geoseg.options",
    "PredictOptions": "geoseg.options",
    "PredictResult": "geoseg.api.results",
    "Probabilities": "geoseg.api.model",
    "Report": "geoseg.evaluation",
    "ShardResult": "geoseg.api.results",
    "Thresholds": "geoseg.options",
    "TileOptions": "geoseg.options",
    "TileResult": "geoseg.api.results",
    "TrainOptions": "geoseg.options",
    "TrainResult": "geoseg.training.run",
    "VectorizeOptions": "geoseg.options",
    "VectorizeResult": "geoseg.api.results",
    "Workers": "geoseg.jobs.workers",
    "align": "geoseg.api.align",
    "evaluate": "geoseg.api.evaluate",
    "export": "geoseg.api.export",
    "find_lr": "geoseg.api.train",
    "load_config": "geoseg.config",
    "load_model": "geoseg.api.model",
    "merge": "geoseg.api.shards",
    "predict": "geoseg.api.predict",
    "predict_shard": "geoseg.api.shards",
    "tile": "geoseg.api.tile",
    "train": "geoseg.api.train",
    "vectorize": "geoseg.api.vectorize",
}

__all__ = [
    "AlignOptions",
    "AlignResult",
    "AlignSummary",
    "CRFOptions",
    "ClassOptions",
    "ClassReport",
    "Config",
    "FoundRate",
    "Grid",
    "Model",
    "ModelOptions",
    "PredictOptions",
    "PredictResult",
    "Probabilities",
    "Report",
    "ShardResult",
    "Thresholds",
    "TileOptions",
    "TileResult",
    "TrainOptions",
    "TrainResult",
    "VectorizeOptions",
    "VectorizeResult",
    "Workers",
    "__version__",
    "align",
    "errors",
    "evaluate",
    "export",
    "find_lr",
    "load_config",
    "load_model",
    "merge",
    "predict",
    "predict_shard",
    "tile",
    "train",
    "vectorize",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("geoseg.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
