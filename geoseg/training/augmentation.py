"""Augmentation of whole batches on their device, with separate parameters for each sample."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.errors import InputShapeError
from geoseg.options import AugmentOptions
from geoseg.training.randomness import Randomness

# Elastic deformation displaces a grid of 3 x 3 knots.
_KNOTS = 3

# Assumed white point, in standard deviations above the mean; the tone curve keeps black and white.
WHITE = 3.0


def augment(
    image: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    size: int,
    black: Tensor,
    white: Tensor,
    ignore: int,
    background: Tensor,
    options: AugmentOptions | None,
    random: Randomness,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut tiles out of windows, with random geometry, tones, shadows, colours and blank areas.

    Args:
        image: (N, C, H, W) float, normalised; H and W are at least `size`.
        target: (N, K, H, W) uint8.
        valid: (N, 1, H, W) bool.
        size: Side of the tiles in pixels; tiles are cut from the centre of the windows.
        black: (C,), the normalised value of black.
        white: (C,), the normalised value of white.
        ignore: Target value of ignored pixels.
        background: (K,) uint8, the target values of a pixel that is far from any building.
        options: Augmentation options; None only cuts out the centre.
        random: Random parameters of the samples.

    Returns:
        Image, target and valid, of `size` x `size` pixels. Beyond the window, pixels are mirrored.
        Invalid pixels are 0 in the image and `ignore` in the target.

    Raises:
        InputShapeError: If the windows are smaller than the tiles.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise InputShapeError(
            f"augment: windows of {height} x {width} pixels are smaller than tiles of "
            f"{size} x {size}"
        )
    # Stacked, so that target and valid are transformed together.
    masks = torch.cat([target, valid.to(target.dtype)], dim=1)
    if options is None:
        image, masks = (_crop_centre(tensor, size).clone() for tensor in (image, masks))
    else:
        image, masks = _transform(image, masks, size, options, random)
        image = augment_tones(image, black, options, random)
    target, valid = masks[:, :-1], masks[:, -1:] > 0
    if options is not None and options.blank_share:
        fills = torch.stack([black, white, torch.zeros_like(black)])
        add_blank_areas(image, target, valid, fills, background, options, random)
    return image.mul_(valid), target.masked_fill(~valid, ignore), valid


def displacement_field(coarse: Tensor, window: torch.Size, size: int) -> Tensor:
    """Interpolate displacements of a coarse grid bicubically (U-Net, arXiv 1505.04597).

    Args:
        coarse: (N, 2, rows, columns), displacements (x, y) of the sampling position in pixels; the
            outermost knots are at the outermost pixels.
        window: Height and width of the windows that are sampled.
        size: Side of the tiles.

    Returns:
        (N, size, size, 2), to be added to the grid of `grid_sample` with `align_corners=False`.
    """
    field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return field.movedim(1, -1) * _send(_per_pixel(window), coarse.device)


def augment_tones(
    image: Tensor, black: Tensor, options: AugmentOptions, random: Randomness
) -> Tensor:
    """Apply blur, tone curve, shadows and colour changes, in this order.

    Shadows follow the tone curve, which would turn dark shadows into black.

    Args:
        image: (N, C, H, W) float, normalised; overwritten.
        black: (C,), the normalised value of black.
        options: Augmentation options.
        random: Random parameters of the samples.
    """
    if options.blur_px and options.blur_share:
        image = blur(image, options, random)
    if options.gamma:
        image = apply_gamma(image, black, options, random)
    if options.shadows:
        image = cast_shadows(image, black, options, random)
    return change_colours(image, options, random)


def apply_gamma(
    image: Tensor, black: Tensor, options: AugmentOptions, random: Randomness
) -> Tensor:
    """Apply a power law to brightness between black and white; darker values are clipped.

    Args:
        image: (N, C, H, W), normalised; overwritten.
        black: (C,), the normalised value of black.
        options: `gamma`.
        random: Random parameters of the samples.
    """
    exponent = _send(random.uniform(-options.gamma, options.gamma, 1, 1, 1).exp(), image.device)
    floor = _black_point(black)
    span = WHITE - floor
    light = image.sub_(floor).div_(span)
    # Three times as fast as `pow` on a CPU; clamped, as infinite logarithms are slow.
    return light.clamp_(min=1e-12).log_().mul_(exponent).exp_().mul_(span).add_(floor)


def cast_shadows(
    image: Tensor, black: Tensor, options: AugmentOptions, random: Randomness
) -> Tensor:
    """Darken a stripe with soft edges in some samples, like the shadow of a tall building.

    Args:
        image: (N, C, H, W), normalised.
        black: (C,), the normalised value of black.
        options: `shadows`.
        random: Random parameters of the samples.
    """
    angle, centre = random.uniform(0, math.pi), random.uniform(-0.5, 0.5)
    half, depth = random.uniform(0.05, 0.4), random.uniform(0.2, 0.7)
    depth = depth * random.bernoulli(options.shadows)
    parameters = _send(torch.stack([angle.cos(), angle.sin(), centre, half, depth]), image.device)
    cos, sin, centre, half, depth = parameters.view(5, -1, 1, 1, 1).unbind()
    height, width = image.shape[-2:]
    y = torch.linspace(-0.5, 0.5, height, device=image.device).view(-1, 1)
    x = torch.linspace(-0.5, 0.5, width, device=image.device)
    across = (x * cos + (y * sin - centre)).abs_()
    inside = across.sub_(half).mul_(-1 / 0.02).clamp_(0, 1)
    return torch.lerp(_black_point(black), image, inside.mul_(-depth).add_(1))


def add_blank_areas(
    image: Tensor,
    target: Tensor,
    valid: Tensor,
    fills: Tensor,
    background: Tensor,
    options: AugmentOptions,
    random: Randomness,
) -> None:
    """Blank a part of some samples, from the edge inwards: it has one value and no building.

    The part is what is outside the corner of a frame at any angle, as in a mosaic or a rotated
    scene that is filled with one value outside the imagery. The centre of a tile is never blank.
    This comes last, since changes of tones are those of a sensor, which has not seen such areas.

    Args:
        image: (N, C, H, W), normalised; overwritten.
        target: (N, K, H, W) uint8; overwritten.
        valid: (N, 1, H, W) bool; only valid pixels are blanked.
        fills: (F, C), normalised values of blank areas, of which each sample gets one.
        background: (K,) uint8, the target values of blank pixels.
        options: `blank_share`.
        random: Random parameters of the samples.
    """
    is_blank, fill = random.bernoulli(options.blank_share), random.integers(len(fills))
    angle = random.uniform(0, 2 * math.pi)
    # Distances of the frame's two sides from the centre; one of 0.71 may be outside the tile.
    near, far = random.uniform(0, 0.5), random.uniform(0, 1)
    which = is_blank.nonzero()[:, 0]
    if not len(which):
        return
    parameters = torch.stack([angle.cos(), angle.sin(), near, far])[:, which]
    cos, sin, near, far = _send(parameters, image.device).view(4, -1, 1, 1, 1).unbind()
    height, width = image.shape[-2:]
    y = torch.linspace(-0.5, 0.5, height, device=image.device).view(-1, 1)
    x = torch.linspace(-0.5, 0.5, width, device=image.device)
    fill, which = _send(fill[which], image.device), _send(which, image.device)
    blank = (x * cos + y * sin > near) | (y * cos - x * sin > far)
    blank &= valid[which]
    image[which] = torch.where(blank, fills[fill][:, :, None, None].to(image.dtype), image[which])
    target[which] = torch.where(blank, background.view(-1, 1, 1), target[which])


def blur(image: Tensor, options: AugmentOptions, random: Randomness) -> Tensor:
    """Blur some samples with a Gaussian, each with its own sigma.

    Args:
        image: (N, C, H, W); overwritten.
        options: `blur_px`, `blur_share`.
        random: Random parameters of the samples.
    """
    sigma, is_blurred = random.uniform(0, options.blur_px), random.bernoulli(options.blur_share)
    which = is_blurred.nonzero()[:, 0]
    if not len(which):
        return image
    radius = math.ceil(3 * options.blur_px)
    offsets = torch.arange(-radius, radius + 1)
    kernels = torch.softmax(-0.5 * (offsets / sigma[which, None].clamp(min=1e-3)) ** 2, dim=1)
    bands = image.shape[1]
    kernels = _send(kernels.repeat_interleave(bands, dim=0)[:, None, None], image.device)
    which = _send(which, image.device)
    selected = image[which]
    planes = F.pad(selected.flatten(0, 1)[None], (radius, radius, radius, radius), mode="replicate")
    # Full precision: mixed precision is for the network only.
    with torch.autocast(image.device.type, enabled=False):
        planes = F.conv2d(planes, kernels, groups=len(kernels))
        planes = F.conv2d(planes, kernels.mT, groups=len(kernels))
    image[which] = planes.view_as(selected)
    return image


def change_colours(image: Tensor, options: AugmentOptions, random: Randomness) -> Tensor:
    """Change brightness, contrast and band gains, add noise, and drop bands.

    Args:
        image: (N, C, H, W), normalised; overwritten.
        options: `brightness`, `contrast`, `band_gain`, `band_shift`, `noise`, `band_dropout`.
        random: Random parameters of the samples.
    """

    def vary(centre: float, spread: float, bands: int) -> Tensor:
        return random.uniform(centre - spread, centre + spread, bands, 1, 1)

    bands, device = image.shape[1], image.device
    gain, shift = vary(1, options.contrast, 1), vary(0, options.brightness, 1)
    balance = vary(1, options.band_gain, bands)
    gain, shift = gain * balance, shift * balance + vary(0, options.band_shift, bands)
    kept = _kept_bands(bands, options, random)
    image.mul_(_send(gain * kept, device)).add_(_send(shift * kept, device))
    if options.noise:
        noise = torch.randn(image.shape, generator=random.generator_on(device), device=device)
        amount = random.uniform(0, options.noise, 1, 1, 1) * kept
        image.addcmul_(noise, _send(amount, device))
    return image


def _black_point(black: Tensor) -> Tensor:
    """Return (C, 1, 1), black; for bands whose zero is not dark, such as decibels, minus white."""
    return torch.where(black < 0, black, -WHITE).view(-1, 1, 1)


def _kept_bands(bands: int, options: AugmentOptions, random: Randomness) -> Tensor:
    """Return (N, C, 1, 1), 0 for a dropped band of a sample, else 1; a single band is kept."""
    kept = torch.ones(random.count, bands, 1, 1)
    if options.band_dropout and bands > 1:
        dropped = random.integers(bands)[:, None] == torch.arange(bands)
        dropped &= random.bernoulli(options.band_dropout)[:, None]
        kept[dropped] = 0
    return kept


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    # A blocking copy would wait for all work queued on the GPU.
    return tensor.to(device, non_blocking=True)


def _crop_centre(tensor: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in tensor.shape[-2:])
    return tensor[..., top : top + size, left : left + size]


def _transform(
    image: Tensor, masks: Tensor, size: int, options: AugmentOptions, random: Randomness
) -> tuple[Tensor, Tensor]:
    """Rotate, mirror, scale and deform; images are interpolated bilinearly, masks by nearest."""
    turn, device = _draw_quarter_turn(options, random), image.device
    index = _source_pixels(turn, size, image.shape[-2:], device)
    new_image, new_masks = _gather(image, index, size), _gather(masks, index, size)
    if options.leaves_grid:
        # Chosen on the CPU, so that nothing waits for the GPU.
        free = random.bernoulli(options.free_share).nonzero()[:, 0]
        turn = _draw_free_turn(turn, options, random)[free]
        grid = _sampling_grid(turn, size, image.shape[-2:], device)
        if options.elastic_px:
            coarse = options.elastic_px * random.normal(2, _KNOTS, _KNOTS)[free]
            grid += displacement_field(_send(coarse, device), image.shape[-2:], size)
        free = _send(free, device)
        new_image[free] = _sample(image[free], grid, "bilinear")
        # Nearest sampling, since class values must not be mixed.
        new_masks[free] = _sample(masks[free].float(), grid, "nearest").to(masks.dtype)
    return new_image, new_masks


def _draw_quarter_turn(options: AugmentOptions, random: Randomness) -> Tensor:
    """Draw one of the eight rotations and reflections of a square for each sample.

    Returns:
        (N, 2, 2) integers, `turn[n, axis of source, axis of tile]`: the step (right, down) in the
        source for one column, and for one row, of the tile.
    """
    quarters = random.integers(4) * options.quarter_turns
    mirror = 1 - 2 * random.integers(2) * options.mirrors
    cos, sin = (torch.tensor(values)[quarters] for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
    by_column, by_row = torch.stack([cos, sin], 1) * mirror[:, None], torch.stack([-sin, cos], 1)
    return torch.stack([by_column, by_row], dim=2)


def _corner(window: torch.Size, size: int) -> Tensor:
    """Return column and row of the upper left pixel of the central tile of a window."""
    height, width = window
    return torch.tensor([(width - size) // 2, (height - size) // 2])


def _source_pixels(turn: Tensor, size: int, window: torch.Size, device: torch.device) -> Tensor:
    """Return (N, size, size) indices into flattened windows, linear in column and row."""
    stride, last = torch.tensor([1, window[1]]), size - 1
    # Source of the tile's first pixel when the tile is rotated about its centre.
    first = _corner(window, size) + (last - last * turn.sum(dim=2)) // 2
    steps_xy = torch.stack([first, *turn.unbind(dim=2)]) * stride
    first, right, down = _send(steps_xy.sum(dim=2), device).view(3, -1, 1, 1).unbind()
    steps = torch.arange(size, device=device)
    return (first + right * steps) + down * steps[:, None]


def _gather(tensor: Tensor, index: Tensor, size: int) -> Tensor:
    indices = index.flatten(1)[:, None].expand(-1, tensor.shape[1], -1)
    return tensor.flatten(2).gather(2, indices).view(*tensor.shape[:2], size, size)


def _draw_free_turn(turn: Tensor, options: AugmentOptions, random: Randomness) -> Tensor:
    """Add a rotation by any angle and a scale to quarter turns; returns (N, 2, 2)."""
    angle = random.uniform(-1, 1) * math.radians(options.turn_deg)
    scale = options.scale ** random.uniform(-1, 1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], dim=2)
    # Not `@`, which autocast would round to 16 bits.
    return (rotation.unsqueeze(3) * turn.unsqueeze(1)).sum(dim=2)


def _sampling_grid(turn: Tensor, size: int, window: torch.Size, device: torch.device) -> Tensor:
    """Return the positions (N, size, size, 2) of tile pixels in windows, for `grid_sample`."""
    per_pixel = _per_pixel(window)
    centre = (_corner(window, size) + size / 2) * per_pixel - 1
    scaled = _send(turn * per_pixel.view(2, 1), device)
    right, down = scaled.view(-1, 1, 1, 2, 2).unbind(dim=4)
    steps = (torch.arange(size, device=device) - (size - 1) / 2).view(-1, 1)
    return (_send(centre, device) + right * steps) + down * steps.unsqueeze(1)


def _per_pixel(window: torch.Size) -> Tensor:
    """Return the size (x, y) of a pixel in the coordinates of `grid_sample`, -1 to 1."""
    height, width = window
    return 2 / torch.tensor([width, height])


def _sample(tensor: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(tensor, grid, mode=mode, padding_mode="reflection", align_corners=False)
