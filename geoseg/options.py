"""The settings of each step, with their defaults, units and ranges: they live here once.

Values only: this module imports neither torch nor rasterio, so that a misspelt key fails at
once.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """Settings that are checked and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassOptions(Options):
    """Exclusive classes of the ground, and what the labels call them."""

    attribute: str | None = Field(None, description="Attribute that names the class of a polygon")
    values: dict[str, tuple[int | float | str, ...]] = Field(
        min_length=1,
        description="Class → its values: of the attribute, of a mask raster, or colours #rrggbb",
    )
    background: str | None = Field(
        "background", description="Class of ground that no polygon covers; ignored when null"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # null drops a class that a configuration names.
        kept = {name: v for name, v in value.items() if v is not None}
        return {name: v if isinstance(v, list | tuple) else (v,) for name, v in kept.items()}

    @model_validator(mode="after")
    def _distinct(self) -> ClassOptions:
        listed = [str(value).lower() for values in self.values.values() for value in values]
        twice = next((value for value in listed if listed.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"the value {twice} stands for two classes")
        if self.background in self.values:
            raise ValueError(f"background: {self.background} is one of the classes already")
        if self.background is None and len(self.values) == 1:
            raise ValueError("values: one class without a background leaves nothing to learn")
        return self


class TileOptions(Options):
    """How scenes are cut into tiles."""

    size: int = Field(256, ge=32, le=4096, description="Tile side, pixels")
    overlap: int | None = Field(
        None, ge=0, description="Pixels shared with the neighbour; half the size when null"
    )
    gsd_m: float | None = Field(
        None, gt=0, description="Metres on the ground per pixel; the first scene's own when null"
    )
    assume_gsd_m: float | None = Field(
        None, gt=0, description="Metres per pixel of scenes that do not say where they lie"
    )
    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="Bands by number or name, in this order; all data bands when null",
    )
    classes: ClassOptions | None = Field(
        None, description="Exclusive classes of land cover; buildings when null"
    )
    targets: tuple[Literal["building", "border", "contact", "distance"], ...] = Field(
        ("building", "border"), description="What of buildings is learnt; building first"
    )
    where: str | None = Field(None, description="Attribute filter of the footprints")
    layer: str | None = Field(None, description="Layer of the footprints")
    split: Literal["stripes", "blocks", "kfold", "scenes", "areas"] = Field(
        "stripes", description="How ground is separated"
    )
    fractions: tuple[Share, Share, Share] = Field(
        (0.7, 0.15, 0.15), description="Shares of train, val and test"
    )
    gap: int | None = Field(
        None,
        ge=0,
        description="Pixels between splits; when null a tile, or less where the ground is small, "
        "and none between scenes or areas",
    )
    block: int | None = Field(
        None, ge=32, description="Side of blocks, pixels; when null 8 tiles, or fewer if too few"
    )
    folds: int = Field(5, ge=3, description="Of kfold")
    fold: int = Field(0, ge=0, description="Which fold of kfold is test ground")
    val_scenes: tuple[str, ...] = Field((), description="Of scenes: names or patterns such as *_7*")
    test_scenes: tuple[str, ...] = Field((), description="Of scenes: names or patterns")
    areas: str | None = Field(
        None, description="Of areas: polygons whose attribute split is train, val or test"
    )
    keep_empty: Share = Field(
        1.0, description="Share of the training tiles without a building that is kept"
    )
    seed: int = Field(0, ge=0, description="Of what is dealt at random")

    @property
    def target_names(self) -> tuple[str, ...]:
        """What the bands of a tile's target are."""
        return ("class",) if self.classes else self.targets

    @property
    def is_drawn(self) -> bool:
        """Whether the user says which ground is for what, so that fractions say nothing."""
        named = self.split == "scenes" and bool(self.val_scenes or self.test_scenes)
        return self.split == "areas" or named

    @property
    def overlap_px(self) -> int:
        """The overlap, or its default."""
        return self.size // 2 if self.overlap is None else self.overlap

    @model_validator(mode="after")
    def _fits(self) -> TileOptions:
        if self.overlap_px > self.size // 2:
            raise ValueError(f"overlap must be at most half the size ({self.size // 2})")
        if abs(sum(self.fractions) - 1) > 1e-6 or self.fractions[0] == 0:
            raise ValueError("fractions must sum to 1, with some for train")
        if self.areas is not None and self.split != "areas":
            raise ValueError(f"areas are drawn, but split is {self.split}; choose split areas")
        if self.fold and self.split != "kfold":
            raise ValueError(f"fold is chosen, but split is {self.split}; choose split kfold")
        if self.targets[:1] != ("building",) or len(set(self.targets)) < len(self.targets):
            raise ValueError("targets must begin with building and name none twice")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}); the first is 0")
        return self


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


