"""Construction of encoders from segmentation-models-pytorch (smp) and timm.

smp is imported only when one of its own encoders is needed, timm only for `tu-NAME`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from geoseg.errors import UnknownArchitectureError

# Encoders of timm are called by this prefix and their name in timm, as in smp.
TIMM_PREFIX = "tu-"


@dataclass(frozen=True)
class EncoderFactory:
    """Builds encoders by name.

    An encoder returns six maps: the image itself (VGG: its first map), then maps at strides 2, 4,
    8, 16 and 32, none beyond the output stride.

    Attributes:
        name: A name of smp, or `tu-NAME` for an encoder of timm.
        bands: Number of channels of the image.
    """

    name: str
    bands: int

    def __call__(self, output_stride: int = 32) -> nn.Module:
        """Build an encoder with random weights.

        Raises:
            ValueError: If the encoder does not support this output stride.
        """
        if self.name.startswith(TIMM_PREFIX):
            from geoseg.networks.models.timm_encoder import TimmEncoder

            name = self.name.removeprefix(TIMM_PREFIX)
            return TimmEncoder(name, self.bands, output_stride=output_stride)
        encoder = self.build_undilated(output_stride)
        if output_stride < 32:
            encoder.make_dilated(output_stride)  # type: ignore[operator]
        return encoder

    def build_undilated(self, output_stride: int) -> nn.Module:
        """Build an encoder of smp for a caller that dilates it by itself.

        Args:
            output_stride: The stride that the encoder reports; its convolutions have stride 32.
        """
        entry = _smp_encoders()[self.name]
        # A copy, because encoders of smp keep and change the lists that they are given.
        arguments = copy.deepcopy(entry["params"]) | {"depth": 5, "output_stride": output_stride}
        encoder: nn.Module = entry["encoder"](**arguments)
        encoder.set_in_channels(self.bands, pretrained=False)  # type: ignore[operator]
        return encoder

    @property
    def is_vgg(self) -> bool:
        """Whether the encoder is a VGG."""
        if self.name.startswith(TIMM_PREFIX):
            return False
        from segmentation_models_pytorch.encoders.vgg import VGGEncoder

        return issubclass(_smp_encoders()[self.name]["encoder"], VGGEncoder)

    @property
    def is_resnet(self) -> bool:
        """Whether the encoder is a ResNet of any kind, with stages `layer3` and `layer4`."""
        if self.name.startswith(TIMM_PREFIX):
            return False
        from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
        from segmentation_models_pytorch.encoders.senet import SENetEncoder

        return issubclass(_smp_encoders()[self.name]["encoder"], ResNetEncoder | SENetEncoder)


def list_encoders() -> list[str]:
    """Return the names of the encoders of smp; `tu-NAME` for encoders of timm is not listed."""
    return sorted(_smp_encoders())


def check_encoder(name: str) -> None:
    """Check that an encoder exists.

    Raises:
        UnknownArchitectureError: If it does not; the message lists similar names.
    """
    if name.startswith(TIMM_PREFIX):
        import timm

        known = name.removeprefix(TIMM_PREFIX).split(".")[0] in timm.list_models()
    else:
        known = name in _smp_encoders()
    if not known:
        similar = [other for other in list_encoders() if other[:4] == name[:4]] or list_encoders()
        raise UnknownArchitectureError(
            f"no encoder is called {name!r}; choose from {', '.join(similar[:24])} or tu-NAME "
            "for any network of timm"
        )


def _smp_encoders() -> dict[str, dict[str, Any]]:
    from segmentation_models_pytorch.encoders import encoders

    return cast(dict[str, dict[str, Any]], encoders)


def channels_of(encoder: nn.Module) -> list[int]:
    """Return the channels of an encoder's maps, the shallowest first."""
    return [int(count) for count in cast(Sequence[int], encoder.out_channels)]


def build_vgg(factory: EncoderFactory, output_stride: int = 32) -> nn.Module:
    """Build an encoder that must be a VGG.

    Args:
        factory: Builds the encoder.
        output_stride: The stride that the encoder reports.

    Raises:
        ValueError: If it is another one.
    """
    if not factory.is_vgg:
        raise ValueError("this network needs a VGG; choose encoder vgg16, vgg16_bn or vgg19")
    return factory.build_undilated(output_stride)


def build_atrous_vgg(factory: EncoderFactory) -> nn.Module:
    """Build a VGG of output stride 8 as in DeepLab (arXiv 1606.00915).

    The last two poolings keep the size, and the convolutions after the first of them have
    dilation 2.
    """
    encoder = build_vgg(factory, output_stride=8)
    pools = 0
    for module in cast(nn.Sequential, encoder.features):
        if isinstance(module, nn.MaxPool2d):
            pools += 1
            if pools >= 4:
                module.kernel_size, module.stride, module.padding = 3, 1, 1
        elif isinstance(module, nn.Conv2d) and pools == 4:
            module.dilation, module.padding = (2, 2), (2, 2)
    return encoder


def build_atrous_resnet(
    factory: EncoderFactory,
    output_stride: int,
    multi_grid: Sequence[int] = (1,),
    *,
    late: bool = False,
) -> nn.Module:
    """Build a ResNet whose last stages have dilated convolutions instead of strides.

    Args:
        factory: Builds an encoder with stages `layer3` and `layer4`.
        output_stride: 8 or 16.
        multi_grid: Unit rates of the blocks of the last stage, by which its rate is multiplied.
            The last unit rate applies to the remaining blocks (arXiv 1706.05587).
        late: The first block of a stage keeps the rate of the previous stage, as in torchvision.

    Raises:
        ValueError: If the encoder has no such stages.
    """
    if not factory.is_resnet:
        raise ValueError("multi_grid needs a ResNet; remove it or choose encoder resnet50")
    encoder = factory.build_undilated(output_stride)
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
    return encoder


def _dilate(block: nn.Module, rate: int) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size != (1, 1):
                module.dilation, module.padding = (rate, rate), (rate, rate)
