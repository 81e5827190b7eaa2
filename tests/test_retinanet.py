"""RetinaNet as the paper and torchvision have it, and what geoseg asks of it besides."""

import logging
import math

import onnxruntime
import pytest
import torch
import torchvision

from geoseg.errors import ConfigError
from geoseg.networks.models import build_model, encoder_of
from geoseg.networks.models.card import make_card

RGB = ("red", "green", "blue")
PAPER_SIZES = (32, 64, 128, 256, 512)
NONE = [math.nan] * 4


def build(encoder="resnet18", *, bands=RGB, classes=1, **options):
    torch.manual_seed(0)
    return build_model(
        "retinanet", encoder, bands=bands, outputs=classes, options={"channels": 32} | options
    )


def paper(classes):
    """The network of full size, without the memory."""
    with torch.device("meta"):
        return build_model("retinanet", bands=RGB, outputs=classes)


def count(module):
    return sum(p.numel() for p in module.parameters())


def image(number=1, bands=3, height=64, width=96):
    return torch.randn(number, bands, height, width, generator=torch.Generator().manual_seed(1))


def truth(*boxes, size=(64, 96)):
    """The arguments of the loss: one image's boxes, all of them learnt, and its valid pixels."""
    boxes = torch.tensor([boxes or [NONE]], dtype=torch.float32)
    return boxes, torch.ones(boxes.shape[:2], dtype=torch.bool), torch.ones((1, 1, *size)) > 0


# The paper


def test_parameters_are_those_of_the_paper():
    head = paper(80).detector.head
    assert count(head.classification_head) == 4_019_920
    assert count(head.regression_head) == 2_443_300
    assert count(head.classification_head.conv) == count(head.regression_head.conv) == 2_360_320
    assert count(paper(91)) == 34_068_119


def test_a_building_begins_as_one_in_a_hundred():
    network = build().eval()
    bias = network.detector.head.classification_head.cls_logits.bias
    torch.testing.assert_close(bias, torch.full_like(bias, -4.59512), rtol=0, atol=1e-5)
    with torch.inference_mode():
        logits, offsets = network(image())
    assert logits.sigmoid().mean() == pytest.approx(0.01, rel=0.05)
    assert offsets.abs().max() < 0.1


@pytest.mark.parametrize("paper_sizes", [True, False])
def test_it_is_torchvisions(paper_sizes):
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5
    ).eval()
    sizes = {"anchor_sizes": PAPER_SIZES} if paper_sizes else {}
    ours = build("resnet50", classes=5, channels=256, **sizes).eval()
    # Both list their tensors in the order in which the network uses them.
    tensors = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    pixels = image(2, height=128, width=256)
    boxes = torch.tensor([[[20.0, 30, 60, 90], [130, 10, 170, 55]], [[5, 5, 120, 101], NONE]])
    with torch.inference_mode():
        maps = list(theirs.backbone(pixels).values())
        expected = theirs.head(maps)
        said = ours(pixels)
        torch.testing.assert_close(said[0], expected["cls_logits"])
        torch.testing.assert_close(said[1], expected["bbox_regression"])
        shape = torchvision.models.detection.image_list.ImageList(pixels, [(128, 256)] * 2)
        anchors = theirs.anchor_generator(shape, maps)
        same = torch.equal(torch.cat(ours.anchors((128, 256), pixels.device)), anchors[0])
        assert same == paper_sizes
        if paper_sizes:
            targets = [
                {"boxes": b, "labels": torch.zeros(len(b), dtype=torch.long)}
                for b in (boxes[0], boxes[1, :1])
            ]
            loss = sum(theirs.compute_loss(targets, expected, anchors).values())
            everywhere = torch.ones((2, 1, 128, 256)) > 0
            found = ours.loss(said, boxes, torch.ones((2, 2)) > 0, everywhere)
            torch.testing.assert_close(found, loss)


