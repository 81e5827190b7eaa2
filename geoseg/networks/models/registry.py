"""The networks by name, and the papers that they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import segmentation_models_pytorch as smp
from torch import nn

from geoseg.errors import UnknownArchitectureError
from geoseg.networks.models.deepglobe import DeepGlobe
from geoseg.networks.models.deeplabv2 import DeepLabV2
from geoseg.networks.models.deeplabv3 import DeepLabV3, DeepLabV3Plus
from geoseg.networks.models.fcn import FCN
from geoseg.networks.models.fpn import FPN
from geoseg.networks.models.pixelwise import Pixelwise
from geoseg.networks.models.retinanet import RetinaNet
from geoseg.networks.models.smp import SMPNetwork
from geoseg.networks.models.unet import UNet

Task = Literal["pixels", "boxes"]


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes:
        build: Called with a `MakeEncoder`, or with the number of bands where the network has
            no encoder to choose, then the number of classes, then its options.
        encoder: The paper's encoder, or smp's usual one; None where there is none to choose.
        paper: Where the network was published.
        task: What it finds: `pixels` of buildings, or `boxes` around them.
    """

    build: Callable[..., nn.Module]
    encoder: str | None
    paper: str
    task: Task = "pixels"


_FCN = "Long et al. 2015, arXiv 1411.4038"

# Our own networks.
ARCHITECTURES: dict[str, Architecture] = {
    "deepglobe": Architecture(DeepGlobe, "se_resnext50_32x4d", "Golovanov et al., CVPRW 2018"),
    "deeplabv2": Architecture(DeepLabV2, "resnet101", "Chen et al. 2016, arXiv 1606.00915"),
    "deeplabv3": Architecture(DeepLabV3, "resnet101", "Chen et al. 2017, arXiv 1706.05587"),
    "deeplabv3plus": Architecture(
        DeepLabV3Plus, "tu-xception65", "Chen et al. 2018, arXiv 1802.02611"
    ),
    "fcn16s": Architecture(partial(FCN, stride=16), "vgg16", _FCN),
    "fcn32s": Architecture(partial(FCN, stride=32), "vgg16", _FCN),
    "fcn8s": Architecture(partial(FCN, stride=8), "vgg16", _FCN),
    "fpn": Architecture(FPN, "resnet50", "Lin et al. 2016, arXiv 1612.03144; Kirillov et al. 2019"),
    "pixelwise": Architecture(Pixelwise, None, "logistic regression of a pixel's bands"),
    "retinanet": Architecture(
        RetinaNet, "resnet50", "Lin et al. 2017, arXiv 1708.02002", task="boxes"
    ),
    "unet": Architecture(UNet, None, "Ronneberger et al. 2015, arXiv 1505.04597"),
}

_SMP_PAPERS = {
    "DPT": "Ranftl et al. 2021, arXiv 2103.13413",
    "DeepLabV3": "Chen et al. 2017, arXiv 1706.05587",
    "DeepLabV3Plus": "Chen et al. 2018, arXiv 1802.02611",
    "FPN": "Kirillov et al. 2019, arXiv 1901.02446",
    "Linknet": "Chaurasia, Culurciello 2017, arXiv 1707.03718",
    "MAnet": "Fan et al. 2020, IEEE Access 8",
    "PAN": "Li et al. 2018, arXiv 1805.10180",
    "PSPNet": "Zhao et al. 2017, arXiv 1612.01105",
    "Segformer": "Xie et al. 2021, arXiv 2105.15203",
    "UPerNet": "Xiao et al. 2018, arXiv 1807.10221",
    "Unet": "Ronneberger et al. 2015, arXiv 1505.04597",
    "UnetPlusPlus": "Zhou et al. 2018, arXiv 1807.10165",
}

# The encoder that a network of smp needs where its usual one, ResNet-34, does not do.
_SMP_ENCODERS = {"DPT": "tu-vit_base_patch16_224.augreg_in21k"}

SMP_PREFIX = "smp-"

ARCHITECTURES |= {
    SMP_PREFIX + name.lower(): Architecture(
        partial(SMPNetwork, name), _SMP_ENCODERS.get(name, "resnet34"), paper
    )
    for name, paper in sorted(_SMP_PAPERS.items(), key=lambda item: item[0].lower())
    if hasattr(smp, name)
}


def list_architectures(task: Task | None = None) -> list[str]:
    """Architecture names: ours, then `smp-NAME` for each of smp's; all, or those of one task."""
    return [name for name, known in ARCHITECTURES.items() if task in (None, known.task)]


def task_of(arch: str) -> Task:
    """What an architecture finds. Raises as `resolve_architecture` does."""
    return ARCHITECTURES[resolve_architecture(arch)].task


def resolve_architecture(arch: str) -> str:
    """The full name of an architecture.

    Names of smp may lack their prefix where no network of ours goes by them.

    Raises:
        UnknownArchitectureError: If there is none; lists the choices.
    """
    for name in (arch, arch.lower(), SMP_PREFIX + arch.lower()):
        if name in ARCHITECTURES:
            return name
    raise UnknownArchitectureError(
        f"no architecture is called {arch!r}; choose from {', '.join(list_architectures())}"
    )
