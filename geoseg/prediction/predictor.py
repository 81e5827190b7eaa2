"""Networks with their normalization, applied to batches of tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.errors import ModelFileError, one_line
from geoseg.networks.device import choose_device
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import load_network
from geoseg.networks.models.sketch import check_tile_memory
from geoseg.networks.models.unet import UNet
from geoseg.networks.normalization import normalise
from geoseg.prediction.backends import open_backend

# (quarter turns, mirrored) of each view. Half a turn and a mirror make the other flip.
TTA_VIEWS = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}

# Data types that torch can convert on the device; others are converted to float32 before.
_DEVICE_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "float32")


class Network:
    """One network with its weights and normalization on a device.

    Args:
        spec: Header of the model.
        weights: State dict.
        device: Device to compute on.
        backend: Inference backend, one of `geoseg.prediction.backend_names.NAMES`.
        threads: Number of threads that predict at the same time.

    Raises:
        ModelFileError: If the weights do not belong to the architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Tensor],
        device: torch.device,
        backend: str = "torch",
        threads: int = 1,
    ) -> None:
        self.spec = spec
        network = load_network(spec, weights).eval().to(device)
        # A U-Net with valid convolutions uses context pixels around each tile.
        self.margin = network.margin(spec.size) if isinstance(network, UNet) else 0
        if device.type == "cpu":
            check_tile_memory(spec, spec.size + 2 * self.margin)
        logits = _WithoutMargin(network, spec.size) if isinstance(network, UNet) else network
        self.logits = open_backend(backend, logits, device, threads)
        self._mean = torch.tensor(spec.mean, device=device)
        self._std = torch.tensor(spec.std, device=device)

    def normalise(self, image: Tensor, valid: Tensor) -> Tensor:
        """Normalize images (N, C, H, W) from the units of the scene."""
        return normalise(image, valid, self._mean, self._std)

    def prob(self, image: Tensor) -> Tensor:
        """Return probabilities float32 (N, outputs, H, W) of normalized tiles, without margin."""
        scores = self.logits(image)
        return scores.softmax(dim=1) if self.spec.exclusive else scores.sigmoid_()


class _WithoutMargin(nn.Module):
    """A U-Net that accepts tiles with or without its margin on every side."""

    def __init__(self, network: UNet, size: int) -> None:
        super().__init__()
        self.network, self._size, self._margin = network, size, network.margin(size)

    def forward(self, image: Tensor) -> Tensor:
        if self._margin and image.shape[-1] == self._size + 2 * self._margin:
            return self.network.valid_logits(image, (self._size, self._size))
        logits: Tensor = self.network(image)
        return logits


class Predictor:
    """Probabilities of tiles, averaged over networks and views.

    Args:
        spec: Header of the model.
        weights: State dict.
        device: `auto`, `cpu` or `gpu`.
        tta: `none`, `flips` or `d4`: the views of each tile to average.
        others: Header and weights of further models to average.
        squares: Whether to return the mean of the squared probabilities, too.
        backend: Inference backend, one of `geoseg.prediction.backend_names.NAMES`.
        threads: Number of threads that predict at the same time.

    Raises:
        ModelFileError: If weights do not belong to their architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Tensor],
        device: str = "auto",
        tta: str = "none",
        *,
        others: Sequence[tuple[ModelSpec, dict[str, Tensor]]] = (),
        squares: bool = False,
        backend: str = "torch",
        threads: int = 1,
    ) -> None:
        self.spec = spec
        self.tta, self.views = tta, TTA_VIEWS[tta]
        self.device = choose_device(device)
        self.networks = [
            Network(*model, self.device, backend, threads) for model in ((spec, weights), *others)
        ]
        self.margin = max(network.margin for network in self.networks)
        self.squares = squares

    @property
    def channels(self) -> int:
        """Number of returned channels: the outputs and, with `squares`, their squares."""
        return len(self.spec.outputs) * (2 if self.squares else 1)

    def __call__(self, data: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict a batch of arrays.

        Args:
            data: (N, C, H, W) in the units of the scene; tiles of the model's size may have
                `margin` context pixels on every side.
            valid: (N, H, W) bool.

        Returns:
            float32 (N, channels, H, W), without the margin.
        """
        prob: np.ndarray = self.predict(self.send(data), self.send(valid)).cpu().numpy()
        return prob

    def send(self, array: np.ndarray) -> Tensor:
        """Copy an array to the device, in its own data type where torch supports it."""
        if array.dtype != bool and array.dtype.name not in _DEVICE_DTYPES:
            array = array.astype(np.float32)
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            # Only pinned memory is copied while the GPU computes.
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def predict(self, data: Tensor, valid: Tensor) -> Tensor:
        """Predict a batch on the device; shapes as in `__call__`."""
        total: Tensor | None = None
        for network in self.networks:
            image = network.normalise(data, valid[:, None])
            margin = self.margin - network.margin
            if margin and data.shape[-1] > self.spec.size:
                image = image[:, :, margin:-margin, margin:-margin]
            for view in self.views:
                prob = _predict_view(network, image, *view)
                prob = torch.cat([prob, prob.square()], dim=1) if self.squares else prob
                total = prob if total is None else total.add_(prob)
        assert total is not None
        count = len(self.networks) * len(self.views)
        return total if count == 1 else total.div_(count)


def tile_error(error: Exception, device: torch.device) -> ModelFileError:
    """Return the error for a network that cannot compute a tile.

    Args:
        error: What the network raised.
        device: Device on which it computed.
    """
    reason = one_line(error) or type(error).__name__
    elsewhere = "" if device.type == "cpu" else ", or try --device cpu"
    return ModelFileError(
        f"the network of the model cannot compute a tile ({reason}); retrain it{elsewhere}"
    )


def _predict_view(network: Network, image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Predict turned or mirrored tiles, and turn the probabilities back."""
    view = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
    prob = torch.rot90(network.prob(view), -turns, (-2, -1))
    return prob.flip(-1) if mirrored else prob
