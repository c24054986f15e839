"""The calls to CUDA's driver, against a driver on the host that checks its arguments.

It has memory and streams, and computes nothing: kernels come from the emulator, whose device
memory is the host's. That the calls mean the same on a GPU is for the tests marked `gpu`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from edgeattn.errors import PluginError
from edgeattn.graph.preflight import _SELF_TEST, make_trials
from edgeattn.plugin import driver as driver_module
from edgeattn.plugin.driver import Device, Driver, local_architectures, open_device, open_driver
from edgeattn.plugin.trial import run_trial
from tests.edgeattn.plugin.fakes import compile_library

HOST_DRIVER = """
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

static int status_of_init = 0, contexts = 0, streams = 0, capturing = 0, graphs = 0;
static std::map<uint64_t, size_t> memory;
static std::vector<std::function<void()>> copies;  // that the stream has not come to yet
static char stream, context, graph;
static void* current = nullptr;  // the thread's context

static bool inside(uint64_t address, size_t bytes) {
  auto found = memory.find(address);
  return found != memory.end() && bytes <= found->second;
}

extern "C" {
void set_status_of_init(int status) { status_of_init = status; }
int open_things() { return contexts + streams + graphs + static_cast<int>(memory.size()); }
int cuInit(unsigned flags) { return flags == 0 ? status_of_init : 1; }
int cuGetErrorString(int status, char const** text) {
  *text = status == 1 ? "invalid argument" : nullptr;
  return status == 1 ? 0 : 1;
}
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 10 + ordinal; return ordinal > 1; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (attribute != 75 && attribute != 76) return 1;
  *value = device == 10 ? (attribute == 75 ? 8 : 7) : (attribute == 75 ? 11 : 0);
  return 0;
}
int cuDevicePrimaryCtxRetain(void** it, int device) {
  *it = &context;
  ++contexts;
  return device != 10;
}
int cuCtxGetCurrent(void** it) { *it = current; return 0; }
int cuCtxSetCurrent(void* it) {
  current = it;
  return it != nullptr && it != &context;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  --contexts;
  return device != 10 || current != nullptr;
}
int cuStreamCreate(void** it, unsigned flags) { *it = &stream; ++streams; return flags != 1; }
int cuStreamDestroy_v2(void* it) { --streams; return it != &stream; }
int cuStreamSynchronize(void* it) {
  for (auto const& copy : copies) copy();
  copies.clear();
  return it != &stream || capturing;
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (bytes == 0 || bytes >> 40) return 1;
  void* found = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *address = reinterpret_cast<uint64_t>(found);
  memory[*address] = bytes;
  return 0;
}
int cuMemFree_v2(uint64_t address) {
  if (memory.erase(address) == 0) return 1;
  std::free(reinterpret_cast<void*>(address));
  return 0;
}
// The bytes arrive when the stream is waited for, and only in the stream's own order.
int cuMemcpyHtoDAsync_v2(uint64_t to, void const* from, size_t bytes, void* on) {
  if (on != &stream || !inside(to, bytes)) return 1;
  copies.push_back([=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
  return 0;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
  if (!inside(from, bytes)) return 1;
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return 0;
}
int cuStreamBeginCapture_v2(void* it, int mode) {
  capturing = 1;
  return it != &stream || mode != 1;
}
int cuStreamEndCapture(void* it, void** made) {
  *made = &graph;
  ++graphs;
  return it != &stream || !capturing--;
}
int cuGraphInstantiateWithFlags(void** made, void* from, unsigned long long flags) {
  *made = &graph;
  ++graphs;
  return from != &graph || flags != 0;
}
int cuGraphLaunch(void* it, void* on) { return it != &graph || on != &stream; }
int cuGraphExecDestroy(void* it) { --graphs; return it != &graph; }
int cuGraphDestroy(void* it) { --graphs; return it != &graph; }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    return ctypes.CDLL(str(compile_library(path, HOST_DRIVER)))


@pytest.fixture
def device(library: ctypes.CDLL) -> Iterator[Device]:
    device = Device(Driver(library))
    yield device
    device.close()
    assert library.open_things() == 0


@pytest.fixture
def here(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Make the host's driver the one of this machine."""
    library.set_status_of_init(0)
    monkeypatch.setattr(driver_module.ctypes, "CDLL", lambda name: library)
    return library


def test_arrays_go_there_and_back(device: Device) -> None:
    for array in (
        np.arange(35, dtype=np.float32).reshape(5, 7),
        np.arange(12, dtype=np.int8)[::2],  # not contiguous
        np.zeros((0, 3), np.float16),
    ):
        address = device.upload(array)
        back = np.full(array.shape, 99, array.dtype)
        device.download(address, back)
        np.testing.assert_array_equal(back, array)
        device.fill(address, array + 1)
        device.download(address, back)
        np.testing.assert_array_equal(back, array + 1)


def test_an_error_of_the_driver_is_told(device: Device, library: ctypes.CDLL) -> None:
    with pytest.raises(
        PluginError, match="cuMemcpyHtoDAsync_v2 failed: CUDA error 1, invalid argument"
    ):
        device.fill(12345, np.ones(3))
    driver = Driver(library)
    library.set_status_of_init(7)
    with pytest.raises(PluginError, match="cuInit failed: CUDA error 7, unknown error"):
        driver.call("cuInit", 0)
    library.set_status_of_init(0)


def test_what_is_enqueued_is_captured_and_launched(device: Device) -> None:
    called = []
    device.run_captured(lambda: called.append(device.stream))
    assert called == [device.stream]
    assert device.stream != 0


def test_an_error_while_capturing_is_the_one_that_is_told(
    device: Device, library: ctypes.CDLL
) -> None:
    def fail() -> None:
        raise PluginError("the kernel refuses")

    with pytest.raises(PluginError, match="the kernel refuses"):
        device.run_captured(fail)
    Driver(library).call("cuGraphDestroy", ctypes.c_void_p(_graph(library)))
    with pytest.raises(PluginError, match="cuStreamSynchronize failed"):
        device.run_captured(lambda: Driver(library).call("cuStreamSynchronize", device._stream))
    Driver(library).call("cuGraphDestroy", ctypes.c_void_p(_graph(library)))


def _graph(library: ctypes.CDLL) -> int:
    """The address of the host driver's one graph."""
    graph = ctypes.c_void_p()
    stream = ctypes.c_void_p()
    library.cuStreamCreate(ctypes.byref(stream), 1)
    library.cuStreamBeginCapture_v2(stream, 1)
    library.cuStreamEndCapture(stream, ctypes.byref(graph))
    library.cuGraphDestroy(graph)
    library.cuStreamDestroy_v2(stream)
    return graph.value or 0


def test_the_gpus_of_the_machine_are_listed(here: ctypes.CDLL) -> None:
    assert local_architectures() == (87, 110)
    with open_device() as device:
        assert device is not None
    assert here.open_things() == 0


@pytest.mark.parametrize("status", [100, 34])
def test_a_driver_without_a_gpu_is_no_error(here: ctypes.CDLL, status: int) -> None:
    here.set_status_of_init(status)
    assert open_driver() is None
    assert local_architectures() == ()
    with open_device() as device:
        assert device is None


def test_a_driver_that_does_not_start_is_an_error(here: ctypes.CDLL) -> None:
    here.set_status_of_init(803)
    with pytest.raises(PluginError, match="the NVIDIA driver does not start: CUDA error 803"):
        local_architectures()


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(driver_module.ctypes, "CDLL", missing)
    assert local_architectures() == ()


def test_a_trial_runs_every_variant_plainly_and_captured(device: Device) -> None:
    from edgeattn.plugin.emulator import build_emulator
    from edgeattn.plugin.kernels import Emulator

    emulator = Emulator(build_emulator())
    for trial in make_trials(_SELF_TEST):
        outcomes = run_trial(emulator, trial, device)
        assert outcomes
        assert all(outcome.captured is True for outcome in outcomes)
        assert all(outcome.passed for outcome in outcomes), trial.name


@pytest.mark.gpu
def test_the_gpu_takes_the_same_calls() -> None:
    assert local_architectures()
    with open_device() as device:
        assert device is not None
        array = np.arange(1000, dtype=np.float32)
        address, back = device.upload(array), np.empty_like(array)
        device.run_captured(lambda: None)
        device.download(address, back)
        np.testing.assert_array_equal(back, array)
