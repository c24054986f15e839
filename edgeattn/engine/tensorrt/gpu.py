"""Which GPU an engine is built on or meets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeattn.engine.host import read_text
from edgeattn.engine.tensorrt.device import primary_context
from edgeattn.engine.tensorrt.memory import read_memory
from edgeattn.targets import Gpu, find_gpu

_DEVICE_TREE = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class GpuIdentity:
    """What decides whether a plan or a timing of one GPU is good for another.

    Attributes:
        name: As the driver calls it: `Orin`, `NVIDIA H200`.
        architecture: SM number: 87 for compute capability 8.7.
        driver_cuda: CUDA that the driver supports, such as `12.6`.
    """

    name: str
    architecture: int
    driver_cuda: str


def identify_gpu(device: int = 0) -> GpuIdentity:
    """Ask the driver.

    Args:
        device: The GPU, as CUDA numbers them.

    Raises:
        EngineError: If there is no such GPU.
        MissingDependencyError: If pycuda cannot be imported.
    """
    with primary_context(device) as cuda:
        gpu = cuda.Device(device)
        major, minor = gpu.compute_capability()
        version = cuda.get_driver_version()  # 12060 for 12.6
        return GpuIdentity(
            gpu.name(), 10 * major + minor, f"{version // 1000}.{version % 1000 // 10}"
        )


def figures_of_gpu(device: int = 0) -> Gpu | None:
    """Find the figures of a GPU of this machine; `None` if none of it are known.

    Args:
        device: The GPU, as CUDA numbers them.

    Raises:
        EngineError: If there is no such GPU.
        MissingDependencyError: If pycuda cannot be imported.
    """
    identity = identify_gpu(device)
    memory = read_memory(device)
    total = memory.total_bytes if memory.is_shared else memory.gpu_total_bytes
    return find_gpu(identity.name, identity.architecture, read_text(_DEVICE_TREE) or "", total)
