"""Functions that build the networks, by architecture name, imported when they are needed.

One network imports only its own module: segmentation-models-pytorch (smp) and torchvision take
seconds of processor time, and most networks need neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from geoseg.networks.architectures import SMP_PAPERS
from geoseg.options.architecture_options import SMP_PREFIX

# Name → "module:class", and the arguments that are fixed by the name.
BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepglobe": ("deepglobe:DeepGlobe", {}),
    "deeplabv2": ("deeplabv2:DeepLabV2", {}),
    "deeplabv3": ("deeplabv3:DeepLabV3", {}),
    "deeplabv3plus": ("deeplabv3:DeepLabV3Plus", {}),
    "fcn16s": ("fcn:FCN", {"stride": 16}),
    "fcn32s": ("fcn:FCN", {"stride": 32}),
    "fcn8s": ("fcn:FCN", {"stride": 8}),
    "fpn": ("fpn:FPN", {}),
    "pixelwise": ("pixelwise:Pixelwise", {}),
    "retinanet": ("retinanet:RetinaNet", {}),
    "unet": ("unet:UNet", {}),
    **{SMP_PREFIX + name.lower(): ("smp:SMPNetwork", {"name": name}) for name in SMP_PAPERS},
}


def find_builder(arch: str) -> Callable[..., nn.Module]:
    """Import the class of a network.

    Args:
        arch: A name of `geoseg.networks.architectures.list_architectures`.

    Returns:
        A callable that takes an `EncoderFactory` (or the number of bands, if the architecture
        has a fixed encoder), the number of classes, and the options as keywords.
    """
    path, fixed = BUILDERS[arch]
    module, _, name = path.partition(":")
    network = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return partial(network, **fixed) if fixed else network
