"""Lightning trainer for the options and the available hardware."""

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
from geoseg.training.checkpoints import AtomicCheckpointIO, Patience, RunCheckpoints
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
            Divergence(folder),  # first, so that a diverged epoch is not saved
            history,
            RunCheckpoints(folder),
            *_further_callbacks(options, history),
        ],
        plugins=[AtomicCheckpointIO(), *choose_environment()],
        logger=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm or None,
        default_root_dir=folder,
    )


def choose_environment() -> list[ClusterEnvironment]:
    """Return the environment that connects the processes; empty to let Lightning choose.

    Raises:
        ConfigError: If the number of tasks per machine is missing from the call of srun.
    """
    if not count_started():
        # Even in a SLURM job: without srun Lightning must start the other processes itself.
        return [LightningEnvironment()]
    if not started_by_srun():
        return []
    try:
        # Without requeueing, for which Lightning would write states that geoseg does not resume.
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise ConfigError(
            "srun: the number of tasks per machine is unknown; use --ntasks-per-node, not --ntasks"
        ) from error


def describe_hardware(options: TrainOptions, device: torch.device) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer for device and precision."""
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
        "use_distributed_sampler": False,  # our samplers split batches among processes
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
