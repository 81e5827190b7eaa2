"""RetinaNet, an object detector, built from the parts of torchvision.

Lin et al.: "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002).

As in torchvision and unlike in the paper, P6 is computed from P5 instead of the deepest map of the
encoder, the box loss is L1 instead of smooth L1, and the best anchor of each building is positive
even if its IoU is small.

Unlike both, the anchors are half as large as in the paper, because buildings are small; the strides
are exact for images of any size; and anchors on nodata and on hardly visible buildings are ignored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from geoseg.networks.models.encoders import EncoderFactory, channels_of

# Without the first for five anchor sizes, as in the paper. The encoder provides strides up to 32.
_STRIDES = (4, 8, 16, 32, 64, 128)
_ENCODER_STRIDE = 32

# Values of the matcher of torchvision for anchors without a building.
_BACKGROUND, _IGNORED = -1, -2
# Anchors below the first are background, from the second positive, ignored between.
_BACKGROUND_IOU, _POSITIVE_IOU = 0.4, 0.5

# Pixels. Thinner boxes remain of boxes outside the image, which torchvision clips to it.
_MIN_SIDE = 1.0


class PyramidEncoder(nn.Module):
    """Encoder and feature pyramid with the two coarser maps of RetinaNet.

    Args:
        encoder: An encoder with maps at strides 4, 8, 16 and 32.
        channels: Number of channels of each map of the pyramid.
        levels: Number of maps of the pyramid: 5 for strides 8 to 128, 6 for strides 4 to 128.
    """

    def __init__(self, encoder: nn.Module, channels: int, levels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = channels
        self.used = levels - 2
        self.pyramid = FeaturePyramidNetwork(
            channels_of(encoder)[-self.used :], channels, LastLevelP6P7(channels, channels)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, bands, H, W), sides multiples of 32 → maps (N, channels, h, w), finest first."""
        maps = self.encoder(image)[-self.used :]
        named = OrderedDict((str(level), features) for level, features in enumerate(maps))
        return list(self.pyramid(named).values())


