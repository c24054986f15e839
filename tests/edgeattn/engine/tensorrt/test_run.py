"""The TensorRT engine against scripted doubles: what is told, copied, launched, waited for, freed.

No result of TensorRT's is shown here: outputs are bytes that each test planted.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgeattn.artifacts import Manifest, sha256_of_bytes
from edgeattn.engine.base import QueryTimes, TensorSpec, TimedQuery
from edgeattn.engine.tensorrt.device import primary_context
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.errors import ArtifactError, DataError, EngineError, MissingDependencyError
from edgeattn.inputs import ImagePreprocess
from tests import cuda_runtime_standin, tensorrt_runtime_double
from tests.pycuda_standin import Ledger
from tests.tensorrt_runtime_double import DataType, Script, Tensor, TensorFormat

PLAN = b"a plan of the double's"
X = Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (8, 3)),))
Y = Tensor("y", DataType.FLOAT, (-1, 2), is_input=False)


def plant_rows(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Plant outputs that tell the batch."""
    batch = known["x"][0]
    return {"y": np.arange(2 * batch, dtype=np.float32).reshape(batch, 2) + 100 * batch}


def x_of(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3)).astype(np.float32)


class Bench:
    """An engine's file, and the script of the double that opens it."""

    def __init__(self, folder: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = folder / "net.engine"
        self.plan.write_bytes(PLAN)
        self.gpu = ledger
        self.manifest = Manifest("engine", target="tensorrt")
        self._monkeypatch = monkeypatch
        self.play()

    def play(self, *tensors: Tensor, plant: Callable[..., Any] = plant_rows, **more: Any) -> Script:
        self.script = Script(self.gpu, tensors or (X, Y), plant, **more)
        module = tensorrt_runtime_double.install(self.script)
        self._monkeypatch.setitem(sys.modules, "tensorrt", module)
        return self.script

    def open(self, **options: Any) -> TensorRtEngine:
        return TensorRtEngine(self.plan, self.manifest, **options)

    def count(self, call: str) -> int:
        return sum(each[0] == call for each in self.script.calls)


@pytest.fixture
def bench(tmp_path, gpu, monkeypatch) -> Iterator[Bench]:
    bench = Bench(tmp_path, gpu, monkeypatch)
    yield bench
    assert bench.script.live == [], "objects of TensorRT's are left, or went without a context"


# What goes in and comes out


def test_a_query_is_copied_in_computed_and_copied_out(bench):
    with bench.open() as engine:
        x = x_of(2)
        found = engine.run({"x": x})
        assert bench.script.plan == PLAN
        assert bench.script.seen == [{"x": x.tobytes()}]
        np.testing.assert_array_equal(found["y"], plant_rows({"x": (2, 3)})["y"])
        assert found["y"].dtype == np.float32
        kept = found["y"].copy()
        engine.run({"x": x_of(2, seed=1)})
        np.testing.assert_array_equal(found["y"], kept)
    np.testing.assert_array_equal(found["y"], kept)  # nor is it memory that ended with the engine


def test_inputs_need_not_be_contiguous_nor_of_native_order(bench):
    x = x_of(6)
    with bench.open() as engine:
        engine.run({"x": x[::-2]})
        engine.run({"x": np.asfortranarray(x[:3])})
        engine.run({"x": x[:3].astype(">f4")})
    assert [seen["x"] for seen in bench.script.seen] == [
        x[::-2].tobytes(),
        x[:3].tobytes(),
        x[:3].tobytes(),
    ]


NUMPY_TYPES = {
    DataType.FLOAT: "float32",
    DataType.HALF: "float16",
    DataType.BF16: "bfloat16",
    DataType.INT8: "int8",
    DataType.UINT8: "uint8",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.BOOL: "bool",
}


@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_every_type_that_has_one_of_numpy_goes_in_and_out_bit_for_bit(kind, bench):
    dtype = np.dtype(NUMPY_TYPES[kind])
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    wide = np.array([2**40, -(2**40)]).astype(dtype) if kind is DataType.INT64 else values[0]
    bench.play(
        Tensor("a", kind, (2, 3)),
        Tensor("b", kind, wide.shape, is_input=False),
        plant=lambda known: {"b": wide},
    )
    with bench.open() as engine:
        assert engine.inputs == (TensorSpec("a", dtype.name, (2, 3)),)
        found = engine.run({"a": values})["b"]
        query = engine.bind({"a": values})
        assert query.outputs()["b"].tobytes() == wide.tobytes()
    assert bench.script.seen[0]["a"] == values.tobytes()
    assert found.dtype == dtype
    assert found.tobytes() == wide.tobytes()


def test_bfloat16_is_the_type_of_ml_dtypes():
    assert np.dtype(NUMPY_TYPES[DataType.BF16]) == np.dtype(ml_dtypes.bfloat16)


def test_a_type_that_numpy_does_not_have_is_refused_with_its_name(bench):
    bench.play(Tensor("x", DataType.FP8, (1, 3)), Y)
    with pytest.raises(EngineError, match="x has the type FP8, which numpy does not have"):
        bench.open()


def test_a_layout_that_is_not_linear_is_refused_with_its_name(bench):
    bench.play(X, Tensor("y", DataType.HALF, (1, 2), is_input=False, layout=TensorFormat.CHW32))
    with pytest.raises(EngineError, match="y has the memory layout CHW32; expected LINEAR"):
        bench.open()


def test_an_engine_may_have_scalars_and_no_input_at_all(bench):
    bench.play(
        Tensor("y", DataType.INT64, (), is_input=False),
        plant=lambda known: {"y": np.array(7, np.int64)},
    )
    with bench.open() as engine:
        for _ in range(3):
            assert engine.run({})["y"] == 7
        assert engine.run({})["y"].shape == ()


# Shapes


def test_free_sizes_have_the_names_of_the_manifest_or_of_their_place(bench):
    bench.play(
        Tensor("x", DataType.FLOAT, (-1, 3, -1), (((1, 3, 4), (8, 3, 6)),)),
        Tensor("z", DataType.FLOAT, (-1,), (((1,), (8,)),)),
        Y,
    )
    preprocess = {"mean": [0.5], "std": [0.25], "resize": 8}
    entry = {"name": "x", "shape": ["batch", 3, 4], "dtype": "float32", "preprocess": preprocess}
    bench.manifest = Manifest("engine", options={"inputs": [entry]})
    with bench.open() as engine:
        image = ImagePreprocess((0.5,), (0.25,), 8)
        assert engine.inputs == (
            TensorSpec("x", "float32", ("batch", 3, "x.2"), image),
            TensorSpec("z", "float32", ("z.0",)),
        )
        assert engine.outputs == (TensorSpec("y", "float32", ("y.0", 2)),)
        assert engine.manifest is bench.manifest


@pytest.mark.parametrize("entries", [["x"], [{}], [{"name": "x", "shape": 3}]])
def test_a_manifest_that_describes_the_inputs_badly_is_refused(entries, bench):
    bench.manifest = Manifest("engine", options={"inputs": entries})
    with pytest.raises(EngineError, match="manifest describes its inputs badly"):
        bench.open()


def test_shapes_change_from_query_to_query_and_buffers_grow(bench):
    with bench.open() as engine:
        for batch in (1, 8, 2, 8, 1):
            found = engine.run({"x": x_of(batch, seed=batch)})["y"]
            np.testing.assert_array_equal(found, plant_rows({"x": (batch, 3)})["y"])
            assert bench.script.seen[-1]["x"] == x_of(batch, seed=batch).tobytes()
        assert bench.gpu.allocated == 4  # of either tensor a small one, then a large one


def test_only_what_is_new_is_told_to_tensorrt(bench):
    with bench.open() as engine:
        for _ in range(4):
            engine.run({"x": x_of(2)})
        assert bench.count("set_input_shape") == 1
        assert bench.count("infer_shapes") == 1
        assert bench.count("set_tensor_address") == 2
        engine.run({"x": x_of(1)})
        assert bench.count("set_input_shape") == bench.count("infer_shapes") == 2
        assert bench.count("set_tensor_address") == 2


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (x_of(9), r"the input x has size 9 on axis 0; expected 1 to 8 in optimization profile 0"),
        (x_of(0), r"the input x is empty: its shape is \(0, 3\)"),
        (x_of(2)[:, :2], "has size 2 on axis 1; expected 3"),
        (x_of(2)[0], "of rank 1; expected rank 2"),
        (x_of(2).astype(np.float64), "the input x is float64; expected float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_tensorrt_sees_them(array, problem, bench):
    with bench.open() as engine:
        for take in (engine.run, engine.bind, engine.layer_times, engine.inspect):
            with pytest.raises(DataError, match=problem):
                take({"x": array})
        assert bench.count("set_input_shape") == 0


def test_another_profile_that_takes_the_query_is_named(bench):
    bench.play(Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (1, 3)), ((2, 3), (64, 3)))), Y)
    bench.script.profiles = 2
    with (
        bench.open() as engine,
        pytest.raises(DataError, match="expected 1 to 1 in optimization profile 0") as error,
    ):
        engine.run({"x": x_of(40)})
    assert error.value.hint == "profile 1 of the engine takes this query"
    with bench.open(profile_index=1) as engine:
        assert engine.settings["profile"] == 1
        assert engine.run({"x": x_of(40)})["y"].shape == (40, 2)
    assert ("set_optimization_profile_async", 1) in bench.script.calls


