"""Options of `geoseg tile`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geoseg.options.base import Fraction, Options


class ClassOptions(Options):
    """Exclusive classes of land cover and the label values of each."""

    attribute: str | None = Field(None, description="Attribute that names the class of a polygon")
    values: dict[str, tuple[bool | int | float | str, ...]] = Field(
        min_length=1,
        description="Label values of each class: attribute values, mask values, or colours #rrggbb",
    )
    background: str | None = Field(
        "background", description="Class of pixels without a label; null ignores them"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # null removes a class that another configuration file defines.
        kept = {name: v for name, v in value.items() if v is not None}
        return {name: v if isinstance(v, list | tuple) else (v,) for name, v in kept.items()}

    @model_validator(mode="after")
    def _distinct(self) -> ClassOptions:
        listed = [str(value).lower() for values in self.values.values() for value in values]
        twice = next((value for value in listed if listed.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"the value {twice} is listed for two classes")
        if self.background in self.values:
            raise ValueError(f"background: {self.background} is already one of the classes")
        if self.background is None and len(self.values) == 1:
            raise ValueError(
                "values: one class without a background leaves nothing to learn; add a class"
            )
        return self


class TileOptions(Options):
    """Options for cutting scenes into tiles and splits."""

    size: int = Field(256, ge=32, le=4096, description="Tile side in pixels")
    overlap: int | None = Field(
        None, ge=0, description="Pixels shared by adjacent tiles; null: half the size"
    )
    gsd_m: float | None = Field(
        None, gt=0, description="Metres per pixel of the tiles; null: as in the first scene"
    )
    assume_gsd_m: float | None = Field(
        None, gt=0, description="Metres per pixel of scenes without georeferencing"
    )
    keep_blank: bool = Field(
        False,
        description="Use large areas of one constant value, such as white margins, as an image",
    )
    asset: str | None = Field(
        None, min_length=1, description="Asset of STAC items that is the scene; by role when null"
    )
    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="Bands by number or name, in this order; null: all data bands",
    )
    classes: ClassOptions | None = Field(
        None, description="Exclusive classes of land cover; null: buildings"
    )
    targets: tuple[Literal["building", "border", "contact", "distance"], ...] = Field(
        ("building", "border"), description="Targets of buildings; building must be first"
    )
    where: str | None = Field(None, description="Attribute filter of vector labels")
    layer: str | None = Field(None, description="Layer name of vector labels")
    merged: tuple[str, ...] = Field(
        (),
        description="Scenes whose labels merge touching buildings: names or patterns, * for all",
    )
    split: Literal["stripes", "blocks", "kfold", "scenes", "areas"] = Field(
        "stripes", description="How scenes are split into train, val and test"
    )
    fractions: tuple[Fraction, Fraction, Fraction] = Field(
        (0.7, 0.15, 0.15), description="Fractions of train, val and test"
    )
    gap: int | None = Field(
        None,
        ge=0,
        description="Pixels between splits; null: one tile, or less if scenes are small; 0 between "
        "scenes or areas",
    )
    block: int | None = Field(
        None,
        ge=32,
        description="Side of blocks in pixels; null: 8 tiles, or fewer in small scenes",
    )
    folds: int = Field(5, ge=3, description="Number of folds for split kfold")
    fold: int = Field(0, ge=0, description="Fold used as test split, from 0")
    val_scenes: tuple[str, ...] = Field(
        (), description="Validation scenes for split scenes: names or patterns such as *_7*"
    )
    test_scenes: tuple[str, ...] = Field(
        (), description="Test scenes for split scenes: names or patterns"
    )
    areas: str | None = Field(
        None,
        description="Polygons of the labelled areas, for split areas; an attribute split (train, "
        "val or test) says what each is for, otherwise each is divided by fractions",
    )
    keep_empty: Fraction = Field(
        1.0, description="Fraction of the training tiles without buildings that is kept"
    )
    seed: int = Field(0, ge=0, description="Random seed")

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the target bands."""
        return ("class",) if self.classes else self.targets

    @property
    def is_drawn(self) -> bool:
        """Whether the user assigns areas or scenes to splits, so that `fractions` is not used."""
        named = self.split == "scenes" and bool(self.val_scenes or self.test_scenes)
        return self.split == "areas" or named

    @property
    def overlap_px(self) -> int:
        """Overlap in pixels, with its default resolved."""
        return self.size // 2 if self.overlap is None else self.overlap

    @model_validator(mode="after")
    def _fits(self) -> TileOptions:
        if self.overlap_px > self.size // 2:
            raise ValueError(f"overlap must be at most half the size ({self.size // 2})")
        if abs(sum(self.fractions) - 1) > 1e-6 or self.fractions[0] == 0:
            raise ValueError("fractions must sum to 1, and that of train must be above 0")
        if self.areas is not None and self.split != "areas":
            raise ValueError(f"areas is set, but split is {self.split}; set split to areas")
        if self.fold and self.split != "kfold":
            raise ValueError(f"fold is set, but split is {self.split}; set split to kfold")
        if self.targets[:1] != ("building",) or len(set(self.targets)) < len(self.targets):
            raise ValueError("targets must begin with building, without repetition")
        if self.merged and self.classes:
            raise ValueError(
                "merged is for labels of buildings, but classes are set; leave one of them out"
            )
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}); the first fold is 0")
        return self
