"""What the engine makes of pycuda and cuda-python: the same on their stand-ins and on a real GPU.

So the stand-ins are held to what a GPU does, and what a GPU would do is tried where there is none.
Work on the GPU is filling and copying memory; a last test launches our own attention kernels.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.tensorrt.buffers import PageLockedMemory
from edgeattn.engine.tensorrt.cuda_graph import CudaGraph, GraphError
from edgeattn.engine.tensorrt.device import DeviceMemory, primary_context
from edgeattn.engine.tensorrt.event_clock import EventClock
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.errors import EngineError
from tests import tensorrt_runtime_double
from tests.tensorrt_runtime_double import DataType, IExecutionContext, Script, Tensor

MIB = 1 << 20
NON_BLOCKING = 1


class Bench:
    """pycuda and cuda-python with a stream, in a context that is current."""

    def __init__(self, cuda: Any, runtime: Any, *, is_real: bool) -> None:
        self.cuda, self.runtime, self.is_real = cuda, runtime, is_real
        self.stream: Any = cuda.Stream(NON_BLOCKING)
        self.handle: int = self.stream.handle

    def fill(self, address: int, value: int, size: int) -> bool:
        """Enqueue that memory of the GPU is filled; false if that is refused."""
        (status,) = self.runtime.cudaMemsetAsync(address, value, size, self.handle)
        return status == self.runtime.cudaError_t.cudaSuccess

    def read(self, address: int, size: int) -> np.ndarray:
        """Copy memory of the GPU, once the stream is idle."""
        self.stream.synchronize()
        content = np.empty(size, np.uint8)
        self.cuda.memcpy_dtoh(content, address)
        return content


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    is_real = request.param == "gpu"
    if is_real:
        reason = "needs pycuda and cuda-python"
        cuda = pytest.importorskip("pycuda.driver", reason=reason, exc_type=ImportError)
        name = "cuda.bindings.runtime"
        runtime = pytest.importorskip(name, reason=reason, exc_type=ImportError)
    else:
        request.getfixturevalue("gpu")
        cuda = importlib.import_module("pycuda.driver")
        runtime = importlib.import_module("cuda.bindings.runtime")
    with primary_context():
        bench = Bench(cuda, runtime, is_real=is_real)
        yield bench
        bench.stream.synchronize()
        del bench.stream


def test_page_locked_memory_is_copied_there_and_back(bench):
    host, memory = PageLockedMemory(), DeviceMemory()
    sent = np.random.default_rng(0).integers(0, 256, 3 * MIB + 5, np.uint8)
    host.content("sent", sent.size)[:] = sent
    host.content("found", sent.size)[:] = 0
    address = memory.reserve("x", sent.size)
    assert address % 256 == 0
    bench.cuda.memcpy_htod_async(address, host.content("sent", sent.size), bench.stream)
    bench.cuda.memcpy_dtoh_async(host.content("found", sent.size), address, bench.stream)
    bench.stream.synchronize()
    np.testing.assert_array_equal(host.content("found", sent.size), sent)
    host.close()
    memory.close()


def test_mapped_memory_is_the_same_for_the_gpu_and_the_processor(bench):
    host = PageLockedMemory(mapped=True)
    address = host.reserve("x", MIB)
    assert address % 256 == 0
    content = host.content("x", MIB)
    content[:] = 1
    assert bench.fill(address + 16 if bench.is_real else address, 7, MIB - 16)
    bench.stream.synchronize()
    assert np.unique(content, return_counts=True)[1].tolist() == [16, MIB - 16]
    host.close()


def test_memory_of_one_thread_is_freed_on_another(bench):
    memory, host = DeviceMemory(), PageLockedMemory()
    address = memory.reserve("x", 8 * MIB)
    host.content("x", MIB)
    assert bench.cuda.mem_get_address_range(address)[1] >= 8 * MIB

    def close() -> None:
        memory.close()
        host.close()

    run_on_a_thread(close)
    with pytest.raises(bench.cuda.Error):
        bench.cuda.mem_get_address_range(address)


def run_on_a_thread(work: Callable[[], Any]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as err:
            failures.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert failures == []


def test_more_memory_than_there_is_is_an_error(bench):
    memory = DeviceMemory()
    with pytest.raises(EngineError, match="out of memory"), primary_context():
        memory.reserve("x", 1 << 50)
    memory.close()


def test_times_of_events_lie_where_the_processor_saw_the_query(bench):
    host, memory = PageLockedMemory(), DeviceMemory()
    size = 64 * MIB if bench.is_real else MIB
    address, content = memory.reserve("x", size), host.content("x", size)
    clock = EventClock(bench.cuda, bench.stream)
    for _ in range(3):
        before = time.perf_counter_ns()
        clock.begin()
        bench.cuda.memcpy_htod_async(address, content, bench.stream)
        clock.mark()
        enqueue_ns = time.perf_counter_ns()
        bench.fill(address, 3, size)
        clock.note_enqueue(enqueue_ns, time.perf_counter_ns())
        clock.mark()
        bench.cuda.memcpy_dtoh_async(content, address, bench.stream)
        clock.mark()
        bench.stream.synchronize()
        after = time.perf_counter_ns()
        times = clock.times()
        assert before <= times.start_h2d_ns < times.end_h2d_ns == times.start_compute_ns
        assert (
            times.start_compute_ns < times.end_compute_ns == times.start_d2h_ns < times.end_d2h_ns
        )
        assert before <= times.start_enqueue_ns <= times.end_enqueue_ns <= after
        if bench.is_real:  # the stand-in's clock runs by itself
            assert times.end_d2h_ns <= after
            # 64 MiB through a bus of at most 128 GB/s, and through HBM of at most 8 TB/s
            assert times.end_h2d_ns - times.start_h2d_ns > 500_000
            assert times.end_compute_ns - times.start_compute_ns > 8_000
    del clock
    host.close()
    memory.close()


def test_a_graph_does_at_each_launch_what_was_recorded(bench):
    memory = DeviceMemory()
    address = memory.reserve("x", MIB)
    assert bench.fill(address, 1, MIB)
    graph = CudaGraph(bench.runtime, bench.handle, lambda: bench.fill(address, 9, MIB // 2))
    assert set(bench.read(address, MIB)) == {1}  # recording is not running
    graph.launch(bench.handle)
    assert np.unique(bench.read(address, MIB)).tolist() == [1, 9]
    bench.fill(address, 1, MIB)
    graph.launch(bench.handle)
    graph.launch(bench.handle)
    assert bench.read(address, MIB).tobytes() == b"\x09" * (MIB // 2) + b"\x01" * (MIB // 2)
    graph.close()
    graph.close()
    memory.close()


def test_another_thread_may_allocate_while_this_one_records(bench):
    memory, other = DeviceMemory(), DeviceMemory()
    address = memory.reserve("x", 1024)

    def allocate() -> None:
        with primary_context():
            other.reserve("y", 4 * MIB)
        other.close()

    def enqueue() -> bool:
        run_on_a_thread(allocate)
        return bench.fill(address, 5, 1024)

    graph = CudaGraph(bench.runtime, bench.handle, enqueue)
    graph.launch(bench.handle)
    assert set(bench.read(address, 1024)) == {5}
    graph.close()
    memory.close()


def test_what_cannot_be_recorded_is_an_error_and_the_stream_goes_on(bench):
    memory = DeviceMemory()
    address = memory.reserve("x", 1024)

    def wait() -> bool:
        bench.stream.synchronize()
        return True

    def wait_and_hide_it() -> bool:
        with pytest.raises(bench.cuda.Error):
            bench.stream.synchronize()
        return True

    for attempt in range(2):
        with pytest.raises(bench.cuda.Error):
            CudaGraph(bench.runtime, bench.handle, wait)
        with pytest.raises(GraphError, match="cudaStreamEndCapture failed: cudaErrorStreamCapture"):
            CudaGraph(bench.runtime, bench.handle, wait_and_hide_it)
        with pytest.raises(GraphError, match="operations that cannot be captured"):
            CudaGraph(bench.runtime, bench.handle, lambda: False)
        value = 20 + attempt
        graph = CudaGraph(
            bench.runtime, bench.handle, lambda value=value: bench.fill(address, value, 1024)
        )
        graph.launch(bench.handle)
        assert set(bench.read(address, 1024)) == {value}
        graph.close()
    memory.close()


# The engine, with a context that copies its input to its output in place of TensorRT's


class AnyStream:
    def __contains__(self, handle: int) -> bool:
        return bool(handle)


class RealGpu:
    """What the double asks of the stand-in's ledger, of a GPU whose streams and memory are real."""

    current = (0,)
    streams = AnyStream()


