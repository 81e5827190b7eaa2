"""Augmentation of tiles with boxes: quarter turns, reflections and tones."""

from __future__ import annotations

import torch
from torch import Tensor

from geoseg.options import AugmentOptions
from geoseg.training.augmentation import augment_tones
from geoseg.training.randomness import Randomness


def augment_boxes(
    image: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    black: Tensor,
    options: AugmentOptions,
    random: Randomness,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate by quarter turns, mirror, and change tones and colours of each sample at random.

    After a rotation by any other angle, a building's box could not be computed from the old box.
    Images that are not square are rotated by half turns only.

    Args:
        image: (N, C, H, W) float, normalised.
        boxes: (N, M, 4), left, top, right, bottom in pixels; NaN where there is no box.
        valid: (N, 1, H, W) bool.
        black: (C,), the normalised value of black.
        options: Augmentation options; those that would change the shape of boxes are ignored.
        random: Random parameters of the samples.

    Returns:
        Image, boxes and valid, of the same shapes.
    """
    height, width = image.shape[-2:]
    turns = random.integers(4) * options.quarter_turns
    mirrored = random.bernoulli(0.5) & options.mirrors
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
    return augment_tones(image, black, options, random).mul_(valid), boxes, valid


def turn_image(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Mirror an image (C, H, W) if requested, then rotate it anticlockwise by quarter turns."""
    return torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))


def turn_boxes(boxes: Tensor, size: tuple[int, int], turns: int, mirrored: bool) -> Tensor:
    """Transform boxes (M, 4) of an image of (height, width) as `turn_image` does the image."""
    height, width = size
    left, top, right, bottom = boxes.unbind(dim=1)
    if mirrored:
        left, right = width - right, width - left
    for _ in range(turns % 4):
        left, top, right, bottom = top, width - right, bottom, width - left
        height, width = width, height
    return torch.stack([left, top, right, bottom], dim=1)
