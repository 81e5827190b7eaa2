"""One step of training by hand: what is weighed, what is ignored, what augmentation moves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geoseg.training.segmenter
from geoseg.data.tiles import TilesInfo
from geoseg.networks.losses import CompositeLoss, WeightMap
from geoseg.networks.models import build_model
from geoseg.options import AugmentOptions, TrainOptions
from geoseg.training.segmenter import Segmenter

INFO = TilesInfo(
    bands=("red", "green", "blue"), dtype="uint8", gsd_m=0.3, nodata=None, size=32, overlap=0,
    mean=(10.0, 20.0, 30.0), std=(2.0, 2.0, 2.0), scenes=("a.tif",), labels="a.gpkg", where=None,
    split={}, tiles={"train": 2}, shared_pixels=0, classes=("building",),
    targets=("building", "border"),
)  # fmt: skip


class Fixed(nn.Module):
    """Answers with the first two bands."""

    def forward(self, image):
        return image[:, :2]


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 20, 28, generator=generator) * 40
    target = torch.randint(0, 2, (3, 2, 20, 28), generator=generator, dtype=torch.uint8)
    valid = torch.ones(3, 1, 20, 28, dtype=torch.bool)
    valid[:, :, :4, :6] = False
    target[:, :, :4, :6] = 255
    target[0, 1, 15:, 20:] = 255  # unknown in the border alone
    separation = torch.randint(0, 255, (3, 1, 20, 28), generator=generator, dtype=torch.uint8)
    return {"image": image, "target": target, "valid": valid, "separation": separation}


def build(building_share=0.25, **options):
    options = TrainOptions.model_validate(options)
    return Segmenter(Fixed(), INFO, options, building_share=building_share)


def step(module, sample):
    image, target, _ = module._normalise(sample)
    return module._loss(image, target)[0].item()


def test_the_loss_is_that_of_known_pixels():
    sample = batch()
    logits = (sample["image"] - torch.tensor(INFO.mean).view(1, 3, 1, 1)) / 2 * sample["valid"]
    known = sample["target"] != 255
    for loss in ({"bce": 1, "dice": 1}, {"focal": {"weight": 2, "alpha": 0.3}, "tversky": 1}):
        module = build(loss=loss)
        alone = CompositeLoss(module.options.loss, channels=2)
        assert step(module, sample) == pytest.approx(
            alone(logits[:, :2], sample["target"], known).item(), rel=1e-5
        )


def test_the_weight_map_weighs_buildings_by_their_share_and_gaps_in_both_targets():
    sample = batch()
    module = build(loss={"bce": 1}, weight_map={"w0": 4})
    image, target, _ = module._normalise(sample)
    assert target.shape == (3, 3, 20, 28)
    weights = WeightMap(4, [0.25, None])(sample["target"], sample["separation"])
    alone = CompositeLoss(module.options.loss, channels=2)
    known = sample["target"] != 255
    expected = alone(image[:, :2], sample["target"], known, weights)
    assert step(module, sample) == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() > alone(image[:, :2], sample["target"], known).item() * 1.5
    unbalanced = build(loss={"bce": 1}, weight_map={"w0": 4, "balance": False})
    assert (unbalanced.weight_map.balance == 1).all()


def test_a_weight_map_of_nothing_changes_nothing():
    sample = batch()
    plain = step(build(), sample)
    nothing = build(weight_map={"w0": 0, "balance": False})
    assert step(nothing, sample) == pytest.approx(plain, rel=1e-6)
    assert step(build(weight_map={"w0": 0}), sample) != pytest.approx(plain, rel=1e-3)


def test_augmentation_is_told_what_to_do_and_moves_the_separation(monkeypatch):
    sample, seen = batch(), []

    def spy(image, target, valid, **options):
        seen.append((target, options))
        return image.flip(-1), target.flip(-1), valid.flip(-1)

    monkeypatch.setattr(geoseg.training.segmenter, "augment", spy)
    module = build(weight_map={}, augment={"elastic_px": 7}, seed=3)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(type(module), "global_step", 0)
    found = module.training_step(sample, 0).item()
    ((target, options),) = seen
    assert torch.equal(target[:, 2:], sample["separation"])
    assert options["options"] == AugmentOptions(elastic_px=7)
    assert (options["size"], options["ignore"]) == (32, 255)
    assert torch.equal(options["black"], torch.tensor([-5.0, -10, -15]))
    assert torch.equal(options["white"], torch.tensor([122.5, 117.5, 112.5]))
    assert options["background"].tolist() == [0, 0, 0]
    random = options["random"]
    assert (random.count, random.rank, random.world) == (3, 0, 1)
    assert random.generator.initial_seed() == 3 * 1_000_003
    # Mirrored together, the pixels have the weights that they had.
    assert found == pytest.approx(step(module, sample), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"targets": ("building", "border", "distance")}, [0, 0, 7]),
        ({"targets": ("class",), "classes": ("other", "roof"), "background": "other"}, [0]),
        ({"targets": ("class",), "classes": ("field", "roof")}, [255]),
    ],
)
def test_blank_areas_are_background_in_every_target(change, values):
    info = INFO.model_copy(update={"dtype": "uint16", **change})
    module = Segmenter(Fixed(), info, TrainOptions(), building_share=0.25)
    assert module.background.tolist() == values
    # The white of data other than bytes is not known.
    assert torch.equal(module._white(), torch.full((3,), 3.0))


def test_without_augmentation_windows_lose_their_margins(monkeypatch):
    wide = {name: F.pad(tensor, (7, 8, 8, 5)) for name, tensor in batch().items()}
    module = Segmenter(Fixed(), INFO.model_copy(update={"size": 16}), TrainOptions(augment=None))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(type(module), "global_step", 0)
    # Windows of 33 x 43 pixels, of which the sample begins at row 8, column 7.
    inner = {name: tensor[..., 8:24, 13:29] for name, tensor in wide.items()}
    assert module.training_step(wide, 0).item() == pytest.approx(step(module, inner), rel=1e-5)


def test_validation_sees_tiles_as_they_are(monkeypatch):
    monkeypatch.setattr(geoseg.training.segmenter, "augment", None)
    module, logged = build(), {}
    monkeypatch.setattr(module, "log_dict", lambda scores, **_: logged.update(scores))
    module.validation_step(batch(), 0)
    module.on_validation_epoch_end()
    assert logged["val_loss"] == pytest.approx(step(build(), batch()), rel=1e-6)


def test_no_weight_is_part_of_the_state():
    assert build(weight_map={}).state_dict() == {}


def test_the_loss_of_deeplabv2_is_summed_over_scales_and_their_maximum():
    torch.manual_seed(0)
    network = build_model(
        "deeplabv2", "resnet18", bands=INFO.bands, outputs=2, options={"scales": [0.5, 1.0]}
    ).eval()
    sample = batch()
    module = Segmenter(network, INFO, TrainOptions())
    image, target, _ = module._normalise(sample)
    with torch.no_grad():
        loss, logits = module._loss(image, target)
        parts = [module.loss(s, target, target != 255) for s in network.training_logits(image)]
        assert torch.equal(logits, network(image))
    assert len(parts) == 3
    assert loss.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)


@pytest.mark.parametrize(("pretrained", "share"), [(True, 0.25), (False, 1.0)])
def test_only_an_encoder_that_has_learnt_before_learns_gently(pretrained, share):
    network = build_model("unet", bands=INFO.bands, outputs=2, options={"width": 4})
    module = Segmenter(network, INFO, TrainOptions(encoder_lr=0.25), pretrained=pretrained)
    encoder, rest = module.configure_optimizers().param_groups
    assert (encoder["share"], rest["share"]) == (share, 1.0)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in network.encoder.parameters()}
    assert len(encoder["params"]) + len(rest["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("loss", [
    {"bce": {"pos_weight": 3}, "dice": 1, "jaccard": 1, "tversky": 1},
    {"focal": {"normalise": "positives", "alpha": 0.3}, "lovasz_hinge": {"per_image": True}},
])  # fmt: skip
def test_a_step_reads_nothing_back_from_the_device(loss, monkeypatch):
    # Tensors on `meta` have no numbers: whoever asks for one, and would make a GPU wait, fails.
    # Grain needs numbers, and blurring a device that knows autocast.
    augment = {
        "noise": 0,
        "blur_px": 0,
        "elastic_px": 5,
        "band_dropout": 0.5,
        "shadows": 1,
        "blank_share": 1,
    }
    module = Segmenter(
        build_model("deepglobe", "resnet18", bands=INFO.bands, outputs=2, encoder_weights=None),
        INFO.model_copy(update={"size": 64}),
        TrainOptions(loss=loss, weight_map={}, augment=augment, sampling="hard"),
        building_share=0.25,
    ).to("meta")
    for name in ("log", "_log_loss"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(type(module), "global_step", 0)
    wide = {name: F.pad(tensor, (34, 34, 38, 38)).to("meta") for name, tensor in batch().items()}
    module.training_step(wide, 0).backward()
    module.configure_gradient_clipping(None, 1.0)
    assert all(weight.grad.is_meta for weight in module.parameters())
    assert module.tile_losses.shape == (3,)
    with pytest.raises(RuntimeError, match="meta"):
        module.tile_losses.sum().item()
