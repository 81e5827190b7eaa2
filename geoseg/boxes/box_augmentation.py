"""Augmentation of tiles with boxes: what leaves a box a box."""

from __future__ import annotations

import torch
from torch import Tensor

from geoseg.options import AugmentOptions
from geoseg.training.augmentation import Chance, relight


def augment_boxes(
    image: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    black: Tensor,
    options: AugmentOptions,
    chance: Chance,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns by quarters, mirrors, shades and recolours every sample of a batch at random.

    Around a building that is turned by any other angle there is no telling how large its box
    would be, so these turns alone are made; images that are not square are turned by halves.

    Args:
        image: (N, C, H, W) float, normalised.
        boxes: (N, M, 4) left, top, right, bottom in pixels; NaN stays NaN.
        valid: (N, 1, H, W) bool.
        black: (C,), the normalised value of black.
        options: What is done, as far as it leaves boxes what they are.
        chance: Source of randomness.

    Returns:
        The three, of the same shapes.
    """
    height, width = image.shape[-2:]
    turns = chance.below(4) * options.quarter_turns
    mirrored = chance.strikes(0.5) & options.mirrors
    if height != width:
        turns = turns // 2 * 2
    views = list(zip(turns.tolist(), mirrored.tolist(), strict=True))
    image, valid = (
        torch.stack([turn_image(one, *view) for one, view in zip(batch, views, strict=True)])
        for batch in (image, valid)
    )
    size = (height, width)
    boxes = torch.stack(
        [turn_boxes(one, size, *view) for one, view in zip(boxes, views, strict=True)]
    )
    return relight(image, black, options, chance).mul_(valid), boxes, valid


def turn_image(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(C, H, W), its columns reversed if so asked, then turned by quarters anticlockwise."""
    return torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))


def turn_boxes(boxes: Tensor, size: tuple[int, int], turns: int, mirrored: bool) -> Tensor:
    """Boxes (M, 4) of an image of (height, width), where `turn_image` brings what they hold."""
    height, width = size
    left, top, right, bottom = boxes.unbind(dim=1)
    if mirrored:
        left, right = width - right, width - left
    for _ in range(turns % 4):
        left, top, right, bottom = top, width - right, bottom, width - left
        height, width = width, height
    return torch.stack([left, top, right, bottom], dim=1)
