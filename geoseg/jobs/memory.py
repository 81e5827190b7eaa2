"""Resident memory of this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

import psutil


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    try:
        # More precise than the counters that psutil reads, which lag behind on many cores.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])
    except (OSError, IndexError, ValueError):  # not Linux
        return int(psutil.Process().memory_info().rss)


def release_memory() -> None:
    """Return freed memory to the system where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc
        return
