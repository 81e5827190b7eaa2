"""Depthwise convolutions in mixed precision on a CPU."""

import copy
import pickle

import torch
from torch import nn

from geoseg.networks.models import build_model
from geoseg.training.depthwise import compute_depthwise_in_float32


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.one_band = nn.Conv2d(1, 3, 3)

    def forward(self, image):
        return self.depthwise(image), self.grouped(image), self.one_band(image[:, :1])


def dtypes(network, image):
    with torch.autocast("cpu", torch.bfloat16):
        return [output.dtype for output in network(image)]


def test_only_depthwise_convolutions_stay_in_float32():
    network = Small()
    image = torch.randn(2, 4, 9, 11)
    assert dtypes(network, image) == [torch.bfloat16] * 3
    compute_depthwise_in_float32(network)
    assert dtypes(network, image) == [torch.float32, torch.bfloat16, torch.bfloat16]
    # An image that the layer before returned in half precision is taken as well.
    assert dtypes(network, image.bfloat16()) == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_without_mixed_precision_nothing_changes():
    network = build_model("deepglobe", "tu-tf_efficientnet_lite0", bands=["a", "b"], outputs=3)
    changed = copy.deepcopy(network)
    compute_depthwise_in_float32(changed)
    image = torch.randn(1, 2, 64, 96)
    assert torch.equal(network.eval()(image), changed.eval()(image))
    assert network.state_dict().keys() == changed.state_dict().keys()


def test_a_copy_uses_its_own_weights():
    network = Small()
    compute_depthwise_in_float32(network)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        check_own_weights(network, twin)


def check_own_weights(network, twin):
    with torch.no_grad():
        twin.depthwise.weight.zero_()
        twin.depthwise.bias.zero_()
    image = torch.randn(2, 4, 9, 11)
    assert not twin(image)[0].any()
    assert network(image)[0].all()
