"""How ground is cut into tiles and split."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geoseg.options.base import Fraction, Options


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
    fractions: tuple[Fraction, Fraction, Fraction] = Field(
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
    keep_empty: Fraction = Field(
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
