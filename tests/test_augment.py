"""Augmentation moves image and targets together, and every sample its own way."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import geoseg.training.augmentation
from geoseg.errors import InputShapeError
from geoseg.options import AUGMENT_PRESETS, AugmentOptions
from geoseg.training.augmentation import (
    augment,
    blur,
    cast_shadows,
    change_colours,
    displacement_field,
)
from geoseg.training.randomness import Randomness

BLACK = torch.tensor([-2.0, -1.5, -1.0])

# Every transformation at its neutral value.
OFF = {
    "quarter_turns": False, "mirrors": False, "free_share": 0, "turn_deg": 0, "scale": 1,
    "elastic_px": 0, "brightness": 0, "contrast": 0, "gamma": 0, "band_gain": 0, "band_shift": 0,
    "noise": 0, "blur_px": 0, "blur_share": 0, "band_dropout": 0, "shadows": 0,
    "blank_share": 0,
}  # fmt: skip

SQUARE = OFF | {"quarter_turns": True, "mirrors": True}

# All transformations that move pixels and keep their colours.
MOVES = SQUARE | {"free_share": 0.5, "turn_deg": 20, "scale": 1.4}


def only(**families):
    return AugmentOptions(**(OFF | families))


def moves(**families):
    return AugmentOptions(**(MOVES | families))


def random(count, seed=0, **place):
    return Randomness(torch.Generator().manual_seed(seed), count, **place)


def noise(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def batch(count=24, height=48, width=60):
    """Images of a shape without symmetry, bright by 10, whose target is the shape itself."""
    shape = torch.zeros(height, width)
    shape[6:18, 5:30] = 1
    shape[18:30, 5:13] = 1
    shape[36:42, 30:40] = 1
    image = (10 * shape).expand(count, 3, height, width).clone()
    target = shape.to(torch.uint8).expand(count, 2, height, width).clone()
    valid = torch.ones(count, 1, height, width, dtype=torch.bool)
    return image, target, valid


def run(image, target, valid, options=AUGMENT_PRESETS["full"], size=40, seed=0, **place):
    black = BLACK if image.shape[1] == 3 else torch.full((image.shape[1],), -2.0)
    return augment(
        image, target, valid, size=size, black=black, white=-black, ignore=255,
        background=torch.zeros(target.shape[1], dtype=torch.uint8),
        options=options, random=random(len(image), seed, **place),
    )  # fmt: skip


def clear_of_edges(mask, margin=2):
    """Pixels whose neighbourhood has one value only."""
    return ndimage.maximum_filter(mask, 2 * margin + 1) == ndimage.minimum_filter(
        mask, 2 * margin + 1
    )


def views(tensor):
    """The eight rotations and reflections of a square."""
    return [torch.rot90(m, k, (-2, -1)) for m in (tensor, tensor.flip(-1)) for k in range(4)]


def middle(tensor, size):
    top, left = ((side - size) // 2 for side in tensor.shape[-2:])
    return tensor[..., top : top + size, left : left + size]


# Where pixels go


@pytest.mark.parametrize("options", [None, only()])
@pytest.mark.parametrize("size", [40, 41])
def test_without_augmentation_the_centre_is_cut_out(options, size):
    image, target, valid = noise(3, 3, 48, 61), batch(3, width=61)[1], batch(3, width=61)[2]
    valid[:, :, 20:30, 9:25] = False
    found = run(image, target, valid, options, size)
    top, left = (48 - size) // 2, (61 - size) // 2
    place = (..., slice(top, top + size), slice(left, left + size))
    assert torch.equal(found[0], (image * valid)[place])
    assert torch.equal(found[1], torch.where(valid, target, 255).to(torch.uint8)[place])
    assert torch.equal(found[2], valid[place])


def test_a_window_smaller_than_the_tile_is_refused():
    with pytest.raises(InputShapeError, match="48 x 60 pixels are smaller than tiles of 49 x 49"):
        run(*batch(2), size=49)


@settings(max_examples=25)
@given(
    size=st.integers(1, 12), taller=st.integers(0, 7), wider=st.integers(0, 7),
    seed=st.integers(0, 99), bands=st.sampled_from([1, 3, 5]),
)  # fmt: skip
def test_quarter_turns_and_mirrors_are_exact_copies(size, taller, wider, seed, bands):
    height, width = size + taller, size + wider
    image = noise(6, bands, height, width, seed=seed)
    target = torch.arange(6 * height * width).view(6, 1, height, width).remainder(251).byte()
    valid = torch.ones(6, 1, height, width, dtype=torch.bool)
    found, moved, _ = run(image, target, valid, AugmentOptions(**SQUARE), size, seed)
    pairs = list(zip(views(middle(image, size)), views(middle(target, size)), strict=True))
    for i in range(6):
        assert any(
            torch.equal(found[i], seen[i]) and torch.equal(moved[i], masks[i])
            for seen, masks in pairs
        )


@pytest.mark.parametrize(
    ("families", "kinds"),
    [
        ({"quarter_turns": True, "mirrors": True}, set(range(8))),
        ({"quarter_turns": True}, {0, 1, 2, 3}),
        ({"mirrors": True}, {0, 4}),
    ],
)
def test_all_views_of_a_square_occur(families, kinds):
    image, target, valid = batch(96)
    found = run(image, target, valid, only(**families))[0][:, 0]
    possible = views(middle(image[0, 0], 40))
    seen = [next(k for k in range(8) if torch.equal(one, possible[k])) for one in found]
    assert set(seen) == kinds
    assert max(seen.count(kind) for kind in kinds) < 96 / len(kinds) * 2


def test_half_of_the_samples_stay_on_the_pixel_grid():
    image, target, valid = batch(64)
    found = run(noise(1, 3, 48, 60).expand_as(image), target, valid, moves())[0]
    possible = views(middle(noise(1, 3, 48, 60)[0], 40))
    exact = sum(any(torch.equal(one, view) for view in possible) for one in found)
    assert 20 <= exact <= 44


@pytest.mark.parametrize("elastic_px", [0, 3])
@pytest.mark.parametrize(("height", "width"), [(48, 60), (60, 48), (40, 80)])
def test_image_and_targets_stay_aligned(height, width, elastic_px):
    image, target, valid = batch(height=height, width=width)
    valid[:, :, :10, 36:] = False
    image, found, valid = run(image, target, valid, moves(free_share=1, elastic_px=elastic_px))
    assert image.shape == (24, 3, 40, 40)
    assert found.dtype == torch.uint8
    assert found.shape == (24, 2, 40, 40)
    assert set(found.unique().tolist()) == {0, 1, 255}
    for sample, mask, known in zip(image, found[:, 0].numpy(), valid[:, 0].numpy(), strict=True):
        # Interpolation beside nodata mixes in 0.
        clear = clear_of_edges(mask)
        assert clear.mean() > 0.3
        assert ((sample[0] > 5).numpy() == (mask == 1))[clear & known].all()


def test_colour_changes_do_not_move_the_target():
    image, target, valid = batch()
    options = AugmentOptions(**(SQUARE | {
        "brightness": 0.6, "contrast": 0.4, "gamma": 0.3, "band_gain": 0.1, "band_shift": 0.15,
        "noise": 0.08, "blur_px": 1, "blur_share": 1, "shadows": 0.5,
    }))  # fmt: skip
    image, found, _ = run(image / 2 - 1, target, valid, options)
    for sample, mask in zip(image, found[:, 0], strict=True):
        inner = torch.from_numpy(clear_of_edges(mask.numpy()))
        roof, ground = (sample[:, inner & (mask == kind)].mean() for kind in (1, 0))
        assert roof > ground + 1


@pytest.mark.parametrize(("turn_deg", "scale"), [(0, 1.4), (30, 1), (45, 2)])
def test_angles_and_scales_cover_their_ranges(turn_deg, scale):
    # A window that holds coordinates: x in the first band, y in the second.
    rows, columns = torch.meshgrid(torch.arange(120.0), torch.arange(140.0), indexing="ij")
    image = torch.stack([columns, rows]).expand(300, 2, 120, 140)
    target = torch.zeros(300, 1, 120, 140, dtype=torch.uint8)
    options = only(free_share=1, turn_deg=turn_deg, scale=scale)
    found = run(image, target, target == 0, options, size=36)[0]
    right = (found[:, :, 18, 22] - found[:, :, 18, 14]) / 8
    down = (found[:, :, 22, 18] - found[:, :, 14, 18]) / 8
    assert torch.allclose(found[:, :, 17:19, 17:19].mean(dim=(2, 3)), torch.tensor([69.5, 59.5]))
    # Rows stay perpendicular to columns and have the same length.
    assert torch.allclose(right, torch.stack([down[:, 1], -down[:, 0]], 1), atol=1e-4)
    factor, angle = right.norm(dim=1), torch.atan2(right[:, 1], right[:, 0]).rad2deg()
    for values, reach in ((factor.log(), math.log(scale)), (angle, turn_deg)):
        assert values.abs().max() <= reach + 1e-3
        assert (values.min() <= -0.9 * reach + 1e-3) & (values.max() >= 0.9 * reach - 1e-3)
        assert abs(values.mean()) <= 0.12 * reach + 1e-3


def test_a_larger_window_shows_real_pixels_where_a_smaller_one_mirrors():
    window = noise(8, 1, 72, 84)
    target = torch.zeros(8, 1, 72, 84, dtype=torch.uint8)
    target[:, :, 20:52, 26:58] = 1  # what a tile of 32 pixels holds
    options = only(free_share=1, turn_deg=45, scale=1.5)
    wide = run(window, target, target < 2, options, size=32)
    narrow = run(*(middle(t, 32) for t in (window, target, target < 2)), options, size=32)
    assert (narrow[1] == 1).all()
    beyond = wide[1] == 0
    assert 0.1 < beyond.float().mean() < 0.6
    # Inside the tile both are equal.
    near = F.max_pool2d(beyond.float(), 3, stride=1, padding=1) == 0
    assert torch.allclose(wide[0][near], narrow[0][near], atol=1e-3)
    assert not torch.allclose(wide[0][beyond], narrow[0][beyond], atol=0.1)


def test_targets_keep_their_values_and_nodata_is_ignored():
    image, target, valid = batch()
    valid[:, :, :20, 30:] = False
    target[:, :, :20, 30:] = 255
    target[:, 1, 36:, :20] = 255  # unknown in one target only
    image, target, valid = run(image * valid, target, valid)
    assert target.dtype == torch.uint8
    assert set(target.unique().tolist()) == {0, 1, 255}
    assert valid.dtype == torch.bool
    assert (target[(~valid).expand_as(target)] == 255).all()
    assert (image[(~valid).expand_as(image)] == 0).all()
    assert 0 < (~valid).float().mean() < 0.5
    # Pixels ignored in one target stay labelled in the other.
    assert ((target[:, 1] == 255) & (target[:, 0] != 255)).any()


def test_bytes_in_a_further_target_channel_keep_their_values():
    image, target, valid = batch()
    steps = torch.arange(48 * 60).view(1, 1, 48, 60).remainder(199).to(torch.uint8) + 7
    further = torch.cat([target, steps.expand(24, 1, 48, 60)], dim=1)
    _, found, _ = run(image, further, valid, moves(elastic_px=3))
    assert set(found[:, 2].unique().tolist()) <= set(range(7, 206))
    assert torch.equal(found[:, :2], run(image, target, valid, moves(elastic_px=3))[1])


# Randomness


def test_samples_have_separate_parameters():
    image, target, _ = run(*batch())
    assert len({bytes(mask.numpy().tobytes()) for mask in target[:, 0]}) > 12
    means = image.mean(dim=(1, 2, 3))
    assert len(set(means.tolist())) == 24


def test_the_generator_determines_the_result():
    one, again, other = run(*batch(), seed=1), run(*batch(), seed=1), run(*batch(), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_a_sample_does_not_depend_on_the_number_of_processes():
    everything = AugmentOptions(elastic_px=3, band_dropout=0.5, noise=0, blur_share=0.5)
    whole = run(*batch(12), everything)
    for world in (2, 3):
        share = 12 // world
        parts = [run(*batch(share), everything, rank=rank, world=world) for rank in range(world)]
        for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(found), expected, rtol=1e-5, atol=1e-5)


def test_processes_have_different_noise():
    blank = torch.zeros(2, 3, 20, 28)
    one, other = (
        change_colours(blank.clone(), only(noise=1), random(2, rank=rank, world=2))
        for rank in (0, 1)
    )
    assert torch.corrcoef(torch.stack([one[0].flatten(), other[0].flatten()]))[0, 1].abs() < 0.1


def test_the_global_random_state_is_not_changed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(*batch())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("options", [None, only(), AugmentOptions(blur_share=1, shadows=1)])
def test_the_input_is_not_changed(options):
    given = batch()
    given[2][:, :, :20] = False
    kept = [tensor.clone() for tensor in given]
    run(*given, options)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_mixed_precision_does_not_reach_augmentation():
    options = AugmentOptions(elastic_px=3, blur_share=1)
    image, target, valid = batch()
    image = noise(*image.shape)
    expected = run(image, target, valid, options)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(image, target, valid, options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_bands_and_samples(bands, count):
    image = noise(count, bands, 48, 60)
    target = torch.zeros(count, 1, 48, 60, dtype=torch.uint8)
    options = AugmentOptions(elastic_px=2, band_dropout=0.5)
    for seed in range(6):
        found = run(image, target, target == 0, options, seed=seed)[0]
        assert found.shape == (count, bands, 40, 40)
        assert found.isfinite().all()


# Colours


def drawn(values, low, high):
    """Whether values fill a range."""
    reach = 0.1 * (high - low)
    return low - 1e-4 <= values.min() < low + reach and high - reach < values.max() <= high + 1e-4


def ramp(count=200):
    """Brightness from black to white, equal in all bands and rows."""
    return torch.linspace(-1, 2, 31).expand(count, 3, 4, 31).clone()


def alike(found):
    return torch.allclose(found, found[:, :1, :1].expand_as(found), atol=1e-5)


def test_brightness_adds_the_same_to_all_bands():
    found = change_colours(ramp(), only(brightness=0.6), random(200)) - ramp()
    assert alike(found)
    assert torch.allclose(found, found[..., :1].expand_as(found), atol=1e-5)
    assert drawn(found, -0.6, 0.6)


def test_contrast_multiplies_about_the_mean():
    found = change_colours(ramp(), only(contrast=0.4), random(200))
    assert alike(found)
    factor = found[:, 0, 0, -1] / 2
    assert torch.allclose(found, ramp() * factor.view(-1, 1, 1, 1), atol=1e-5)
    assert drawn(factor, 0.6, 1.4)


def test_bands_have_separate_gains_and_shifts():
    found = change_colours(ramp(), only(band_gain=0.1, band_shift=0.15), random(200))
    gain = (found[:, :, 0, -1] - found[:, :, 0, 0]) / 3
    shift = found[:, :, 0, 10]  # where the ramp is 0
    assert drawn(gain, 0.9, 1.1)
    assert drawn(shift, -0.15, 0.15)
    for values in (gain, shift):
        assert torch.corrcoef(values.T).fill_diagonal_(0).abs().max() < 0.25


def test_gamma_keeps_black_and_white():
    image = torch.cat([BLACK.view(1, 3, 1, 1).expand(200, 3, 4, 1), ramp()], dim=3)
    found = geoseg.training.augmentation.apply_gamma(
        image.clone(), BLACK, only(gamma=0.5), random(200)
    )
    floor = BLACK.view(1, 3, 1, 1)
    assert torch.allclose(found[..., :1], floor.expand(200, 3, 4, 1), atol=1e-4)
    light, was = (found - floor) / (3 - floor), (image - floor) / (3 - floor)
    # The same exponent in all bands of a sample; white is three deviations above the mean.
    power = light[:, 0, 0, -1].log() / was[0, 0, 0, -1].log()
    expected = was ** power.view(-1, 1, 1, 1)
    inner = was > 0.01
    assert torch.allclose(light[inner], expected[inner], atol=1e-4)
    assert drawn(power.log(), -0.5, 0.5)
    assert (found.diff(dim=3) > -1e-5)[:, 0].all()


def test_gamma_of_decibels_stays_finite():
    image = torch.linspace(-6, 6, 31).expand(20, 2, 4, 31).clone()
    found = geoseg.training.augmentation.apply_gamma(
        image, torch.tensor([2.4, -1e-3]), only(gamma=1), random(20)
    )
    assert found.isfinite().all()
    assert (found[..., 0] >= torch.tensor([-3, -1e-3]).view(2, 1) - 1e-4).all()


def test_noise_has_any_strength_up_to_the_option():
    found = change_colours(torch.zeros(200, 3, 20, 28), only(noise=0.5), random(200))
    strength = found.flatten(1).std(dim=1)
    # The standard deviation of 1680 numbers is accurate to 2 %.
    assert drawn(strength / 1.06, 0, 0.5)
    assert found.mean().abs() < 0.005
    assert (found.mean(dim=(1, 2, 3)).abs() < 5 * strength / 1680**0.5 + 1e-6).all()


def test_at_most_one_band_is_dropped():
    options = only(band_dropout=0.6, brightness=0.5, noise=0.1)
    for bands in (2, 5):
        found = change_colours(noise(200, bands, 8, 12) + 1, options, random(200))
        lost = (found == 0).flatten(2).all(dim=2)
        assert set(lost.sum(dim=1).tolist()) == {0, 1}
        assert 0.45 < lost.any(dim=1).float().mean() < 0.75
        assert lost.any(dim=0).all()
    assert (change_colours(noise(50, 1, 8, 12) + 1, options, random(50)) > 0).any(dim=-1).all()


def test_some_samples_are_blurred_each_with_its_own_sigma():
    dot = torch.zeros(200, 2, 31, 45)
    dot[:, :, 15, 22] = 1
    found = blur(dot.clone(), only(blur_px=2, blur_share=0.5), random(200))
    struck = (found != dot).flatten(1).any(dim=1)
    assert 70 <= struck.sum() <= 130
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.allclose(found.sum(dim=(2, 3)), torch.ones(200, 2), atol=1e-4)
    spread = found[:, 0].sum(dim=1) @ (torch.arange(45.0) - 22) ** 2
    assert spread.max() > 1.7**2
    assert (spread < 2**2).all()
    assert len(set(spread[struck].tolist())) > 60
    # Symmetric; constant images stay constant up to the edge.
    assert torch.allclose(found, found.flip(-1).flip(-2), atol=1e-6)
    even = blur(torch.full((9, 2, 20, 28), 3.0), only(blur_px=2, blur_share=1), random(9))
    assert torch.allclose(even, torch.tensor(3.0), atol=1e-4)


def test_shadows_darken_a_stripe_and_never_below_black():
    image = noise(40, 3, 32, 56) * 3
    found = cast_shadows(image, BLACK, only(shadows=0.5), random(40))
    assert found.shape == image.shape
    assert (found <= image + 1e-5).all()
    assert (found >= BLACK.view(1, -1, 1, 1)).all()
    # All bands are darkened equally, down to 0.3 of their brightness.
    light = (found - BLACK.view(1, -1, 1, 1)) / (image - BLACK.view(1, -1, 1, 1))
    assert torch.allclose(light[:, :1].expand_as(light), light, atol=1e-4)
    assert light.min() >= 0.3 - 1e-4
    shadowed = (light < 0.99).flatten(1).float().mean(dim=1)
    assert 10 <= (shadowed > 0).sum() <= 30
    assert (shadowed < 1).all()


# Elastic deformation


def look(image, offsets, mode="nearest"):
    """The centre of the image sampled with the offsets added to an identity grid."""
    size, (height, width) = offsets.shape[1], image.shape[-2:]
    unit = torch.tensor([[size / width, 0, 0], [0, size / height, 0]])
    shape = [len(image), 1, size, size]
    grid = F.affine_grid(unit.expand(len(image), 2, 3), shape, align_corners=False) + offsets
    return F.grid_sample(image, grid, mode=mode, padding_mode="reflection", align_corners=False)


def test_one_displacement_of_all_knots_shifts_by_whole_pixels():
    image = noise(2, 3, 26, 34)
    coarse = torch.tensor([[3.0, -2.0], [0.0, 5.0]]).view(2, 2, 1, 1).expand(2, 2, 3, 3)
    found = look(image, displacement_field(coarse, image.shape[-2:], 16))
    # A pixel is read 3 columns to its right and 2 rows above it.
    assert torch.equal(found[0], image[0, :, 5 - 2 : 21 - 2, 9 + 3 : 25 + 3])
    assert torch.equal(found[1], image[1, :, 5 + 5 : 21 + 5, 9:25])


def test_one_knot_moves_its_neighbourhood():
    coarse = torch.zeros(1, 2, 3, 3)
    coarse[0, 0, 1, 2] = 4  # the middle of the right edge, to the right
    pixels = displacement_field(coarse, torch.Size([50, 70]), 33)[0] * torch.tensor(
        [70 / 2, 50 / 2]
    )
    assert pixels[16, 32, 0].item() == pytest.approx(4, abs=1e-5)
    assert (pixels[..., 1] == 0).all()
    for row in (0, 16, 32):
        for column in (0, 16, 32):
            if (row, column) != (16, 32):
                assert pixels[row, column, 0].item() == pytest.approx(0, abs=1e-5)
    # Half-way between knots a cubic of a = -0.75 gives 0.59375 of the near, and of the border,
    # which it repeats, -0.09375 more.
    assert pixels[16, 24, 0].item() == pytest.approx(4 * (0.59375 - 0.09375), abs=1e-5)
    assert pixels[8, 32, 0].item() == pytest.approx(4 * 0.59375, abs=1e-5)


def test_displacements_have_the_requested_deviation(monkeypatch):
    seen = []

    def spy(coarse, window, size):
        seen.append((coarse, window, size))
        return displacement_field(coarse, window, size)

    monkeypatch.setattr(geoseg.training.augmentation, "displacement_field", spy)
    run(*batch(500), moves(elastic_px=7, free_share=1), size=16)
    ((coarse, window, size),) = seen
    assert coarse.shape == (500, 2, 3, 3)
    assert (window, size) == ((48, 60), 16)
    assert coarse.std().item() == pytest.approx(7, rel=0.03)
    assert coarse.mean().abs() < 0.3
    # All knots of all samples differ.
    assert torch.corrcoef(coarse.flatten(1).T).fill_diagonal_(0).abs().max() < 0.25


# Blank areas


def blank_batch(count=400, size=40, height=48, width=60):
    """Noise in which every pixel is a building, some of them unlabelled or invalid."""
    image = noise(count, 3, height, width) + 5
    target = torch.ones(count, 2, height, width, dtype=torch.uint8)
    target[:, 1, 12:14] = 255
    valid = torch.ones(count, 1, height, width, dtype=torch.bool)
    valid[:, :, 30:34, 20:40] = False
    return image, target, valid


def test_blank_areas_have_one_value_and_no_building():
    given = blank_batch()
    options = only(blank_share=0.5)
    image, target, valid = run(*given, options)
    plain, plain_target, plain_valid = run(*given, only())
    assert torch.equal(valid, plain_valid)
    changed = ((image != plain).any(dim=1) & valid[:, 0]).numpy()
    fills = torch.stack([BLACK, -BLACK, torch.zeros(3)])
    used = set()
    for index in changed.any(axis=(1, 2)).nonzero()[0]:
        values = image[index][:, changed[index]]
        (fill,) = [n for n, one in enumerate(fills) if (values == one[:, None]).all()]
        used.add(fill)
        assert (target[index][:, changed[index]] == 0).all()  # also where it was unlabelled
        # The rest of the tile, and what was invalid before, are as they were.
        assert torch.equal(image[index][:, ~changed[index]], plain[index][:, ~changed[index]])
        assert torch.equal(
            target[index][:, ~changed[index]], plain_target[index][:, ~changed[index]]
        )
        assert not changed[index, 19:21, 19:21].all()
        # From an edge inwards, in one piece but for the invalid pixels.
        parts, number = ndimage.label(changed[index] | ~valid[index, 0].numpy())
        rim = {*parts[0], *parts[-1], *parts[:, 0], *parts[:, -1]} - {0}
        assert {*parts[changed[index]]} <= rim
        assert number <= 3
    assert used == {0, 1, 2}
    assert (image[:, :, ~valid[0, 0]] == 0).all()
    assert (target[:, :, ~valid[0, 0]] == 255).all()
    assert changed.any(axis=(1, 2)).mean() == pytest.approx(0.5, abs=0.06)
    shares = changed.mean(axis=(1, 2))[changed.any(axis=(1, 2))]
    assert 0.15 < shares.mean() < 0.55
    assert shares.max() < 0.85
    assert shares.min() < 0.08


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_samples_with_blank_areas(share):
    given = blank_batch(60)
    image, target, _ = run(*given, only(blank_share=share))
    plain, *_ = run(*given, only())
    changed = (image != plain).flatten(1).any(dim=1)
    # A side at the edge of the tile may leave all of it.
    assert changed.float().mean() >= 0.95 * share
    assert not (changed.any() and share == 0)
    assert (target == 0).any() == bool(share)


def test_each_target_has_its_own_background():
    image, target, valid = blank_batch(30)
    valid[:] = True
    found, classes, _ = augment(
        image, target, valid, size=40, black=BLACK, white=-BLACK, ignore=255,
        background=torch.tensor([255, 7], dtype=torch.uint8), options=only(blank_share=1),
        random=random(30),
    )  # fmt: skip
    black = (found == BLACK.view(3, 1, 1)).all(dim=1)
    assert black.any()
    assert (classes.movedim(1, -1)[black] == torch.tensor([255, 7])).all()


def test_blank_areas_follow_all_other_changes():
    given = blank_batch(60)
    image, *_ = run(*given, AugmentOptions(blank_share=1.0))
    fills = torch.stack([BLACK, -BLACK, torch.zeros(3)]).view(3, 3, 1, 1)
    exact = torch.stack([(image == fill).all(dim=1) for fill in fills])
    assert (exact.flatten(2).float().mean(dim=2) > 0.02).any(dim=0).float().mean() > 0.85


def test_blank_areas_do_not_depend_on_the_number_of_processes():
    options = only(blank_share=0.5)
    image, target, valid = blank_batch(16)
    whole = run(image, target, valid, options, seed=4)
    for rank in (0, 1):
        own = slice(8 * rank, 8 * rank + 8)
        part = run(image[own], target[own], valid[own], options, seed=4, rank=rank, world=2)
        for one, other in zip(part, whole, strict=True):
            assert torch.equal(one, other[own])
