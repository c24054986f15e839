"""Any number of samples through fixed and free batches."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.batches import batches, fixed_batch_size, run_samples
from edgeattn.engine.cpu import CpuEngine
from edgeattn.errors import DataError, EngineError
from tests.graphs import FEATURES, classifier, from_text, logits_of


def engine_of(graph: onnx.ModelProto) -> CpuEngine:
    return CpuEngine(graph.SerializeToString(), Manifest("engine"), threads=1)


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, "batch"])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 17])
def test_samples_come_back_in_their_order_and_number(batch: int | str, count: int) -> None:
    x = samples(count)
    with engine_of(classifier(batch)) as engine:
        found = run_samples(engine, {"x": x}, batch_size=4)["logits"]
    assert found.shape == (count, 3)
    np.testing.assert_allclose(found, logits_of(x), rtol=1e-5, atol=1e-6)


def test_fixed_batches_are_filled_up_with_the_last_sample() -> None:
    x = samples(5)
    with engine_of(classifier(3)) as engine:
        first, last = batches(engine, {"x": x})
        assert fixed_batch_size(engine) == 3
    assert (first[1], last[1]) == (3, 2)
    np.testing.assert_array_equal(last[0]["x"], x[[3, 4, 4]])


def test_free_batches_are_of_the_size_asked_for() -> None:
    with engine_of(classifier()) as engine:
        sizes = [len(a["x"]) for a, _ in batches(engine, {"x": samples(10)}, 4)]
        assert fixed_batch_size(engine) is None
    assert sizes == [4, 4, 2]


def test_inputs_without_a_common_axis_are_one_batch() -> None:
    graph = from_text("g (float[n,2] x, float factor) => (float[n,2] y) { y = Mul(x, factor) }")
    inputs = {"x": np.ones((20, 2), np.float32), "factor": np.array(3, np.float32)}
    with engine_of(graph) as engine:
        assert [count for _, count in batches(engine, inputs)] == [None]
        assert (run_samples(engine, inputs)["y"] == 3).all()


def test_inputs_of_unequal_numbers_of_samples_are_refused() -> None:
    graph = from_text("g (float[n,2] a, float[n,2] b) => (float[n,2] y) { y = Mul(a, b) }")
    inputs = {"a": np.ones((20, 2), np.float32), "b": np.ones((19, 2), np.float32)}
    with (
        engine_of(graph) as engine,
        pytest.raises(DataError, match="samples is 20 in the input a but 19 in b"),
    ):
        run_samples(engine, inputs)


def test_no_samples_are_refused() -> None:
    with engine_of(classifier()) as engine, pytest.raises(DataError, match="the input x is empty"):
        run_samples(engine, {"x": samples(0)})


def test_an_output_that_mixes_samples_is_refused() -> None:
    graph = from_text("g (float[n,2] x) => (float[1,2] y) { y = ReduceSum<keepdims=1>(x) }")
    with engine_of(graph) as engine, pytest.raises(EngineError, match="no row for each of the 8"):
        run_samples(engine, {"x": np.ones((20, 2), np.float32)})


def test_progress_counts_samples() -> None:
    told: list[tuple[int, int | None, str]] = []
    with engine_of(classifier()) as engine:
        run_samples(engine, {"x": samples(10)}, 4, lambda *step: told.append(step))
    assert told == [(0, 10, "run"), (4, 10, "run"), (8, 10, "run")]
