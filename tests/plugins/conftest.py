"""The kernels under test: emulated on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import pytest

from edgeattn.plugin.kernels import Emulator, KernelLibrary
from tests.plugins.kernel_device import CudaDevice, Device, EmulatedDevice
from tests.plugins.plugin_builds import build_host, newest_headers
from tests.plugins.plugin_host import Host


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """Load the emulated kernels; built by the first process that asks."""
    from edgeattn.plugin.emulator import build_emulator

    return Emulator(build_emulator())


@pytest.fixture(
    scope="session",
    params=["emulator", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> Device:
    """Give what runs the kernels: every test of theirs is the same on both."""
    if request.param == "emulator":
        return EmulatedDevice(request.getfixturevalue("emulator"))
    from edgeattn.plugin.build import find_kernel_library

    library = find_kernel_library()
    if library is None:
        pytest.skip("the kernel library is not built: edgeattn plugin build")
    return CudaDevice(KernelLibrary(library))


@pytest.fixture(scope="session")
def plugin(emulator: Emulator) -> Host:
    """Compile the TensorRT plugin on emulated kernels, with its driver."""
    return build_host(newest_headers(), emulator.path)