@pytest.fixture
def engine_of(bench, tmp_path, monkeypatch, request) -> Callable[..., TensorRtEngine]:
    """Open engines whose queries copy x to y on the GPU."""

    class Copying(IExecutionContext):
        def _execute(self, handle: int) -> bool:
            kind = bench.runtime.cudaMemcpyKind.cudaMemcpyDefault
            (status,) = bench.runtime.cudaMemcpyAsync(
                self._addresses["y"], self._addresses["x"], self._size(tensors[0]), kind, handle
            )
            return status == bench.runtime.cudaError_t.cudaSuccess

    largest = 1 << 16
    tensors = (
        Tensor("x", DataType.HALF, (-1, 3, 32), (((1, 3, 32), (largest, 3, 32)),)),
        Tensor("y", DataType.HALF, (-1, 3, 32), is_input=False),
    )
    ledger: Any = RealGpu() if bench.is_real else request.getfixturevalue("gpu")
    script = Script(ledger, tensors, lambda known: {"y": np.empty(known["x"], np.float16)})
    monkeypatch.setattr(tensorrt_runtime_double, "IExecutionContext", Copying)
    monkeypatch.setitem(
        importlib.import_module("sys").modules, "tensorrt", tensorrt_runtime_double.install(script)
    )
    plan = tmp_path / "net.engine"
    plan.write_bytes(b"a plan of the double's")

    def open_engine(**options: Any) -> TensorRtEngine:
        return TensorRtEngine(plan, Manifest("engine"), **options)

    return open_engine


