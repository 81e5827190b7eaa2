"""The predictor of boxes in tiles."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from geoseg.detection.box_arrays import LEAST_VISIBLE, Boxes, valid_shares
from geoseg.networks.device import choose_device, computes_bf16, lacks_memory
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import load_network
from geoseg.networks.models.building import NETWORK_ERRORS
from geoseg.networks.models.retinanet import RetinaNet
from geoseg.networks.models.sketch import check_tile_memory
from geoseg.networks.normalization import normalise
from geoseg.options import PredictOptions
from geoseg.prediction.predictor import tile_error
from geoseg.prediction.strip_writer import check_probabilities

# Boxes of lower scores are discarded before non-maximum suppression (arXiv 1708.02002).
MIN_SCORE = 0.05


class BoxPredictor:
    """A network that detects boxes in tiles, built from a model file.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        min_score: Boxes of this score or less are left out.
        iou: IoU threshold of non-maximum suppression.

    Raises:
        ModelFileError: If the weights do not belong to the architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Tensor],
        device: str = "auto",
        *,
        min_score: float = MIN_SCORE,
        iou: float = PredictOptions().nms_iou,
    ) -> None:
        self.min_score, self.iou = min_score, iou
        self.device = choose_device(device)
        network = cast(RetinaNet, load_network(spec, weights)).eval().to(self.device)
        if self.device.type == "cpu":
            check_tile_memory(spec, spec.size)
        self.network = network.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(spec.mean, device=self.device)
        self._std = torch.tensor(spec.std, device=self.device)

    @torch.inference_mode()
    def __call__(self, data: np.ndarray, valid: np.ndarray) -> list[Boxes]:
        """Return the boxes of each tile of a batch, best first.

        Args:
            data: (N, C, H, W) in the scene's units.
            valid: (N, H, W) bool.
        """
        image = torch.from_numpy(data.astype(np.float32, copy=False)).to(self.device)
        mask = torch.from_numpy(valid[:, None]).to(self.device)
        image = normalise(image, mask, self._mean, self._std)
        image = image.contiguous(memory_format=torch.channels_last)
        outputs = self._compute(image)
        check_probabilities(sum(float(part.sum()) for part in outputs))
        return detect_boxes(self.network, outputs, mask, min_score=self.min_score, iou=self.iou)

    def _compute(self, image: Tensor) -> tuple[Tensor, Tensor]:
        enabled = computes_bf16(self.device)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
                return cast(tuple[Tensor, Tensor], self.network(image))
        except NETWORK_ERRORS as error:
            if lacks_memory(error):
                raise
            raise tile_error(error, self.device) from error


def detect_boxes(
    network: RetinaNet,
    outputs: tuple[Tensor, Tensor],
    valid: Tensor,
    *,
    min_score: float,
    iou: float,
) -> list[Boxes]:
    """Decode the boxes of each image, without those on nodata.

    Args:
        network: The network.
        outputs: The network's outputs for a batch.
        valid: (N, 1, H, W), False on nodata.
        min_score: Boxes of this score or less are left out.
        iou: IoU threshold of non-maximum suppression.
    """
    detections = network.detect(outputs, valid.shape[2:], least=min_score, iou=iou)
    masks = valid[:, 0].cpu().numpy()
    boxes = [Boxes(*(part.double().cpu().numpy() for part in one)) for one in detections]
    return [
        one[valid_shares(one.corners, mask) >= LEAST_VISIBLE]
        for one, mask in zip(boxes, masks, strict=True)
    ]
