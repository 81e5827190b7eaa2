"""Augmentation moves image and targets together, and every sample its own way."""

import pytest
import torch
from scipy import ndimage

import geoseg.augment
from geoseg.augment import augment, cast_shadows, recolour

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


def run(image, target, valid, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment(image, target, valid, black=BLACK, ignore=255, generator=generator)


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