def test_the_focal_loss_by_hand():
    """Over the number of positive anchors, which is what makes it one of buildings."""
    network = build()
    said = [torch.randn(tensor.shape) for tensor in network(image())]
    box = (20.0, 12.0, 37.0, 30.0)
    anchors = torch.cat(network.anchors((64, 96), torch.device("cpu")))
    iou = torchvision.ops.box_iou(torch.tensor([box]), anchors)[0]
    positive = (iou >= 0.5) | (iou == iou.max())
    counted = positive | (iou < 0.4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    counted &= positive | ((centres >= 0) & (centres < torch.tensor([96, 64]))).all(dim=1)
    p = said[0][0, :, 0].sigmoid()
    likely, weight = torch.where(positive, p, 1 - p), torch.where(positive, 0.25, 0.75)
    focal = (-weight * (1 - likely) ** 2 * likely.log())[counted].sum()
    sides, size = anchors[:, 2:] - anchors[:, :2], torch.tensor([17.0, 18.0])
    wanted = torch.cat(
        [(torch.tensor([28.5, 21.0]) - centres) / sides, (size / sides).log()], dim=1
    )
    error = (said[1][0] - wanted)[positive].abs().sum()
    expected = (focal + error) / positive.sum()
    torch.testing.assert_close(network.loss(tuple(said), *truth(box)), expected)
    assert positive.sum() > 1


# What geoseg asks besides


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 97), (33, 50), (160, 32)])
@pytest.mark.parametrize("sizes", [(16, 32, 64, 128, 256), (16, 32, 64, 128, 256, 512)])
def test_an_image_of_any_size(height, width, sizes):
    network = build(anchor_sizes=sizes).eval()
    with torch.inference_mode():
        said = network(image(2, height=height, width=width))
        again = network(image(2, height=height, width=width))
    levels = network.anchors((height, width), torch.device("cpu"))
    assert said[0].shape == (2, sum(map(len, levels)), 1)
    assert said[1].shape == (2, sum(map(len, levels)), 4)
    assert all(torch.equal(a, b) for a, b in zip(said, again, strict=True))
    for stride, size, anchors in zip(network.strides, sizes, levels, strict=True):
        centres = (anchors[::9, :2] + anchors[::9, 2:]) / 2
        across = torch.arange(-(-(width + -width % 32) // stride)) * stride
        assert torch.equal(centres[: len(across), 0], across.float())
        assert centres[:, 1].unique().tolist() == list(range(0, height + -height % 32, stride))
        area = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
        assert area.min() == pytest.approx(size**2, rel=0.15)
        assert area.max() == pytest.approx((size * 2 ** (2 / 3)) ** 2, rel=0.15)
    for boxes, scores in network.detect(said, (height, width), least=0.009, iou=0.5):
        assert len(boxes) == len(scores) > 0
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        overlap = torchvision.ops.box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlap.max() <= 0.5


def test_a_batch_of_one_trains_encoder_and_head():
    network = build().train()
    network.loss(network(image()), *truth((20, 12, 37, 30))).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    moved = {name for name, g in gradients.items() if g.any()}
    assert len(moved) == len(gradients)
    assert any(p.grad.any() for p in encoder_of(network).parameters())


def test_a_tile_without_a_building_teaches_where_none_are():
    network = build().train()
    said = network(image())
    loss = network.loss(said, *truth())
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(p.grad.abs().max() == 0 for p in network.detector.head.regression_head.parameters())
    # Surer that there is nothing: a smaller loss.
    assert network.loss((said[0] - 1, said[1]), *truth()) < loss


def touched(network, said, *arguments):
    """(A,) where what is said of an anchor changes the loss."""
    logits = said[0].detach().requires_grad_()
    network.loss((logits, said[1].detach()), *arguments).backward()
    return logits.grad[0, :, 0] != 0


@pytest.mark.parametrize("unclear", [(60, 30, 80, 50), (0, 30, 4, 52), (92, 10, 96, 30)])
def test_what_is_hardly_to_be_seen_is_neither_a_building_nor_none(unclear):
    network = build().eval()
    said = network(image())
    boxes, learnt, valid = truth((20, 12, 37, 30), unclear)
    anchors = torch.cat(network.anchors((64, 96), torch.device("cpu")))
    own = torchvision.ops.box_iou(boxes[0, :1], anchors)[0] >= 0.4
    left, top, right, bottom = unclear
    low = torch.maximum(anchors[:, :2], torch.tensor([left, top]))
    high = torch.minimum(anchors[:, 2:], torch.tensor([right, bottom]))
    covered = (high - low).clamp(min=0).prod(dim=1) >= 0.5 * (right - left) * (bottom - top)
    column, row = ((anchors[:, i] + anchors[:, i + 2]) / 2 for i in (0, 1))
    centred = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    shown = (covered | centred) & ~own
    with_both = touched(network, said, boxes, learnt, valid)
    with_one = touched(network, said, boxes, torch.tensor([[True, False]]), valid)
    assert shown.sum() > 20
    assert not with_one[shown].any()
    assert with_both[shown].any()
    assert with_one[~shown].float().mean() > 0.95
    # Where it hides anchors, a strip of a building does not teach that there is none.
    alone = network.loss(said, boxes[:, 1:], torch.tensor([[False]]), valid)
    nothing = network.loss(said, boxes[:, :0], learnt[:, :0], valid)
    assert alone < nothing


def test_more_candidates_than_photographs_have_reach_the_choice():
    network = build().eval()
    network.detector.detections_per_img = 5000
    said = network(image(height=256, width=320))
    counts = [len(level) for level in network.anchors((256, 320), torch.device("cpu"))]
    assert sum(min(count, 1000) for count in counts) < 5000 < sum(counts)
    sure, still = torch.full_like(said[0], 3.0), torch.zeros_like(said[1])
    ((boxes, scores),) = network.detect((sure, still), (256, 320), least=0.5, iou=0.999)
    assert len(boxes) == len(scores) == 5000


def test_nodata_teaches_nothing():
    network = build().eval()
    said = network(image())
    boxes, learnt, valid = truth((20, 12, 37, 30))
    valid[..., 50:] = False
    anchors = torch.cat(network.anchors((64, 96), torch.device("cpu")))
    counted = touched(network, said, boxes, learnt, valid)
    column = (anchors[:, 0] + anchors[:, 2]) / 2
    assert not counted[column >= 50].any()
    assert counted[column < 50].float().mean() > 0.9


def test_half_precision_keeps_anchors_and_coordinates_whole():
    network = build().eval()
    with torch.inference_mode():
        full = network(image(height=96, width=320))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image(height=96, width=320))
            (boxes, _), *_ = network.detect(half, (96, 320), least=0.009, iou=0.5)
    assert {tensor.dtype for tensor in (*half, boxes)} == {torch.float32}
    assert (half[0] - full[0]).abs().mean() < 0.05
    assert boxes.frac().any()


@pytest.mark.parametrize(
    ("encoder", "bands"), [("tu-tf_efficientnet_lite0", 1), ("vgg11", 5), ("mit_b0", 3)]
)
def test_any_encoder_and_any_number_of_bands(encoder, bands):
    network = build(encoder, bands=[f"b{i}" for i in range(bands)]).eval()
    with torch.inference_mode():
        logits, _ = network(image(1, bands, 64, 96))
    assert logits.shape == (1, sum(map(len, network.anchors((64, 96), logits.device))), 1)


def test_the_compiler_follows_the_network():
    network = build().eval()
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        for found, expected in zip(compiled(image()), network(image()), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own code
def test_onnx_runs_as_the_network_does(caplog):
    network = build().eval()
    with caplog.at_level(logging.ERROR), torch.inference_mode():
        program = torch.onnx.export(network, (image(),), dynamo=True, verbose=False)
        expected = network(image())
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": [16, 32]}, "anchor_sizes must be five sizes"),
        ({"anchor_sizes": [0, 32, 64, 128, 256]}, "anchor_sizes must be five sizes"),
        ({"octaves": 0}, "octaves must be at least 1"),
        ({"ratios": [1, -1]}, "ratios above 0"),
        ({"nothing": 1}, "nothing"),
    ],
)
def test_options_that_make_no_anchors(options, message):
    with pytest.raises(ConfigError, match=f"cannot build retinanet on resnet18: .*{message}"):
        build(**options)


def test_its_card():
    card = make_card("retinanet", "resnet18", bands=4, options={"channels": 64})
    network = build(bands=[f"b{i}" for i in range(4)], channels=64)
    assert card.parameters == count(network)
    assert card.encoder_parameters == count(encoder_of(network))
    assert card.paper.endswith("1708.02002")
    assert card.output_stride == 128
    towers = 2 * 4 * 9 * 64 * 64 + 9 * 64 * 9 * (1 + 4)
    positions = sum((512 // stride) ** 2 for stride in network.strides)
    assert card.multiply_adds > towers * positions
    assert card.multiply_adds < towers * positions + 12e9
