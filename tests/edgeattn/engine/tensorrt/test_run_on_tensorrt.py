"""The TensorRT engine on TensorRT itself: small graphs whose results are known without it.

For machines with TensorRT and a GPU. Plans are built with TensorRT's own calls, so that nothing but
the running is on trial. One test runs everywhere: the graphs compute what the others expect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.errors import DataError

ON_TENSORRT = (pytest.mark.gpu, pytest.mark.tensorrt)

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
Arrays = dict[str, np.ndarray]
LARGE = 1 << 40


@dataclass(frozen=True)
class Case:
    """A graph, the profiles it is built for, and what it computes.

    Attributes:
        model: The graph.
        profiles: For each profile least, best and greatest shape of each input.
        inputs: Makes inputs from a seed.
        compute: Gives the outputs for inputs.
        values: Likewise the values of inputs that are shapes.
    """

    model: onnx.ModelProto
    profiles: tuple[Mapping[str, Shapes], ...]
    inputs: Callable[[int], Arrays]
    compute: Callable[[Arrays], Arrays]
    values: Mapping[str, Shapes] | None = None


def model_of(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> onnx.ModelProto:
    """Make a graph; inputs and outputs by name: element type and shape."""
    info = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "case", *info)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array, name))


def rows(dtype: Any) -> Callable[[int], Arrays]:
    """Draw `x` `[seed % 7 + 1, 3]`."""

    def draw(seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        return {"x": rng.integers(-8, 9, (seed % 7 + 1, 3)).astype(dtype)}

    return draw


def arithmetic(kind: int, dtype: Any, summand: Any) -> Case:
    """Build x + summand, exact in every type."""
    summand = np.array([summand]).astype(dtype)
    return Case(
        model_of(
            [constant("c", summand), helper.make_node("Add", ["x", "c"], ["y"])],
            {"x": (kind, ["batch", 3])},
            {"y": (kind, ["batch", 3])},
        ),
        ({"x": ((1, 3), (4, 3), (8, 3))}, {"x": ((9, 3), (16, 3), (32, 3))}),
        rows(dtype),
        lambda inputs: {"y": inputs["x"] + summand},
    )


def negation() -> Case:
    """Build not x."""
    return Case(
        model_of(
            [helper.make_node("Not", ["x"], ["y"])],
            {"x": (TensorProto.BOOL, ["batch", 3])},
            {"y": (TensorProto.BOOL, ["batch", 3])},
        ),
        ({"x": ((1, 3), (4, 3), (8, 3))},),
        lambda seed: {"x": rows(np.int64)(seed)["x"] > 0},
        lambda inputs: {"y": ~inputs["x"]},
    )


def places() -> Case:
    """Build the places where x is positive: as many as the data has."""
    zero = np.zeros(1, np.float32)
    return Case(
        model_of(
            [
                constant("zero", zero),
                helper.make_node("Greater", ["x", "zero"], ["mask"]),
                helper.make_node("NonZero", ["mask"], ["places"]),
            ],
            {"x": (TensorProto.FLOAT, ["batch", 3])},
            {"places": (TensorProto.INT64, [2, "count"])},
        ),
        ({"x": ((1, 3), (4, 3), (8, 3))},),
        lambda seed: {"x": rows(np.float32)(seed)["x"] - 20 * (seed % 4 == 3)},
        lambda inputs: {"places": np.array(np.nonzero(inputs["x"] > 0))},
    )


def reshaping() -> Case:
    """Build x in a shape that is an input itself, twice."""
    two = np.full(1, 2, np.float32)

    def inputs(seed: int) -> Arrays:
        x = np.random.default_rng(seed).integers(-8, 9, (6, 4)).astype(np.float32)
        shapes = ((24, 1), (2, 12), (2, 12), (4, 6))
        return {"x": x, "shape": np.array(shapes[seed % 4], np.int64)}

    return Case(
        model_of(
            [
                constant("two", two),
                helper.make_node("Reshape", ["x", "shape"], ["z"]),
                helper.make_node("Mul", ["z", "two"], ["y"]),
            ],
            {"x": (TensorProto.FLOAT, [6, 4]), "shape": (TensorProto.INT64, [2])},
            {"y": (TensorProto.FLOAT, ["rows", "columns"])},
        ),
        ({},),
        inputs,
        lambda inputs: {"y": 2 * inputs["x"].reshape(inputs["shape"])},
        {"shape": ((1, 1), (4, 6), (24, 24))},
    )


CASES = {
    "float32": arithmetic(TensorProto.FLOAT, np.float32, 1.5),
    "float16": arithmetic(TensorProto.FLOAT16, np.float16, 1.5),
    "bfloat16": arithmetic(TensorProto.BFLOAT16, ml_dtypes.bfloat16, 1.5),
    "int32": arithmetic(TensorProto.INT32, np.int32, 1 << 20),
    "int64": arithmetic(TensorProto.INT64, np.int64, LARGE),
    "bool": negation(),
    "data-dependent": places(),
    "shape tensor": reshaping(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graphs_compute_what_is_expected_of_them(name):
    case = CASES[name]
    onnx.checker.check_model(case.model, full_check=True)
    if name == "bfloat16":  # which onnxruntime does not add
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(case.model.SerializeToString())
    for seed in range(6):
        inputs = case.inputs(seed)
        expected = case.compute(inputs)
        found = session.run(list(expected), inputs)
        for array, wanted in zip(found, expected.values(), strict=True):
            np.testing.assert_array_equal(array, wanted)


def build(case: Case, path: Path) -> None:
    """Build a plan with TensorRT alone."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(case.model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 64 << 20)
    for shapes in case.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, greatest) in shapes.items():
            profile.set_shape(name, least, best, greatest)
        for name, (least, best, greatest) in (case.values or {}).items():
            profile.set_shape_input(name, least, best, greatest)
        assert config.add_optimization_profile(profile) >= 0
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    path.write_bytes(plan)


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Callable[[str], Path]:
    """Build each plan once."""
    folder = tmp_path_factory.mktemp("plans")

    def plan_of(name: str) -> Path:
        path = folder / f"{name.replace(' ', '_')}.engine"
        if not path.exists():
            build(CASES[name], path)
        return path

    return plan_of