@pytest.mark.parametrize("index", [-1, 1])
def test_a_profile_that_is_not_there_is_refused(index, bench):
    with pytest.raises(EngineError, match=f"profile_index is {index}; the engine has 1 "):
        bench.open(profile_index=index)


def test_shape_tensors_stay_on_the_host_and_new_values_give_new_shapes(bench):
    def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
        rows, columns = known["size"]
        return {"y": np.full((rows, columns), rows * columns, np.float32)}

    size = Tensor("size", DataType.INT64, (2,), on_host=True)
    bench.play(X, size, Tensor("y", DataType.FLOAT, (-1, -1), is_input=False), plant=plant)
    with bench.open() as engine:
        for shape in ((2, 3), (2, 3), (2, 3), (4, 5), (3, 2)):
            inputs = {"x": x_of(2), "size": np.array(shape, np.int64)}
            np.testing.assert_array_equal(engine.run(inputs)["y"], np.full(shape, np.prod(shape)))
        assert bench.count("infer_shapes") == 3
        assert bench.gpu.log.count("copy in") == 5  # of x alone
        assert bench.gpu.log.count("graph") == 2  # and not beyond a change of values


def test_an_output_on_the_host_is_not_copied(bench):
    kept = Tensor("n", DataType.INT32, (1,), is_input=False, on_host=True)
    bench.play(X, kept, plant=lambda known: {"n": np.array([5], np.int32)})
    with bench.open() as engine:
        assert engine.run({"x": x_of(1)})["n"] == [5]
        assert "copy out" not in bench.gpu.log


