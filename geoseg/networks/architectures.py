"""Table of the known architectures: name, task, default encoder, paper.

Importing this module is cheap: it imports neither torch nor segmentation-models-pytorch (smp), so
that a wrong name is refused at once. The code that builds the networks is in
`geoseg.networks.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geoseg.errors import UnknownArchitectureError
from geoseg.options.architecture_options import SMP_PREFIX

Task = Literal["pixels", "boxes"]


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes:
        encoder: The encoder of the paper, or the usual one of smp; None if the architecture has
            a fixed encoder.
        paper: Reference of the publication.
        task: `pixels` for segmentation, `boxes` for object detection.
    """

    encoder: str | None
    paper: str
    task: Task = "pixels"


_FCN = "Long et al. 2015, arXiv 1411.4038"

_OWN = {
    "deepglobe": Architecture("se_resnext50_32x4d", "Golovanov et al., CVPRW 2018"),
    "deeplabv2": Architecture("resnet101", "Chen et al. 2016, arXiv 1606.00915"),
    "deeplabv3": Architecture("resnet101", "Chen et al. 2017, arXiv 1706.05587"),
    "deeplabv3plus": Architecture("tu-xception65", "Chen et al. 2018, arXiv 1802.02611"),
    "fcn16s": Architecture("vgg16", _FCN),
    "fcn32s": Architecture("vgg16", _FCN),
    "fcn8s": Architecture("vgg16", _FCN),
    "fpn": Architecture("resnet50", "Lin et al. 2016, arXiv 1612.03144; Kirillov et al. 2019"),
    "pixelwise": Architecture(None, "logistic regression of a pixel's bands"),
    "retinanet": Architecture("resnet50", "Lin et al. 2017, arXiv 1708.02002", task="boxes"),
    "unet": Architecture(None, "Ronneberger et al. 2015, arXiv 1505.04597"),
}

# By the class name in smp.
SMP_PAPERS = {
    "DeepLabV3": "Chen et al. 2017, arXiv 1706.05587",
    "DeepLabV3Plus": "Chen et al. 2018, arXiv 1802.02611",
    "DPT": "Ranftl et al. 2021, arXiv 2103.13413",
    "FPN": "Kirillov et al. 2019, arXiv 1901.02446",
    "Linknet": "Chaurasia, Culurciello 2017, arXiv 1707.03718",
    "MAnet": "Fan et al. 2020, IEEE Access 8",
    "PAN": "Li et al. 2018, arXiv 1805.10180",
    "PSPNet": "Zhao et al. 2017, arXiv 1612.01105",
    "Segformer": "Xie et al. 2021, arXiv 2105.15203",
    "Unet": "Ronneberger et al. 2015, arXiv 1505.04597",
    "UnetPlusPlus": "Zhou et al. 2018, arXiv 1807.10165",
    "UPerNet": "Xiao et al. 2018, arXiv 1807.10221",
}

# Networks of smp that cannot be built on its usual encoder, ResNet-34: DPT needs a transformer.
_SMP_ENCODERS = {"DPT": "tu-vit_base_patch16_224.augreg_in21k"}

# All architectures by name: our own first, then those of smp.
ARCHITECTURES: dict[str, Architecture] = _OWN | {
    SMP_PREFIX + name.lower(): Architecture(_SMP_ENCODERS.get(name, "resnet34"), paper)
    for name, paper in SMP_PAPERS.items()
}


def list_architectures(task: Task | None = None) -> list[str]:
    """Return the names of all architectures, or of those for one task."""
    return [name for name, known in ARCHITECTURES.items() if task in (None, known.task)]


def task_of(arch: str) -> Task:
    """Return the task of an architecture.

    Raises:
        UnknownArchitectureError: As `resolve_architecture`.
    """
    return ARCHITECTURES[resolve_architecture(arch)].task


def resolve_architecture(arch: str) -> str:
    """Return the full name of an architecture.

    Case does not matter, and the prefix `smp-` may be left out where geoseg has no own network
    of the same name.

    Raises:
        UnknownArchitectureError: If the name is unknown; the message lists the choices.
    """
    for name in (arch, arch.lower(), SMP_PREFIX + arch.lower()):
        if name in ARCHITECTURES:
            return name
    raise UnknownArchitectureError(
        f"no architecture is called {arch!r}; choose from {', '.join(list_architectures())}"
    )
