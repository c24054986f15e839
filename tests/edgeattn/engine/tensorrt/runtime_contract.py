"""What the runtime hands to TensorRT, behind NVIDIA's own bindings, called the way TensorRT calls.

`test_contract.py` runs these tests where `import tensorrt` gives the bindings of each version. No
result of TensorRT's is made up: sizes, shapes and times are numbers that have to come through.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorrt as trt

from edgeattn.artifacts import Manifest
from edgeattn.engine.tensorrt import device
from edgeattn.engine.tensorrt.io_tensors import _numpy_types
from edgeattn.engine.tensorrt.layer_times import LayerReport, make_profiler
from edgeattn.engine.tensorrt.output_allocator import OutputSink, make_output_allocator
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.errors import EngineError
from tests import pycuda_standin
from tests.pycuda_standin import Ledger
from tests.tensorrt_virtual import VERSIONED, Virtual

# IOutputAllocator (NvInferRuntime.h): reallocateOutput, which is deprecated, and these two.
REALLOCATE_OUTPUT_ASYNC, NOTIFY_SHAPE = VERSIONED + 1, VERSIONED + 2
# IProfiler derives from IVersionedInterface from 11.0 on.
REPORT_LAYER_TIME = 0 if int(trt.__version__.partition(".")[0]) < 11 else VERSIONED


class Dims(ctypes.Structure):
    """nvinfer1::Dims64."""

    _fields_ = (("count", ctypes.c_int32), ("sizes", ctypes.c_int64 * 8))


def ask(allocator: Virtual, name: bytes, size: int) -> int | None:
    """Ask for memory of an output, as TensorRT does in the midst of an enqueue."""
    return allocator.call(
        REALLOCATE_OUTPUT_ASYNC,
        ctypes.c_void_p,
        ctypes.c_char_p(name),
        ctypes.c_void_p(0x100),
        ctypes.c_uint64(size),
        ctypes.c_uint64(256),
        ctypes.c_void_p(0x5000),
    )


def test_tensorrts_requests_for_memory_reach_the_sink():
    asked = []

    def reserve(name: str, size: int) -> int:
        asked.append((name, size))
        return 0x7F0000000000

    sink = OutputSink()
    allocator = Virtual(make_output_allocator(sink))
    sink.begin(reserve)
    assert ask(allocator, b"found", 5 << 32) == 0x7F0000000000
    assert asked == [("found", 5 << 32)]
    sink.raise_kept()


def test_tensorrts_shapes_reach_the_sink():
    sink = OutputSink()
    allocator = Virtual(make_output_allocator(sink))
    for sizes in ((3, 1 << 40), (), (0, 4)):
        dims = Dims(len(sizes), (ctypes.c_int64 * 8)(*sizes))
        address = ctypes.c_void_p(ctypes.addressof(dims))
        allocator.call(NOTIFY_SHAPE, None, ctypes.c_char_p(b"found"), address)
        assert sink.shapes == {"found": sizes}
        assert all(type(size) is int for size in sink.shapes["found"])


def test_memory_that_is_not_there_is_none_to_tensorrt_and_an_error_to_us(capfd):
    def reserve(name: str, size: int) -> int:
        raise EngineError("out of memory")

    sink = OutputSink()
    allocator = Virtual(make_output_allocator(sink))
    sink.begin(reserve)
    assert ask(allocator, b"found", 16) is None
    with pytest.raises(EngineError, match="out of memory"):
        sink.raise_kept()
    assert "[ERROR]" not in capfd.readouterr().err  # by the bindings


def test_a_profiler_passes_on_what_tensorrt_reports():
    report = LayerReport()
    profiler = Virtual(make_profiler(report))
    for run in (1, 2):
        report.begin_run()
        for name, milliseconds in ((b"patch", 0.5), (b"loop", 0.25), (b"loop", run)):
            profiler.call(
                REPORT_LAYER_TIME, None, ctypes.c_char_p(name), ctypes.c_float(milliseconds)
            )
    assert [(layer.name, layer.times_ms) for layer in report.layers()] == [
        ("patch", (0.5, 0.5)),
        ("loop", (1.25, 2.25)),
    ]


def test_types_are_those_that_tensorrt_gives_numpy_and_bfloat16_besides():
    own = dict(_numpy_types())
    assert own.pop(trt.DataType.BF16).name == "bfloat16"
    theirs = {}
    for kind in trt.DataType.__members__.values():
        try:
            theirs[kind] = np.dtype(trt.nptype(kind))
        except TypeError:  # it has none of numpy's
            continue
    assert own == theirs
    assert all(dtype.itemsize == kind.itemsize for kind, dtype in own.items())


def test_a_tensorrt_that_does_not_start_is_an_error_that_says_so(tmp_path, monkeypatch):
    """Without TensorRT the bindings get no runtime, as with it on a machine without a GPU."""
    ledger = Ledger()
    device._retained.cache_clear()
    for name, module in pycuda_standin.install(ledger).items():
        monkeypatch.setitem(sys.modules, name, module)
    plan = Path(tmp_path / "net.engine")
    plan.write_bytes(b"a plan")
    with pytest.raises(EngineError) as error:
        TensorRtEngine(plan, Manifest("engine"))
    assert "nullptr" in str(error.value.__cause__)
    assert error.value.hint
    assert ledger.is_empty
    device._retained.cache_clear()