# Data-dependent outputs

FOUND = Tensor("found", DataType.INT64, (-1, 2), is_input=False, depends_on_data=True)


def plant_found(counts: list[int]) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray]]:
    """Plant as many rows as the list says, changing it between queries."""

    def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
        found = np.arange(2 * counts[0], dtype=np.int64).reshape(-1, 2)
        return plant_rows(known) | {"found": found}

    return plant


@pytest.mark.parametrize("zero_copy", [False, True])
def test_outputs_of_data_dependent_size_are_as_large_as_tensorrt_says(zero_copy, bench):
    counts = [0]
    bench.play(X, Y, FOUND, plant=plant_found(counts))
    with bench.open(zero_copy=zero_copy) as engine:
        for counts[0] in (3, 0, 900, 1):
            found = engine.run({"x": x_of(2)})
            expected = np.arange(2 * counts[0]).reshape(-1, 2)
            np.testing.assert_array_equal(found["found"], expected)
            np.testing.assert_array_equal(found["y"], plant_rows({"x": (2, 3)})["y"])
        query = engine.bind({"x": x_of(2)})
        counts[0] = 5
        query()
        assert query.outputs()["found"].shape == (5, 2)
        assert bench.count("set_output_allocator") == 1
        assert "capture" not in bench.gpu.log
        reason = engine.settings["cuda_graph_fallback"]
    assert reason == "the sizes of outputs depend on the data: found"


def test_memory_that_does_not_suffice_for_such_an_output_is_the_error(bench):
    counts = [2]
    bench.play(X, Y, FOUND, plant=plant_found(counts))
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        bench.gpu.capacity, counts[0] = 1 << 12, 1 << 10
        with pytest.raises(EngineError, match="cuMemAlloc failed: out of memory"):
            engine.run({"x": x_of(2)})
        counts[0] = 4
        assert engine.run({"x": x_of(2)})["found"].shape == (4, 2)


def test_an_old_shape_is_not_taken_for_one_that_tensorrt_does_not_tell(bench):
    bench.play(X, Y, FOUND, plant=plant_found([3]))
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        bench.script.fails = {"notify_shape"}
        with pytest.raises(EngineError, match="TensorRT gave no shape of found"):
            engine.run({"x": x_of(2)})


# Graphs


def test_a_repeated_query_is_recorded_once_and_launched_as_a_graph(bench):
    with bench.open() as engine:
        for seed in range(5):
            found = engine.run({"x": x_of(2, seed)})["y"]
            np.testing.assert_array_equal(found, plant_rows({"x": (2, 3)})["y"])
        assert bench.count("execute_async_v3") == 2  # one ordinary run, one recorded
        assert bench.gpu.log.count("capture") == 1
        assert bench.gpu.log.count("graph") == 4
        assert engine.settings["cuda_graph"] is True
        assert "cuda_graph_fallback" not in engine.settings
    assert [seen["x"] for seen in bench.script.seen] == [
        x_of(2, seed).tobytes() for seed in range(5)
    ]


