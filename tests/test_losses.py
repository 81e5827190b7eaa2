"""Losses with values worked out by hand, and what no loss may see."""

import math

import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from geoseg.errors import ConfigError
from geoseg.networks.losses import LOSSES, CompositeLoss, build_batch, sample_losses
from geoseg.options import LossOptions

LOGITS = torch.tensor([[-2.0, -0.5], [0.3, 1.7]]).view(1, 1, 2, 2)
TARGET = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
ALL = torch.ones(1, 1, 2, 2, dtype=torch.bool)

# σ(-2), σ(-0.5), σ(0.3), σ(1.7)
PROBS = (0.1192029220, 0.3775406688, 0.5744425168, 0.8455347349)
OVERLAP = PROBS[1] + PROBS[3]
TOTAL = sum(PROBS) + 2

# 1 - 2·OVERLAP/TOTAL and 1 - OVERLAP/(TOTAL - OVERLAP): the losses without a smoothing term.
PLAIN_DICE, PLAIN_JACCARD = 0.3754594922, 0.5459404588

BINARY = ("bce", "dice", "focal", "jaccard", "lovasz_hinge", "tversky")
MULTICLASS = ("cross_entropy", "dice", "focal", "jaccard", "lovasz_softmax", "tversky")
OVERLAPS = ("dice", "jaccard", "tversky")

# Every term with its defaults, and those whose parameters change the way through it.
CASES = [
    *(("binary", name, {}) for name in BINARY),
    *(("multiclass", name, {}) for name in MULTICLASS),
    ("binary", "bce", {"pos_weight": [3, 0.5]}),
    ("binary", "focal", {"alpha": 0.25, "gamma": 0.5, "normalise": "positives"}),
    ("binary", "lovasz_hinge", {"per_image": True}),
    ("multiclass", "cross_entropy", {"class_weights": [0.5, 2, 1]}),
    ("multiclass", "focal", {"class_weights": [0.5, 2, 1], "normalise": "positives"}),
    ("multiclass", "lovasz_softmax", {"per_image": True, "classes": "all"}),
]


def term(name, mode="binary", channels=1, **options):
    """One term alone."""
    return CompositeLoss(LossOptions(**{name: options}), channels=channels, mode=mode)


def loss(name, logits=LOGITS, target=TARGET, valid=ALL, mode="binary", **options):
    return term(name, mode, logits.shape[1], **options)(logits, target, valid).item()


def example(mode, count=2, height=5, width=7, seed=0):
    """Random logits, truth and valid; every class is there, every image has valid pixels."""
    generator = torch.Generator().manual_seed(seed)
    channels = {"binary": 2, "multiclass": 3}[mode]
    shape = (count, channels, height, width) if mode == "binary" else (count, height, width)
    logits = torch.randn(count, channels, height, width, generator=generator) * 2
    target = torch.randint(0, channels, shape, generator=generator)
    valid = torch.rand(shape, generator=generator) > 0.3
    return logits, target, valid


def test_the_sums_by_hand():
    dice, jaccard = 2 * OVERLAP / TOTAL, OVERLAP / (TOTAL - OVERLAP)
    assert (1 - dice, 1 - jaccard) == pytest.approx((PLAIN_DICE, PLAIN_JACCARD), abs=1e-8)


def test_every_term_serves_a_task_and_has_its_options():
    assert set(BINARY) | set(MULTICLASS) == set(LOSSES) == set(LossOptions.model_fields)


# Pixelwise terms


def test_bce_by_hand():
    expected = (
        -(math.log(1 - PROBS[0]) + math.log(PROBS[1]) + math.log(1 - PROBS[2]) + math.log(PROBS[3]))
        / 4
    )
    assert expected == pytest.approx(0.5307865739, abs=1e-8)
    assert loss("bce") == pytest.approx(0.5307865739, abs=1e-6)


def test_positive_pixels_weigh_as_said_in_each_channel():
    logits, target, _ = example("binary")
    every = torch.ones_like(target, dtype=torch.bool)
    weights = torch.tensor([3.0, 0.5])
    expected = F.binary_cross_entropy_with_logits(
        logits, target.float(), pos_weight=weights.view(1, 2, 1, 1)
    )
    assert loss("bce", logits, target, every, pos_weight=[3, 0.5]) == pytest.approx(expected.item())
    assert loss("bce", pos_weight=2) == pytest.approx(
        0.5307865739 - (math.log(PROBS[1]) + math.log(PROBS[3])) / 4, abs=1e-6
    )


