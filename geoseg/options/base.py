"""Base class and number types of the option classes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """Base class of options: validated and immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
