"""Names of the inference backends, and the check that one can be used, without torch."""

from __future__ import annotations

import importlib.util

from geoseg.errors import ConfigError

NAMES = ("torch", "compile", "openvino")


def check_backend(name: str, device: str) -> None:
    """Check that a backend is installed and supports a device.

    Args:
        name: One of `NAMES`.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        ConfigError: If OpenVINO is not installed, or is combined with a GPU.
    """
    if name != "openvino":
        return
    if device == "gpu":
        raise ConfigError(
            "predict.backend: openvino computes on the CPU; leave out --device gpu, or the backend"
        )
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError(
            "predict.backend: openvino is not installed; pip install 'geoseg[openvino]'"
        )
