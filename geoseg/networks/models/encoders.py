"""Encoders: made by segmentation-models-pytorch and timm, and bent to what a paper asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from segmentation_models_pytorch.encoders import encoders, get_encoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from segmentation_models_pytorch.encoders.senet import SENetEncoder
from segmentation_models_pytorch.encoders.vgg import VGGEncoder
from torch import nn

from geoseg.errors import UnknownArchitectureError


@dataclass(frozen=True)
class MakeEncoder:
    """Makes encoders of one kind.

    An encoder returns six maps: the image itself (VGG: its first map), then strides 2, 4, 8,
    16 and 32, none beyond the output stride.

    Attributes:
        name: A name of segmentation-models-pytorch, or `tu-NAME` for timm's.
        bands: Channels of the image.
    """

    name: str
    bands: int

    def __call__(self, output_stride: int = 32) -> nn.Module:
        """An encoder with random weights.

        Raises:
            ValueError: If it cannot have this output stride.
        """
        encoder: nn.Module = get_encoder(
            self.name, in_channels=self.bands, depth=5, weights=None, output_stride=output_stride
        )
        if output_stride < 32 and not self.name.startswith("tu-"):
            encoder.make_dilated(output_stride)  # type: ignore[operator]
        return encoder

    @property
    def is_vgg(self) -> bool:
        """Whether it makes VGGs."""
        return self._makes(VGGEncoder)

    @property
    def is_resnet(self) -> bool:
        """Whether it makes ResNets of any kind, with stages `layer3` and `layer4`."""
        return self._makes(ResNetEncoder, SENetEncoder)

    def _makes(self, *kinds: type) -> bool:
        return self.name in encoders and issubclass(encoders[self.name]["encoder"], kinds)


def list_encoders() -> list[str]:
    """Encoder names of smp; `tu-NAME` reaches any timm network besides."""
    return sorted(encoders)


def check_encoder(name: str) -> None:
    """Refuses a name that no encoder goes by.

    Raises:
        UnknownArchitectureError: With names like it.
    """
    known = name in encoders
    if name.startswith("tu-"):
        import timm

        known = name[3:].split(".")[0] in timm.list_models()
    if not known:
        near = [other for other in list_encoders() if other[:4] == name[:4]] or list_encoders()
        raise UnknownArchitectureError(
            f"no encoder is called {name!r}; choose from {', '.join(near[:24])} or tu-NAME "
            "for any network of timm"
        )


def channels_of(encoder: nn.Module) -> list[int]:
    """Channels of an encoder's maps, the shallowest first."""
    return [int(count) for count in cast(Sequence[int], encoder.out_channels)]


def make_vgg(make: MakeEncoder) -> nn.Module:
    """Makes an encoder that must be a VGG.

    Raises:
        ValueError: If it is another one.
    """
    if not make.is_vgg:
        raise ValueError("this network is made of VGG; choose encoder vgg16, vgg16_bn or vgg19")
    return make()


def make_atrous_vgg(make: MakeEncoder) -> nn.Module:
    """A VGG of output stride 8, as DeepLab makes it (arXiv 1606.00915).

    The last two poolings keep the size, and the convolutions after the first of them see every
    second pixel.
    """
    encoder = make_vgg(make)
    pools = 0
    for module in cast(nn.Sequential, encoder.features):
        if isinstance(module, nn.MaxPool2d):
            pools += 1
            if pools >= 4:
                module.kernel_size, module.stride, module.padding = 3, 1, 1
        elif isinstance(module, nn.Conv2d) and pools == 4:
            module.dilation, module.padding = (2, 2), (2, 2)
    encoder._output_stride = 8  # type: ignore[assignment]
    return encoder


def make_atrous_resnet(
    make: MakeEncoder,
    output_stride: int,
    multi_grid: Sequence[int] = (1,),
    *,
    late: bool = False,
) -> nn.Module:
    """A ResNet whose last stages keep the size and look further instead.

    Args:
        make: Makes an encoder with stages `layer3` and `layer4`.
        output_stride: 8 or 16.
        multi_grid: Unit rates of the last stage's blocks, by which its rate is multiplied; the
            last one serves for the blocks that remain (arXiv 1706.05587).
        late: The first block of a stage keeps the rate of the stage before, as in torchvision.

    Raises:
        ValueError: If the encoder has no such stages.
    """
    if not make.is_resnet:
        raise ValueError("multi_grid needs a ResNet; leave it out or choose encoder resnet50")
    encoder = make()
    rate = 1
    for name, stride in (("layer3", 16), ("layer4", 32)):
        if stride <= output_stride:
            continue
        before, rate = rate, 2 * rate
        blocks = list(cast(nn.Sequential, getattr(encoder, name)))
        grid = tuple(multi_grid) if stride == 32 else (1,)
        units = [*grid, *[grid[-1]] * len(blocks)]
        for index, (block, unit) in enumerate(zip(blocks, units, strict=False)):
            _dilate(block, before if late and index == 0 else rate * unit)
    encoder._output_stride = output_stride  # type: ignore[assignment]
    return encoder


def _dilate(block: nn.Module, rate: int) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size != (1, 1):
                module.dilation, module.padding = (rate, rate), (rate, rate)
