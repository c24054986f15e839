"""The CPU engine against numpy, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.cpu_session import open_session, session_options
from edgeattn.engine.host import usable_cores
from edgeattn.errors import DataError, EngineError
from edgeattn.inputs import ImagePreprocess
from tests.graphs import FEATURES, classifier, from_text, logits_of


def engine_of(
    graph: onnx.ModelProto, threads: int | None = 1, manifest: Manifest | None = None
) -> CpuEngine:
    manifest = manifest or Manifest("engine", target="cpu")
    return CpuEngine(graph.SerializeToString(), manifest, threads=threads)


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_outputs_equal_numpy(count: int) -> None:
    x = samples(count)
    with engine_of(classifier()) as engine:
        np.testing.assert_allclose(engine.run({"x": x})["logits"], logits_of(x), rtol=1e-5)


def test_inputs_and_outputs_are_described() -> None:
    with engine_of(classifier(4)) as fixed, engine_of(classifier("batch")) as free:
        assert fixed.inputs == (TensorSpec("x", "float32", (4, 5)),)
        assert free.inputs == (TensorSpec("x", "float32", ("batch", 5)),)
        assert free.outputs == (TensorSpec("logits", "float32", ("batch", 3)),)


def test_nameless_dimensions_of_two_inputs_are_not_mixed_up() -> None:
    graph = from_text(
        "g (float[?,2] a, float[?,2] b) => (float[?,2] y) { y = Concat<axis=0>(a, b) }"
    )
    ones = {"a": np.ones((1, 2), np.float32), "b": np.ones((3, 2), np.float32)}
    with engine_of(graph) as engine:
        assert engine.inputs[0].shape == ("a.0", 2)
        assert engine.run(ones)["y"].shape == (4, 2)


@pytest.mark.parametrize(
    ("declared", "dtype"),
    [("float16", "float16"), ("double", "float64"), ("int8", "int8"), ("uint8", "uint8"),
     ("int32", "int32"), ("int64", "int64"), ("bool", "bool")],
)  # fmt: skip
def test_every_type_of_numbers_passes_through(declared: str, dtype: str) -> None:
    with engine_of(
        from_text(f"g ({declared}[3] x) => ({declared}[3] y) {{ y = Identity(x) }}")
    ) as e:
        x = np.array([0, 1, 1], dtype)
        result = e.run({"x": x})["y"]
        assert (e.inputs[0].dtype, e.outputs[0].dtype) == (dtype, dtype)
        np.testing.assert_array_equal(result, x)
        assert result.dtype == x.dtype


def test_an_input_of_strings_is_refused() -> None:
    with pytest.raises(EngineError, match=r"x is a tensor\(string\); expected a tensor of numbers"):
        engine_of(from_text("g (string[3] x) => (string[3] y) { y = Identity(x) }"))


def test_non_contiguous_inputs_are_accepted() -> None:
    x = np.asfortranarray(samples(6))[::-2]
    with engine_of(classifier()) as engine:
        np.testing.assert_allclose(engine.run({"x": x})["logits"], logits_of(x), rtol=1e-5)


def test_wrong_inputs_are_refused_before_the_session_sees_them() -> None:
    with engine_of(classifier(2)) as engine:
        for wrong in (samples(3), samples(2).astype(np.float64), samples(2)[0]):
            with pytest.raises(DataError, match="the input x"):
                engine.run({"x": wrong})
            with pytest.raises(DataError, match="the input x"):
                engine.bind({"x": wrong})


def test_a_failure_inside_the_graph_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    graph = from_text("g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }")
    with engine_of(graph) as engine, pytest.raises(EngineError) as caught:
        engine.run({"x": np.ones(4, np.float32), "s": np.array([3])})
    assert caught.value.message.startswith("the engine failed: Non-zero status code")
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


def test_a_graph_that_no_kernel_runs_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        EngineError, match="ONNX Runtime refuses the graph: This is an invalid model"
    ):
        engine_of(from_text("g (float[n] x) => (float[n] y) { y = NoSuchOperator(x) }"))
    assert capfd.readouterr().err == ""


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(EngineError, match="protobuf parsing failed"):
        CpuEngine(b"no graph", Manifest("engine"), threads=1)


def test_a_closed_engine_says_so_and_closing_twice_is_harmless() -> None:
    engine = engine_of(classifier())
    query = engine.bind({"x": samples(2)})
    engine.close()
    engine.close()
    for use in (engine.run, engine.bind):
        with pytest.raises(EngineError, match="the engine is closed"):
            use({"x": samples(2)})
    query()  # holds its own session
    np.testing.assert_allclose(query.outputs()["logits"], logits_of(samples(2)), rtol=1e-5)


def test_a_bound_query_follows_its_input_buffer_and_reuses_its_output() -> None:
    x = samples(3)
    with engine_of(classifier()) as engine:
        query = engine.bind({"x": x})
        before = query.outputs()["logits"]
        x[:] = samples(3)[::-1]
        query()
        assert query.outputs()["logits"] is before
        np.testing.assert_allclose(before, logits_of(x), rtol=1e-5)


def test_a_bound_query_keeps_its_arrays_alive() -> None:
    with engine_of(classifier()) as engine:
        query = engine.bind({"x": samples(9)})  # a temporary
        for _ in range(50):
            query()
        np.testing.assert_allclose(query.outputs()["logits"], logits_of(samples(9)), rtol=1e-5)


def test_threads_are_the_manifests_unless_given_and_else_the_cores() -> None:
    chosen = Manifest("engine", options={"threads": 2})
    assert engine_of(classifier(), None, chosen).settings == {"engine": "cpu", "threads": 2}
    assert engine_of(classifier(), 1, chosen).settings["threads"] == 1
    assert engine_of(classifier(), None).settings["threads"] == usable_cores()


def test_no_threads_are_refused() -> None:
    with pytest.raises(EngineError, match="threads is -1; expected at least 1"):
        engine_of(classifier(), -1)


def test_preprocessing_comes_from_the_manifest() -> None:
    described = {"name": "x", "preprocess": {"mean": [0.5], "std": [0.2], "resize": 8}}
    manifest = Manifest("engine", options={"inputs": [described]})
    assert engine_of(classifier(), 1, manifest).inputs[0].preprocess == ImagePreprocess(
        (0.5,), (0.2,), 8
    )


@pytest.mark.parametrize(
    "inputs", [[{"preprocess": {"mean": [1]}}], ["x"], [{"name": "x", "preprocess": {"a": 1}}]]
)
def test_a_manifest_that_describes_inputs_badly_is_refused(inputs: list[object]) -> None:
    with pytest.raises(EngineError, match="manifest describes its inputs badly"):
        engine_of(classifier(), 1, Manifest("engine", options={"inputs": inputs}))


def test_opening_an_engine_leaves_the_callers_arithmetic_alone() -> None:
    engine_of(classifier()).close()
    assert np.float32(1e-40) * np.float32(1) > 0  # no flushing of subnormal numbers


def test_sessions_stop_spinning_between_queries() -> None:
    session = open_session(classifier().SerializeToString(), session_options(2))
    options = session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.intra_op_num_threads == 2
