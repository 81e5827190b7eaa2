"""Averages of weights, by hand."""

import math

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import geoseg.training.loading.loaders
import geoseg.training.weight_averaging
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.networks.model_file import load_model
from geoseg.networks.models import load_network
from geoseg.networks.normalization import normalise
from geoseg.options import ModelOptions, TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.run import train
from geoseg.training.weight_averaging import LateAverage, RunningAverage


def averaged(callback, values):
    """The average after values of one weight, one per step; it begins with the first of all."""
    kept = 1.0
    for step, value in enumerate(values, start=1):
        kept += callback.share(step) * (value - kept)
    return kept


def test_the_running_average_forgets_the_first_weights_soon():
    kept = averaged(RunningAverage(0.99), [0.0] * 40)
    # By hand: the product of (1 + n) / (10 + n) over the steps; 0.99 ** 40 would be 0.67.
    assert kept == pytest.approx(math.prod((1 + n) / (10 + n) for n in range(1, 41)))
    assert kept < 1e-4
    assert RunningAverage(0.99).share(10_000) == pytest.approx(0.01)


def test_the_late_average_is_the_mean_of_the_last_share():
    step = 0

    def progress():
        return step / 10

    late, kept = LateAverage(0.4, progress), 0.0
    for step, value in enumerate((9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 2.0, 3.0, 6.0), start=1):
        kept += late.share(step) * (value - kept)
        if step <= 6:
            assert kept == value
    assert kept == pytest.approx((4 + 1 + 2 + 3 + 6) / 5)


def test_a_late_average_goes_on_from_its_state():
    late = LateAverage(0.5, lambda: 0.5)
    assert late.share(7) == 1.0
    again = LateAverage(0.5, lambda: 0.5)
    again.load_state_dict(late.state_dict())
    assert [again.share(step) for step in (8, 9)] == [0.5, pytest.approx(1 / 3)]


class Trained(torch.nn.Module):
    """One weight, a counter, and a statistic."""

    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(value))
        self.register_buffer("statistic", torch.tensor(2 * value))
        self.register_buffer("count", torch.tensor(int(value)))


@pytest.mark.parametrize("callback", [RunningAverage(0.7), LateAverage(0.6, lambda: 0.5)])
def test_torch_averages_with_the_shares_of_the_callback(callback):
    values = [4.0, 1.0, 3.0, 8.0, 2.0]
    kept = AveragedModel(Trained(9.0), multi_avg_fn=callback._update, use_buffers=True)
    expected = values[0]  # the first step replaces the initial weights
    for step, value in enumerate(values, start=1):
        kept.update_parameters(Trained(value))
        share = 1 - min(0.7, (1 + step) / (10 + step)) if callback.decay else 1 / max(1, step - 1)
        expected += share * (value - expected) if step > 1 else 0
        assert kept.module.weight.item() == pytest.approx(expected)
        assert kept.module.statistic.item() == pytest.approx(2 * expected)
        assert kept.module.count == int(value)


def test_statistics_of_a_late_average_are_recomputed_from_training_tiles(
    make_scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 1)
    monkeypatch.setattr(geoseg.training.weight_averaging, "_STATISTICS_BATCHES", 1000)
    made = make_scene(height=96, width=160)
    options = TileOptions(size=32, overlap=0, gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    model = ModelOptions(arch="smp-unet", encoder="resnet18", encoder_weights=None)
    chosen = TrainOptions(
        epochs=3, batch_size=1, swa=0.7, augment=None, mosaic=False, precision="32-true",
        device="cpu",
    )  # fmt: skip
    result = train(tmp_path / "tiles", tmp_path / "run", model=model, options=chosen)
    spec, _ = load_model(result.model)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    state = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    network = load_network(spec, state)
    tiles, seen = TileDataset(tmp_path / "tiles", "train"), []
    norm = network.encoder.bn1
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    with torch.no_grad():
        for index in range(len(tiles)):
            sample = tiles[index]
            network.eval()(normalise(sample["image"][None], sample["valid"][None], mean, std))
    # The layer before it has no statistics of its own, so its outputs are those in training.
    maps = torch.cat(seen)
    torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    variances = torch.stack([one.var(dim=(1, 2)) for one in maps]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    assert norm.num_batches_tracked == len(tiles)
