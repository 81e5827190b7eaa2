"""Augmentation of whole batches on whatever device they lie; each sample its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.errors import InputShapeError
from geoseg.options import AugmentOptions

# Elastic deformation displaces a grid of 3 x 3 knots.
_KNOTS = 3

# The tone curve leaves black where it is, and this many deviations above the mean.
_WHITE = 3.0


@dataclass(frozen=True)
class Chance:
    """What befalls the samples of a batch: random numbers, on the CPU.

    Processes that share a batch draw for all of its samples, and each takes its own: what befalls
    a sample, but for its grain, does not depend on how many processes there are.

    Attributes:
        generator: Source of randomness, on the CPU; in the same state in every process.
        count: Samples of this process.
        rank: This process, of 0 to `world` - 1; its samples follow those of the one before.
        world: Number of processes.
    """

    generator: torch.Generator
    count: int
    rank: int = 0
    world: int = 1

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape) between two values."""
        values = torch.rand(self.world * self.count, *shape, generator=self.generator)
        return self._own(values) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """(count, *shape) of mean 0 and deviation 1."""
        return self._own(torch.randn(self.world * self.count, *shape, generator=self.generator))

    def below(self, limit: int) -> Tensor:
        """(count,) integers from 0 to `limit` - 1."""
        values = torch.randint(limit, (self.world * self.count,), generator=self.generator)
        return self._own(values)

    def strikes(self, share: float) -> Tensor:
        """(count,) bool, True for about this share of samples."""
        return self.uniform(0, 1) < share

    def on(self, device: torch.device) -> torch.Generator:
        """A source of randomness on a device, of this process alone."""
        seeds = torch.randint(2**62, (self.world,), generator=self.generator)
        return torch.Generator(device).manual_seed(int(seeds[self.rank]))

    def _own(self, values: Tensor) -> Tensor:
        return values[self.rank * self.count : (self.rank + 1) * self.count]


