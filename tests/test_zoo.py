"""The contract that every network keeps, whatever its name, and the networks of the papers."""

import json
import logging

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from geoseg.cli import cli
from geoseg.errors import ConfigError
from geoseg.networks.architectures import ARCHITECTURES, list_architectures
from geoseg.networks.model_file import ModelSpec, load_model, save_model
from geoseg.networks.models import build_model, encoder_of
from geoseg.networks.models.card import make_card
from geoseg.networks.models.layers import (
    BilinearDeconv,
    ImagePooling,
    PooledBatchNorm,
    SeparableConv,
    pad_to_multiple,
)
from geoseg.networks.models.unet import mirror

RGB = ("red", "green", "blue")

# What keeps the networks small enough for a test; everything else is as by default.
SMALL = {
    "deepglobe": ("tu-tf_efficientnet_lite0", {"aspp_channels": 16}),
    "deeplabv2": ("resnet18", {}),
    "deeplabv3": ("resnet18", {"channels": 16}),
    "deeplabv3plus": ("tu-tf_efficientnet_lite0", {"channels": 16}),
    "fcn16s": ("vgg11", {"width": 16}),
    "fcn32s": ("vgg11", {"width": 16}),
    "fcn8s": ("vgg11", {"width": 16}),
    "fpn": ("resnet18", {"channels": 32, "head_channels": 32}),
    "pixelwise": (None, {}),
    "unet": (None, {"width": 8}),
    "smp-dpt": ("tu-vit_tiny_patch16_224", {}),
    "smp-segformer": ("mit_b0", {}),
}


def build(arch, encoder=None, *, bands=RGB, classes=2, **options):
    small_encoder, small = SMALL.get(arch, ("resnet18", {}))
    torch.manual_seed(0)
    return build_model(
        arch, encoder or small_encoder, bands=bands, outputs=classes, options=small | options
    )


def paper(arch, encoder=None, *, bands=3, classes=21, **options):
    """A network of full size, without the memory."""
    with torch.device("meta"):
        return build_model(
            arch, encoder, bands=[f"b{i}" for i in range(bands)], outputs=classes, options=options
        )


def count(module):
    return sum(p.numel() for p in module.parameters())


def image(number=1, bands=3, height=64, width=96):
    return torch.randn(number, bands, height, width, generator=torch.Generator().manual_seed(1))


# The contract


@pytest.fixture(scope="module", params=list_architectures("pixels"))
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def network(arch):
    return build(arch)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 97), (33, 50)])
def test_logits_have_the_images_size_whatever_it_is(network, height, width):
    network.eval()
    with torch.inference_mode():
        logits = network(image(2, height=height, width=width))
        again = network(image(2, height=height, width=width))
    assert logits.shape == (2, 2, height, width)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert torch.equal(logits, again)


def test_a_batch_of_one_trains_encoder_and_head(network):
    network.train()
    network.zero_grad()
    network(image(1)).square().mean().backward()
    learnt = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = {name: p.grad for name, p in learnt.items() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    inside = {name for name, _ in encoder_of(network).named_parameters()}
    deep = [g for name, g in gradients.items() if any(name.endswith(n) for n in inside)]
    assert deep[0].abs().sum() > 0  # the first convolution
    assert list(gradients.values())[-1].abs().sum() > 0  # the head
    assert sum(bool(g.any()) for g in gradients.values()) > 0.8 * len(gradients)
    assert len(gradients) > 0.4 * len(learnt)  # PSPNet does not look at the deepest stages


def test_a_model_file_brings_the_same_logits_back(arch, network, tmp_path):
    network.eval()
    encoder, options = SMALL.get(arch, ("resnet18", {}))
    spec = ModelSpec(
        arch=arch, encoder=encoder, options=options, bands=RGB, dtype="uint8", mean=(0, 0, 0),
        std=(1, 1, 1), gsd_m=0.5, size=64, overlap=16,
    )  # fmt: skip
    save_model(tmp_path / "model.safetensors", network.state_dict(), spec)
    spec, weights = load_model(tmp_path / "model.safetensors")
    again = build_model(
        spec.arch, spec.encoder, bands=spec.bands, outputs=2, options=spec.options
    ).eval()
    again.load_state_dict(weights)
    with torch.inference_mode():
        assert torch.equal(again(image()), network(image()))


def test_bfloat16_agrees_with_float32(network):
    network.eval()
    with torch.inference_mode():
        full = network(image())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image())
    assert half.shape == full.shape
    assert (half.float() - full).abs().mean() < 0.1 * full.std() + 0.02