class RetinaNet(nn.Module):
    """Encoder, feature pyramid, and two heads for the class and the box of each anchor.

    Args:
        encoder: Builds an encoder with maps at strides 4, 8, 16 and 32.
        classes: Number of channels of the logits; 1 for buildings.
        channels: Number of channels of the pyramid and of the heads.
        anchor_sizes: Side of the smallest anchor of each map in pixels, the finest map first.
            Five sizes are for strides 8 to 128, six for strides 4 to 128. The paper has
            (32, 64, 128, 256, 512).
        octaves: Number of anchor sizes per map, spread evenly over a factor of two.
        ratios: Aspect ratios of the anchors, height divided by width.

    Raises:
        ValueError: If sizes, octaves or ratios are out of range.
    """

    size_multiple = _ENCODER_STRIDE

    def __init__(
        self,
        encoder: EncoderFactory,
        classes: int,
        *,
        channels: int = 256,
        anchor_sizes: Sequence[float] = (16, 32, 64, 128, 256),
        octaves: int = 3,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        _check_anchors(anchor_sizes, octaves, ratios)
        self.strides = _STRIDES[-len(anchor_sizes) :]
        self.output_stride = self.strides[-1]
        sizes = tuple(
            tuple(int(size * 2 ** (step / octaves)) for step in range(octaves))
            for size in anchor_sizes
        )
        anchors = AnchorGenerator(sizes, (tuple(ratios),) * len(sizes))
        count = octaves * len(ratios)
        self.detector = TorchvisionRetinaNet(
            PyramidEncoder(encoder(), channels, len(anchor_sizes)),
            classes,
            anchor_generator=anchors,
            head=RetinaNetHead(channels, count, classes),
            fg_iou_thresh=_POSITIVE_IOU,
            bg_iou_thresh=_BACKGROUND_IOU,
            # A tile of a dense town contains more buildings than a photograph contains objects,
            # and each has about a dozen candidate anchors.
            detections_per_img=1000,
            topk_candidates=10_000,
        )
        # It would resize and normalize images as photographs.
        self.detector.transform = nn.Identity()

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the network."""
        encoder: nn.Module = self.detector.backbone.encoder
        return encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits and box offsets of each anchor.

        Args:
            image: (N, bands, H, W), any H and W.

        Returns:
            Logits (N, anchors, classes) and offsets (N, anchors, 4) relative to the anchors of
            `anchors`, both float32.
        """
        height, width = image.shape[2:]
        # Padded with 0, the value of nodata in normalized images.
        bottom, right = -height % _ENCODER_STRIDE, -width % _ENCODER_STRIDE
        maps = self.detector.backbone(F.pad(image, (0, right, 0, bottom)))
        outputs = self.detector.head(maps)
        # Half precision is too coarse for coordinates.
        return outputs["cls_logits"].float(), outputs["bbox_regression"].float()

    def anchors(self, size: Sequence[int], device: torch.device) -> list[Tensor]:
        """Return the anchors (A, 4) of each map for an image size (height, width).

        Columns are left, top, right and bottom, in pixels.
        """
        generator: Any = self.detector.anchor_generator
        sides = [side + -side % _ENCODER_STRIDE for side in size]
        grids = [[-(-side // stride) for side in sides] for stride in self.strides]
        generator.set_cell_anchors(torch.float32, device)
        steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        return list(generator.grid_anchors(grids, steps))

    def loss(
        self, outputs: tuple[Tensor, Tensor], boxes: Tensor, counted: Tensor, valid: Tensor
    ) -> Tensor:
        """Compute the focal loss plus the L1 loss of boxes, per positive anchor.

        Args:
            outputs: What `forward` returned for a batch.
            boxes: (N, M, 4) left, top, right, bottom in pixels; rows without a box are NaN.
            counted: (N, M), False for boxes that are ignored: neither hit nor miss.
            valid: (N, 1, H, W), False on nodata. Background anchors with their centre there are
                ignored.

        Returns:
            A scalar, the mean over the batch.
        """
        anchors = torch.cat(self.anchors(valid.shape[2:], valid.device))
        inside = _centred_on(anchors, valid[:, 0])
        is_box = ~boxes.isnan().any(dim=2)
        targets, matches = [], []
        for index in range(len(boxes)):
            true = boxes[index][is_box[index] & counted[index]]
            ignored = boxes[index][is_box[index] & ~counted[index]]
            labels = torch.zeros(len(true), dtype=torch.long, device=boxes.device)
            targets.append({"boxes": true, "labels": labels})
            matches.append(self._match(anchors, true, ignored, inside[index]))
        named = {"cls_logits": outputs[0], "bbox_regression": outputs[1]}
        losses = self.detector.head.compute_loss(targets, named, [anchors] * len(targets), matches)
        total: Tensor = losses["classification"] + losses["bbox_regression"]
        return total

    def _match(self, anchors: Tensor, boxes: Tensor, ignored: Tensor, inside: Tensor) -> Tensor:
        """Index of the box of each anchor (A,), `_BACKGROUND` or `_IGNORED`."""
        match = torch.full((len(anchors),), _BACKGROUND, device=anchors.device)
        if len(boxes):
            match = self.detector.proposal_matcher(box_iou(boxes, anchors))
        ignorable = ~inside
        if len(ignored):
            ignorable = ignorable | _covers_any(anchors, ignored)
        match[ignorable & (match == _BACKGROUND)] = _IGNORED
        return match

    def detect(
        self, outputs: tuple[Tensor, Tensor], size: Sequence[int], *, least: float, iou: float
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the boxes of each image after non-maximum suppression, best first.

        Args:
            outputs: What `forward` returned for a batch.
            size: (height, width) of the images.
            least: Boxes with this score or less are dropped.
            iou: Of two boxes with a greater IoU than this, the one with the lower score is
                dropped.

        Returns:
            Per image, boxes (n, 4) left, top, right, bottom in pixels and scores (n,) in 0..1.
        """
        anchors = self.anchors(size, outputs[0].device)
        counts = [len(level) for level in anchors]
        by_map = {
            "cls_logits": list(torch.split(outputs[0], counts, dim=1)),
            "bbox_regression": list(torch.split(outputs[1], counts, dim=1)),
        }
        images = len(outputs[0])
        self.detector.score_thresh, self.detector.nms_thresh = least, iou
        detections = self.detector.postprocess_detections(
            by_map, [anchors] * images, [tuple(size)] * images
        )
        return [_drop_slivers(one["boxes"], one["scores"]) for one in detections]


def _check_anchors(sizes: Sequence[float], octaves: int, ratios: Sequence[float]) -> None:
    if len(sizes) not in (5, 6) or min(sizes) < 1:
        raise ValueError(
            f"anchor_sizes must be five sizes in pixels, for maps of stride 8 to 128, or six from "
            f"stride 4, got {list(sizes)}"
        )
    if octaves < 1 or not ratios or min(ratios) <= 0:
        raise ValueError(
            f"octaves must be at least 1 and ratios above 0, got {octaves} and {list(ratios)}"
        )


def _drop_slivers(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Drop boxes that have no extent left after clipping to the image."""
    kept = (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(dim=1)
    return boxes[kept], scores[kept]


def _covers_any(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Which anchors (A,) have their centre in any of the boxes, or cover at least half of one.

    IoU is not suitable: a building at the edge of a tile may be a strip that fits no anchor.
    """
    centres = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    centred = ((centres >= boxes[:, :2]) & (centres < boxes[:, 2:])).all(dim=2)
    low = torch.maximum(anchors[:, None, :2], boxes[:, :2])
    high = torch.minimum(anchors[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    covered = shared >= 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return (centred | covered).any(dim=1)


def _centred_on(anchors: Tensor, valid: Tensor) -> Tensor:
    """(N, A), whether the centre of an anchor (A, 4) is on a valid pixel of (N, H, W)."""
    height, width = valid.shape[1:]
    columns, rows = ((anchors[:, :2] + anchors[:, 2:]) / 2).floor().long().unbind(dim=1)
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    return valid[:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] & inside