def augment(
    image: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    size: int,
    black: Tensor,
    ignore: int,
    options: AugmentOptions | None,
    chance: Chance,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts tiles out of windows: turned, mirrored, scaled, bent, shaded and recoloured at random.

    Args:
        image: (N, C, H, W) float, normalised; H and W are at least `size`.
        target: (N, K, H, W) uint8.
        valid: (N, 1, H, W) bool.
        size: Side of the tiles, pixels; they lie in the middle of the windows.
        black: (C,), the normalised value of black.
        ignore: Target value of pixels that count for nothing.
        options: What is done; None cuts out the middle as it is.
        chance: Source of randomness.

    Returns:
        The three, of `size` x `size` pixels. What comes into view from beyond the window mirrors
        it. What is not valid is 0 in the image and `ignore` in the target.

    Raises:
        InputShapeError: If the windows are smaller than the tiles.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise InputShapeError(
            f"augment: windows of {height} x {width} pixels hold no tile of {size} x {size}"
        )
    # Side by side, so that target and valid are moved as one.
    whole = torch.cat([target, valid.to(target.dtype)], dim=1)
    if options is None:
        image, whole = (_middle(tensor, size).clone() for tensor in (image, whole))
    else:
        image, whole = _move(image, whole, size, options, chance)
        image = relight(image, black, options, chance)
    target, valid = whole[:, :-1], whole[:, -1:] > 0
    return image.mul_(valid), target.masked_fill(~valid, ignore), valid


def bend(coarse: Tensor, window: torch.Size, size: int) -> Tensor:
    """Spreads displacements on a coarse grid to every pixel, bicubically (U-Net, 1505.04597).

    Args:
        coarse: (N, 2, rows, columns), by how many pixels (x, y) the knots look elsewhere; the
            outermost knots lie on the outermost pixels.
        window: Height and width of what is looked at.
        size: Side of the tiles.

    Returns:
        (N, size, size, 2), to be added to the grid of `grid_sample` with `align_corners=False`.
    """
    field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return field.movedim(1, -1) * _send(_per_pixel(window), coarse.device)


def relight(image: Tensor, black: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """Blurs, bends the tone curve, casts shadows and changes colours, in this order.

    Shadows come after the tone curve, which would turn deep ones into plain black.

    Args:
        image: (N, C, H, W) float, normalised; it is written over.
        black: (C,), the normalised value of black.
        options: What is done.
        chance: Source of randomness.
    """
    if options.blur_px and options.blur_share:
        image = blur(image, options, chance)
    if options.gamma:
        image = bend_tones(image, black, options, chance)
    if options.shadows:
        image = cast_shadows(image, black, options, chance)
    return recolour(image, options, chance)


def bend_tones(image: Tensor, black: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """Raises light to a power, between darkness and white; darker than dark there is nothing.

    Args:
        image: (N, C, H, W), normalised; it is written over.
        black: (C,), the normalised value of black.
        options: `gamma`.
        chance: Source of randomness.
    """
    power = _send(chance.uniform(-options.gamma, options.gamma, 1, 1, 1).exp(), image.device)
    floor = _darkest(black)
    span = _WHITE - floor
    light = image.sub_(floor).div_(span)
    # Three times as fast as `pow` on a CPU, where infinite logarithms would be slow.
    return light.clamp_(min=1e-12).log_().mul_(power).exp_().mul_(span).add_(floor)


def cast_shadows(image: Tensor, black: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """Darkens a soft-edged stripe across some of the samples, as a tall neighbour would.

    Args:
        image: (N, C, H, W), normalised.
        black: (C,), the normalised value of black.
        options: `shadows`.
        chance: Source of randomness.
    """
    angle, centre = chance.uniform(0, math.pi), chance.uniform(-0.5, 0.5)
    half, depth = chance.uniform(0.05, 0.4), chance.uniform(0.2, 0.7)
    depth = depth * chance.strikes(options.shadows)
    told = _send(torch.stack([angle.cos(), angle.sin(), centre, half, depth]), image.device)
    cos, sin, centre, half, depth = told.view(5, -1, 1, 1, 1).unbind()
    height, width = image.shape[-2:]
    y = torch.linspace(-0.5, 0.5, height, device=image.device).view(-1, 1)
    x = torch.linspace(-0.5, 0.5, width, device=image.device)
    across = (x * cos + (y * sin - centre)).abs_()
    inside = across.sub_(half).mul_(-1 / 0.02).clamp_(0, 1)
    return torch.lerp(_darkest(black), image, inside.mul_(-depth).add_(1))


def blur(image: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """Blurs some of the samples with a Gaussian, each with a sigma of its own.

    Args:
        image: (N, C, H, W); it is written over.
        options: `blur_px`, `blur_share`.
        chance: Source of randomness.
    """
    sigma, struck = chance.uniform(0, options.blur_px), chance.strikes(options.blur_share)
    which = struck.nonzero()[:, 0]
    if not len(which):
        return image
    reach = math.ceil(3 * options.blur_px)
    places = torch.arange(-reach, reach + 1)
    kernels = torch.softmax(-0.5 * (places / sigma[which, None].clamp(min=1e-3)) ** 2, dim=1)
    bands = image.shape[1]
    kernels = _send(kernels.repeat_interleave(bands, dim=0)[:, None, None], image.device)
    which = _send(which, image.device)
    taken = image[which]
    planes = F.pad(taken.flatten(0, 1)[None], (reach, reach, reach, reach), mode="replicate")
    # Mixed precision is for the network.
    with torch.autocast(image.device.type, enabled=False):
        planes = F.conv2d(planes, kernels, groups=len(kernels))
        planes = F.conv2d(planes, kernels.mT, groups=len(kernels))
    image[which] = planes.view_as(taken)
    return image


def recolour(image: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """Changes brightness, contrast and colour balance; adds grain; loses bands.

    Args:
        image: (N, C, H, W), normalised; it is written over.
        options: `brightness`, `contrast`, `band_gain`, `band_shift`, `noise`, `band_dropout`.
        chance: Source of randomness.
    """

    def about(middle: float, reach: float, bands: int) -> Tensor:
        return chance.uniform(middle - reach, middle + reach, bands, 1, 1)

    bands, device = image.shape[1], image.device
    gain, shift = about(1, options.contrast, 1), about(0, options.brightness, 1)
    balance = about(1, options.band_gain, bands)
    gain, shift = gain * balance, shift * balance + about(0, options.band_shift, bands)
    kept = _kept_bands(bands, options, chance)
    image.mul_(_send(gain * kept, device)).add_(_send(shift * kept, device))
    if options.noise:
        grain = torch.randn(image.shape, generator=chance.on(device), device=device)
        amount = chance.uniform(0, options.noise, 1, 1, 1) * kept
        image.addcmul_(grain, _send(amount, device))
    return image


def _darkest(black: Tensor) -> Tensor:
    """(C, 1, 1), black; of bands such as decibels, whose zero is no darkness, as far as white."""
    return torch.where(black < 0, black, -_WHITE).view(-1, 1, 1)


def _kept_bands(bands: int, options: AugmentOptions, chance: Chance) -> Tensor:
    """(N, C, 1, 1), 0 for the one band that a sample loses, else 1; the only band is kept."""
    kept = torch.ones(chance.count, bands, 1, 1)
    if options.band_dropout and bands > 1:
        lost = chance.below(bands)[:, None] == torch.arange(bands)
        lost &= chance.strikes(options.band_dropout)[:, None]
        kept[lost] = 0
    return kept


def _send(drawn: Tensor, device: torch.device) -> Tensor:
    # Unasked, it would wait until a GPU has done all that it was told before.
    return drawn.to(device, non_blocking=True)


def _middle(tensor: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in tensor.shape[-2:])
    return tensor[..., top : top + size, left : left + size]


def _move(
    image: Tensor, whole: Tensor, size: int, options: AugmentOptions, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Turns, mirrors, scales and bends; the image is read between pixels, the rest is not."""
    turn, device = _turn(options, chance), image.device
    index = _copied_pixels(turn, size, image.shape[-2:], device)
    moved, whole_moved = _copy(image, index, size), _copy(whole, index, size)
    if options.leaves_grid:
        # Which samples these are is known on the CPU, so nothing waits for a GPU.
        free = chance.strikes(options.free_share).nonzero()[:, 0]
        turn = _free_turn(turn, options, chance)[free]
        grid = _sampling_grid(turn, size, image.shape[-2:], device)
        if options.elastic_px:
            coarse = options.elastic_px * chance.normal(2, _KNOTS, _KNOTS)[free]
            grid += bend(_send(coarse, device), image.shape[-2:], size)
        free = _send(free, device)
        moved[free] = _sample(image[free], grid, "bilinear")
        # Nearest sampling keeps 0, 1 and `ignore` what they are.
        whole_moved[free] = _sample(whole[free].float(), grid, "nearest").to(whole.dtype)
    return moved, whole_moved


def _turn(options: AugmentOptions, chance: Chance) -> Tensor:
    """(N, 2, 2) integers: how far right and down the source moves by a column, and by a row.

    One of the eight turns and mirrorings of a square, `turn[n, axis of source, axis of tile]`.
    """
    quarters = chance.below(4) * options.quarter_turns
    mirror = 1 - 2 * chance.below(2) * options.mirrors
    cos, sin = (torch.tensor(values)[quarters] for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
    by_column, by_row = torch.stack([cos, sin], 1) * mirror[:, None], torch.stack([-sin, cos], 1)
    return torch.stack([by_column, by_row], dim=2)


def _corner(window: torch.Size, size: int) -> Tensor:
    """Column and row of the upper left pixel of the middle of a window."""
    height, width = window
    return torch.tensor([(width - size) // 2, (height - size) // 2])


def _copied_pixels(turn: Tensor, size: int, window: torch.Size, device: torch.device) -> Tensor:
    """(N, size, size) indices into flattened windows; they are linear in column and row."""
    stride, last = torch.tensor([1, window[1]]), size - 1
    # What the first pixel of a tile that is turned about its middle is a copy of.
    first = _corner(window, size) + (last - last * turn.sum(dim=2)) // 2
    told = torch.stack([first, *turn.unbind(dim=2)]) * stride
    first, right, down = _send(told.sum(dim=2), device).view(3, -1, 1, 1).unbind()
    steps = torch.arange(size, device=device)
    return (first + right * steps) + down * steps[:, None]


def _copy(tensor: Tensor, index: Tensor, size: int) -> Tensor:
    every_band = index.flatten(1)[:, None].expand(-1, tensor.shape[1], -1)
    return tensor.flatten(2).gather(2, every_band).view(*tensor.shape[:2], size, size)


def _free_turn(turn: Tensor, options: AugmentOptions, chance: Chance) -> Tensor:
    """(N, 2, 2), a turn by quarters with one by any angle and a scale on top."""
    angle = chance.uniform(-1, 1) * math.radians(options.turn_deg)
    scale = options.scale ** chance.uniform(-1, 1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    further = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], dim=2)
    # No `@`, which mixed precision would round.
    return (further.unsqueeze(3) * turn.unsqueeze(1)).sum(dim=2)


def _sampling_grid(turn: Tensor, size: int, window: torch.Size, device: torch.device) -> Tensor:
    """Where turned tiles lie in their windows, (N, size, size, 2) as `grid_sample` takes it."""
    per_pixel = _per_pixel(window)
    middle = (_corner(window, size) + size / 2) * per_pixel - 1
    told = _send(turn * per_pixel.view(2, 1), device)
    right, down = told.view(-1, 1, 1, 2, 2).unbind(dim=4)
    steps = (torch.arange(size, device=device) - (size - 1) / 2).view(-1, 1)
    return (_send(middle, device) + right * steps) + down * steps.unsqueeze(1)


def _per_pixel(window: torch.Size) -> Tensor:
    """How far `grid_sample` goes (x, y) with a pixel of a window, which it counts from -1 to 1."""
    height, width = window
    return 2 / torch.tensor([width, height])


def _sample(tensor: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(tensor, grid, mode=mode, padding_mode="reflection", align_corners=False)
