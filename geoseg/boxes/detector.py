"""A network of boxes with all that its model file says, ready for scenes."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from geoseg.boxes.box_arrays import LEAST_SHARE, Boxes, valid_shares
from geoseg.networks.device import choose_device, computes_bf16
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import load_network
from geoseg.networks.models.retinanet import RetinaNet
from geoseg.options import PredictOptions
from geoseg.training.dataset import normalise

# Boxes below this score are not worth suppressing (arXiv 1708.02002).
LEAST_SCORE = 0.05


class BoxPredictor:
    """A network that finds the boxes of tiles.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        least: Boxes of this score or less are left out.
        iou: Of two boxes that overlap by more than this IoU the better one stays.

    Raises:
        ModelFileError: If the weights do not belong to the architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Tensor],
        device: str = "auto",
        *,
        least: float = LEAST_SCORE,
        iou: float = PredictOptions().nms_iou,
    ) -> None:
        self.least, self.iou = least, iou
        self.device = choose_device(device)
        network = cast(RetinaNet, load_network(spec, weights)).eval().to(self.device)
        self.network = network.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(spec.mean, device=self.device)
        self._std = torch.tensor(spec.std, device=self.device)

    @torch.inference_mode()
    def __call__(self, data: np.ndarray, valid: np.ndarray) -> list[Boxes]:
        """The boxes of each tile of a batch, best first.

        Args:
            data: (N, C, H, W) in the scene's units.
            valid: (N, H, W) bool.
        """
        image = torch.from_numpy(data.astype(np.float32, copy=False)).to(self.device)
        mask = torch.from_numpy(valid[:, None]).to(self.device)
        image = normalise(image, mask, self._mean, self._std)
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=computes_bf16(self.device)):
            said = self.network(image)
        return find_boxes(self.network, said, mask, least=self.least, iou=self.iou)


def find_boxes(
    network: RetinaNet, said: tuple[Tensor, Tensor], valid: Tensor, *, least: float, iou: float
) -> list[Boxes]:
    """The boxes of each image, without those that lie on nodata.

    Args:
        network: The network.
        said: What it says of a batch.
        valid: (N, 1, H, W), False on nodata.
        least: Boxes of this score or less are left out.
        iou: Of two boxes that overlap by more than this IoU the better one stays.
    """
    found = network.detect(said, valid.shape[2:], least=least, iou=iou)
    masks = valid[:, 0].cpu().numpy()
    boxes = [Boxes(*(part.double().cpu().numpy() for part in one)) for one in found]
    return [
        one[valid_shares(one.corners, mask) >= LEAST_SHARE]
        for one, mask in zip(boxes, masks, strict=True)
    ]