def test_cross_entropy_is_torchs_over_valid_pixels():
    logits, target, valid = example("multiclass")
    marked = torch.where(valid, target, 255)
    expected = F.cross_entropy(logits, marked, ignore_index=255)
    assert loss("cross_entropy", logits, target, valid, "multiclass") == pytest.approx(
        expected.item()
    )
    weights = [0.5, 2, 1]
    summed = F.cross_entropy(
        logits, marked, torch.tensor(weights), ignore_index=255, reduction="sum"
    )
    found = loss("cross_entropy", logits, target, valid, "multiclass", class_weights=weights)
    assert found == pytest.approx((summed / valid.sum()).item())


def test_focal_by_hand():
    truth = (1 - PROBS[0], PROBS[1], 1 - PROBS[2], PROBS[3])
    expected = sum(-((1 - p) ** 2) * math.log(p) for p in truth) / 4
    assert expected == pytest.approx(0.1662855446, abs=1e-8)
    assert loss("focal") == pytest.approx(expected, abs=1e-6)
    assert loss("focal", alpha=0.25) == pytest.approx(0.0770372897, abs=1e-6)
    # Two positives among four pixels.
    by_positives = loss("focal", alpha=0.25, normalise="positives")
    assert by_positives == pytest.approx(2 * 0.0770372897, abs=1e-6)


@pytest.mark.parametrize(("gamma", "alpha"), [(0, 0.25), (0.5, 0.9), (2, 0.25), (3.5, 0.5)])
def test_focal_is_torchvisions(gamma, alpha):
    logits, target, _ = example("binary")
    every = torch.ones_like(target, dtype=torch.bool)
    parts = sigmoid_focal_loss(logits, target.float(), alpha, gamma)
    options = {"gamma": gamma, "alpha": alpha}
    assert loss("focal", logits, target, every, **options) == pytest.approx(parts.mean().item())
    positives = target.sum((0, 2, 3))
    expected = (parts.sum((0, 2, 3)) / positives).mean().item()
    found = loss("focal", logits, target, every, **options, normalise="positives")
    assert found == pytest.approx(expected)


def test_focal_of_two_exclusive_classes_is_that_of_one_channel():
    zeros = torch.zeros_like(LOGITS)
    pair, index, valid = torch.cat([zeros, LOGITS], 1), TARGET[:, 0].long(), ALL[:, 0]
    for gamma in (0, 1, 2.5):
        expected = loss("focal", gamma=gamma)
        assert loss("focal", pair, index, valid, "multiclass", gamma=gamma) == pytest.approx(
            expected, abs=1e-6
        )
    weighed = loss("focal", pair, index, valid, "multiclass", class_weights=[0.75, 0.25])
    assert weighed == pytest.approx(0.0770372897, abs=1e-6)


def test_focal_without_focus_is_cross_entropy():
    logits, target, valid = example("multiclass")
    found = loss("focal", logits, target, valid, "multiclass", gamma=0, normalise="positives")
    assert found == pytest.approx(loss("cross_entropy", logits, target, valid, "multiclass"))


def test_a_small_focus_has_a_gradient_where_the_answer_is_perfect():
    logits = (200 * (2 * TARGET - 1)).requires_grad_()
    term("focal", gamma=0.5)(logits, TARGET, ALL).backward()
    assert (logits.grad == 0).all()


# Overlap


def test_dice_and_jaccard_by_hand():
    dice = 1 - (2 * OVERLAP + 1) / (TOTAL + 1)
    jaccard = 1 - (OVERLAP + 1) / (TOTAL - OVERLAP + 1)
    assert loss("dice") == pytest.approx(dice, abs=1e-6)
    assert loss("jaccard") == pytest.approx(jaccard, abs=1e-6)


def test_without_smoothing_dice_and_jaccard_are_plain():
    assert loss("dice", smooth=0) == pytest.approx(PLAIN_DICE, abs=1e-6)
    assert loss("jaccard", smooth=0) == pytest.approx(PLAIN_JACCARD, abs=1e-6)


