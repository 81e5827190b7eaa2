"""RetinaNet: boxes from a pyramid of maps, by the parts of torchvision.

Lin et al.: "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002).

As torchvision does it and the paper does not: P6 is made from P5 rather than from the encoder's
deepest map, boxes are regressed by their absolute error rather than a smoothed one, and the best
anchor of a building counts as positive however little it overlaps it.

What is ours: anchors half as large as the paper's, because buildings are small; strides that are
exact for images of any size; and anchors that count for nothing, on nodata and on buildings of
which too little is to be seen.
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

# The finest map is left out where there are five sizes of anchors, as in the paper. The encoder
# makes those up to 32.
_STRIDES = (4, 8, 16, 32, 64, 128)
_ENCODER_STRIDE = 32

# What torchvision's matcher says of an anchor without a building.
_BACKGROUND, _IGNORED = -1, -2
_LEAST_IOU, _ENOUGH_IOU = 0.4, 0.5

# Pixels. Thinner boxes are the remains of what lies beside the image.
_LEAST_SIDE = 1.0


class PyramidEncoder(nn.Module):
    """An encoder under a feature pyramid with the two coarser maps of RetinaNet.

    Args:
        encoder: With maps at strides 4, 8, 16 and 32.
        channels: Channels of each map of the pyramid.
        levels: Maps of the pyramid: 5 for strides 8 to 128, 6 for strides 4 to 128.
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
    """Encoder, pyramid, and two towers that say of every anchor what it shows and where it is.

    Args:
        encoder: Makes an encoder with maps at strides 4, 8, 16 and 32.
        classes: Channels of the logits; buildings need one.
        channels: Width of the pyramid and of the towers.
        anchor_sizes: Side of the smallest anchor of each map in pixels, the finest map first.
            Five sizes belong to strides 8 to 128, six to strides 4 to 128. The paper's are
            (32, 64, 128, 256, 512).
        octaves: Anchor sizes per map, evenly spread over a factor of two.
        ratios: Height over width of the anchors.

    Raises:
        ValueError: If sizes, octaves or ratios do not make anchors.
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
            fg_iou_thresh=_ENOUGH_IOU,
            bg_iou_thresh=_LEAST_IOU,
            # A tile of a dense town holds more buildings than a photograph holds things, each
            # with a dozen anchors to choose from.
            detections_per_img=1000,
            topk_candidates=10_000,
        )
        # It would bring images to the size and the colours of photographs.
        self.detector.transform = nn.Identity()

    @property
    def encoder(self) -> nn.Module:
        """The encoder inside."""
        encoder: nn.Module = self.detector.backbone.encoder
        return encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the network says of each anchor.

        Args:
            image: (N, bands, H, W), any H and W.

        Returns:
            Logits (N, anchors, classes), and offsets (N, anchors, 4) that move and stretch the
            anchors of `anchors`, both float32.
        """
        height, width = image.shape[2:]
        # Beyond the image lies nodata, which is 0 in it too.
        bottom, right = -height % _ENCODER_STRIDE, -width % _ENCODER_STRIDE
        maps = self.detector.backbone(F.pad(image, (0, right, 0, bottom)))
        said = self.detector.head(maps)
        # Coordinates need more digits than half precision has.
        return said["cls_logits"].float(), said["bbox_regression"].float()

    def anchors(self, size: Sequence[int], device: torch.device) -> list[Tensor]:
        """Anchors (A, 4) of each map, left, top, right, bottom, for an image of (height, width)."""
        generator: Any = self.detector.anchor_generator
        sides = [side + -side % _ENCODER_STRIDE for side in size]
        grids = [[-(-side // stride) for side in sides] for stride in self.strides]
        generator.set_cell_anchors(torch.float32, device)
        steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        return list(generator.grid_anchors(grids, steps))

    def loss(
        self, said: tuple[Tensor, Tensor], boxes: Tensor, learnt: Tensor, valid: Tensor
    ) -> Tensor:
        """Focal loss plus the boxes' absolute error, each over the number of positive anchors.

        Args:
            said: What `forward` says of a batch.
            boxes: (N, M, 4) left, top, right, bottom in pixels; NaN fills up.
            learnt: (N, M), False where a box is to be neither found nor not found.
            valid: (N, 1, H, W), False on nodata. An anchor that is centred there counts only
                if it is a building's.

        Returns:
            A scalar, the mean over the batch.
        """
        anchors = torch.cat(self.anchors(valid.shape[2:], valid.device))
        inside = _centred_on(anchors, valid[:, 0])
        there = ~boxes.isnan().any(dim=2)
        targets, matches = [], []
        for index in range(len(boxes)):
            found = boxes[index][there[index] & learnt[index]]
            unclear = boxes[index][there[index] & ~learnt[index]]
            labels = torch.zeros(len(found), dtype=torch.long, device=boxes.device)
            targets.append({"boxes": found, "labels": labels})
            matches.append(self._match(anchors, found, unclear, inside[index]))
        outputs = {"cls_logits": said[0], "bbox_regression": said[1]}
        losses = self.detector.head.compute_loss(
            targets, outputs, [anchors] * len(targets), matches
        )
        total: Tensor = losses["classification"] + losses["bbox_regression"]
        return total

    def _match(self, anchors: Tensor, boxes: Tensor, unclear: Tensor, inside: Tensor) -> Tensor:
        """Each anchor's box by number, or that it is background or counts for nothing."""
        match = torch.full((len(anchors),), _BACKGROUND, device=anchors.device)
        if len(boxes):
            match = self.detector.proposal_matcher(box_iou(boxes, anchors))
        nothing = ~inside
        if len(unclear):
            nothing = nothing | _shows_any(anchors, unclear)
        match[nothing & (match == _BACKGROUND)] = _IGNORED
        return match

    def detect(
        self, said: tuple[Tensor, Tensor], size: Sequence[int], *, least: float, iou: float
    ) -> list[tuple[Tensor, Tensor]]:
        """The boxes of each image, best first, none of which overlaps a better one too far.

        Args:
            said: What `forward` says of a batch.
            size: (height, width) of its images.
            least: Boxes of this score or less are left out.
            iou: Of two boxes that overlap by more than this IoU the better one stays.

        Returns:
            Per image, boxes (n, 4) left, top, right, bottom in pixels and scores (n,) in 0..1.
        """
        anchors = self.anchors(size, said[0].device)
        counts = [len(level) for level in anchors]
        outputs = {
            "cls_logits": list(torch.split(said[0], counts, dim=1)),
            "bbox_regression": list(torch.split(said[1], counts, dim=1)),
        }
        images = len(said[0])
        self.detector.score_thresh, self.detector.nms_thresh = least, iou
        found = self.detector.postprocess_detections(
            outputs, [anchors] * images, [tuple(size)] * images
        )
        return [_within(one["boxes"], one["scores"]) for one in found]


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


def _within(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Those boxes of which the image shows anything: what lies beside it was cut to nothing."""
    seen = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(dim=1)
    return boxes[seen], scores[seen]


def _shows_any(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Which anchors (A,) are centred in one of some boxes, or cover at least half of one.

    Of a building at a tile's edge there may be a strip to see that no anchor fits.
    """
    centres = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    centred = ((centres >= boxes[:, :2]) & (centres < boxes[:, 2:])).all(dim=2)
    low = torch.maximum(anchors[:, None, :2], boxes[:, :2])
    high = torch.minimum(anchors[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    covered = shared >= 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return (centred | covered).any(dim=1)


def _centred_on(anchors: Tensor, valid: Tensor) -> Tensor:
    """(N, A), whether the centre of an anchor (A, 4) lies on a valid pixel of (N, H, W)."""
    height, width = valid.shape[1:]
    columns, rows = ((anchors[:, :2] + anchors[:, 2:]) / 2).floor().long().unbind(dim=1)
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    return valid[:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] & inside