def test_another_shape_is_recorded_anew_once_it_is_repeated(bench):
    with bench.open() as engine:
        for batch in (2, 2, 3, 2, 3, 3, 3):
            found = engine.run({"x": x_of(batch)})["y"]
            np.testing.assert_array_equal(found, plant_rows({"x": (batch, 3)})["y"])
        assert bench.gpu.log.count("capture") == 2
        assert bench.gpu.log.count("graph") == 3
        assert len(bench.gpu.graphs) == 1  # the one of shapes that are gone is destroyed


def test_another_address_is_recorded_anew(bench):
    """With zero copy, each bound query is computed where its own inputs and outputs lie."""
    with bench.open(zero_copy=True) as engine:
        one, two = engine.bind({"x": x_of(2, 1)}), engine.bind({"x": x_of(2, 2)})
        for query in (one, one, two, two, one):
            query()
        assert bench.gpu.log.count("capture") == 4
        assert [seen["x"] for seen in bench.script.seen] == [
            x_of(2, seed).tobytes() for seed in (1, 1, 2, 2, 1, 1, 2, 2, 1)
        ]


def test_without_graphs_every_query_is_enqueued(bench):
    with bench.open(cuda_graph=False) as engine:
        for _ in range(3):
            engine.run({"x": x_of(2)})
        assert bench.count("execute_async_v3") == 3
        assert "capture" not in bench.gpu.log
        assert engine.settings["cuda_graph"] is False
        assert "cuda_graph_fallback" not in engine.settings  # it is as asked


def test_an_engine_that_cannot_be_captured_runs_without_and_says_why(bench, caplog):
    bench.script.fails = {"execute_async_v3 captured"}
    bench.script.says = "operations that are not permitted under CUDA graph capture mode"
    with bench.open(contexts=2) as engine:
        for _ in range(4):
            found = engine.run({"x": x_of(2)})["y"]
            np.testing.assert_array_equal(found, plant_rows({"x": (2, 3)})["y"])
        assert bench.gpu.log.count("capture") == 1
        settings = engine.settings
    assert settings["cuda_graph"] is False
    assert settings["cuda_graph_fallback"] == (
        "the engine holds operations that cannot be captured; TensorRT says: "
        "operations that are not permitted under CUDA graph capture mode"
    )
    assert caplog.text.count("queries run without a CUDA graph") == 1


FUNCTIONS = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_recording_that_cuda_refuses_leaves_the_stream_usable(function, bench, monkeypatch):
    for name, module in cuda_runtime_standin.install(bench.gpu, refuses=function).items():
        monkeypatch.setitem(sys.modules, name, module)
    with bench.open() as engine:
        for _ in range(3):
            engine.run({"x": x_of(2)})
        reason = engine.settings["cuda_graph_fallback"]
        assert reason.startswith(f"{function} failed: cudaError")
        assert ("cuda-python==12.*" in reason) is (function == "cudaStreamBeginCapture")
    assert len(bench.script.seen) == 3


def test_nothing_is_collected_while_a_query_is_recorded(bench):
    """What Python's collector frees on the thread that captures would end the capture."""
    enabled = []
    bench.script.during = lambda: enabled.append(gc.isenabled())
    with bench.open() as engine:
        for _ in range(3):
            engine.run({"x": x_of(2)})
    assert enabled == [True, False]
    assert gc.isenabled()


def test_a_graph_that_cannot_be_launched_is_an_error(bench, monkeypatch):
    for name, module in cuda_runtime_standin.install(bench.gpu, refuses="cudaGraphLaunch").items():
        monkeypatch.setitem(sys.modules, name, module)
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        with pytest.raises(EngineError, match="CUDA graph of the query cannot be launched: cudaG"):
            engine.run({"x": x_of(2)})


def test_without_cuda_python_its_absence_is_said(bench, monkeypatch):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        reason = engine.settings["cuda_graph_fallback"]
    assert reason.startswith("CUDA graphs need cuda-python, which cannot be imported")
    assert "pip install" in reason


# Bound queries and their times


def test_a_bound_query_has_its_own_inputs_and_outputs(bench):
    with bench.open() as engine:
        two, three = engine.bind({"x": x_of(2, 1)}), engine.bind({"x": x_of(3, 2)})
        engine.run({"x": x_of(8)})
        two()
        three()
        assert [seen["x"] for seen in bench.script.seen[-2:]] == [
            x_of(2, 1).tobytes(),
            x_of(3, 2).tobytes(),
        ]
        engine.run({"x": x_of(1)})
        for query, batch in ((two, 2), (three, 3)):
            outputs = query.outputs()
            np.testing.assert_array_equal(outputs["y"], plant_rows({"x": (batch, 3)})["y"])
    np.testing.assert_array_equal(outputs["y"], plant_rows({"x": (3, 3)})["y"])
    with pytest.raises(EngineError, match="the engine is closed"):
        two.outputs()
    with pytest.raises(EngineError, match="the engine is closed"):
        two()