def test_the_compiler_follows_the_network(network):
    network.eval()
    torch.compiler.reset()  # else the networks before count against its limit of recompilations
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(image()), network(image()), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own code
def test_onnx_runs_as_the_network_does(network, caplog):
    network.eval()
    with caplog.at_level(logging.ERROR), torch.inference_mode():
        program = torch.onnx.export(network, (image(),), dynamo=True, verbose=False)
        expected = network(image()).numpy()
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())


@pytest.mark.parametrize(
    "arch", [a for a in list_architectures("pixels") if not a.startswith("smp-")]
)
@pytest.mark.parametrize("bands", [1, 2, 5, 16])
def test_any_number_of_bands(arch, bands):
    network = build(arch, bands=[f"b{i}" for i in range(bands)], classes=1).eval()
    with torch.inference_mode():
        assert network(image(1, bands, 32, 64)).shape == (1, 1, 32, 64)


# Counts of the papers


@pytest.mark.parametrize(
    ("parameters", "arch", "encoder", "options"),
    [
        (134_489_759, "fcn8s", None, {}),
        (134_815_994, "fcn16s", None, {}),
        (136_152_917, "fcn32s", None, {}),
        (134_489_759, "fcn8s", None, {"padding": "paper"}),
        (31_030_658, "unet", None, {"bands": 1, "classes": 2, "padding": "valid"}),
        (31_031_745, "unet", None, {"bands": 3, "classes": 1}),
        (44_048_532, "deeplabv2", None, {}),
        (42_887_253, "deeplabv2", None, {"context": "largefov"}),
        (20_505_429, "deeplabv2", "vgg16", {"context": "largefov"}),
        (37_877_652, "deeplabv2", "vgg16", {}),
        (39_638_869, "deeplabv3", "resnet50", {"torchvision": True, "output_stride": 8}),
        (58_630_997, "deeplabv3", "resnet101", {"torchvision": True, "output_stride": 8}),
        (41_055_413, "deeplabv3plus", None, {}),
        (54_711_461, "deeplabv3plus", None, {"separable": False}),
    ],
)
def test_parameters_are_those_of_the_paper(parameters, arch, encoder, options):
    assert count(paper(arch, encoder, **options)) == parameters


def test_the_parts_of_fpn_are_those_of_the_paper():
    network = paper("fpn", classes=54)
    assert count(network.head) == 1_623_808
    assert count(network.pyramid) == 3_344_384
    assert count(network.predictor) == 6_966
    convolutions = [m for m in network.head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 7


def test_deeplabv3plus_costs_what_the_paper_says():
    network = paper("deeplabv3plus").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 513, 513, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(54.17e9, rel=0.01)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("fusion", ["concat", "add"])
def test_both_fusions_of_deepglobe(fusion, kernel):
    skips, aspp = [1024, 512, 256, 64], 256
    expected, inputs = 25_510_896 + 15_535_104, aspp  # the trunk's and ASPP's own figures
    for skip in skips:
        middle = inputs // 4
        outer = kernel**2 * (inputs * middle + middle * skip)
        expected += outer + 16 * middle**2 + 2 * (2 * middle + skip)
        inputs = 2 * skip if fusion == "concat" else skip
    expected += 9 * inputs * 64 + 2 * 64 + 64 + 1
    assert count(paper("deepglobe", classes=1, fusion=fusion, kernel=kernel)) == expected


def test_a_decoder_of_its_own_width():
    network = paper("deepglobe", widths=(128, 96, 64, 32), kernel=3)
    convolutions = [(block.reduce[0], block.expand[0]) for block in network.blocks]
    assert [one.out_channels for _, one in convolutions] == [128, 96, 64, 32]
    assert [one.in_channels for one, _ in convolutions] == [256, 1024 + 128, 512 + 96, 256 + 64]
    assert {one.kernel_size for pair in convolutions for one in pair} == {(3, 3)}
    for wrong in ({"widths": (8, 8)}, {"widths": (8, 8, 8, 8), "fusion": "add"}, {"kernel": 2}):
        with pytest.raises(ConfigError, match="cannot build deepglobe"):
            paper("deepglobe", **wrong)


# FCN


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_a_bilinear_deconvolution_interpolates(stride):
    layer = BilinearDeconv(3, stride)
    features = image(1, 3, 5, 7)
    half = stride // 2
    found = layer(features)[..., half : half + 5 * stride, half : half + 7 * stride]
    expected = F.interpolate(features, scale_factor=stride, mode="bilinear", align_corners=False)
    inner = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-5)
    assert found.shape == expected.shape


