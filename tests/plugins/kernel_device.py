"""Where the kernels run: the CPU emulator, or a GPU, through the same C interface.

Every tensor lies between guards, the output is poisoned beforehand, and neither guards nor inputs
may change.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from edgeattn.errors import PluginError
from edgeattn.plugin.kernels import Emulator, KernelLibrary, aligned_empty
from edgeattn.spec import AttentionSpec

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
}

GUARD_BYTES = 256
POISON = 0xFF  # not a number in every floating point type, -1 in INT8


class Device:
    """A kernel library and the memory it works on.

    Args:
        library: What is judged.
    """

    def __init__(self, library: KernelLibrary) -> None:
        self.library = library

    def run(
        self,
        spec: AttentionSpec,
        tensors: dict[str, np.ndarray],
        out_type: str,
        variant: int = 0,
        seed: int = 0,
    ) -> np.ndarray:
        """Compute one case; fail if anything but the output was written.

        Args:
            spec: What to compute.
            tensors: The inputs by name.
            out_type: Type of the output.
            variant: Kernel variant, 0 for the library's choice.
            seed: Order in which the emulator runs threads and CTAs.

        Returns:
            `[B, H, W, C]` of `out_type`; what the kernel did not write is NaN, or -1 in INT8.
        """
        shape = tensors["qkv"].shape[:3]
        out_shape, out_dtype = (*shape, spec.out_channels), DTYPES[out_type]
        guarded = {name: _guarded(_bytes_of(tensor)) for name, tensor in tensors.items()}
        out_bytes = int(np.prod(out_shape)) * out_dtype.itemsize
        guarded["out"] = _guarded(np.full(out_bytes, POISON, np.uint8))
        memories = {name: self._upload(content) for name, content in guarded.items()}
        self._launch(
            seed,
            spec,
            **{name: self._address(memory) + GUARD_BYTES for name, memory in memories.items()},
            shape=shape,
            in_type=tensors["qkv"].dtype.name,
            out_type=out_type,
            variant=variant,
        )
        after = {name: self._download(memory) for name, memory in memories.items()}
        out = after["out"][GUARD_BYTES : GUARD_BYTES + out_bytes].copy()
        after["out"][GUARD_BYTES : GUARD_BYTES + out_bytes] = POISON
        changed = [name for name in after if not np.array_equal(after[name], guarded[name])]
        assert not changed, f"the kernel wrote into or next to {changed}"
        return out.view(out_dtype).reshape(out_shape)

    def _launch(self, seed: int, spec: AttentionSpec, **arguments: Any) -> None:
        raise NotImplementedError

    def _upload(self, content: np.ndarray) -> Any:
        raise NotImplementedError

    def _address(self, memory: Any) -> int:
        raise NotImplementedError

    def _download(self, memory: Any) -> np.ndarray:
        raise NotImplementedError


class EmulatedDevice(Device):
    """The CPU; any broken rule of the hardware fails the test with the emulator's words."""

    library: Emulator

    def _launch(self, seed: int, spec: AttentionSpec, **arguments: Any) -> None:
        self.library.set_seed(seed)
        self.library.take_report()
        try:
            self.library.launch(spec, **arguments)
        except PluginError as err:
            count, text = self.library.take_report()
            if not count:
                raise
            raise AssertionError(f"{count} violations, seed {seed}: {text}") from err
        count, text = self.library.take_report()
        assert count == 0, f"{count} violations, seed {seed}: {text}"

    def _upload(self, content: np.ndarray) -> np.ndarray:
        memory = aligned_empty(content.shape, content.dtype)
        memory[...] = content
        return memory

    def _address(self, memory: np.ndarray) -> int:
        return memory.ctypes.data

    def _download(self, memory: np.ndarray) -> np.ndarray:
        return memory


class CudaDevice(Device):
    """The GPU, with memory from PyTorch."""

    def _launch(self, seed: int, spec: AttentionSpec, **arguments: Any) -> None:
        stream = torch.cuda.current_stream()
        self.library.launch(spec, **arguments, stream=stream.cuda_stream)
        stream.synchronize()

    def _upload(self, content: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(content).to("cuda")

    def _address(self, memory: torch.Tensor) -> int:
        return memory.data_ptr()

    def _download(self, memory: torch.Tensor) -> np.ndarray:
        return memory.cpu().numpy()


def _bytes_of(tensor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def _guarded(content: np.ndarray) -> np.ndarray:
    guard = np.full(GUARD_BYTES, POISON, np.uint8)
    return np.concatenate([guard, content, guard])
