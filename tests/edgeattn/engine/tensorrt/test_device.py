"""Buffers on a GPU, against a stand-in that checks each call: contexts, copies, what is freed."""

from __future__ import annotations

import sys
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest

from edgeattn.engine.tensorrt.device import (
    DeviceBuffers,
    DeviceMemory,
    forget_locals,
    is_integrated,
    primary_context,
)
from edgeattn.errors import EngineError, MissingDependencyError
from tests.pycuda_standin import Ledger


@pytest.fixture
def ledger(gpu: Ledger) -> Ledger:
    return gpu


def test_the_context_is_the_primary_one_retained_once_and_popped_again(ledger):
    for _ in range(3):
        with primary_context() as cuda:
            assert ledger.current == [0]
            assert cuda is sys.modules["pycuda.driver"]
        assert ledger.current == []
    assert ledger.retained == [0]


def test_the_context_is_popped_when_the_block_fails(ledger):
    with pytest.raises(ZeroDivisionError), primary_context():
        1 / 0  # noqa: B018
    assert ledger.current == []


def test_arrays_are_on_the_gpu_when_fill_returns(ledger):
    buffers = DeviceBuffers({"x": 24, "flags": 3})
    for factor in (1, 2):
        x = np.arange(6, dtype=np.float32).reshape(2, 3) * factor
        flags = np.array([True, False, factor == 1])
        buffers.fill({"flags": flags, "x": x})
        np.testing.assert_array_equal(ledger.read(buffers["x"], "float32", (2, 3)), x)
        np.testing.assert_array_equal(ledger.read(buffers["flags"], "bool", (3,)), flags)
    assert ledger.allocated == 2
    buffers.close()
    buffers.close()
    assert ledger.allocations == {}


def test_what_is_not_contiguous_is_copied_in_order(ledger):
    buffers = DeviceBuffers({"x": 24})
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    buffers.fill({"x": x})
    np.testing.assert_array_equal(ledger.read(buffers["x"], "float32", (3, 2)), x)
    buffers.close()


def test_bfloat16_which_pythons_buffers_do_not_know_is_copied_bit_for_bit(ledger):
    buffers = DeviceBuffers({"x": 6, "scalar": 2})
    x = np.array([1.5, -2, 3e38]).astype(ml_dtypes.bfloat16)
    buffers.fill({"x": x, "scalar": x[2].reshape(())})
    assert ledger.read(buffers["x"], "uint16", (3,)).tobytes() == x.tobytes()
    assert ledger.read(buffers["scalar"], "uint16", ()).tobytes() == x[2].tobytes()
    buffers.close()


def test_threads_share_one_context_object(ledger):
    """pycuda takes a second object of the primary context for another context."""
    started = threading.Barrier(8)

    def work() -> None:
        started.wait(30)
        with primary_context():
            assert ledger.current == [0]

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ledger.retained == [0]


def test_an_integrated_gpu_is_known(ledger):
    assert not is_integrated()
    ledger.integrated = True
    assert is_integrated()


def test_device_memory_grows_and_keeps_its_address_where_it_need_not(ledger):
    memory = DeviceMemory()
    with primary_context():
        address = memory.reserve("x", 100)
        assert memory.reserve("x", 40) == memory.reserve("x", 100) == memory["x"] == address
        assert address % 256 == 0
        memory.reserve("x", 1000)
        assert memory.reserve("empty", 0)
    assert sorted(kept.size for kept in ledger.allocations.values()) == [1, 1000]
    memory.close()
    memory.close()


def test_memory_that_grew_too_far_is_gone_and_can_be_had_anew(ledger):
    ledger.capacity = 100
    memory = DeviceMemory()
    with primary_context():
        memory.reserve("x", 80)
    with pytest.raises(EngineError, match="out of memory"), primary_context():
        memory.reserve("x", 120)
    assert ledger.allocations == {}
    with primary_context():
        assert memory.reserve("x", 60)
    memory.close()


def test_an_errors_traceback_holds_nothing_once_its_locals_are_forgotten():
    class Large:
        pass

    alive: list[weakref.ref[Large]] = []

    def fail(large: Large) -> None:
        alive.append(weakref.ref(large))
        raise KeyError

    def wrap() -> None:
        try:
            fail(Large())
        except KeyError as err:
            raise ValueError from err

    with pytest.raises(ValueError, match=r"^$") as error:
        wrap()
    assert alive[0]() is not None
    forget_locals(error.value)
    assert alive[0]() is None


def test_memory_that_does_not_suffice_is_an_error_and_leaves_nothing(ledger):
    ledger.capacity = 100
    with pytest.raises(
        EngineError, match=r"CUDA failed on GPU 0: MemoryError: .* out of memory"
    ) as error:
        DeviceBuffers({"x": 80, "y": 80})
    assert "fewer contexts" in error.value.hint
    assert ledger.allocations == {}


def test_a_failed_copy_and_a_gpu_that_is_not_there_are_errors(ledger):
    buffers = DeviceBuffers({"x": 8})
    ledger.broken = True
    with pytest.raises(EngineError, match="CUDA failed on GPU 0: LogicError: cuMemcpyHtoD failed"):
        buffers.fill({"x": np.zeros(2, np.float32)})
    buffers.close()
    assert ledger.allocations == {}
    with pytest.raises(EngineError, match=r"CUDA failed on GPU 7: .* invalid device ordinal"):
        DeviceBuffers({"x": 8}, device=7)


def test_pycuda_that_is_not_there_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingDependencyError, match="needs pycuda") as error:
        DeviceBuffers({"x": 8})
    assert error.value.hint == "pip install pycuda"


@pytest.mark.jetson
@pytest.mark.gpu
def test_a_jetsons_gpu_is_an_integrated_one():
    pytest.importorskip("pycuda.driver", reason="needs pycuda", exc_type=ImportError)
    assert is_integrated()


@pytest.mark.gpu
def test_a_real_gpu_holds_what_was_copied():
    cuda = pytest.importorskip("pycuda.driver", reason="needs pycuda", exc_type=ImportError)
    x = np.random.default_rng(0).standard_normal((3, 1 << 20)).astype(np.float32)
    buffers = DeviceBuffers({"x": x.nbytes})
    found = np.empty_like(x)
    for _ in range(3):
        x += 1
        buffers.fill({"x": x})
        with primary_context():
            cuda.memcpy_dtoh(found, buffers["x"])
        np.testing.assert_array_equal(found, x)
    buffers.close()