def test_binding_records_the_graph_so_that_no_timed_query_does(bench):
    with bench.open() as engine:
        query = engine.bind({"x": x_of(2)})
        assert bench.gpu.log.count("capture") == 1
        query.timed()
        assert bench.gpu.log.count("capture") == 1
        assert bench.count("execute_async_v3") == 2


def test_times_of_a_query_are_the_gpus_told_in_the_processors_time(bench):
    with bench.open() as engine:
        query = engine.bind({"x": x_of(2)})
        assert isinstance(query, TimedQuery)
        before = time.perf_counter_ns()
        times = query.timed()
        after = time.perf_counter_ns()
    assert isinstance(times, QueryTimes)
    assert times.end_h2d_ns - times.start_h2d_ns == 250_000
    assert times.end_compute_ns - times.start_compute_ns == 1_500_000
    assert times.end_d2h_ns - times.start_d2h_ns == 250_000
    assert times.end_h2d_ns == times.start_compute_ns
    assert times.end_compute_ns == times.start_d2h_ns
    assert before <= times.start_h2d_ns <= times.start_enqueue_ns <= times.end_enqueue_ns <= after


def test_a_query_without_copies_has_none_in_its_times(bench):
    with bench.open(zero_copy=True) as engine:
        times = engine.bind({"x": x_of(2)}).timed()
    assert times.start_h2d_ns == times.end_h2d_ns == times.start_compute_ns
    assert times.end_compute_ns == times.start_d2h_ns == times.end_d2h_ns
    assert not {"copy in", "copy out"} & set(bench.gpu.log)


def test_a_query_that_cannot_be_bound_keeps_no_memory(bench):
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        kept = len(bench.gpu.host)
        bench.script.fails = {"execute_async_v3", "execute_async_v3 captured"}
        with pytest.raises(EngineError, match="TensorRT did not enqueue") as error:
            engine.bind({"x": x_of(3)})
        assert len(bench.gpu.host) == kept, "while the error is held"
        assert error.value.hint


def test_a_dropped_query_gives_its_memory_back(bench):
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        kept = len(bench.gpu.host)
        query = engine.bind({"x": x_of(2)})
        assert len(bench.gpu.host) == kept + 2
        del query
        gc.collect()
        assert len(bench.gpu.host) == kept


def test_a_query_keeps_its_engine(bench):
    query = bench.open().bind({"x": x_of(2)})
    gc.collect()
    query()
    engine = query._engine
    engine.close()


def test_an_engine_that_is_only_dropped_frees_its_memory(bench):
    engine = bench.open()
    engine.run({"x": x_of(2)})
    with primary_context():  # so that TensorRT's objects end well
        del engine


# Zero copy


def test_an_integrated_gpu_works_in_the_hosts_memory(bench):
    bench.gpu.integrated = True
    with bench.open() as engine:
        assert engine.settings["zero_copy"] is True
        x = x_of(2)
        np.testing.assert_array_equal(engine.run({"x": x})["y"], plant_rows({"x": (2, 3)})["y"])
        assert bench.script.seen == [{"x": x.tobytes()}]
        assert bench.gpu.allocations == {}
        assert bench.gpu.mapped == set(bench.gpu.host)


def test_zero_copy_can_be_refused_and_is_off_elsewhere(bench):
    with bench.open() as engine:
        assert engine.settings["zero_copy"] is False
    bench.gpu.integrated = True
    with bench.open(zero_copy=False) as engine:
        engine.run({"x": x_of(2)})
        assert engine.settings["zero_copy"] is False
        assert bench.gpu.mapped == set()
        assert bench.gpu.allocations


# Opening


def test_what_the_manifest_vouches_for_is_what_is_loaded(bench):
    bench.manifest = Manifest("engine", files={"net.engine": sha256_of_bytes(PLAN)})
    with bench.open() as engine:
        engine.run({"x": x_of(1)})
    bench.plan.write_bytes(PLAN + b".")
    with pytest.raises(ArtifactError, match=r"net\.engine is not the file that its manifest"):
        bench.open()


def test_a_plan_that_is_missing_or_empty_is_named(bench):
    bench.plan.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"the engine .*net\.engine is empty"):
        bench.open()
    bench.plan.unlink()
    with pytest.raises(ArtifactError, match="there is no file"):
        bench.open()


def test_a_plan_that_tensorrt_refuses_is_explained_by_what_it_said(bench):
    bench.script.fails = {"deserialize_cuda_engine"}
    bench.script.says = (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current "
        "Version: 237, Serialized Engine Version: 239)"
    )
    with pytest.raises(EngineError, match=r"TensorRT refused the engine .*net\.engine") as error:
        bench.open()
    assert "Current Version: 237" in error.value.message
    assert error.value.hint


