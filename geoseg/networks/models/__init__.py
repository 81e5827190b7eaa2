"""Networks for segmentation and object detection, built by name."""

from geoseg.networks.models.building import (
    build_model,
    check_tile_size,
    choose_encoder,
    encoder_of,
    size_multiple,
)
from geoseg.networks.models.encoders import list_encoders
from geoseg.networks.models.loading import load_network

__all__ = [
    "build_model",
    "check_tile_size",
    "choose_encoder",
    "encoder_of",
    "list_encoders",
    "load_network",
    "size_multiple",
]
