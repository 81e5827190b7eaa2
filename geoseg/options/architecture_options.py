"""Names of the options of each architecture, `model.options`.

They are listed here so that a configuration can be checked without importing torch.
"""

from __future__ import annotations

# Architectures of segmentation-models-pytorch take the arguments of its classes, which differ
# between its versions; they are not listed.
SMP_PREFIX = "smp-"

OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "deepglobe": ("aspp_channels", "rates", "fusion", "kernel", "widths"),
    "deeplabv2": ("context", "rates", "width", "scales"),
    "deeplabv3": (
        *("output_stride", "multi_grid", "rates", "channels", "dropout"),
        "torchvision",
    ),
    "deeplabv3plus": (
        *("output_stride", "rates", "channels", "skip_channels", "separable"),
        "dropout",
    ),
    "fcn16s": ("padding", "width"),
    "fcn32s": ("padding", "width"),
    "fcn8s": ("padding", "width"),
    "fpn": ("channels", "head_channels"),
    "pixelwise": (),
    "retinanet": ("channels", "anchor_sizes", "octaves", "ratios"),
    "unet": ("padding", "width", "depth", "dropout"),
}

# Architectures with an encoder of their own, for which `model.encoder` cannot be set.
FIXED_ENCODERS = ("pixelwise", "unet")


def known_options(arch: str) -> tuple[str, ...] | None:
    """Return the names of the options of an architecture; None if they are not listed."""
    return OPTIONS_OF.get(arch, OPTIONS_OF.get(arch.lower()))


def are_same(one: str, other: str) -> bool:
    """Return whether two names are of one architecture; case and `smp-` may differ."""
    return _plain(one) == _plain(other)


def _plain(arch: str) -> str:
    name = arch.lower()
    return name if name in OPTIONS_OF or name.startswith(SMP_PREFIX) else SMP_PREFIX + name