def test_the_kernel_of_a_factor_of_two_by_hand():
    weight = BilinearDeconv(2, 2).weight
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(weight[0, 0], torch.outer(line, line))
    assert torch.equal(weight[1, 1], torch.outer(line, line))
    assert not weight[0, 1].any()


@pytest.mark.parametrize(("stride", "level"), [(32, 5), (16, 5), (16, 4), (8, 5), (8, 4), (8, 3)])
@pytest.mark.parametrize("padding", ["same", "paper"])
def test_logits_of_fcn_are_at_the_pixels_that_they_belong_to(padding, stride, level):
    """Where the map of a level holds the columns of its own pixels, so do the logits."""
    network = build(f"fcn{stride}s", "vgg11", padding=padding, classes=1).eval()
    for layer in (network.fc6, network.fc7, network.score):
        pass_on(layer)
    for name in ("skip_pool4", "skip_pool3"):
        if hasattr(network, name):
            pass_on(getattr(network, name))
    margin = 99 if padding == "paper" else 0
    encode = network.encoder.forward

    def columns(pixels):
        maps = [torch.zeros_like(m) for m in encode(pixels)]
        # The skips are pooled before they are scored.
        place = {5: 5, 4: 3, 3: 2}[level]
        cell = 2**level if level == 5 else 2 ** (level - 1)
        ramp = torch.arange(maps[place].shape[3]) * cell + (cell - 1) / 2 - margin
        if level < 5:
            ramp -= cell / 2  # of two neighbours the pooling takes the right one
        maps[place] += ramp + 1000
        return maps

    network.encoder.forward = columns
    with torch.inference_mode():
        found = network(image(1, 3, 150, 210))[0, 0] - 1000
    inner = slice(33, -33)
    expected = torch.arange(210.0)[inner].expand(150, -1)[inner]
    torch.testing.assert_close(found[inner, inner], expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["skip_pool4", "skip_pool3"])
def test_skips_of_fcn_start_at_zero_and_learn(name):
    network = build("fcn8s", "vgg11_bn", width=16)
    score = getattr(network, name)
    assert not score.weight.any()
    assert not score.bias.any()
    network(image(2, 3, 64, 96)).mean().backward()
    # As much as the deepest score: AdamW then moves both by the same steps.
    deepest = network.score.weight.grad.abs().mean()
    assert score.weight.grad.abs().mean() > 0.01 * deepest


