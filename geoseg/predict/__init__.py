"""Scene → probabilities → mask and footprints, in bounded memory, the same bytes however it is cut.

`job` checks and plans, `scene` chains. `dealing` says which blocks of tiles are missing; `block`
predicts one, here or on a worker, and leaves its bands as files: `reading` brings tiles in batches,
`network` says what they show, computed by a `backend`, `geoseg.stitch` blends that, `values` are
what is stored. `outputs` joins the bands.
"""

from geoseg.predict.job import Job, plan_job
from geoseg.predict.network import TTA_VIEWS, Predictor
from geoseg.predict.scene import Workers, predict, predict_scenes, predict_task

__all__ = [
    "TTA_VIEWS",
    "Job",
    "Predictor",
    "Workers",
    "plan_job",
    "predict",
    "predict_scenes",
    "predict_task",
]
