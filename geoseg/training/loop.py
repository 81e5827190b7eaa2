"""Lightning's loop, as the options want it, on the hardware that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback

from geoseg.errors import ConfigError
from geoseg.networks.device import computes_bf16
from geoseg.options import TrainOptions
from geoseg.training.checkpoints import Patience, RunCheckpoints, WholeFiles
from geoseg.training.distributed import count_started, started_by_srun
from geoseg.training.divergence import Divergence
from geoseg.training.history import History
from geoseg.training.weight_averaging import LateAverage, RunningAverage


def build_trainer(
    folder: Path,
    options: TrainOptions,
    device: torch.device,
    history: History,
    *,
    progress_bar: bool,
    finished: int = 0,
) -> L.Trainer:
    """Return the trainer of a run.

    Args:
        folder: The run's folder, for its states.
        options: How to train.
        device: The device that computes.
        history: The run's history.
        progress_bar: Show a progress bar.
        finished: Epochs that are finished already. If the options want fewer, none is trained.
    """
    return L.Trainer(
        **describe_hardware(options, device),
        max_epochs=max(options.epochs, finished),
        check_val_every_n_epoch=options.val_every,
        callbacks=[
            Divergence(folder),  # first, so that nothing of a lost epoch is written
            history,
            RunCheckpoints(folder),
            *_further_callbacks(options, history),
        ],
        plugins=[WholeFiles(), *choose_environment()],
        logger=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm or None,
        default_root_dir=folder,
    )


def choose_environment() -> list[ClusterEnvironment]:
    """How processes find each other, where Lightning is not to choose itself.

    Raises:
        ConfigError: If srun was not told how many tasks each machine has.
    """
    if not count_started():
        # In a job of SLURM without srun, too, Lightning starts the other processes itself.
        return [LightningEnvironment()]
    # States of its own, which Lightning would write before a job's end, are not ours.
    if not started_by_srun():
        return []
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise ConfigError(
            "srun: say how many tasks each machine has, with --ntasks-per-node in place of --ntasks"
        ) from error


def describe_hardware(options: TrainOptions, device: torch.device) -> dict[str, Any]:
    """Arguments of Lightning's trainer that say what computes, and in how many bits."""
    precision = options.precision
    if precision == "auto":
        precision = "bf16-mixed" if computes_bf16(device) else "32-true"
    on_gpu, alone = device.type == "cuda", options.devices * options.nodes == 1
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": options.devices,
        "num_nodes": options.nodes,
        "strategy": "auto" if alone else "ddp",
        "sync_batchnorm": on_gpu and not alone,
        "use_distributed_sampler": False,  # the samplers know of the others
        "precision": precision,
    }


def _further_callbacks(options: TrainOptions, history: History) -> list[Callback]:
    callbacks: list[Callback] = []
    if options.ema:
        callbacks.append(RunningAverage(options.ema))
    if options.swa:
        callbacks.append(LateAverage(options.swa, lambda: history.progress))
    if options.patience:
        callbacks.append(Patience(options.patience))
    return callbacks
