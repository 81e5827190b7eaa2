"""How a step is made."""

import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

import geoseg.training.learner
from geoseg.options import TrainOptions
from geoseg.training.learner import Learner

INFO = SimpleNamespace(mean=(0.0,), std=(1.0,))


class Plane(nn.Module):
    """Two weights of one image's bands."""

    def __init__(self):
        super().__init__()
        self.encoder, self.rest = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer in (self.encoder, self.rest):
            nn.init.zeros_(layer.weight)

    def forward(self, image):
        return 30 * self.encoder(image) + 40 * self.rest(image)


class Climber(Learner):
    """Its gradient is (30, 40), of length 50."""

    def training_step(self, batch, _):
        return self.network(batch).mean()


def take_step(precision, optimizer):
    options = TrainOptions(
        optimizer=optimizer, momentum=0, lr=1, encoder_lr=1, weight_decay=0, precision=precision,
        clip_norm=2,
    )  # fmt: skip
    module = Climber(Plane(), INFO, options)
    plugins = []
    if precision == "16-mixed":  # as on a GPU: with gradients that are scaled
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, plugins=plugins,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=options.clip_norm,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a loader without workers
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(1, 1), batch_size=1))
    return [float(p.detach()) for p in module.network.parameters()]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_gradients_are_clipped_to_the_norm_whatever_scales_them(precision, monkeypatch):
    monkeypatch.setattr(geoseg.training.learner, "encoder_of", lambda network: network.encoder)
    assert take_step(precision, "sgd") == pytest.approx([-1.2, -1.6], rel=1e-2)
