"""Augmentation moves image and targets together, and every sample its own way."""

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import geoseg.augment
from geoseg.augment import augment, bend, cast_shadows, recolour

BLACK = torch.tensor([-2.0, -1.5, -1.0])


@pytest.fixture
def uncoloured(monkeypatch):
    """Augmentation moves pixels and leaves their colours."""
    monkeypatch.setattr(geoseg.augment, "recolour", lambda image, _: image)
    monkeypatch.setattr(geoseg.augment, "cast_shadows", lambda image, *_: image)


def batch(count=24, height=48, width=48, seed=0):
    """Images of a shape without symmetry, bright by 10, whose target is the shape itself."""
    shape = torch.zeros(height, width)
    shape[6:18, 5:30] = 1
    shape[18:30, 5:13] = 1
    shape[36:42, 30:40] = 1
    image = (10 * shape).expand(count, 3, height, width).clone()
    target = shape.to(torch.uint8).expand(count, 2, height, width).clone()
    valid = torch.ones(count, 1, height, width, dtype=torch.bool)
    return image, target, valid


def run(image, target, valid, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return augment(image, target, valid, black=BLACK, ignore=255, generator=generator, **options)


def clear_of_edges(mask, margin=2):
    """Pixels whose neighbourhood is all of one kind."""
    return ndimage.maximum_filter(mask, 2 * margin + 1) == ndimage.minimum_filter(
        mask, 2 * margin + 1
    )


def test_image_and_targets_stay_aligned(uncoloured):
    image, target, valid = run(*batch())
    assert image.shape == (24, 3, 48, 48)
    for sample, mask in zip(image, target[:, 0].numpy(), strict=True):
        bright = sample[0] > 5
        clear = clear_of_edges(mask)
        assert clear.mean() > 0.3
        assert (bright.numpy() == mask)[clear].all()
        # Where walls lie no more than a pixel in doubt is lost.
        assert (bright.numpy() == mask).mean() > 0.93
    assert valid.all()


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48)])
def test_a_turn_passes_through_pixels_that_are_square(uncoloured, height, width):
    image, target, _ = run(*batch(height=height, width=width))
    assert image.shape == (24, 3, height, width)
    for sample, mask in zip(image, target[:, 0].numpy(), strict=True):
        assert ((sample[0] > 5).numpy() == mask)[clear_of_edges(mask)].all()


def test_half_of_the_samples_stay_on_the_pixel_grid():
    _, target, _ = batch(count=64)
    _, found, _ = run(*batch(count=64))
    first = target[0, 0]
    turns = [torch.rot90(m, k) for m in (first, first.flip(1)) for k in range(4)]
    kinds = [next((i for i, turn in enumerate(turns) if torch.equal(turn, mask)), None)
             for mask in found[:, 0]]  # fmt: skip
    on_grid = [kind for kind in kinds if kind is not None]
    assert 20 <= len(on_grid) <= 44
    assert set(on_grid) == set(range(8))


def test_a_sample_on_the_pixel_grid_is_not_blurred(uncoloured):
    plain, target, valid = batch(count=64)
    noise = torch.rand(plain.shape, generator=torch.Generator().manual_seed(1)) * 10
    first = target[0, 0]
    image, found, _ = run(noise[:1].expand_as(plain), target, valid)
    checked = 0
    for sample, mask in zip(image, found[:, 0], strict=True):
        for mirrored in (False, True):
            for k in range(4):
                turn = [torch.rot90(x.flip(-1) if mirrored else x, k, (-2, -1))
                        for x in (first, noise[0, 0])]  # fmt: skip
                if torch.equal(turn[0], mask):
                    assert torch.allclose(turn[1], sample[0], atol=1e-3)
                    checked += 1
    assert checked > 20


def test_targets_keep_their_values_and_nodata_is_ignored():
    image, target, valid = batch()
    valid[:, :, :20, 30:] = False
    target[:, :, :20, 30:] = 255
    target[:, 1, 40:, :10] = 255  # unknown in one target only
    image, target, valid = run(image * valid, target, valid)
    assert target.dtype == torch.uint8
    assert set(target.unique().tolist()) == {0, 1, 255}
    assert valid.dtype == torch.bool
    assert (target[(~valid).expand_as(target)] == 255).all()
    assert (image[(~valid).expand_as(image)] == 0).all()
    assert 0 < (~valid).float().mean() < 0.5
    # What is unknown in one target stays known in the other.
    assert ((target[:, 1] == 255) & (target[:, 0] != 255)).any()


def test_every_sample_goes_its_own_way():
    image, target, _ = run(*batch())
    assert len({bytes(mask.numpy().tobytes()) for mask in target[:, 0]}) > 12
    means = image.mean(dim=(1, 2, 3))
    assert len(set(means.tolist())) == 24


