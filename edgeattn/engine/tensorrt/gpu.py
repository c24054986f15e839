"""Which GPU an engine is built on or meets."""

from __future__ import annotations

from dataclasses import dataclass

from edgeattn.engine.tensorrt.device import primary_context


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
