"""Small models with random weights, for tests."""

import torch

from geoseg.networks.model_file import ModelSpec, save_model
from geoseg.networks.models import build_model
from geoseg.options import Thresholds

DEEPGLOBE = ModelSpec(
    arch="deepglobe",
    encoder="tu-tf_efficientnet_lite0",
    options={"aspp_channels": 16, "fusion": "add"},
    bands=("red", "green", "blue"),
    dtype="uint8",
    mean=(110.0, 110.0, 100.0),
    std=(40.0, 40.0, 40.0),
    gsd_m=0.5,
    size=64,
    overlap=16,
    thresholds=Thresholds(body=0.4, min_area_m2=2.0),
)
PIXELWISE = DEEPGLOBE.model_copy(update={"arch": "pixelwise", "encoder": None, "options": {}})


def make_model(path, spec, seed=0):
    """Saves a network that was drawn at random; returns the path."""
    torch.manual_seed(seed)
    network = build_model(
        spec.arch, spec.encoder, bands=spec.bands, outputs=len(spec.outputs), options=spec.options
    )
    save_model(path, network.state_dict(), spec)
    return path