def pass_on(layer):
    """Makes a convolution hand its first channel on as it is."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    middle = layer.kernel_size[0] // 2
    with torch.no_grad():
        layer.weight[0, 0, middle, middle] = 1


def test_the_last_upsampling_of_fcn_is_fixed_and_the_others_learn():
    network = build("fcn8s")
    assert not network.up.weight.requires_grad
    assert network.up_score.weight.requires_grad
    assert network.up_pool4.weight.requires_grad


# U-Net


def test_the_published_sizes():
    network = build("unet", padding="valid").eval()
    assert network.margin(388) == (572 - 388) // 2
    with torch.inference_mode():
        assert network._logits(image(1, 3, 188, 204)).shape == (1, 2, 4, 20)


@settings(max_examples=30)
@given(size=st.integers(1, 700))
def test_the_margin_is_enough_and_no_pixel_is_wasted_by_a_pooling(size):
    network = build("unet", padding="valid")
    given_size = network._input_size(size)
    side = given_size
    for _ in range(network.depth):
        side -= 4
        assert side % 2 == 0
        side //= 2
    side -= 4
    for _ in range(network.depth):
        side = 2 * side - 4
    assert 0 <= side - size < 16
    assert given_size - 1 <= size + 2 * network.margin(size) <= given_size + 1


def test_real_surroundings_take_the_place_of_the_mirror():
    network = build("unet", padding="valid").eval()
    wide = image(1, 3, 300, 330)
    margin = network.margin(64), network.margin(75)
    part = wide[..., 110 : 110 + 64, 120 : 120 + 75]
    seen = wide[..., 110 - margin[0] : 174 + margin[0], 120 - margin[1] : 195 + margin[1]]
    with torch.inference_mode():
        true = network.valid_logits(seen, (64, 75))
        mirrored = network(part)
        assert torch.equal(network.valid_logits(mirror(part, *margin), (64, 75)), mirrored)
    assert true.shape == mirrored.shape == (1, 2, 64, 75)
    assert not torch.allclose(true, mirrored)


@given(
    height=st.integers(1, 6), width=st.integers(1, 6), rows=st.integers(0, 15),
    columns=st.integers(0, 15),
)  # fmt: skip
def test_a_mirror_of_any_width(height, width, rows, columns):
    values = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    expected = np.pad(
        values.numpy(), [(0, 0), (0, 0), (rows, rows), (columns, columns)], mode="symmetric"
    )
    assert np.array_equal(mirror(values, rows, columns).numpy(), expected)


# FPN


def test_fpn_smooths_every_merged_map():
    network = build("fpn").eval()
    maps = network.encoder(image())[2:]
    with torch.inference_mode():
        before = network.pyramid(maps)
        for level, conv in enumerate(network.pyramid.smooth):
            conv.weight.mul_(0)
            after = network.pyramid(maps)
            changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert changed == [i == level for i in range(4)]
            before = after


def test_a_coarse_map_reaches_every_finer_one():
    network = build("fpn").eval()
    maps = [m.detach() for m in network.encoder(image())[2:]]
    with torch.inference_mode():
        before = network.pyramid(maps)
        maps[3] = maps[3] + 1
        after = network.pyramid(maps)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


# DeepLab


def dilations(stage):
    """The rates of the 3x3 convolutions of a stage, block by block."""
    return [
        next(m.dilation[0] for m in block.modules() if getattr(m, "kernel_size", 0) == (3, 3))
        for block in stage
    ]


@pytest.mark.parametrize(
    ("output_stride", "layer3", "layer4"),
    [(16, [1] * 6, [2, 4, 8]), (8, [2] * 6, [4, 8, 16])],
)
def test_the_multi_grid_of_deeplabv3(output_stride, layer3, layer4):
    encoder = paper("deeplabv3", "resnet50", output_stride=output_stride).encoder
    assert dilations(encoder.layer3) == layer3
    assert dilations(encoder.layer4) == layer4
    assert encoder.output_stride == output_stride


def test_deeplabv3_is_torchvisions_in_the_mode_that_says_so():
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=4, aux_loss=False
    ).eval()
    torch.manual_seed(2)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = build_model(
        "deeplabv3", "resnet50", bands=RGB, outputs=4,
        options={"torchvision": True, "output_stride": 8},
    ).eval()  # fmt: skip
    # Both list their tensors in the order in which the network uses them.
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(image(1, 3, 96, 128)), theirs(image(1, 3, 96, 128))["out"], rtol=1e-4, atol=1e-5
        )


def test_deeplabv2_takes_the_largest_score_over_scales():
    network = build("deeplabv2", scales=(0.5, 0.75, 1.0)).eval()
    with torch.inference_mode():
        *scores, largest = network.training_logits(image())
        assert torch.equal(network(image()), largest)
        single = build("deeplabv2").eval()
        single.load_state_dict(network.state_dict())
        assert torch.equal(scores[2], single(image()))
    assert len(scores) == 3
    assert torch.equal(largest, torch.maximum(torch.maximum(scores[0], scores[1]), scores[2]))


def test_the_classifiers_of_deeplabv2_are_summed():
    network = build("deeplabv2").eval()
    features = network.encoder(image())[-1]
    with torch.inference_mode():
        whole = network._score(image())
        parts = [classifier(features) for classifier in network.classifiers]
    assert [c.dilation[0] for c in network.classifiers] == [6, 12, 18, 24]
    torch.testing.assert_close(whole, sum(parts))


def test_an_atrous_vgg_sees_at_stride_8():
    network = build("deeplabv2", "vgg16").eval()
    with torch.inference_mode():
        assert network.encoder(image())[-1].shape == (1, 512, 8, 12)
    convolutions = [m for m in network.encoder.features if isinstance(m, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convolutions] == [1] * 10 + [2] * 3


@pytest.mark.parametrize("inner", [True, False])
def test_a_separable_convolution_by_hand(inner):
    layer = SeparableConv(4, 6, dilation=2, inner=inner).eval()
    kinds = [type(m).__name__ for m in layer]
    between = ["BatchNorm2d", "ReLU"] if inner else []
    assert kinds == ["Conv2d", *between, "Conv2d", "BatchNorm2d", "ReLU"]
    features = image(1, 4, 9, 11)
    depthwise = F.conv2d(features, layer[0].weight, padding=2, dilation=2, groups=4)
    if inner:
        depthwise = F.relu(depthwise / (1 + 1e-5) ** 0.5)
    expected = F.relu(F.conv2d(depthwise, layer[-3].weight) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(layer(features), expected)


def test_only_a_resnet_has_a_multi_grid():
    with pytest.raises(ConfigError, match="multi_grid needs a ResNet"):
        build("deeplabv3", "tu-tf_efficientnet_lite0", multi_grid=(1, 2, 4))
    network = build("deeplabv3", "tu-tf_efficientnet_lite0").eval()
    with torch.inference_mode():
        assert network(image()).shape == (1, 2, 64, 96)


@pytest.mark.parametrize(
    ("arch", "encoder", "options", "message"),
    [
        ("fcn8s", "resnet18", {}, "needs a VGG; choose encoder vgg16"),
        ("unet", "resnet18", {}, "unet has a fixed encoder"),
        ("unet", None, {"padding": "full"}, "padding must be one of same, valid, got 'full'"),
        ("deeplabv3", "resnet18", {"output_stride": 4}, "output_stride must be 8 or 16, got 4"),
        ("deeplabv3plus", "densenet121", {}, "cannot build deeplabv3plus on densenet121"),
        ("deeplabv2", "resnet18", {"scales": (0, 1)}, "scales must be positive"),
        ("deeplabv2", "resnet18", {"context": "crf"}, "context must be one of aspp, largefov, got"),
        ("fcn8s", "vgg11", {"padding": "valid"}, "padding must be one of same, paper, got 'valid'"),
    ],
)
def test_networks_that_cannot_be_built_say_why(arch, encoder, options, message):
    with pytest.raises(ConfigError, match=message):
        build_model(arch, encoder, bands=RGB, outputs=2, options=options)


# Layers


def test_image_pooling_trains_on_a_batch_of_one_by_its_running_statistics():
    pooling = ImagePooling(4, 6)
    norm = pooling[1]
    assert isinstance(norm, PooledBatchNorm)
    pooling.train()
    pooling(image(4, 4, 5, 7))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    alone = pooling(image(1, 4, 5, 7))
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)
    torch.testing.assert_close(alone, pooling.eval()(image(1, 4, 5, 7)))
    assert alone.shape == (1, 6, 5, 7)
    assert torch.equal(alone, alone[..., :1, :1].expand_as(alone))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_pass_image_pooling_from_a_batch_of_one(norm):
    pooling = ImagePooling(4, 16, norm).train()
    pooling(image(1, 4, 5, 7)).square().sum().backward()
    assert pooling[0].weight.grad.abs().sum() > 0


@given(height=st.integers(1, 70), width=st.integers(1, 70), multiple=st.sampled_from([1, 8, 32]))
def test_padding_repeats_the_last_row_and_column(height, width, multiple):
    values = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    padded = pad_to_multiple(values, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple
    assert torch.equal(padded[..., :height, :width], values)
    assert (padded[..., height:, :width] == values[..., -1:, :]).all()
    assert (padded[..., :height, width:] == values[..., :, -1:]).all()


def test_every_architecture_names_its_paper_and_an_encoder_that_builds():
    for name, architecture in ARCHITECTURES.items():
        marks = ("arXiv", "CVPRW", "IEEE", "logistic regression")
        assert any(mark in architecture.paper for mark in marks), name
        assert (architecture.encoder is None) == (name in ("pixelwise", "unet"))


# Cards


@pytest.mark.parametrize("arch", list_architectures())
def test_a_card_counts_the_network_itself(arch):
    card = make_card(arch, bands=4, classes=3)
    network = paper(arch, bands=4, classes=3)
    assert card.parameters == count(network)
    assert card.encoder_parameters == count(encoder_of(network))
    assert card.multiply_adds > card.parameters / card.output_stride**2
    strides = {"retinanet": (128,), "pixelwise": (1,)}
    assert card.output_stride in strides.get(arch, (8, 16, 32))
    assert (card.bands, card.classes, card.arch) == (4, 3, arch)


def test_multiply_adds_by_hand():
    card = make_card("unet", bands=2, classes=5, options={"width": 4, "depth": 1})
    pixels = 512 * 512
    full = 9 * (2 * 4 + 4 * 4) + 9 * (8 * 4 + 4 * 4) + 4 * 5
    half = 9 * (4 * 8 + 8 * 8) + 4 * 8 * 4
    assert card.multiply_adds == pixels * full + pixels // 4 * half


def test_the_command_prints_the_exact_count():
    def geoseg(line):
        return CliRunner().invoke(cli, line.split(), catch_exceptions=False).output

    found = json.loads(geoseg("models fcn8s --bands 3 --classes 21 --json"))
    assert found["parameters"] == 134_489_759
    found = geoseg("models unet --bands 1 --classes 2 --set model.options.padding=valid")
    assert "parameters        31,030,658\n" in found
    found = geoseg("models")
    assert all(f"\n{arch} " in found for arch in list_architectures())
