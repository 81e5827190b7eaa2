"""Augmentation of whole batches on whatever device they lie; each sample its own way."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Scale factors are drawn between 1/_SCALE and _SCALE.
_SCALE = 1.4

# Elastic deformation displaces a grid of 3 x 3 knots.
_KNOTS = 3


def augment(
    image: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    black: Tensor,
    ignore: int,
    generator: torch.Generator,
    full: bool = True,
    elastic_px: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns, mirrors, scales, bends, shades and recolours every sample of a batch at random.

    Args:
        image: (N, C, H, W) float, normalised.
        target: (N, K, H, W) uint8.
        valid: (N, 1, H, W) bool.
        black: (C,), the normalised value of black.
        ignore: Target value of pixels that count for nothing.
        generator: Source of randomness, on the CPU.
        full: Any turn, scale and shadows besides quarter turns, mirrors and colours.
        elastic_px: Standard deviation of the displacements that bend a sample, pixels.

    Returns:
        The three, of the same shapes. What comes into view from beyond the tile mirrors it.
    """
    grid = _sampling_grid(image.shape, generator, free_share=0.5 if full else 0.0)
    if elastic_px:
        coarse = torch.randn(len(image), 2, _KNOTS, _KNOTS, generator=generator) * elastic_px
        grid = grid + bend(coarse, *image.shape[-2:])
    grid = grid.to(image.device)
    image = F.grid_sample(
        image, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # Nearest sampling keeps 0, 1 and `ignore` what they are.
    whole = torch.cat([target, valid.to(target.dtype)], dim=1).to(image.dtype)
    whole = F.grid_sample(
        whole, grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    target = whole[:, :-1].round().to(target.dtype)
    valid = whole[:, -1:] > 0.5
    target = torch.where(valid, target, torch.full_like(target, ignore))
    image = recolour(image, generator)
    if full:
        image = cast_shadows(image, black, generator)
    return image * valid, target, valid


def bend(coarse: Tensor, height: int, width: int) -> Tensor:
    """Spreads displacements on a coarse grid to every pixel, bicubically (U-Net, 1505.04597).

    Args:
        coarse: (N, 2, rows, columns), by how many pixels (x, y) the knots look elsewhere; the
            outermost knots lie on the outermost pixels.
        height: Rows of the samples.
        width: Columns of the samples.

    Returns:
        (N, H, W, 2), to be added to the grid of `grid_sample` with `align_corners=False`.
    """
    field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return field.movedim(1, -1) * (2 / field.new_tensor([width, height]))


def recolour(image: Tensor, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast and colour balance, and adds a little noise.

    Args:
        image: (N, C, H, W), normalised.
        generator: Source of randomness, on the CPU.
    """
    count, bands = image.shape[:2]

    def draw(width: int, low: float, high: float) -> Tensor:
        values = torch.rand(count, width, 1, 1, generator=generator) * (high - low) + low
        return values.to(image.device)

    image = image * draw(1, 0.6, 1.4) + draw(1, -0.6, 0.6)
    image = image * draw(bands, 0.9, 1.1) + draw(bands, -0.15, 0.15)
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    return image + noise * draw(1, 0.0, 0.08)


def cast_shadows(image: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Darkens a soft-edged stripe across half of the samples, as a tall neighbour would.

    Args:
        image: (N, C, H, W), normalised.
        black: (C,), the normalised value of black.
        generator: Source of randomness, on the CPU.
    """
    count, _, height, width = image.shape

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, generator=generator) * (high - low) + low

    angle, centre, half = draw(0, math.pi), draw(-0.5, 0.5), draw(0.05, 0.4)
    y = torch.linspace(-0.5, 0.5, height).view(1, -1, 1)
    x = torch.linspace(-0.5, 0.5, width).view(1, 1, -1)
    across = (x * angle.cos() + y * angle.sin() - centre).abs()
    inside = ((half - across) / 0.02).clamp(0, 1)
    light = 1 - inside * draw(0.2, 0.7) * (draw(0, 1) < 0.5)
    floor = black.view(1, -1, 1, 1)
    return (image - floor) * light.unsqueeze(1).to(image.device) + floor


def _sampling_grid(shape: torch.Size, generator: torch.Generator, *, free_share: float) -> Tensor:
    """Where each output pixel looks: one of 4 quarter turns plus up to ±20°, mirror, scale."""
    count, _, height, width = shape

    def draw() -> Tensor:
        return torch.rand(count, generator=generator)

    quarter = torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2)
    # The other samples stay on the pixel grid, where nothing is blurred.
    free = (draw() < free_share).float()
    angle = quarter + free * (draw() * 2 - 1) * math.radians(20)
    scale = _SCALE ** (free * (draw() * 2 - 1))
    mirror = (draw() < 0.5).float() * 2 - 1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    zero = torch.zeros_like(cos)
    # Height and width differ, so that a turn must pass through pixels.
    ratio = height / width
    rows = [
        torch.stack([cos * mirror, -sin * ratio, zero], dim=1),
        torch.stack([sin * mirror / ratio, cos, zero], dim=1),
    ]
    return F.affine_grid(torch.stack(rows, dim=1), [count, 1, height, width], align_corners=False)