def test_tversky_by_hand():
    alarms, misses = PROBS[0] + PROBS[2], 2 - OVERLAP
    for alpha, beta, smooth in ((0.3, 0.7, 0), (0.3, 0.7, 1), (2, 0, 0.5)):
        expected = 1 - (OVERLAP + smooth) / (OVERLAP + alpha * alarms + beta * misses + smooth)
        found = loss("tversky", alpha=alpha, beta=beta, smooth=smooth)
        assert found == pytest.approx(expected, abs=1e-6)
    assert loss("tversky") == pytest.approx(loss("tversky", alpha=0.3, beta=0.7, smooth=1))


def test_dice_and_jaccard_are_kinds_of_tversky():
    halves = loss("tversky", alpha=0.5, beta=0.5, smooth=0.5)
    assert halves == pytest.approx(loss("dice"), abs=1e-6)
    assert loss("tversky", alpha=1, beta=1) == pytest.approx(loss("jaccard"), abs=1e-6)


def test_on_many_pixels_the_smoothing_term_vanishes():
    logits, target = LOGITS.repeat(1, 1, 200, 300), TARGET.repeat(1, 1, 200, 300)
    valid = torch.ones_like(target, dtype=torch.bool)
    assert loss("dice", logits, target, valid) == pytest.approx(PLAIN_DICE, abs=1e-5)
    assert loss("jaccard", logits, target, valid) == pytest.approx(PLAIN_JACCARD, abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "smp_mode"), [("binary", "multilabel"), ("multiclass", "multiclass")]
)
@pytest.mark.parametrize("smooth", [0, 2.0])
def test_overlap_is_smps_where_every_class_is_there(mode, smp_mode, smooth):
    logits, target, valid = example(mode)
    marked = torch.where(valid, target, 255)
    # smp's Dice counts the smoothing term twice as much.
    peers = {
        "dice": smp.DiceLoss(smp_mode, smooth=smooth / 2, ignore_index=255),
        "jaccard": smp.JaccardLoss(smp_mode, smooth=smooth),
        "tversky": smp.TverskyLoss(smp_mode, smooth=smooth, ignore_index=255, alpha=0.3, beta=0.7),
    }
    for name, peer in peers.items():
        # smp's Jaccard knows no pixel to ignore.
        known = torch.ones_like(valid) if name == "jaccard" else valid
        expected = peer(logits, target if name == "jaccard" else marked).item()
        found = loss(name, logits, target, known, mode, smooth=smooth)
        assert found == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_is_taken_over_the_batch(name):
    logits, target = LOGITS.view(2, 1, 1, 2), TARGET.view(2, 1, 1, 2)
    assert loss(name, logits, target, ALL.view(2, 1, 1, 2)) == pytest.approx(loss(name), abs=1e-7)


# Lovász


def test_lovasz_hinge_by_hand():
    # Errors 1.5 (a building), 1.3 (ground), and two below 0. The Jaccard loss of {first} is
    # 1/2, of both 2/3.
    assert loss("lovasz_hinge") == pytest.approx(1.5 / 2 + 1.3 * (2 / 3 - 1 / 2), abs=1e-6)
    assert loss("lovasz_hinge") == pytest.approx(0.9666665792, abs=1e-6)


def test_lovasz_softmax_by_hand():
    first = torch.tensor([0.6, 0.3, 0.8])
    logits = torch.stack([first, 1 - first]).log().view(1, 2, 1, 3)
    target, valid = torch.tensor([[[0, 1, 1]]]), torch.ones(1, 1, 3, dtype=torch.bool)
    # Errors of both classes: 0.8 (third), 0.4 (first), 0.3 (second pixel). Jaccard losses as
    # they join: 1/2, 1, 1 of the first class; 1/2, 2/3, 1 of the second.
    classes = 0.8 / 2 + 0.4 / 2, 0.8 / 2 + 0.4 / 6 + 0.3 / 3
    found = loss("lovasz_softmax", logits, target, valid, "multiclass")
    assert found == pytest.approx(sum(classes) / 2, abs=1e-6)
    # A third class that is in no pixel, and that no pixel is given to.
    logits = F.pad(logits, (0, 0, 0, 0, 0, 1), value=-40.0)
    expected = {"present": sum(classes) / 2, "all": sum(classes) / 3}
    for which, value in expected.items():
        found = loss("lovasz_softmax", logits, target, valid, "multiclass", classes=which)
        assert found == pytest.approx(value, abs=1e-6)


