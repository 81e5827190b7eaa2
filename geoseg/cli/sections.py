"""Settings that each command uses, and the refusal of others on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from geoseg.config import Config
from geoseg.errors import ConfigError

# Settings of each command: a section, or a part of one. Files of settings may contain all sections,
# since one file serves all commands.
USED: dict[str, tuple[str, ...]] = {
    "tile": ("tile",),
    "train": ("model", "train"),
    "predict": ("predict", "vectorize"),
    "vectorize": ("vectorize",),
    "align": ("align", "predict"),
    "evaluate": ("tile.classes",),
    "models": ("model",),
    "demo": ("tile", "model", "train", "predict", "vectorize"),
}

# Parts of these that a command does not use, with the reason.
_UNUSED: dict[str, dict[str, str]] = {
    "predict": {
        "vectorize.crf": "applies only to geoseg vectorize; use predict.crf, or --crf",
        "vectorize.block_px": "applies only to geoseg vectorize; remove it",
    }
}

# The command that a section is for.
_COMMAND_OF = {
    section: section for section in ("tile", "train", "predict", "vectorize", "align")
} | {"model": "train"}


def check_overrides(command: str, overrides: Sequence[str], note: str = "") -> None:
    """Refuse settings that a command does not use; unknown ones are refused with the others.

    Args:
        command: Name of the command.
        overrides: `section.key=value`.
        note: What to add to the message.

    Raises:
        ConfigError: If there is such a setting.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        for unused, reason in _UNUSED.get(command, {}).items():
            if _is_part(key, unused):
                raise ConfigError(f"--set {override}: {reason}")
        owner = _COMMAND_OF.get(key.partition(".")[0])
        if owner is not None and not is_used(command, key):
            raise ConfigError(
                f"--set {override}: is a setting of geoseg {owner} and has no effect in geoseg "
                f"{command}{note}; remove it"
            )


def is_used(command: str, key: str) -> bool:
    """Return whether a command uses a setting."""
    return any(_is_part(key, used) for used in USED.get(command, ()))


def list_settings() -> Iterator[str]:
    """Yield the dotted names of all settings, with those of nested groups."""
    for section, field in Config.model_fields.items():
        yield from (f"{section}.{name}" for name in _list_fields(field.annotation))


def _list_fields(model: Any) -> Iterator[str]:
    for name, field in getattr(model, "model_fields", {}).items():
        yield name
        for nested in getattr(field.annotation, "__args__", (field.annotation,)):
            yield from (f"{name}.{deeper}" for deeper in _list_fields(nested))


def _is_part(key: str, whole: str) -> bool:
    return f"{key}.".startswith(f"{whole}.")