class TermOptions(Options):
    """One term of the loss; a bare number in its place is its weight."""

    weight: float = Field(1.0, ge=0, description="Factor in the sum; 0 leaves the term out")


class BceOptions(TermOptions):
    """Binary cross-entropy of independent channels."""

    pos_weight: tuple[Positive, ...] = Field(
        (1.0,), min_length=1, description="Weight of positive pixels: one, or one per channel"
    )

    @field_validator("pos_weight", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)


class CrossEntropyOptions(TermOptions):
    """Softmax cross-entropy of exclusive classes."""

    class_weights: tuple[Positive, ...] | None = Field(None, description="Weight of each class")


class FocalOptions(TermOptions):
    """Focal loss."""

    gamma: float = Field(2.0, ge=0, description="How far sure pixels are turned down")
    alpha: float | None = Field(
        None, gt=0, lt=1, description="Weight of positives, 1-α of negatives; neither when null"
    )
    class_weights: tuple[Positive, ...] | None = Field(
        None, description="Weight of each of exclusive classes, in place of α"
    )
    normalise: Literal["pixels", "positives"] = Field(
        "pixels", description="Mean over pixels, or sum over the number of positives (the paper)"
    )


class OverlapOptions(TermOptions):
    """Soft Dice or soft Jaccard."""

    smooth: float = Field(
        1.0,
        ge=0,
        description="Added above and below the fraction; at 0 empty ground teaches nothing",
    )


class TverskyOptions(OverlapOptions):
    """Tversky loss: Dice at α = β = 0.5 (with half the smoothing), Jaccard at α = β = 1."""

    alpha: float = Field(0.3, gt=0, description="Weight of false positives")
    beta: float = Field(0.7, ge=0, description="Weight of false negatives")


class LovaszHingeOptions(TermOptions):
    """Lovász hinge of independent channels."""

    per_image: bool = Field(False, description="Mean over tiles, instead of the batch as one")


class LovaszSoftmaxOptions(LovaszHingeOptions):
    """Lovász-Softmax of exclusive classes."""

    classes: Literal["present", "all"] = Field("present", description="Classes of the mean")


class LossOptions(Options):
    """The terms of the loss, their weights and parameters; what is not named is left out."""

    bce: BceOptions | None = None
    cross_entropy: CrossEntropyOptions | None = None
    dice: OverlapOptions | None = None
    focal: FocalOptions | None = None
    jaccard: OverlapOptions | None = None
    lovasz_hinge: LovaszHingeOptions | None = None
    lovasz_softmax: LovaszSoftmaxOptions | None = None
    tversky: TverskyOptions | None = None

    @property
    def terms(self) -> dict[str, TermOptions]:
        """The terms with a weight, by name."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: term for name, term in named if term is not None and term.weight > 0}

    @field_validator("*", mode="before")
    @classmethod
    def _bare_weight(cls, value: Any) -> Any:
        whole = value is None or isinstance(value, dict | TermOptions)
        return value if whole else {"weight": value}

    @model_validator(mode="after")
    def _not_empty(self) -> LossOptions:
        if not self.terms:
            raise ValueError("no term has a positive weight")
        return self

    @model_serializer(mode="wrap")
    def _only_terms(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: term for name, term in handler(self).items() if term is not None}


# What is learnt by when nothing is said, of buildings and of exclusive classes.
USUAL_LOSS = LossOptions(bce=BceOptions(), dice=OverlapOptions())
USUAL_LOSS_OF_CLASSES = LossOptions(cross_entropy=CrossEntropyOptions(), dice=OverlapOptions())

# The terms that count pixel by pixel, so that a pixel's weight means something to them.
PIXELWISE = ("bce", "cross_entropy", "focal")


class WeightMapOptions(Options):
    """U-Net's weights of pixels, w_c + w0·exp(-(d1+d2)²/2σ²)."""

    w0: float = Field(10.0, ge=0, description="Weight of the gap between touching buildings")
    sigma_px: float = Field(5.0, gt=0, description="σ: how wide gaps still weigh, pixels")
    sigma_m: float | None = Field(None, gt=0, description="σ in metres, in place of sigma_px")
    balance: bool = Field(True, description="w_c: building and ground weigh the same in sum")

    def sigma(self, gsd_m: float) -> float:
        """σ in pixels of this size."""
        return self.sigma_px if self.sigma_m is None else self.sigma_m / gsd_m