def test_of_sure_answers_lovasz_softmax_is_the_jaccard_loss():
    logits, target, valid = example("multiclass", height=9, width=11)
    answer = logits.argmax(1)
    sure = 100.0 * F.one_hot(answer, 3).movedim(-1, 1)
    ious = [
        ((answer == c) & (target == c))[valid].sum() / ((answer == c) | (target == c))[valid].sum()
        for c in range(3)
    ]
    found = loss("lovasz_softmax", sure, target, valid, "multiclass")
    assert found == pytest.approx(1 - sum(ious).item() / 3, abs=1e-6)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 3),
    height=st.integers(1, 6),
    ground=st.booleans(),
    per_image=st.booleans(),
)
def test_lovasz_is_smps(seed, count, height, ground, per_image):
    size = {"count": count, "height": height, "width": height + 2, "seed": seed}
    logits, target, valid = (part[:, :1] for part in example("binary", **size))
    valid[:, :, 0, 0] = True
    target = torch.zeros_like(target) if ground else target
    marked = torch.where(valid, target, 255)[:, 0]
    peer = smp.LovaszLoss("binary", per_image=per_image, ignore_index=255)
    found = loss("lovasz_hinge", logits, target, valid, per_image=per_image)
    assert found == pytest.approx(peer(logits[:, 0], marked).item(), rel=1e-4, abs=1e-5)

    logits, target, valid = example("multiclass", **size)
    valid[:, 0, 0] = True
    target = torch.zeros_like(target) if ground else target
    peer = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=255)
    found = loss("lovasz_softmax", logits, target, valid, "multiclass", per_image=per_image)
    expected = peer(logits, torch.where(valid, target, 255)).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("mode", "name"), [("binary", "lovasz_hinge"),
                                            ("multiclass", "lovasz_softmax")])  # fmt: skip
def test_lovasz_by_image_is_the_mean_over_images_that_have_valid_pixels(mode, name):
    logits, target, valid = example(mode, count=3)
    valid[1] = False
    each = [loss(name, logits[i : i + 1], target[i : i + 1], valid[i : i + 1], mode)
            for i in (0, 2)]  # fmt: skip
    found = loss(name, logits, target, valid, mode, per_image=True)
    assert found == pytest.approx(sum(each) / 2, abs=1e-6)
    assert found != pytest.approx(loss(name, logits, target, valid, mode), abs=1e-4)


# What all have in common


@pytest.mark.parametrize("name", [name for name in BINARY if name != "lovasz_hinge"])
def test_a_perfect_answer_costs_nothing_and_a_worse_one_more(name):
    sure = 40 * (2 * TARGET - 1)
    assert loss(name, sure) == pytest.approx(0, abs=1e-6)
    assert 0 < loss(name, sure / 20) < loss(name) < loss(name, -LOGITS)


def test_the_hinge_asks_for_a_margin_of_1():
    side = 2 * TARGET - 1
    assert loss("lovasz_hinge", side) == 0
    assert 0 < loss("lovasz_hinge", side / 2) < loss("lovasz_hinge") < loss("lovasz_hinge", -LOGITS)


@pytest.mark.parametrize("name", MULTICLASS)
def test_of_exclusive_classes_the_right_one_costs_nothing(name):
    logits, target, valid = example("multiclass")
    sure = 40.0 * F.one_hot(target, 3).movedim(-1, 1)
    assert loss(name, sure, target, valid, "multiclass") == pytest.approx(0, abs=1e-6)
    costs = [loss(name, sure / k, target, valid, "multiclass") for k in (20, 40)]
    assert 0 < costs[0] < costs[1] < loss(name, -logits.abs() * sure, target, valid, "multiclass")


@pytest.mark.parametrize(("mode", "name", "options"), CASES)
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    junk=st.sampled_from([0.0, 50.0, -1e30, math.inf, math.nan]),
    shift=st.integers(1, 250),
)
def test_what_is_not_valid_has_no_effect(mode, name, options, seed, junk, shift):
    logits, target, valid = example(mode, seed=seed)
    alone = term(name, mode, logits.shape[1], **options)

    def run(logits, target):
        logits = logits.clone().requires_grad_()
        found = alone(logits, target, valid)
        return found.item(), torch.autograd.grad(found, logits)[0]

    value, gradient = run(logits, target)
    seen = valid.expand_as(logits) if mode == "binary" else valid[:, None].expand_as(logits)
    other = run(torch.where(seen, logits, junk), torch.where(valid, target, target + shift))
    assert math.isfinite(value)
    assert other[0] == value
    assert torch.equal(other[1], gradient)
    assert (gradient[~seen] == 0).all()
    assert (gradient[seen] != 0).any()