def test_a_runtime_that_does_not_start_is_explained(bench):
    bench.script.fails = {"Runtime"}
    with pytest.raises(EngineError) as error:
        bench.open()
    assert isinstance(error.value.__cause__, TypeError)


@pytest.mark.parametrize("call", ["create_execution_context", "set_optimization_profile_async"])
def test_a_context_that_is_not_created_leaves_nothing_behind(call, bench):
    bench.play(
        Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (8, 3)), ((1, 3), (9, 3)))), Y, profiles=2
    )
    bench.script.fails = {call}
    with pytest.raises(EngineError, match=r"TensorRT (created no|did not choose)"):
        bench.open(contexts=3, profile_index=1)


def test_contexts_made_before_one_that_fails_are_freed(bench, monkeypatch):
    create = tensorrt_runtime_double.ICudaEngine.create_execution_context

    def third_fails(self: Any) -> Any:
        made = bench.script.live.count("IExecutionContext")
        return create(self) if made < 2 else None

    monkeypatch.setattr(
        tensorrt_runtime_double.ICudaEngine, "create_execution_context", third_fails
    )
    with pytest.raises(EngineError, match="TensorRT created no execution context"):
        bench.open(contexts=3)
    with bench.open(contexts=2):
        assert bench.script.live.count("IExecutionContext") == 2


def test_no_contexts_are_too_few(bench):
    with pytest.raises(EngineError, match="contexts is 0; expected at least 1"):
        bench.open(contexts=0)


@pytest.mark.parametrize("package", ["pycuda", "tensorrt"])
def test_a_package_that_is_not_there_is_named(package, bench, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"needs .*{package}"):
        bench.open()


def test_options_of_the_build_that_loading_depends_on_are_set(bench):
    with bench.open():
        assert bench.script.runtime == {"DLA_core": -1, "engine_host_code_allowed": False}
    built = {"dla_core": 1, "version_compatible": True, "embed_plugin": False}
    bench.manifest = Manifest("engine", options={"tensorrt": built})
    with bench.open():
        assert bench.script.runtime == {"DLA_core": 1, "engine_host_code_allowed": True}


def test_the_plugin_is_loaded_before_the_plan(bench, monkeypatch, tmp_path):
    loaded = []

    def load_plugin(registry: Any, path: Path) -> None:
        loaded.append((path, bench.script.plan))

    monkeypatch.setattr("edgeattn.engine.tensorrt.run.load_plugin", load_plugin)
    with bench.open(plugin=tmp_path / "plugin.so"):
        assert loaded == [(tmp_path / "plugin.so", b"")]


@pytest.mark.parametrize(
    ("zero_copy", "memory"), [(False, "page-locked"), (True, "page-locked and mapped")]
)
def test_settings_say_what_moves_the_latency(zero_copy, memory, bench, monkeypatch):
    ways = iter(["block", ""])
    monkeypatch.setattr(
        "edgeattn.engine.tensorrt.run.describe_waiting", lambda device, is_integrated: next(ways)
    )
    said = {
        "engine": "tensorrt",
        "tensorrt": "10.3.0",
        "contexts": 2,
        "aux_streams": 2,
        "zero_copy": zero_copy,
        "host_memory": memory,
        "stream": "non-blocking",
        "cuda_graph": True,
    }
    with bench.open(contexts=2, zero_copy=zero_copy) as engine:
        assert engine.settings == said | {"wait": "block"}
        # It is true of what CUDA was asked for, too.
        query = engine.bind({"x": x_of(2)})
        assert set(bench.gpu.stream_flags.values()) == {1}  # CU_STREAM_NON_BLOCKING
        assert len(bench.gpu.host) > 0
        assert bool(bench.gpu.mapped) is zero_copy
        query.close()
    with bench.open(contexts=2, zero_copy=zero_copy) as engine:
        assert engine.settings == said  # a driver that does not tell


# Failures while running


REFUSALS = {
    "set_input_shape": r"TensorRT refused the shape \(2, 3\) of x",
    "set_tensor_address": "TensorRT refused the address of x",
    "infer_shapes": "TensorRT finds no output shapes",
    "execute_async_v3": "TensorRT did not enqueue the query",
}


@pytest.mark.parametrize("call", REFUSALS)
def test_a_call_that_tensorrt_refuses_is_an_error_and_the_next_query_runs(call, bench):
    with bench.open() as engine:
        bench.script.fails = {call}
        with pytest.raises(EngineError, match=REFUSALS[call]) as error:
            engine.run({"x": x_of(2)})
        assert "out of memory" in str(error.value)
        bench.script.fails = set()
        found = engine.run({"x": x_of(2)})["y"]
        np.testing.assert_array_equal(found, plant_rows({"x": (2, 3)})["y"])


