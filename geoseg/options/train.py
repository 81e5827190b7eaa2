"""Which network, and how it is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geoseg.options.augment import AUGMENT_PRESETS, AugmentOptions
from geoseg.options.base import Count, Options
from geoseg.options.loss import PIXELWISE, LossOptions, WeightMapOptions


class ModelOptions(Options):
    """Which network."""

    arch: str = Field("deepglobe", description="Architecture; see geoseg models")
    encoder: str | None = Field(
        None, description="Encoder of smp, or tu-NAME of timm; the architecture's own when null"
    )
    encoder_weights: str | None = Field(
        "imagenet", description="imagenet, none, or a local .safetensors or .pth file"
    )
    options: dict[str, Any] = Field({}, description="Further arguments of the architecture")

    @field_validator("encoder_weights")
    @classmethod
    def _none(cls, value: str | None) -> str | None:
        return None if value in (None, "none", "None", "random") else value


class TrainOptions(Options):
    """How the network is trained."""

    epochs: int = Field(
        100,
        ge=1,
        description="Passes over the tiles; of few tiles so many passes are one that it has 25 "
        "steps at least",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="No step is made after that; a last validation and tuning follow. The rate "
        "follows the clock, so no two such runs are the same",
    )
    patience: int | None = Field(
        None, ge=1, description="Training ends after so many validations without a better one"
    )
    batch_size: Count | Literal["auto"] = Field(
        8, description="Tiles per step of a device; auto: as many as its memory holds"
    )
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="SGD with Nesterov's momentum")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of the decoder")
    encoder_lr: float = Field(0.5, ge=0, le=1, description="The encoder's, as a share of lr")
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Of SGD, and the first beta of AdamW; not of one_cycle"
    )
    weight_decay: float = Field(1e-2, ge=0, description="Pulls weights towards 0")
    clip_norm: float = Field(
        1.0, ge=0, description="Longer gradients are scaled down to this norm; 0: never"
    )
    schedule: Literal["cosine", "poly", "one_cycle", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up; one_cycle moves momentum, too"
    )
    poly_power: float = Field(0.9, gt=0, description="Of poly")
    warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of training with a rising rate; when null 0.05, of one_cycle 0.3",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Validate and keep the weights' running average, of which each step keeps "
        "this share; 0: the weights themselves",
    )
    swa: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Validate and keep the plain average of the weights over this last share of "
        "training; 0: the weights themselves",
    )
    loss: LossOptions | None = Field(
        None,
        description="Terms with their weights and parameters; when null BCE, of exclusive classes "
        "cross-entropy, and dice",
    )
    weight_map: WeightMapOptions | None = Field(
        None, description="Weigh pixels between buildings, in terms that count pixels"
    )
    augment: AugmentOptions | None = Field(
        AUGMENT_PRESETS["full"],
        description="none; light: quarter turns, mirrors, colours; full: any turn, scale, gamma, "
        "blur and shadows too; or fields that differ from full, or from the one named by preset",
    )
    val_every: int = Field(1, ge=1, description="Validate every so many epochs, and after the last")
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="Besides metrics.csv, where its rows go; in the run's folder"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16 where the device computes in it, else 32 bit"
    )
    compile: bool = Field(
        False, description="Compile the network first: for long runs; deeplabv2 is not"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto: a GPU where there is one"
    )
    devices: int = Field(1, ge=1, description="GPUs of this machine, or processes on its CPU")
    nodes: int = Field(1, ge=1, description="Machines that train together")
    workers: int | None = Field(
        None, ge=0, description="Processes that load tiles; what suits the device when null"
    )
    sampling: Literal["uniform", "balanced", "hard"] = Field(
        "uniform",
        description="balanced: buildings, or each class, as often as the rest; hard: tiles of "
        "great loss more often",
    )
    mosaic: bool = Field(
        True,
        description="Samples are windows that move and reach into neighbouring tiles; not of "
        "networks of boxes",
    )
    max_memory_gb: float | None = Field(
        None,
        ge=0,
        description="Training ground that needs more, in each process, lies in files in the run's "
        "folder; when null a quarter of the machine's for all",
    )
    seed: int = Field(0, ge=0, description="Of draws, of augmentation and of new weights")

    @property
    def warmup_share(self) -> float:
        """Share of training with a rising rate."""
        if self.warmup is not None:
            return self.warmup
        return 0.3 if self.schedule == "one_cycle" else 0.05

    @model_validator(mode="after")
    def _one_average(self) -> TrainOptions:
        if self.ema and self.swa:
            raise ValueError(
                "ema and swa are two averages of the same weights; set one of them to 0"
            )
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
            raise ValueError(f"choose {', '.join(AUGMENT_PRESETS)}, or name what differs from full")
        preset = AUGMENT_PRESETS[name]
        changes = {key: changed for key, changed in value.items() if key != "preset"}
        if preset is None and changes:
            raise ValueError("preset none leaves nothing to change; choose light or full")
        return preset and preset.model_dump() | changes

    @model_validator(mode="after")
    def _has_effect(self) -> TrainOptions:
        if self.weight_map and self.loss and not set(PIXELWISE) & set(self.loss.terms):
            raise ValueError(
                "weight_map weighs pixels, which no term of loss counts one by one; add bce or "
                "focal to loss"
            )
        return self
