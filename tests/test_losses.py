"""Losses with values worked out by hand, and what no loss may see."""

import math

import pytest
import torch

from geoseg.errors import ConfigError
from geoseg.losses import _SMOOTH, LOSSES, CompositeLoss

LOGITS = torch.tensor([[-2.0, -0.5], [0.3, 1.7]]).view(1, 1, 2, 2)
TARGET = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
ALL = torch.ones(1, 1, 2, 2, dtype=torch.bool)

# σ(-2), σ(-0.5), σ(0.3), σ(1.7)
PROBS = (0.1192029220, 0.3775406688, 0.5744425168, 0.8455347349)
OVERLAP = PROBS[1] + PROBS[3]
TOTAL = sum(PROBS) + 2

# 1 - 2·OVERLAP/TOTAL and 1 - OVERLAP/(TOTAL - OVERLAP): the losses without a smoothing term.
PLAIN_DICE, PLAIN_JACCARD = 0.3754594922, 0.5459404588


def loss(name, logits=LOGITS, target=TARGET, valid=ALL):
    return LOSSES[name](logits, target, valid).item()


def test_the_sums_by_hand():
    dice, jaccard = 2 * OVERLAP / TOTAL, OVERLAP / (TOTAL - OVERLAP)
    assert (1 - dice, 1 - jaccard) == pytest.approx((PLAIN_DICE, PLAIN_JACCARD), abs=1e-8)


def test_bce_by_hand():
    expected = (
        -(math.log(1 - PROBS[0]) + math.log(PROBS[1]) + math.log(1 - PROBS[2]) + math.log(PROBS[3]))
        / 4
    )
    assert expected == pytest.approx(0.5307865739, abs=1e-8)
    assert loss("bce") == pytest.approx(0.5307865739, abs=1e-6)


def test_focal_by_hand():
    truth = (1 - PROBS[0], PROBS[1], 1 - PROBS[2], PROBS[3])
    expected = sum(-((1 - p) ** 2) * math.log(p) for p in truth) / 4
    assert loss("focal") == pytest.approx(expected, abs=1e-6)


def test_dice_and_jaccard_by_hand():
    dice = 1 - (2 * OVERLAP + _SMOOTH) / (TOTAL + _SMOOTH)
    jaccard = 1 - (OVERLAP + _SMOOTH) / (TOTAL - OVERLAP + _SMOOTH)
    assert loss("dice") == pytest.approx(dice, abs=1e-6)
    assert loss("jaccard") == pytest.approx(jaccard, abs=1e-6)


def test_on_many_pixels_the_smoothing_term_vanishes():
    logits, target = LOGITS.repeat(1, 1, 200, 200), TARGET.repeat(1, 1, 200, 200)
    valid = torch.ones_like(target, dtype=torch.bool)
    assert loss("dice", logits, target, valid) == pytest.approx(PLAIN_DICE, abs=1e-5)
    assert loss("jaccard", logits, target, valid) == pytest.approx(PLAIN_JACCARD, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_answer_costs_nothing_and_a_worse_one_more(name):
    sure = 40 * (2 * TARGET - 1)
    assert loss(name, sure) == pytest.approx(0, abs=1e-6)
    assert 0 < loss(name, sure / 20) < loss(name) < loss(name, -LOGITS)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("logit", "target"), [(50.0, 0.0), (-50.0, 1.0), (0.0, 0.5)])
def test_what_is_not_valid_has_no_effect(name, logit, target):
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 5, 7)
    truth = (torch.rand(2, 2, 5, 7) > 0.5).float()
    valid = torch.rand(2, 2, 5, 7) > 0.3
    other_logits = torch.where(valid, logits, logit).requires_grad_()
    other_truth = torch.where(valid, truth, target)
    expected = loss(name, logits, truth, valid)
    found = LOSSES[name](other_logits, other_truth, valid)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(found, other_logits)
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_valid_pixel_is_finite(name):
    logits = LOGITS.clone().requires_grad_()
    found = LOSSES[name](logits, TARGET, ~ALL)
    found.backward()
    assert found.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_building_pushes_false_positives_down(name):
    logits = LOGITS.clone().requires_grad_()
    found = LOSSES[name](logits, torch.zeros_like(TARGET), ALL)
    found.backward()
    assert found.item() > 0
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_channel_is_a_problem_of_its_own(name):
    other = torch.tensor([[1.0, -1.0], [2.0, 0.5]]).view(1, 1, 2, 2)
    logits, target = torch.cat([LOGITS, other], 1), torch.cat([TARGET, 1 - TARGET], 1)
    both = loss(name, logits, target, ALL.repeat(1, 2, 1, 1))
    apart = loss(name), loss(name, other, 1 - TARGET)
    assert both == pytest.approx(sum(apart) / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard"])
def test_overlap_is_taken_over_the_batch(name):
    logits, target = LOGITS.view(2, 1, 1, 2), TARGET.view(2, 1, 1, 2)
    assert loss(name, logits, target, ALL.view(2, 1, 1, 2)) == pytest.approx(loss(name), abs=1e-7)


# The sum


def test_the_sum_weighs_its_terms():
    total = CompositeLoss({"bce": 0.5, "dice": 2, "focal": 0})
    assert set(total.weights) == {"bce", "dice"}
    expected = 0.5 * loss("bce") + 2 * loss("dice")
    assert total(LOGITS, TARGET, ALL).item() == pytest.approx(expected, abs=1e-6)


def test_the_sum_takes_half_precision_and_integer_targets():
    found = CompositeLoss({"bce": 1, "jaccard": 1})(LOGITS.bfloat16(), TARGET.to(torch.uint8), ALL)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss("bce") + loss("jaccard"), abs=0.01)


def test_an_unknown_term_lists_the_choices():
    with pytest.raises(ConfigError, match="no loss is called lovasz; choose from bce, dice, focal"):
        CompositeLoss({"bce": 1, "lovasz": 1})


@pytest.mark.parametrize("weights", [{}, {"bce": 0.0}])
def test_a_sum_of_nothing_is_refused(weights):
    with pytest.raises(ConfigError, match="no term has a positive weight"):
        CompositeLoss(weights)