def test_the_generator_decides():
    one, again, other = run(*batch(), seed=1), run(*batch(), seed=1), run(*batch(), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_the_global_state_of_torch_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(*batch())
    assert torch.equal(torch.rand(3), expected)


def test_the_input_is_not_changed():
    given = batch()
    kept = [tensor.clone() for tensor in given]
    run(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_colours_change_every_sample_and_bands_mostly_together():
    image = torch.stack([torch.full((2, 40, 40), value) for value in (0.0, 1.0)] * 32)
    found = recolour(image, torch.Generator().manual_seed(0)).mean(dim=(2, 3))
    assert (found - image.mean(dim=(2, 3))).abs().max() < 1.5
    assert found[0::2].std() > 0.1
    apart = (found[:, 0] - found[:, 1]).abs().mean()
    assert 0.01 < apart < found.std()


def test_colours_keep_the_order_of_light_and_dark():
    ramp = torch.linspace(-2, 2, 30).view(1, 1, 1, 30).expand(16, 3, 30, 30)
    found = recolour(ramp, torch.Generator().manual_seed(0)).mean(dim=2)
    assert (found[:, :, -1] - found[:, :, 0] > 1.5).all()


def test_shadows_darken_a_stripe_and_never_below_black():
    image = torch.rand(40, 3, 32, 56, generator=torch.Generator().manual_seed(1)) * 3
    found = cast_shadows(image, BLACK, torch.Generator().manual_seed(0))
    assert found.shape == image.shape
    assert (found <= image + 1e-5).all()
    assert (found >= BLACK.view(1, -1, 1, 1)).all()
    # Light is taken from all bands alike, down to 0.3 of it.
    light = (found - BLACK.view(1, -1, 1, 1)) / (image - BLACK.view(1, -1, 1, 1))
    assert torch.allclose(light[:, :1].expand_as(light), light, atol=1e-4)
    assert light.min() >= 0.3 - 1e-4
    shadowed = (light < 0.99).flatten(1).float().mean(dim=1)
    assert 10 <= (shadowed > 0).sum() <= 30
    assert (shadowed < 1).all()


# Elastic deformation


def look(image, offsets, mode="nearest"):
    """The image seen through an untouched grid with the offsets added."""
    count, _, height, width = image.shape
    unit = torch.eye(2, 3).expand(count, 2, 3)
    grid = F.affine_grid(unit, [count, 1, height, width], align_corners=False) + offsets
    return F.grid_sample(image, grid, mode=mode, padding_mode="reflection", align_corners=False)


def test_one_displacement_of_all_knots_shifts_by_whole_pixels():
    image = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    coarse = torch.tensor([[3.0, -2.0], [0.0, 5.0]]).view(2, 2, 1, 1).expand(2, 2, 3, 3)
    found = look(image, bend(coarse, 20, 33))
    # A pixel takes what lies 3 columns to its right and 2 rows above it.
    assert torch.equal(found[0, :, 2:, :-3], image[0, :, :-2, 3:])
    assert torch.equal(found[1, :, :-5], image[1, :, 5:])


def test_one_knot_moves_its_own_surroundings():
    coarse = torch.zeros(1, 2, 3, 3)
    coarse[0, 0, 1, 2] = 4  # the middle of the right edge, to the right
    pixels = bend(coarse, 21, 33)[0] * torch.tensor([33 / 2, 21 / 2])
    assert pixels[10, 32, 0].item() == pytest.approx(4, abs=1e-5)
    assert (pixels[..., 1] == 0).all()
    for row in (0, 10, 20):
        for column in (0, 16, 32):
            if (row, column) != (10, 32):
                assert pixels[row, column, 0].item() == pytest.approx(0, abs=1e-5)
    # Half-way between knots a cubic of a = -0.75 gives 0.59375 of the near, and of the border,
    # which it repeats, -0.09375 more.
    assert pixels[10, 24, 0].item() == pytest.approx(4 * (0.59375 - 0.09375), abs=1e-5)
    assert pixels[5, 32, 0].item() == pytest.approx(4 * 0.59375, abs=1e-5)


def test_no_displacement_is_the_identity():
    image = torch.rand(1, 2, 9, 14)
    assert (bend(torch.zeros(1, 2, 3, 3), 9, 14) == 0).all()
    assert torch.equal(look(image, bend(torch.zeros(1, 2, 3, 3), 9, 14)), image)
    plain, bent = run(*batch()), run(*batch(), elastic_px=0.0)
    assert all(torch.equal(a, b) for a, b in zip(plain, bent, strict=True))


def test_displacements_deviate_as_asked(monkeypatch):
    seen = []

    def spy(coarse, height, width):
        seen.append((coarse, height, width))
        return bend(coarse, height, width)

    monkeypatch.setattr(geoseg.augment, "bend", spy)
    run(*batch(count=500, height=16, width=24), elastic_px=7.0)
    ((coarse, height, width),) = seen
    assert coarse.shape == (500, 2, 3, 3)
    assert (height, width) == (16, 24)
    assert coarse.std().item() == pytest.approx(7, rel=0.03)
    assert coarse.mean().abs() < 0.3
    # Every knot of every sample goes its own way.
    assert torch.corrcoef(coarse.flatten(1).T).fill_diagonal_(0).abs().max() < 0.25


def test_bent_image_and_targets_stay_aligned(uncoloured):
    image, target, valid = batch(height=48, width=64)
    valid[:, :, :10, 50:] = False
    image, found, valid = run(image, target, valid, elastic_px=3.0)
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 1, 255}
    assert (found[(~valid).expand_as(found)] == 255).all()
    plain = run(*batch(height=48, width=64))[1]
    assert ((found != plain).flatten(1).float().mean(1) > 0.01).all()
    for sample, mask, known in zip(image, found[:, 0].numpy(), valid[:, 0].numpy(), strict=True):
        clear = clear_of_edges(mask) & known
        assert clear.mean() > 0.3
        assert ((sample[0] > 5).numpy() == mask)[clear].all()


def test_bytes_in_a_further_target_channel_keep_their_values():
    image, target, valid = batch(height=48, width=64)
    steps = torch.arange(48 * 64).view(1, 1, 48, 64).remainder(199).to(torch.uint8) + 7
    further = torch.cat([target, steps.expand(24, 1, 48, 64)], dim=1)
    _, found, _ = run(image, further, valid, elastic_px=3.0)
    assert set(found[:, 2].unique().tolist()) <= set(range(7, 206))
    assert torch.equal(found[:, :2], run(image, target, valid, elastic_px=3.0)[1])
