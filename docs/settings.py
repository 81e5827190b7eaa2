"""Writes docs/settings.md: every setting with its default and its meaning, as the code has them.

python docs/settings.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from geoseg.config import Config
from geoseg.options import Thresholds

HEAD = """# Settings

Sections and keys of a configuration (`--config FILE`), each of which `--set SECTION.KEY=VALUE`
sets, too. `docs/settings.py` makes this page of `geoseg/options`.
"""


def main() -> None:
    """Writes the page beside this file."""
    Path(__file__).with_suffix(".md").write_text(describe_settings(), encoding="utf-8")


def describe_settings() -> str:
    """The page."""
    parts = [HEAD]
    for section, field in Config.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        about = (model.__doc__ or "").strip().split("\n")[0]
        lines = ["| key | default | meaning |", "|---|---|---|", *_rows(model, "")]
        parts.append(f"## {section}\n\n{about}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = _model_in(field.annotation)
        empty = field.is_required() or (nested is not None and field.default is not None)
        default = "" if empty else f"`{_plain(field.default)}`"
        meaning = _meaning(name, field.description, nested).replace("|", "\\|")
        yield f"| `{prefix}{name}` | {default} | {meaning} |"
        if nested is not None:
            yield from _rows(nested, f"{prefix}{name}.")


def _meaning(name: str, description: str | None, nested: Any) -> str:
    if description or nested:
        return description or nested.__doc__.split("\n")[0]
    # What stands in for a threshold means the same.
    usual = Thresholds.model_fields.get(name)
    return f"{usual.description}; without a model `{_plain(usual.default)}`" if usual else ""


def _model_in(annotation: Any) -> Any:
    """The settings that a key holds, if it holds some."""
    kinds = [annotation, *get_args(annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _plain(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    main()