class AugmentOptions(Options):
    """How training tiles are varied at random, each sample its own way.

    Colours are counted in deviations of the training ground, so that one setting suits every
    sensor. A family is off at 0, or at a scale of 1. Networks of boxes stay on the pixel grid,
    whatever `free_share` says.
    """

    quarter_turns: bool = Field(True, description="Turn by quarters; pixels are copied")
    mirrors: bool = Field(True, description="Mirror half of the samples; pixels are copied")
    free_share: Share = Field(
        0.5,
        description="Share of samples that are also turned, scaled and bent off the pixel grid; "
        "none of networks of boxes",
    )
    turn_deg: float = Field(20.0, ge=0, le=180, description="Those turn by up to this, degrees")
    scale: float = Field(
        1.4, ge=1, le=4, description="Those shrink or grow by up to this factor, alike in size"
    )
    elastic_px: float = Field(
        0.0,
        ge=0,
        description="Those bend: std of displacements on a 3 x 3 grid, pixels; U-Net's 10",
    )
    brightness: float = Field(0.6, ge=0, le=3, description="Added to all bands: up to ±this")
    contrast: float = Field(0.4, ge=0, lt=1, description="Bands are multiplied by 1 ± this")
    gamma: float = Field(
        0.3, ge=0, le=1, description="Tone curve: light to the power of e^±this, black stays black"
    )
    band_gain: float = Field(0.1, ge=0, lt=1, description="Each band is multiplied by 1 ± this")
    band_shift: float = Field(0.15, ge=0, le=3, description="Added to each band: up to ±this")
    noise: float = Field(0.08, ge=0, le=3, description="Deviation of the grain, up to this")
    blur_px: float = Field(
        1.0, ge=0, le=10, description="Gaussian blur with a sigma of up to this, pixels"
    )
    blur_share: Share = Field(0.2, description="Share of samples that are blurred")
    band_dropout: Share = Field(
        0.0, description="Share of samples that lose one of their bands, which becomes its mean"
    )
    shadows: Share = Field(0.5, description="Share of samples with a soft-edged dark stripe")

    @property
    def leaves_grid(self) -> bool:
        """Whether some samples are turned, scaled or bent off the pixel grid."""
        return self.free_share > 0 and (self.turn_deg > 0 or self.scale > 1 or self.elastic_px > 0)

    @model_validator(mode="after")
    def _bends(self) -> AugmentOptions:
        if self.elastic_px and not self.free_share:
            raise ValueError("elastic_px bends free_share of the samples, which is 0")
        return self


# What the names under train.augment stand for.
AUGMENT_PRESETS: dict[str, AugmentOptions | None] = {
    "none": None,
    "light": AugmentOptions(turn_deg=0, scale=1, gamma=0, blur_px=0, shadows=0),
    "full": AugmentOptions(),
}


class TrainOptions(Options):
    """How the network is trained."""

    epochs: int = Field(100, ge=1, description="Passes over the tiles; short ones are repeated")
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
    weight_decay: float = Field(1e-2, ge=0)
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
    device: Literal["auto", "cpu", "gpu"] = "auto"
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
    seed: int = Field(0, ge=0)

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


class CRFOptions(Options):
    """How a dense CRF refines probabilities: the weights and sigmas of its two kernels.

    Weights, the Gaussian's sigma and the steps are DeepLab's (arXiv 1606.00915), which searched
    bilateral sigmas of 30-100 pixels and 3-6 in colour.
    """

    gaussian_weight: float = Field(3.0, ge=0, description="Of the kernel on places; it smooths")
    gaussian_sigma: float = Field(3.0, ge=0.5, le=200, description="Its reach, pixels")
    bilateral_weight: float = Field(
        4.0, ge=0, description="Of the kernel on places and colours; it follows edges"
    )
    bilateral_sigma: float = Field(30.0, ge=0.5, le=200, description="Its reach, pixels")
    colour_sigma: float = Field(
        10.0, ge=0.5, description="Its reach in colour, where 8-bit colours span 0-255"
    )
    iterations: int = Field(10, ge=1, le=100, description="Steps of the mean field")

    @property
    def halo(self) -> int:
        """How far around a pixel others count, pixels: three of the larger sigma."""
        sigmas = (
            self.gaussian_sigma if self.gaussian_weight else 0,
            self.bilateral_sigma if self.bilateral_weight else 0,
        )
        return math.ceil(3 * max(sigmas))