def open_engine(path: Path, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(path, Manifest("engine", target="tensorrt"), **options)


def check(case: Case, engine: TensorRtEngine, seed: int) -> None:
    inputs = case.inputs(seed)
    found = engine.run(inputs)
    for name, wanted in case.compute(inputs).items():
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)


def on_tensorrt(test: Callable[..., None]) -> Callable[..., None]:
    for mark in ON_TENSORRT:
        test = mark(test)
    return test


@on_tensorrt
@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_exact_at_every_shape(name, zero_copy, plans):
    with open_engine(plans(name), zero_copy=zero_copy) as engine:
        for seed in (0, 0, 0, 1, 5, 5, 5, 3, 7, 2, 6):
            check(CASES[name], engine, seed)
        settings = engine.settings
    if name == "data-dependent":
        assert "depend on the data: places" in settings["cuda_graph_fallback"]
    elif name != "shape tensor":  # which TensorRT may refuse to capture
        assert settings["cuda_graph"] is True, settings


@on_tensorrt
def test_graph_and_no_graph_give_equal_outputs(plans):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    outputs = []
    for cuda_graph in (False, True):
        with open_engine(plans("float32"), cuda_graph=cuda_graph) as engine:
            query = engine.bind({"x": x})
            for _ in range(3):
                query()
            assert engine.settings["cuda_graph"] is cuda_graph, engine.settings
            outputs.append(query.outputs()["y"])
    np.testing.assert_array_equal(*outputs)


@on_tensorrt
def test_the_second_profile_takes_what_the_first_refuses(plans):
    x = np.ones((20, 3), np.float32)
    with (
        open_engine(plans("float32")) as engine,
        pytest.raises(DataError, match="expected 1 to 8 in optimization profile 0") as error,
    ):
        engine.run({"x": x})
    assert error.value.hint == "profile 1 of the engine takes this query"
    with open_engine(plans("float32"), profile_index=1, contexts=2) as engine:
        np.testing.assert_array_equal(engine.run({"x": x})["y"], x + 1.5)


@on_tensorrt
def test_callers_of_several_threads_get_their_own_outputs(plans):
    failures: list[BaseException] = []
    with open_engine(plans("float32"), contexts=2) as engine:

        def call(seed: int) -> None:
            try:
                for step in range(20):
                    check(CASES["float32"], engine, seed + step)
            except BaseException as err:
                failures.append(err)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert failures == []


@on_tensorrt
def test_times_and_layers_are_told(plans):
    with open_engine(plans("float32")) as engine:
        x = {"x": np.ones((8, 3), np.float32)}
        query = engine.bind(x)
        for _ in range(5):
            times = query.timed()
            assert times.start_h2d_ns < times.end_h2d_ns == times.start_compute_ns
            assert times.start_compute_ns < times.end_compute_ns < times.end_d2h_ns
        layers = engine.layer_times(x, 4)
        assert layers
        assert all(len(layer.times_ms) == 4 for layer in layers)
        assert sum(layer.times_ms[-1] for layer in layers) > 0
        np.testing.assert_array_equal(engine.run(x)["y"], x["x"] + 1.5)


@on_tensorrt
def test_closing_twice_and_opening_again(plans):
    for _ in range(3):
        engine = open_engine(plans("float16"), contexts=2)
        check(CASES["float16"], engine, 1)
        engine.close()
        engine.close()
