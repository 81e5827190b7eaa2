"""Results of benchmarks: a file with a JSON object per line, by which a run is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the results written so far; there may be none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def has_line(path: Path, key: Mapping[str, Any]) -> bool:
    """Return whether there is a result with these values."""
    return any(key.items() <= row.items() for row in read_lines(path))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a result, and print it."""
    line = json.dumps(row)
    with path.open("a") as file:
        file.write(f"{line}\n")
    print(line, flush=True)