@pytest.mark.parametrize(("mode", "name", "options"), CASES)
def test_a_batch_without_a_valid_pixel_is_finite(mode, name, options):
    logits, target, valid = example(mode)
    logits.requires_grad_()
    found = term(name, mode, logits.shape[1], **options)(logits, target, torch.zeros_like(valid))
    found.backward()
    assert found.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", OVERLAPS)
def test_a_batch_without_a_valid_pixel_is_finite_without_smoothing(name):
    assert loss(name, valid=~ALL, smooth=0) == 0


@pytest.mark.parametrize("name", BINARY)
def test_a_channel_is_a_problem_of_its_own(name):
    other = torch.tensor([[1.0, -1.0], [2.0, 0.5]]).view(1, 1, 2, 2)
    logits, target = torch.cat([LOGITS, other], 1), torch.cat([TARGET, 1 - TARGET], 1)
    both = loss(name, logits, target, ALL.repeat(1, 2, 1, 1))
    apart = loss(name), loss(name, other, 1 - TARGET)
    assert both == pytest.approx(sum(apart) / 2, abs=1e-6)


@pytest.mark.parametrize(("mode", "name", "options"), CASES)
def test_everything_lies_on_the_device_of_the_logits(mode, name, options):
    logits, target, valid = (part.to("meta") for part in example(mode))
    weights = torch.ones(2, 1, 5, 7, device="meta")
    found = term(name, mode, logits.shape[1], **options)(logits, target, valid, weights)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (), torch.float32)


# Ground without a building


def gradient_without_buildings(name, logits=LOGITS, **options):
    logits = logits.clone().requires_grad_()
    valid = torch.ones_like(logits, dtype=torch.bool)
    found = term(name, channels=1, **options)(logits, torch.zeros_like(logits), valid)
    return found.item(), torch.autograd.grad(found, logits)[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [("bce", {}), ("bce", {"pos_weight": 100}), ("dice", {}), ("focal", {}),
     ("focal", {"alpha": 0.25, "normalise": "positives"}), ("jaccard", {}), ("tversky", {})],
)  # fmt: skip
def test_a_batch_without_a_building_pushes_false_positives_down(name, options):
    value, gradient = gradient_without_buildings(name, **options)
    assert value > 0
    assert (gradient > 0).all()


def test_without_a_building_the_hinge_pushes_the_worst_false_alarm_down():
    value, gradient = gradient_without_buildings("lovasz_hinge")
    assert value == pytest.approx(1 + 1.7)
    assert gradient.flatten().tolist() == [0, 0, 0, 1]
    # One of each tile, and none that is sure by a margin of 1.
    tiles = LOGITS.view(2, 1, 1, 2)
    _, gradient = gradient_without_buildings("lovasz_hinge", tiles, per_image=True)
    assert gradient.flatten().tolist() == [0, 0.5, 0, 0.5]
    assert gradient_without_buildings("lovasz_hinge", LOGITS - 3)[0] == 0


@pytest.mark.parametrize("name", OVERLAPS)
def test_without_smoothing_ground_without_a_building_teaches_nothing(name):
    value, gradient = gradient_without_buildings(name, smooth=0)
    assert value == pytest.approx(1)
    assert gradient.abs().max() < 1e-6


def test_focal_by_positives_divides_by_1_where_there_is_none():
    by_pixels = gradient_without_buildings("focal")
    by_positives = gradient_without_buildings("focal", normalise="positives")
    assert by_positives[0] == pytest.approx(4 * by_pixels[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in MULTICLASS), ("lovasz_softmax", {"classes": "all"}),
     ("dice", {"smooth": 0})],
)  # fmt: skip
def test_where_all_is_background_the_background_is_pushed_up(name, options):
    logits = example("multiclass")[0].requires_grad_()
    target = torch.zeros(2, 5, 7, dtype=torch.long)
    found = term(name, "multiclass", 3, **options)(logits, target, target == 0)
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() > 0
    assert (gradient[:, 0] < 0).all()


# The sum


def test_the_sum_weighs_its_terms():
    options = LossOptions(bce=0.5, dice=2, focal={"weight": 3, "alpha": 0.25}, jaccard=0)
    total = CompositeLoss(options, channels=1)
    assert set(total.terms) == {"bce", "dice", "focal"}
    expected = 0.5 * loss("bce") + 2 * loss("dice") + 3 * loss("focal", alpha=0.25)
    assert total(LOGITS, TARGET, ALL).item() == pytest.approx(expected, abs=1e-6)


