"""The mean errors of layers: planted ones are found exactly, later ones see earlier corrections."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeattn.calibration.mean_errors import measure_mean_errors
from edgeattn.errors import GraphError
from edgeattn.graph.passes.correct_bias import correct_bias
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import place_qdq
from tests.graph_runs import tensors_of
from tests.quantization import block, floats, unit_scales, with_weights

LINEAR = """g (float[batch,6,5] x) => (float[batch,6,3] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    rows = Shape(b)
    same = Reshape(b, rows)
    y = MatMul(same, w2)
}"""
WEIGHTS = {"w1": floats(5, 4), "b1": floats(4), "w2": floats(4, 3)}


def linear(**changed: np.ndarray) -> onnx.ModelProto:
    return with_weights(LINEAR, WEIGHTS | changed)


def batches_of(x: np.ndarray, size: int) -> list[dict[str, np.ndarray]]:
    return [{"x": x[i : i + size]} for i in range(0, len(x), size)]


def measured(
    model: onnx.ModelProto, other: onnx.ModelProto, x: np.ndarray, size: int = 4
) -> dict[str, np.ndarray]:
    return measure_mean_errors(model, other, place_qdq(model), batches_of(x, size))


def test_a_planted_shift_of_the_mean_is_found_and_taken_away_exactly():
    model, x = linear(), floats(11, 6, 5) + 1
    error = np.array([0.25, -0.5, 0, 2], np.float32)
    shifts = measured(model, linear(b1=WEIGHTS["b1"] + error), x)
    # The error stands behind the first layer's own output; the second one's input has it.
    np.testing.assert_allclose(shifts["a"], 0, atol=1e-5)
    np.testing.assert_allclose(shifts["y"], -error @ WEIGHTS["w2"], atol=1e-5)


def test_a_layer_is_measured_with_those_before_it_corrected():
    model, x = linear(), floats(11, 6, 5) + 1
    planted = linear(w1=WEIGHTS["w1"] * np.float32(1.25))
    shifts = measured(model, planted, x)
    mean = x.reshape(-1, 5).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(shifts["a"], mean @ WEIGHTS["w1"] * -0.25, atol=1e-5)
    np.testing.assert_allclose(shifts["y"], 0, atol=1e-5)


def test_after_the_correction_no_layer_of_a_linear_graph_has_a_mean_error():
    model, x = linear(), floats(16, 6, 5) + 0.5
    quantized, _ = insert_qdq(model, unit_scales(model, 0.3))
    corrected, decisions = correct_bias(quantized, measured(model, quantized, x))
    assert len(decisions) == 2
    names, means = ["b", "y"], {}
    for label, graph in {"float": model, "int8": quantized, "corrected": corrected}.items():
        found = tensors_of(graph, names, {"x": x})
        means[label] = {name: found[name].mean(axis=(0, 1), dtype=np.float64) for name in names}
    for name in names:
        assert np.abs(means["int8"][name] - means["float"][name]).max() > 1e-3
        np.testing.assert_allclose(means["corrected"][name], means["float"][name], atol=1e-5)


def test_after_the_correction_no_layer_of_a_block_has_a_mean_error():
    model, x = block(), floats(24, 4, 8)
    quantized, _ = insert_qdq(model, unit_scales(model, 0.1))
    corrected, _ = correct_bias(quantized, measured(model, quantized, x))
    names = ["q", "biased", "hidden", "out"]
    expected, found = (tensors_of(graph, names, {"x": x}) for graph in (model, corrected))
    for name in names:
        means = [t[name].mean(axis=tuple(range(t[name].ndim - 1))) for t in (expected, found)]
        np.testing.assert_allclose(means[1], means[0], atol=2e-4)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_the_batch_size_does_not_matter(size):
    model, x = block(), floats(24, 4, 8)
    quantized, _ = insert_qdq(model, unit_scales(model, 0.1))
    reference = measured(model, quantized, x, 8)
    for name, shift in measured(model, quantized, x, size).items():
        # A sum that differs in its last bit flips a rounding now and then.
        np.testing.assert_allclose(shift, reference[name], atol=2e-3)


def test_convolutions_are_averaged_over_samples_and_places():
    text = """g (float[N,2,h,w] x) => (float[N,3,a,b] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, k)
        r = Relu(c)
        y = Conv(r, m)
    }"""
    weights = {"k": floats(3, 2, 3, 3), "m": floats(3, 3, 1, 1)}
    model = with_weights(text, weights)
    planted = with_weights(text, weights | {"k": weights["k"] * np.float32(1.5)})
    x = [floats(2, 2, 5, 7) + 1, floats(1, 2, 9, 3) + 1]  # maps of different sizes
    shifts = measure_mean_errors(model, planted, place_qdq(model), [{"x": part} for part in x])
    outputs = [tensors_of(model, ["c"], {"x": part})["c"] for part in x]
    sums = sum(output.sum(axis=(0, 2, 3)) for output in outputs)
    mean = sums / sum(output.size / 3 for output in outputs)
    np.testing.assert_allclose(shifts["c"], -0.5 * mean, atol=1e-5)


def test_layers_kept_in_float_are_not_corrected():
    model = block()
    placement = place_qdq(model, keep_float=["q", "hidden"])
    quantized, _ = insert_qdq(model, unit_scales(model), keep_float=["q", "hidden"])
    shifts = measure_mean_errors(model, quantized, placement, batches_of(floats(4, 4, 8), 4))
    assert list(shifts) == ["k", "v", "projected", "out"]


def test_control_flow_between_layers_is_followed():
    text = """g (float[N,5] x) => (float[N,3] y) {
        a = MatMul(x, w1)
        big = ReduceMax<keepdims = 0>(x)
        one = CastLike(limit, big)
        above = Greater(big, one)
        b = If (above) <
            then_branch = t () => (float[N,4] p) { p = Neg(a) },
            else_branch = e () => (float[N,4] q) { q = Add(a, x4) }
        >
        y = MatMul(b, w2)
    }"""
    weights = WEIGHTS | {"limit": np.float32(0), "x4": floats(4)}
    del weights["b1"]
    model = with_weights(text, weights)
    planted = with_weights(text, weights | {"w1": weights["w1"] * np.float32(2)})
    x = floats(9, 5) + 3
    shifts = measured(model, planted, x, 9)
    np.testing.assert_allclose(shifts["a"], -x.mean(axis=0) @ weights["w1"], atol=1e-4)
    np.testing.assert_allclose(shifts["y"], 0, atol=1e-4)


def test_progress_counts_the_layers_of_both_graphs():
    seen: list[tuple[int, int]] = []
    model = linear()
    measure_mean_errors(
        model, model, place_qdq(model), batches_of(floats(4, 6, 5), 4), lambda *at: seen.append(at)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_mean_that_is_not_finite_is_refused():
    x = floats(4, 6, 5)
    x[2, 3, 1] = np.nan
    with pytest.raises(GraphError, match="the mean of a is NaN or infinite") as error:
        measured(linear(), linear(), x)
    assert error.value.hint


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(GraphError, match="ONNX Runtime cannot run the graph") as error:
        measured(linear(), linear(), floats(4, 6, 7))
    assert "\n" not in error.value.message


def test_a_graph_that_onnx_runtime_does_not_load_is_refused():
    broken = linear(w1=floats(3, 4))
    with pytest.raises(GraphError, match="ONNX Runtime cannot"):
        measured(linear(), broken, floats(4, 6, 5))


def test_weights_are_left_as_they_are():
    model = linear()
    quantized, _ = insert_qdq(model, unit_scales(model, 0.3))
    corrected, _ = correct_bias(quantized, measured(model, quantized, floats(4, 6, 5)))
    kept = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    for tensor in corrected.graph.initializer:
        if tensor.name.startswith("w"):
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), kept[tensor.name])
