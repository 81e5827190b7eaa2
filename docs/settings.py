"""Generator of docs/settings.md, the table of all settings. Run `python docs/settings.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from geoseg.config import Config
from geoseg.options import Thresholds

HEAD = """# Settings

Sections and keys of a configuration (`--config FILE`). `--set SECTION.KEY=VALUE` sets a single key
on the command line. This page is generated from `geoseg/options` by `python docs/settings.py`.
"""


def main() -> None:
    """Write the page next to this file."""
    Path(__file__).with_suffix(".md").write_text(describe_settings(), encoding="utf-8")


def describe_settings() -> str:
    """Return the page."""
    parts = [HEAD]
    for section, field in Config.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        summary = (model.__doc__ or "").strip().split("\n")[0]
        lines = ["| key | default | meaning |", "|---|---|---|", *_rows(model, "")]
        parts.append(f"## {section}\n\n{summary}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = _find_model(field.annotation)
        has_no_default = field.is_required() or (nested is not None and field.default is not None)
        default = "" if has_no_default else f"`{_format_yaml(field.default)}`"
        meaning = _describe(name, field.description, nested).replace("|", "\\|")
        yield f"| `{prefix}{name}` | {default} | {meaning} |"
        if nested is not None:
            yield from _rows(nested, f"{prefix}{name}.")


def _describe(name: str, description: str | None, nested: Any) -> str:
    if description or nested:
        return description or nested.__doc__.split("\n")[0]
    # A setting of vectorize without a description replaces the threshold of the same name.
    threshold = Thresholds.model_fields.get(name)
    if threshold is None:
        return ""
    return f"{threshold.description}; without a model `{_format_yaml(threshold.default)}`"


def _find_model(annotation: Any) -> Any:
    """Return the options class that a field contains, or None."""
    kinds = [annotation, *get_args(annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _format_yaml(value: Any) -> str:
    """Return a value as it is written in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_format_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    main()
