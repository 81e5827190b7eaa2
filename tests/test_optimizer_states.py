"""States of optimizers that other versions of torch wrote, and damaged ones."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geoseg.errors import ModelFileError
from geoseg.training.state_file import check_optimizer

SWITCHES = {
    torch.optim.AdamW: ("decoupled_weight_decay", "fused", "foreach", "capturable"),
    torch.optim.SGD: ("fused", "foreach", "maximize"),
}


def stepped(kind, **settings):
    """An optimizer after a step, and its state."""
    network = nn.Linear(3, 2)
    optimizer = kind(network.parameters(), lr=0.1, **settings)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer, copy.deepcopy(optimizer.state_dict())


def check(saved, optimizer):
    check_optimizer(Path("last.ckpt"), SimpleNamespace(optimizer_states=[saved]), optimizer)


@pytest.mark.parametrize("kind", SWITCHES)
def test_switches_that_another_version_of_torch_lacks(kind):
    optimizer, saved = stepped(kind)
    before = optimizer.param_groups[0].copy()
    (group,) = saved["param_groups"]
    for switch in SWITCHES[kind]:
        group.pop(switch, None)
    group |= {"differentiable": None, "of_a_later_version": 1}
    check(saved, optimizer)
    optimizer.load_state_dict(saved)
    optimizer.step()
    after = optimizer.param_groups[0]
    assert [bool(after[one]) for one in SWITCHES[kind] if one in before] == [
        bool(before[one]) for one in SWITCHES[kind] if one in before
    ]


def test_no_buffer_without_momentum():
    optimizer, saved = stepped(torch.optim.SGD)
    saved["state"] = {0: {"momentum_buffer": None}, 1: {"momentum_buffer": None}}
    check(saved, optimizer)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((torch.optim.AdamW, name) for name in ("params", "lr", "betas", "eps", "weight_decay")),
        *((torch.optim.SGD, name) for name in ("params", "lr", "momentum", "dampening")),
    ],
)
def test_settings_without_which_no_step_can_be_made(kind, name):
    optimizer, saved = stepped(kind)
    del saved["param_groups"][0][name]
    with pytest.raises(ModelFileError, match="damaged state of the optimizer"):
        check(saved, optimizer)


@pytest.mark.parametrize(
    "change", [{"fused": "yes"}, {"lr": float("nan")}, {"betas": (0.9,)}, {"params": [0, 0]}]
)
def test_settings_of_another_kind(change):
    optimizer, saved = stepped(torch.optim.AdamW)
    saved["param_groups"][0] |= change
    with pytest.raises(ModelFileError, match="damaged state of the optimizer"):
        check(saved, optimizer)


def test_an_empty_moment():
    optimizer, saved = stepped(torch.optim.AdamW)
    saved["state"][0]["exp_avg"] = None
    with pytest.raises(ModelFileError, match="damaged state of the optimizer"):
        check(saved, optimizer)
