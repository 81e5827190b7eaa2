"""Averages a model with others that were continued from it.

    python benchmarks/average_models.py MODEL CONTINUED [CONTINUED ...] -o FILE

Writes the mean of all weights as float16. The mean of models that were continued from the same one
with different data or settings is often better than each of them ("model soups", Wortsman et al.
2022, arXiv 2203.05482). Header, thresholds and confidences are those of the first model; the scores
of its own validation are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from geoseg.networks.model_file import ModelSpec, find_model, load_model, save_model

# Settings of a continued training that its card states.
_SETTINGS = ("lr", "ema", "seed", "max_minutes")


@click.command(help=__doc__)
@click.argument("model")
@click.argument("continued", nargs=-1, required=True, type=Path)
@click.option("-o", "--output", type=Path, required=True)
def main(model: str, continued: tuple[Path, ...], output: Path) -> None:
    """Average the weights and write the model."""
    (spec, weights), others = load_model(find_model(model)), [load_model(one) for one in continued]
    for path, (other, _) in zip(continued, others, strict=True):
        if (other.arch, other.encoder, other.outputs) != (spec.arch, spec.encoder, spec.outputs):
            raise click.ClickException(f"{path}: has another network or other outputs than {model}")
    averaged = {
        name: (sum(one[name].float() for _, one in others) + tensor.float()).div(len(others) + 1)
        .half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }  # fmt: skip
    specs = [other for other, _ in others]
    save_model(output, averaged, spec.model_copy(update={"provenance": describe(spec, specs)}))


def describe(spec: ModelSpec, others: Sequence[ModelSpec]) -> dict[str, Any]:
    """Return the provenance of the mean of a model and of others that were continued from it."""
    known = {
        key: value for key, value in spec.provenance.items() if not key.startswith("val_")
    }  # fmt: skip
    trainings = [
        {"minutes": one.provenance["minutes"]}
        | {key: one.provenance["train"][key] for key in _SETTINGS}
        for one in others
    ]
    return known | {"averaged_with": trainings}


if __name__ == "__main__":
    main()