def x_of(batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32)).astype(np.float16)


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_queries_of_changing_shapes_come_back_bit_for_bit(zero_copy, cuda_graph, engine_of):
    with engine_of(zero_copy=zero_copy, cuda_graph=cuda_graph) as engine:
        for seed, batch in enumerate((4, 4, 4, 1, 9, 9, 4, 300, 300, 300)):
            x = x_of(batch, seed)
            assert engine.run({"x": x})["y"].tobytes() == x.tobytes()
        assert engine.settings["cuda_graph"] is cuda_graph, engine.settings
        assert engine.settings["zero_copy"] is zero_copy


def test_bound_queries_keep_their_inputs_and_tell_plausible_times(engine_of, bench):
    batch = 1 << 14 if bench.is_real else 8
    with engine_of() as engine:
        queries = [engine.bind({"x": x_of(batch, seed)}) for seed in range(2)]
        for _ in range(3):
            for seed, query in enumerate(queries):
                times = query.timed()
                assert times.start_h2d_ns < times.end_h2d_ns < times.end_compute_ns
                assert times.end_compute_ns < times.end_d2h_ns
                assert query.outputs()["y"].tobytes() == x_of(batch, seed).tobytes()
        assert engine.settings["cuda_graph"] is True, engine.settings


def test_callers_of_several_threads_get_their_own_outputs(engine_of):
    with engine_of(contexts=2) as engine:

        def call(seed: int) -> None:
            for step in range(6):
                x = x_of(1 + (seed + step) % 3, seed)
                assert engine.run({"x": x})["y"].tobytes() == x.tobytes()

        failures: list[BaseException] = []

        def run(seed: int) -> None:
            try:
                call(seed)
            except BaseException as err:
                failures.append(err)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []


# Beside PyTorch, and with our own kernels


@pytest.fixture
def torch(bench) -> Any:
    if not bench.is_real:
        pytest.skip("PyTorch computes on real GPUs only")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch


def current_context() -> int:
    context = ctypes.c_void_p()
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value or 0


@pytest.mark.gpu
def test_pytorch_and_the_engine_share_one_context(torch, engine_of):
    a = torch.randn(512, 512, device="cuda")
    expected = (a @ a).cpu()
    ours = current_context()
    with engine_of(contexts=2) as engine:
        for seed in range(4):
            x = x_of(16, seed)
            product = a @ a  # on PyTorch's stream, which the engine neither waits for nor delays
            assert engine.run({"x": x})["y"].tobytes() == x.tobytes()
            assert torch.equal(product.cpu(), expected)

        def on_another_thread() -> None:
            theirs = torch.ones(8, device="cuda")  # the runtime's way to the primary context
            context = current_context()
            with primary_context():
                assert current_context() == context == ours
            assert current_context() == context
            x = x_of(5, 9)
            assert engine.run({"x": x})["y"].tobytes() == x.tobytes()
            assert float(theirs.sum()) == 8

        run_on_a_thread(on_another_thread)
    assert torch.equal((a @ a).cpu(), expected)


@pytest.mark.gpu
def test_our_attention_kernel_is_captured_and_replayed_bit_for_bit(bench, request):
    from edgeattn.plugin.build import find_kernel_library
    from edgeattn.plugin.kernels import KernelLibrary
    from edgeattn.spec import AttentionSpec, HeadGroup

    if not bench.is_real:
        pytest.skip("the kernels run on real GPUs only")
    found = find_kernel_library()
    if found is None:
        pytest.skip("the kernel library is not built: edgeattn plugin build")
    library = KernelLibrary(found)
    spec = AttentionSpec(head_dim=32, qkv_heads=2, head_groups=(HeadGroup(2, (7, 7)),))
    shape = (2, 14, 14)
    qkv = np.random.default_rng(0).standard_normal((*shape, 3 * 64)).astype(np.float16)
    size = qkv.nbytes // 3
    memory = DeviceMemory()
    addresses = {name: memory.reserve(name, qkv.nbytes) for name in ("qkv", "once", "graph")}
    bench.cuda.memcpy_htod(addresses["qkv"], qkv)
    bench.cuda.Context.synchronize()

    def launch(out: str) -> bool:
        library.launch(
            spec,
            qkv=addresses["qkv"],
            out=addresses[out],
            shape=shape,
            in_type="float16",
            out_type="float16",
            stream=bench.handle,
        )
        return True

    launch("once")
    expected = bench.read(addresses["once"], size)
    graph = CudaGraph(bench.runtime, bench.handle, lambda: launch("graph"))
    for _ in range(3):
        bench.fill(addresses["graph"], 0xFF, size)
        graph.launch(bench.handle)
        np.testing.assert_array_equal(bench.read(addresses["graph"], size), expected)
    assert np.isfinite(expected.view(np.float16)).all()
    assert expected.any()
    graph.close()
    memory.close()
