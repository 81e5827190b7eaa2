"""Scenes chosen by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from geoseg.errors import ConfigError


def matches_any(scene: str, patterns: Iterable[str]) -> bool:
    """Return whether the path of a scene, or its file name, matches one of some patterns."""
    name = Path(scene).name
    return any(fnmatch(scene, pattern) or fnmatch(name, pattern) for pattern in patterns)


def check_patterns(settings: str, patterns: Iterable[str], scenes: Sequence[str]) -> None:
    """Check that each pattern matches a scene.

    Args:
        settings: Dotted names of the settings that hold the patterns, for the message.
        patterns: The patterns.
        scenes: Paths of all scenes.

    Raises:
        ConfigError: If a pattern matches none.
    """
    for pattern in patterns:
        if not any(matches_any(scene, [pattern]) for scene in scenes):
            raise ConfigError(
                f"{settings}: {pattern} matches none of the {len(scenes)} scenes; give names or "
                "patterns such as *_7.tif"
            )
