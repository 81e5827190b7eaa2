"""What computes a network's logits: torch as it is, torch's compiler, or OpenVINO."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from geoseg.errors import ConfigError
from geoseg.networks.device import computes_bf16

# Images (N, C, H, W) on the device → logits float32 (N, outputs, H', W').
Backend = Callable[[Tensor], Tensor]

NAMES = ("torch", "compile", "openvino")


def check_backend(name: str, device: str) -> None:
    """Refuses a backend that cannot compute here.

    Args:
        name: One of `NAMES`.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        ConfigError: If OpenVINO is not installed, or a GPU is asked of it.
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


def open_backend(name: str, module: nn.Module, device: torch.device, threads: int = 1) -> Backend:
    """What computes the logits of a module.

    Args:
        name: One of `NAMES`.
        module: In evaluation mode, on the device.
        device: Where it computes.
        threads: How many batches are given at a time, each from a thread of its own.
    """
    if name == "openvino":
        return _OpenVINO(module, threads, bf16=computes_bf16(device))
    if name == "compile":
        return _Compiled(module, device)
    return _Torch(module, device)


class _Torch:
    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module: Callable[[Tensor], Tensor] = module.to(memory_format=torch.channels_last)
        self._kind, self._bf16 = device.type, computes_bf16(device)

    def __call__(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._kind, torch.bfloat16, enabled=self._bf16):
            return self._module(image).float()


class _Compiled(_Torch):
    """Compiled for each shape of images when that is first seen, by one thread at a time."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device)
        self._module = torch.compile(self._module, dynamic=False)
        self._lock, self._seen = threading.Lock(), set[torch.Size]()

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape not in self._seen:
            with self._lock:
                self._compile(image)
                self._seen.add(image.shape)
        return super().__call__(image)

    def _compile(self, image: Tensor) -> None:
        try:
            super().__call__(image)
        except TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"predict.backend: torch cannot compile here ({reason}); install a C++ compiler "
                "such as g++, or leave out --backend compile"
            ) from error


class _OpenVINO:
    """As `_Compiled`; each batch is computed on one thread, so the result is always the same."""

    def __init__(self, module: nn.Module, threads: int, *, bf16: bool) -> None:
        self._module = module
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # several processes would crowd on the same cores
        }
        self._lock, self._local = threading.Lock(), threading.local()
        self._compiled: dict[torch.Size, Any] = {}

    def __call__(self, image: Tensor) -> Tensor:
        found = self._request(image.shape).infer([image.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(found[0])

    def _request(self, shape: torch.Size) -> Any:
        """A thread's own, for images of a shape."""
        requests: dict[Any, Any] = self._local.__dict__
        if shape not in requests:
            with self._lock:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(shape)
            requests[shape] = self._compiled[shape].create_infer_request()
        return requests[shape]

    def _compile(self, shape: torch.Size) -> Any:
        import openvino

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what the exporter says of itself
            program = torch.export.export(self._module, (torch.zeros(shape),))
            model = openvino.convert_model(program)
        return openvino.Core().compile_model(model, "CPU", self._settings)