def test_gpu_memory_that_does_not_suffice_is_an_error_and_a_smaller_query_runs(bench):
    bench.play(Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (1000, 3)),)), Y)
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        bench.gpu.capacity = 4000
        with pytest.raises(EngineError, match="out of memory"):
            engine.run({"x": x_of(900)})
        assert engine.run({"x": x_of(3)})["y"].shape == (3, 2)


@pytest.mark.parametrize("zero_copy", [False, True])
def test_a_gpu_that_fails_in_the_middle_is_an_error_and_closing_still_works(zero_copy, bench):
    """Without copies it fails in the wait: then work is still pending when the engine closes."""
    with bench.open(zero_copy=zero_copy) as engine:
        engine.run({"x": x_of(2)})
        bench.gpu.broken = True
        with pytest.raises(EngineError, match="CUDA failed on GPU 0"):
            engine.run({"x": x_of(2)})
        assert any(bench.gpu.streams.values()) is zero_copy
        bench.gpu.broken = False


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("runs_before", [0, 1])
def test_an_exception_while_enqueuing_or_recording_leaves_a_usable_engine(
    runs_before, error, bench
):
    def interrupt() -> None:
        raise error

    with bench.open() as engine:
        for _ in range(runs_before):
            engine.run({"x": x_of(2)})
        bench.script.during = interrupt
        with pytest.raises(error):
            engine.run({"x": x_of(2)})
        assert not any(bench.gpu.streams.values()), "the context is lent with work in it"
        bench.script.during = lambda: None
        bench.script.calls.clear()
        for _ in range(3):
            found = engine.run({"x": x_of(2)})["y"]
            np.testing.assert_array_equal(found, plant_rows({"x": (2, 3)})["y"])
        assert bench.count("set_input_shape") == 1, "a context that failed is told everything"
        assert bench.count("execute_async_v3") == 2, "and records anew"
        assert bench.gpu.captures == {}
        assert engine.settings["cuda_graph"] is True


# Closing, and many callers


def test_closing_twice_is_harmless_and_a_closed_engine_refuses(bench):
    engine = bench.open(contexts=2)
    engine.close()
    engine.close()
    assert bench.gpu.is_empty
    for take in (engine.run, engine.bind, engine.layer_times):
        with pytest.raises(EngineError, match="the engine is closed"):
            take({"x": x_of(2)})
    assert engine.inputs[0].name == "x"  # what it was can still be asked


def test_many_callers_share_few_contexts(bench):
    at_work, most = 0, 0
    lock = threading.Lock()

    def during() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.002)
        with lock:
            at_work -= 1

    bench.script.during = during
    with bench.open(contexts=2, cuda_graph=False) as engine:
        failures = in_threads(8, lambda index: callers(engine, index))
        assert failures == []
        assert len(bench.gpu.streams) == 2
        assert set(bench.gpu.stream_flags.values()) == {1}  # beside whoever uses the default one
    assert most == 2
    assert len(bench.script.seen) == 8 * 5


def callers(engine: TensorRtEngine, index: int) -> None:
    for batch in (1 + index % 3, 2, 5, 2, 1):
        found = engine.run({"x": x_of(batch, index)})["y"]
        np.testing.assert_array_equal(found, plant_rows({"x": (batch, 3)})["y"])


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return failures


