"""Networks that cannot be sketched, or cannot compute a tile."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import geoseg.networks.models.sketch as sketch
from geoseg.detection.detector import BoxPredictor
from geoseg.errors import ConfigError, InputShapeError, ModelFileError
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import build_model
from geoseg.prediction.batch_choice import BatchMemoryError
from geoseg.prediction.blocks import predict_batches
from geoseg.prediction.predictor import tile_error

IMAGE = 4 * 3 * 128**2


def spec_of(arch="unet", encoder=None):
    return ModelSpec(
        arch=arch, encoder=encoder, bands=("r", "g", "b"), dtype="uint8", mean=(0,) * 3,
        std=(1,) * 3, gsd_m=1, outputs=("building", "border"), size=128, overlap=0,
    )  # fmt: skip


def test_a_network_that_asserts_the_size_of_its_images():
    """It fails with a message when it computes, not while its memory is estimated."""
    spec = spec_of("smp-unet", "tu-swin_tiny_patch4_window7_224")
    assert sketch.sketch_network(spec) is not None
    assert sketch.least_tile_bytes(spec, 128) == IMAGE


def test_training_refuses_tiles_that_a_network_does_not_accept():
    message = r"tiles of 128 pixels do not fit this network \(Input height \(128\) doesn't match"
    with pytest.raises(InputShapeError, match=message):
        sketch.check_side(spec_of("smp-unet", "tu-swin_tiny_patch4_window7_224"), 128)
    sketch.check_side(spec_of("smp-unet", "tu-swin_tiny_patch4_window7_224"), 224)
    sketch.check_side(spec_of("smp-unet", "mit_b0"), 128)
    sketch.check_side(spec_of("unet"), 130)


def test_a_network_of_boxes_that_cannot_compute_a_tile():
    spec = spec_of("retinanet", "resnet18").model_copy(update={"outputs": ("building",)})
    network = build_model(spec.arch, spec.encoder, bands=spec.bands, outputs=1)
    predictor = BoxPredictor(spec, network.state_dict(), "cpu")

    def fail(_):
        raise AssertionError("Input height (4)")

    predictor.network.forward = fail
    with pytest.raises(ModelFileError, match=r"a tile \(Input height \(4\)\); retrain it$"):
        predictor(np.zeros((1, 3, 4, 6), np.uint8), np.ones((1, 4, 6), bool))


def test_a_network_that_reads_values_while_it_is_built():
    spec = spec_of("smp-unet", "mit_b0")
    assert sketch.sketch_network(spec) is None
    assert sketch.least_tile_bytes(spec, 128) == IMAGE


@pytest.mark.parametrize(("network", "copies"), [(nn.ReLU(inplace=True), 1), (nn.ReLU(), 2)])
def test_what_is_computed_in_place_counts_once(monkeypatch, network, copies):
    monkeypatch.setattr(sketch, "sketch_network", lambda _: network)
    assert sketch.least_tile_bytes(spec_of(), 128) == copies * IMAGE


def predict_with(error):
    def fail(*_):
        raise error

    predictor = SimpleNamespace(predict=fail, send=torch.from_numpy, device=torch.device("cpu"))
    batch = SimpleNamespace(data=np.zeros((1, 3, 4, 6)), valid=np.ones((1, 4, 6), bool))
    return list(predict_batches(predictor, [batch], threads=1))


@pytest.mark.parametrize(
    "error", [AssertionError("height (4)"), ValueError("height (4)"), IndexError("height (4)")]
)
def test_whatever_a_network_raises_is_one_line(error):
    with pytest.raises(ModelFileError, match=r"a tile \(height \(4\)\); retrain it$"):
        predict_with(error)


def test_errors_that_say_more_pass():
    with pytest.raises(ConfigError, match=r"^predict.backend: no compiler$"):
        predict_with(ConfigError("predict.backend: no compiler"))
    with pytest.raises(BatchMemoryError):
        predict_with(MemoryError())


def test_another_device_is_named_on_a_gpu_only():
    gpu, cpu = (tile_error(AssertionError(), torch.device(name)) for name in ("cuda", "cpu"))
    assert str(gpu).endswith("a tile (AssertionError); retrain it, or try --device cpu")
    assert str(cpu).endswith("a tile (AssertionError); retrain it")