class PredictOptions(Options):
    """How a scene is predicted."""

    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="The scene's bands in the model's order; matched by name when null",
    )
    assume_gsd_m: float | None = Field(
        None, gt=0, description="Metres per pixel of a scene that does not say where it lies"
    )
    overlap: int | None = Field(None, ge=0, description="Pixels; the model's when null")
    blend: Literal["cosine", "crop", "mean"] = Field(
        "cosine", description="How overlapping tiles meet: smoothly, at a line, or as their mean"
    )
    aoi: str | None = Field(
        None, description="Polygons of the ground to predict; the rest becomes nodata"
    )
    batch_size: int | None = Field(
        None, ge=1, le=1024, description="Tiles per step; what fits into memory when null"
    )
    device: Literal["auto", "cpu", "gpu"] = "auto"
    backend: Literal["torch", "compile", "openvino"] = Field(
        "torch",
        description="What computes: torch as it is or compiled, or OpenVINO, often faster on a CPU",
    )
    floats: bool = Field(False, description="Probabilities as float32 instead of bytes")
    uncertainty: bool = Field(
        False, description="One more band: how far tiles, views and models disagree"
    )
    block_rows: int | None = Field(
        None, ge=1, description="Rows of tiles per task; what is best for the workers when null"
    )
    max_memory_gb: float = Field(
        4.0, ge=0.1, description="Very wide scenes are predicted in panels to stay below it"
    )
    tta: Literal["none", "flips", "d4"] = Field(
        "none", description="Average over mirrored (4x) or also turned (8x) tiles; slower, better"
    )
    nms_iou: float = Field(
        0.5, gt=0, lt=1, description="Of two boxes that overlap by more, the better one stays"
    )
    footprints: bool = Field(True, description="Write footprints into a folder, too")
    keep_model_grid: bool = Field(
        False, description="Write rasters on the model's pixel size, not the scene's"
    )
    crf: CRFOptions | None = Field(
        None, description="Refine by the scene's colours with a dense CRF; off when null"
    )


class Thresholds(Options):
    """How probabilities become footprints.

    The seeds of buildings are the connected pixels whose seed score
    `p_body * (1 - border * p_border) * (1 - contact * p_contact)` reaches `seed`. Of a model of
    boxes `body` is the least score of a box, `min_area_m2` holds, and the others say nothing.
    """

    body: float = Field(0.5, gt=0, lt=1, description="Least building probability, 0-1")
    seed: float = Field(0.6, gt=0, lt=1, description="Least seed score of a building's core, 0-1")
    border: float = Field(1.0, ge=0, le=4, description="Weight of the border probability")
    contact: float = Field(1.0, ge=0, le=4, description="Weight of the contact probability")
    split_m: float = Field(
        0.0, ge=0, description="Part buildings at necks narrower than both by twice this, m; 0: no"
    )
    min_area_m2: float = Field(5.0, ge=0, description="Smaller footprints are dropped, m²")
    simplify_m: float = Field(0.3, ge=0, description="Outlines may move by about this, metres")
    subpixel: bool = Field(
        True, description="Outlines run where the probability crosses `body`, not along pixels"
    )
    regularize: bool = Field(
        True,
        description="Make outlines right-angled where buildings are; corners move by a metre or "
        "two pixels at the most, whichever is more",
    )
    min_hole_m2: float | None = Field(
        None, ge=0, description="Smaller holes are filled, m²; `min_area_m2` when null"
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Footprints of less mean probability are dropped, 0-1"
    )
    temperature: float = Field(
        1.0,
        ge=0.05,
        le=20,
        description="Of confidences: logits are divided by it first",
    )


class VectorizeOptions(Options):
    """Thresholds that replace the model's; null keeps them."""

    body: float | None = Field(None, gt=0, lt=1)
    seed: float | None = Field(None, gt=0, lt=1)
    border: float | None = Field(None, ge=0, le=4)
    contact: float | None = Field(None, ge=0, le=4)
    split_m: float | None = Field(None, ge=0)
    min_area_m2: float | None = Field(None, ge=0)
    simplify_m: float | None = Field(None, ge=0)
    subpixel: bool | None = None
    regularize: bool | None = None
    min_hole_m2: float | None = Field(None, ge=0)
    min_confidence: float | None = Field(None, ge=0, le=1)
    max_memory_gb: float = Field(4.0, ge=0.1, description="Of a process; windows are cut by it")

    def over(self, thresholds: Thresholds) -> Thresholds:
        """These where they are set, else those."""
        given = self.model_dump(exclude={"max_memory_gb"}, exclude_none=True)
        return thresholds.model_copy(update=given)
