"""Graphs are run as they are and compared by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from edgeattn.graph import verify
from edgeattn.graph.verify import relative_error, run_graph
from tests import oracle
from tests.cases import NAMED_CASES
from tests.edgeattn.graph.passes.test_decompose import attention_model
from tests.graphs import classifier, from_text, logits_of
from tests.tolerances import assert_close

X = np.random.default_rng(8).standard_normal((4, 5)).astype(np.float32)
NAN, INF = np.nan, np.inf


def error(expected: Any, actual: Any) -> float:
    return relative_error(
        [np.asarray(e, np.float32) for e in expected], [np.asarray(a, np.float32) for a in actual]
    )


@pytest.mark.parametrize("expected", [[[1, -2]], [0.0], [[]], [], [[INF, -INF, 1]], [3, [4, 5]]])
def test_equal_outputs_do_not_differ(expected: list[Any]) -> None:
    assert error(expected, expected) == 0


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ([[1, -4]], [[1, -3]], 0.25),  # of the largest magnitude, not of the entry
        ([[1, -4], [100, 0]], [[1, -4], [100, 50]], 0.5),
        ([[1], [2]], [[2], [2]], 1.0),  # each output by its own magnitude
        ([-2.0], [2.0], 2.0),
        ([[8, INF]], [[4, INF]], 0.5),
    ],
)
def test_the_error_is_relative_to_the_outputs_largest_magnitude(
    expected: list[Any], actual: list[Any], difference: float
) -> None:
    assert error(expected, actual) == pytest.approx(difference)


def test_a_difference_from_zeros_counts_in_full() -> None:
    assert error([[0, 0]], [[0, 1e-6]]) > 1e20


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([[1, 2]], [[1, NAN]]),
        ([[1, NAN]], [[1, NAN]]),
        ([[NAN, 2]], [[1, 2]]),
        ([[1, 2]], [[1, INF]]),
        ([[1, INF]], [[1, -INF]]),
        ([[1, INF]], [[1, 2]]),
        ([[1, 2]], [[[1, 2]]]),
        ([[1, 2]], [[1, 2, 3]]),
        ([[1, 2]], []),
        ([1, 2], [1]),
        ([[]], [[1]]),
    ],
)
def test_nan_infinity_and_other_shapes_are_never_close(
    expected: list[Any], actual: list[Any]
) -> None:
    assert error(expected, actual) == INF


def test_integers_and_truth_values_are_compared_as_numbers() -> None:
    extreme = np.array([np.iinfo(np.int64).max, 0])
    assert relative_error([extreme], [extreme - 1]) == pytest.approx(0, abs=1e-15)
    assert relative_error([np.array([True, False])], [np.array([True, True])]) == 1


def test_a_graph_gives_numpys_numbers() -> None:
    (logits,) = run_graph(classifier(), {"x": X})
    np.testing.assert_allclose(logits, logits_of(X), rtol=1e-5)


def test_outputs_come_in_the_order_of_the_graph() -> None:
    graph = from_text("g (float[N] x) => (float[N] b, float[N] a) { a = Neg(x) b = Abs(x) }")
    b, a = run_graph(graph, {"x": X[0]})
    np.testing.assert_array_equal(a, -X[0])
    np.testing.assert_array_equal(b, abs(X[0]))


def test_attention_is_run_in_its_standard_form_and_the_graph_left_alone() -> None:
    case = NAMED_CASES["odd_map_mask_pad_then_roll"]
    model = attention_model(case, dynamic=True)
    before = model.SerializeToString()
    tensors = case.tensors("float32")
    (actual,) = run_graph(model, {"qkv": tensors["qkv"]})
    exact = {name: tensor.astype("float64") for name, tensor in tensors.items()}
    assert_close(actual, oracle.attention(case.spec, **exact), "attention", "float32")
    assert model.SerializeToString() == before


def test_a_graph_too_large_for_protobuf_is_run_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "MAX_INLINE_BYTES", 10)
    written = []
    write = verify.write_graph
    monkeypatch.setattr(verify, "write_graph", lambda *a: (written.append(a[1]), write(*a)))
    weight = np.random.default_rng(9).standard_normal((5, 300)).astype(np.float32)
    graph = from_text("g (float[N,5] x) => (float[N,300] y) { y = MatMul(x, w) }")
    graph.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    (y,) = run_graph(graph, {"x": X})
    np.testing.assert_allclose(y, X.astype(np.float64) @ weight, rtol=1e-4, atol=1e-5)
    assert len(written) == 1
    assert not written[0].exists()
    assert graph.graph.initializer[0].raw_data  # moved in a copy