def test_closing_waits_for_a_running_query_and_refuses_those_that_wait(bench):
    entered, leave = threading.Event(), threading.Event()
    outcomes: list[Any] = []

    def during() -> None:
        entered.set()
        assert leave.wait(30)

    engine = bench.open()
    bench.script.during = during

    def run() -> None:
        try:
            outcomes.append(engine.run({"x": x_of(2)})["y"].shape)
        except EngineError as err:
            outcomes.append(str(err))

    callers = [threading.Thread(target=run) for _ in range(3)]
    callers[0].start()
    assert entered.wait(30)
    for caller in callers[1:]:
        caller.start()
    closers = [threading.Thread(target=engine.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    for caller in callers[1:]:
        caller.join(30)
    assert outcomes == ["the engine is closed"] * 2
    assert closers[0].is_alive()
    assert bench.script.live
    leave.set()
    for thread in (*callers, *closers):
        thread.join(30)
        assert not thread.is_alive()
    assert outcomes[2] == (2, 2)
    assert bench.gpu.is_empty


def test_memory_made_on_one_thread_is_freed_on_another(bench):
    engines: list[TensorRtEngine] = []

    def make(index: int) -> None:
        engines.append(bench.open())
        engines[0].run({"x": x_of(2)})
        engines[0].bind({"x": x_of(2)})

    assert in_threads(1, make) == []
    engines[0].close()


# Layers


def test_layers_are_timed_in_a_context_of_their_own(bench):
    bench.script.layers = (("patch", 0.5), ("attention", 1.0), ("loop", 0.25), ("loop", 0.5))
    with bench.open() as engine:
        engine.run({"x": x_of(2)})
        layers = engine.layer_times({"x": x_of(2)}, 4)
        assert [(layer.name, layer.times_ms) for layer in layers] == [
            ("patch", (0.5,) * 4),
            ("attention", (1.0,) * 4),
            ("loop", (0.75,) * 4),
        ]
        assert len(bench.gpu.streams) == 1
        assert bench.script.live.count("IExecutionContext") == 1
        assert engine.settings["cuda_graph"] is True
        engine.run({"x": x_of(2)})
        assert bench.gpu.log.count("capture") == 1


@pytest.mark.parametrize(
    ("fails", "problem"),
    [
        ({"report_to_profiler"}, "TensorRT does not report the times of its layers"),
        (set(), "TensorRT reported no layer"),
        ({"create_execution_context"}, "TensorRT created no execution context"),
    ],
)
def test_layers_that_are_not_reported_are_an_error(fails, problem, bench):
    with bench.open() as engine:
        bench.script.fails = fails
        with pytest.raises(EngineError, match=problem):
            engine.layer_times({"x": x_of(2)}, 2)
        bench.script.fails = set()
        engine.run({"x": x_of(2)})


def test_layers_need_a_run(bench):
    with bench.open() as engine, pytest.raises(EngineError, match="iterations is 0"):
        engine.layer_times({"x": x_of(2)}, 0)


# What the engine tells of itself

TOLD = (
    '{"Layers": [{"Name": "patch", "LayerType": "conv", "Inputs": [], "Outputs": []}], '
    '"Bindings": ["x", "y"]}'
)


def test_an_engine_with_free_sizes_is_inspected_at_the_shapes_of_a_query_that_is_not_run(bench):
    bench.script.information = TOLD
    with bench.open() as engine:
        for batch in (2, 5):
            info = engine.inspect({"x": x_of(batch)})
            assert [layer.name for layer in info.layers] == ["patch"]
            assert info.verbosity == "detailed"
        assert bench.script.inspected == [{"x": (2, 3)}, {"x": (5, 3)}]
        assert bench.count("execute_async_v3") == 0
        np.testing.assert_array_equal(
            engine.run({"x": x_of(2)})["y"], plant_rows({"x": (2, 3)})["y"]
        )
        assert bench.script.live.count("IExecutionContext") == 1  # the one that runs queries


def test_an_engine_of_fixed_sizes_is_inspected_without_a_context(bench):
    bench.play(
        Tensor("x", DataType.FLOAT, (2, 3)),
        Tensor("y", DataType.FLOAT, (2, 2), is_input=False),
        information=TOLD,
    )
    with bench.open() as engine:
        assert len(engine.inspect({"x": x_of(2)}).layers) == 1
    assert bench.script.inspected == [None]


def test_an_inspection_leaves_the_graph_of_the_query_before_as_it_was(bench):
    with bench.open() as engine:
        for _ in range(2):
            engine.run({"x": x_of(2)})
        engine.inspect({"x": x_of(2)})
        engine.run({"x": x_of(2)})
        assert bench.gpu.log.count("capture") == 1
        engine.inspect({"x": x_of(3)})
        np.testing.assert_array_equal(
            engine.run({"x": x_of(3)})["y"], plant_rows({"x": (3, 3)})["y"]
        )


@pytest.mark.parametrize(
    ("fails", "problem"),
    [
        ("create_engine_inspector", "TensorRT gives no inspector"),
        ("get_engine_information", "TensorRT's inspector says nothing"),
        ("set_input_shape", "TensorRT refused the shape"),
    ],
)
def test_an_engine_that_tells_nothing_is_an_error_and_runs_on(fails, problem, bench):
    with bench.open() as engine:
        bench.script.fails = {fails}
        with pytest.raises(EngineError, match=problem):
            engine.inspect({"x": x_of(2)})
        bench.script.fails = set()
        engine.run({"x": x_of(2)})
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.inspect({"x": x_of(2)})


def test_what_no_inspector_prints_is_refused(bench):
    bench.script.information = "{}"
    with bench.open() as engine, pytest.raises(ArtifactError, match="not what TensorRT's engine"):
        engine.inspect({"x": x_of(2)})


def test_an_engine_knows_its_file_and_its_gpu(bench):
    with bench.open() as engine:
        assert (engine.plan, engine.device) == (bench.plan, 0)
