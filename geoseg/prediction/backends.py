"""Inference backends: torch, torch.compile and OpenVINO."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import ConfigError
from geoseg.networks.device import computes_bf16

# Images (N, C, H, W) on the device → logits float32 (N, outputs, H', W').
Backend = Callable[[Tensor], Tensor]


def open_backend(name: str, module: nn.Module, device: torch.device, threads: int = 1) -> Backend:
    """Return a function that computes the logits of a module.

    Args:
        name: One of `geoseg.prediction.backend_names.NAMES`.
        module: Network in evaluation mode, on the device.
        device: Device of the module.
        threads: Number of threads that will call the function at the same time.
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
    """torch.compile, once for each image shape and by one thread at a time."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device)
        self._module = torch.compile(self._module, dynamic=False)
        self._lock, self._compiled = threading.Lock(), set[torch.Size]()

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape not in self._compiled:
            # The compiler is not safe for threads.
            with self._lock:
                self._compile(image)
                self._compiled.add(image.shape)
        return super().__call__(image)

    def _compile(self, image: Tensor) -> None:
        try:
            super().__call__(image)
        except RuntimeError as error:
            # A private module that imports the whole compiler, which is loaded here in any case.
            from torch._dynamo.exc import TorchDynamoException

            if not isinstance(error, TorchDynamoException):
                raise
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"predict.backend: torch cannot compile here ({reason}); install a C++ compiler "
                "such as g++, or leave out --backend compile"
            ) from error


class _OpenVINO:
    """OpenVINO, compiled once for each image shape.

    Each batch is computed on one thread, so the result does not depend on the number of threads.
    """

    def __init__(self, module: nn.Module, threads: int, *, bf16: bool) -> None:
        self._module = module
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads of several processes would share the same few cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._lock, self._local = threading.Lock(), threading.local()
        self._compiled: dict[torch.Size, Any] = {}

    def __call__(self, image: Tensor) -> Tensor:
        request = self._request(image.shape)
        outputs = request.infer([image.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0])

    def _request(self, shape: torch.Size) -> Any:
        """Return the inference request of this thread for an image shape."""
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
            # torch.export warns about its own internals.
            warnings.simplefilter("ignore")
            program = torch.export.export(self._module, (torch.zeros(shape),))
            model = openvino.convert_model(program)
        return openvino.Core().compile_model(model, "CPU", self._settings)
