"""Type aliases for progress and message callbacks."""

from __future__ import annotations

from collections.abc import Callable

# Called with the number of finished items, their total number, and their name, such as "tiles".
Progress = Callable[[int, int, str], None]

# Called with one line for the user.
Report = Callable[[str], None]
