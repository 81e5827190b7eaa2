"""Networks with all that their model files say, ready for tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.networks.device import choose_device
from geoseg.networks.model_file import ModelSpec
from geoseg.networks.models import load_network
from geoseg.networks.models.unet import UNet
from geoseg.prediction.backends import open_backend
from geoseg.training.dataset import normalise

# (quarter turns, mirrored) of each view of a tile. Two turns and a mirror make the other flip.
TTA_VIEWS = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}

# What torch computes with; others are converted before they travel to the device.
_TRAVELLING = ("uint8", "int8", "int16", "uint16", "int32", "float32")


class Network:
    """One network, its weights and its normalisation on a device.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: Where it computes.
        backend: What computes it, of `geoseg.prediction.backends.NAMES`.
        threads: How many batches it is given at a time.

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
        # Surroundings of a tile that the network wants to see, where they are known.
        self.margin = network.margin(spec.size) if isinstance(network, UNet) else 0
        logits = _WithoutMargin(network, spec.size) if isinstance(network, UNet) else network
        self.logits = open_backend(backend, logits, device, threads)
        self._mean = torch.tensor(spec.mean, device=device)
        self._std = torch.tensor(spec.std, device=device)

    def normalise(self, image: Tensor, valid: Tensor) -> Tensor:
        """(N, C, H, W) in the scene's units as the network wants it."""
        return normalise(image, valid, self._mean, self._std)

    def prob(self, image: Tensor) -> Tensor:
        """Probabilities float32 (N, outputs, H, W) of normalised tiles, without their margin."""
        scores = self.logits(image)
        return scores.softmax(dim=1) if self.spec.exclusive else scores.sigmoid_()


class _WithoutMargin(nn.Module):
    """A U-Net's logits of tiles, which may show its margin more on every side."""

    def __init__(self, network: UNet, size: int) -> None:
        super().__init__()
        self.network, self._size, self._margin = network, size, network.margin(size)

    def forward(self, image: Tensor) -> Tensor:
        if self._margin and image.shape[-1] == self._size + 2 * self._margin:
            return self.network.valid_logits(image, (self._size, self._size))
        logits: Tensor = self.network(image)
        return logits


class Predictor:
    """What tiles show, as the mean over networks and views of a tile.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        tta: `none`, `flips` or `d4`: the views of each tile that are averaged.
        others: Header and weights of further models, whose probabilities are averaged, too.
        spread: Whether the mean of the probabilities' squares is wanted besides.
        backend: What computes the networks, of `geoseg.prediction.backends.NAMES`.
        threads: How many batches it is given at a time, each from a thread of its own.

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
        spread: bool = False,
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
        self.spread = spread

    @property
    def channels(self) -> int:
        """Of what `predict` returns: the outputs, and their squares if the spread is wanted."""
        return len(self.spec.outputs) * (2 if self.spread else 1)

    def __call__(self, data: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probabilities of a batch in memory.

        Args:
            data: (N, C, H, W) in the scene's units; tiles of the model's size may show
                `margin` pixels more on every side.
            valid: (N, H, W) bool.

        Returns:
            float32 (N, channels, H, W), without the margin.
        """
        found: np.ndarray = self.predict(self.send(data), self.send(valid)).cpu().numpy()
        return found

    def send(self, array: np.ndarray) -> Tensor:
        """Brings an array to the device, in its own data type where torch has that."""
        if array.dtype != bool and array.dtype.name not in _TRAVELLING:
            array = array.astype(np.float32)
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def predict(self, data: Tensor, valid: Tensor) -> Tensor:
        """As a call, on the device."""
        total: Tensor | None = None
        for network in self.networks:
            image = network.normalise(data, valid[:, None])
            margin = self.margin - network.margin
            if margin and data.shape[-1] > self.spec.size:
                image = image[:, :, margin:-margin, margin:-margin]
            for view in self.views:
                prob = _prob_of_view(network, image, *view)
                prob = torch.cat([prob, prob.square()], dim=1) if self.spread else prob
                total = prob if total is None else total.add_(prob)
        assert total is not None
        count = len(self.networks) * len(self.views)
        return total if count == 1 else total.div_(count)


def _prob_of_view(network: Network, image: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Probabilities of the tiles seen turned and mirrored, turned back."""
    seen = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
    prob = torch.rot90(network.prob(seen), -turns, (-2, -1))
    return prob.flip(-1) if mirrored else prob