def test_the_sum_takes_half_precision_and_integer_targets():
    total = CompositeLoss(LossOptions(bce=1, jaccard=1, lovasz_hinge=1), channels=1)
    found = total(LOGITS.bfloat16(), TARGET.to(torch.uint8), ALL)
    expected = loss("bce") + loss("jaccard") + loss("lovasz_hinge")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("mode", "terms", "message"),
    [
        ("binary", {"cross_entropy": 1},
         "train.loss.cross_entropy: is for exclusive classes; for independent channels use bce, "
         "dice, focal, jaccard, lovasz_hinge, tversky"),
        ("multiclass", {"dice": 1, "bce": 1},
         "train.loss.bce: is for independent channels; for exclusive classes use cross_entropy, "
         "dice, focal, jaccard, lovasz_softmax, tversky"),
        ("multiclass", {"focal": {"alpha": 0.5}}, "train.loss.focal.alpha: is for independent"),
        ("binary", {"focal": {"class_weights": [1, 2]}},
         "train.loss.focal.class_weights: is for exclusive classes"),
        ("binary", {"bce": {"pos_weight": [1, 2, 3]}},
         "train.loss.bce.pos_weight: has 3 values for 2 channels; give one, or one per channel"),
        ("multiclass", {"cross_entropy": {"class_weights": [1, 2, 3]}},
         "train.loss.cross_entropy.class_weights: has 3 values for 2 classes; give one per class"),
    ],
)  # fmt: skip
def test_terms_that_do_not_serve_the_task_are_refused(mode, terms, message):
    with pytest.raises(ConfigError) as error:
        CompositeLoss(LossOptions(**terms), channels=2, mode=mode)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_term_without_weight_need_not_serve():
    without = CompositeLoss(LossOptions(bce=1, cross_entropy=0), channels=1)
    assert without(LOGITS, TARGET, ALL).item() == term("bce")(LOGITS, TARGET, ALL).item() > 0


# Weights of pixels


def test_pixelwise_terms_weigh_pixels_and_the_others_do_not():
    weights = torch.tensor([[4.0, 0.0], [1.0, 2.0]]).view(1, 1, 2, 2)
    each = [-math.log(p) for p in (1 - PROBS[0], PROBS[1], 1 - PROBS[2], PROBS[3])]
    expected = (4 * each[0] + each[2] + 2 * each[3]) / 4
    assert term("bce")(LOGITS, TARGET, ALL, weights).item() == pytest.approx(expected, abs=1e-6)
    focal = sum(
        w * (1 - math.exp(-x)) ** 2 * x for w, x in zip((4, 0, 1, 2), each, strict=True)
    ) / 4  # fmt: skip
    assert term("focal")(LOGITS, TARGET, ALL, weights).item() == pytest.approx(focal, abs=1e-6)
    for name in ("dice", "jaccard", "lovasz_hinge", "tversky"):
        assert term(name)(LOGITS, TARGET, ALL, weights).item() == pytest.approx(loss(name))


def test_pixels_of_exclusive_classes_are_weighed_too():
    logits, target, valid = example("multiclass")
    weights = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1)) * 5
    each = F.cross_entropy(logits, target, reduction="none") * weights[:, 0]
    expected = each[valid].sum() / valid.sum()
    found = term("cross_entropy", "multiclass", 3)(logits, target, valid, weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_losses_of_samples_are_means_over_their_valid_pixels():
    logits, target = LOGITS.repeat(3, 1, 1, 1), TARGET.repeat(3, 1, 1, 1)
    valid = ALL.repeat(3, 1, 1, 1)
    valid[1, 0, 0, 1] = valid[1, 0, 1, 1] = False
    valid[2] = False
    found = sample_losses(build_batch(logits, target, valid))
    sides = [-math.log(p) for p in (1 - PROBS[0], PROBS[1], 1 - PROBS[2], PROBS[3])]
    expected = [sum(sides) / 4, (sides[0] + sides[2]) / 2, 0]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_losses_of_samples_of_classes():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1).repeat(1, 1, 1, 3)
    target, valid = torch.zeros(2, 1, 3, dtype=torch.uint8), torch.ones(2, 1, 3, dtype=torch.bool)
    valid[1, 0, 0] = False
    found = sample_losses(build_batch(logits, target, valid, "multiclass"))
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
