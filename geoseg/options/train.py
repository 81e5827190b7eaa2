"""Options of the network and of training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geoseg.options.augment import AUGMENT_PRESETS, AugmentOptions
from geoseg.options.base import Count, Options
from geoseg.options.headers import Arguments
from geoseg.options.loss import PIXELWISE, LossOptions, WeightMapOptions


class ModelOptions(Options):
    """Options of the network."""

    arch: str = Field("deepglobe", description="Architecture; see geoseg models")
    encoder: str | None = Field(
        None, description="Encoder of smp, or tu-NAME of timm; the architecture's default when null"
    )
    encoder_weights: str | None = Field(
        "imagenet", description="imagenet, none, or a local .safetensors or .pth file"
    )
    options: Arguments = Field({}, description="Further arguments of the architecture")
    start_from: str | None = Field(
        None,
        description="Trained model to continue from, with its network and all its weights: a model "
        "file, the folder of a run, or the name of a model that is installed with geoseg",
    )

    @field_validator("encoder_weights")
    @classmethod
    def _none(cls, value: str | None) -> str | None:
        return None if value in (None, "none", "None", "random") else value


class TrainOptions(Options):
    """Options of training."""

    epochs: int = Field(
        100,
        ge=1,
        description="Passes over the tiles. Small data sets repeat until an epoch has 25 steps",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Training stops after so many minutes; a last validation and tuning follow. "
        "The learning rate follows the clock, so such runs are not reproducible",
    )
    patience: int | None = Field(
        None, ge=1, description="Training ends after so many validations without improvement"
    )
    batch_size: Count | Literal["auto"] = Field(
        8, description="Tiles per step of a device; auto: as many as fit into its memory"
    )
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed for one step")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="sgd is SGD with Nesterov momentum"
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of the decoder")
    encoder_lr: float = Field(
        0.5, ge=0, le=1, description="Learning rate of a pretrained encoder, as a share of lr"
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of SGD, first beta of AdamW; one_cycle sets its own"
    )
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay")
    clip_norm: float = Field(
        1.0, ge=0, description="Gradients are clipped to this norm; 0 disables"
    )
    schedule: Literal["cosine", "poly", "one_cycle", "constant"] = Field(
        "cosine",
        description="Learning-rate schedule after the warm-up; one_cycle changes momentum, too",
    )
    poly_power: float = Field(0.9, gt=0, description="Exponent of the poly schedule")
    warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of training with a rising rate; null: 0.05, or 0.3 with one_cycle",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="EMA decay: validate and save the exponential moving average of the weights; 0 "
        "disables",
    )
    swa: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="SWA: validate and save the mean of the weights over this last share of "
        "training, with recomputed batch statistics; 0 disables",
    )
    loss: LossOptions | None = Field(
        None,
        description="Terms with their weights and parameters; null: dice plus BCE, or plus "
        "cross-entropy for exclusive classes",
    )
    weight_map: WeightMapOptions | None = Field(
        None,
        description="Weight map of U-Net, for gaps between buildings; used by pixelwise loss terms",
    )
    augment: AugmentOptions | None = Field(
        AUGMENT_PRESETS["full"],
        description="none; light: quarter turns, flips, colours; full: also any rotation, scale, "
        "gamma, blur and shadows; or fields that differ from full, or from the given preset",
    )
    val_every: int = Field(
        1, ge=1, description="Validate after every so many epochs, and after the last"
    )
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="Experiment trackers that get the rows of metrics.csv, too"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed if the device supports it, else 32-true; or 16-mixed"
    )
    compile: bool = Field(
        False, description="Compile the network with torch.compile; worthwhile for long runs"
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: a GPU if available")
    devices: int = Field(1, ge=1, description="GPUs per machine, or processes on a CPU")
    nodes: int = Field(1, ge=1, description="Machines that train together")
    workers: int | None = Field(
        None, ge=0, description="Processes that load training tiles; null: chosen for the device"
    )
    sampling: Literal["uniform", "balanced", "hard", "places"] = Field(
        "uniform",
        description="balanced: tiles with and without buildings, or of each class, equally often; "
        "hard: tiles with a high loss more often; places: places by the square root of their area",
    )
    mosaic: bool = Field(
        True,
        description="Train on randomly shifted windows that reach into neighbouring tiles; not for "
        "box networks",
    )
    max_memory_gb: float | None = Field(
        None,
        ge=0,
        description="Memory for training tiles per process; more tiles are read from files in the "
        "run's folder; null: a quarter of the machine's memory for all processes",
    )
    seed: int = Field(
        0, ge=0, description="Random seed of sampling, augmentation and initial weights"
    )

    @property
    def warmup_share(self) -> float:
        """Share of training with a rising rate."""
        if self.warmup is not None:
            return self.warmup
        return 0.3 if self.schedule == "one_cycle" else 0.05

    @model_validator(mode="after")
    def _one_average(self) -> TrainOptions:
        if self.ema and self.swa:
            raise ValueError("ema and swa both average the weights; set one of them to 0")
        return self

    @field_validator("augment", mode="before")
    @classmethod
    def _over_preset(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"preset": value}
        if not isinstance(value, dict):
            return value
        name = str(value.get("preset", "full"))
        if name not in AUGMENT_PRESETS:
            raise ValueError(
                f"choose {', '.join(AUGMENT_PRESETS)}, or set fields that differ from full"
            )
        preset = AUGMENT_PRESETS[name]
        changes = {key: changed for key, changed in value.items() if key != "preset"}
        if preset is None and changes:
            raise ValueError("preset none leaves nothing to change; choose light or full")
        return preset and preset.model_dump() | changes

    @model_validator(mode="after")
    def _has_effect(self) -> TrainOptions:
        if self.weight_map and self.loss and not set(PIXELWISE) & set(self.loss.terms):
            raise ValueError("weight_map needs a pixelwise term in loss; add bce or focal")
        return self
