"""The judge of quantized graphs: faithful arithmetic, any batches, any outputs."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from edgeattn.calibration.judge import (
    OutputJudge,
    SampleSession,
    output_sqnr_db,
    output_top1,
    sample_noise,
)
from edgeattn.errors import DataError, GraphError
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graphs import classifier, from_text, logits_of
from tests.quantization import (
    block,
    block_weights,
    fake_quantized,
    fake_quantized_matrix,
    floats,
    run_block,
    unit_scales,
)


def centred_db(reference: np.ndarray, candidate: np.ndarray) -> float:
    signal = np.sum((reference - reference.mean(axis=0)) ** 2)
    return 10 * math.log10(signal / np.sum((reference - candidate) ** 2))


def test_the_figure_is_that_of_fake_quantization_in_float64():
    model, x = block(), floats(11, 4, 8)
    quantized, _ = insert_qdq(model, unit_scales(model, 0.07))
    expected = centred_db(
        run_block(x, block_weights(), lambda n, v: v, lambda n, v: v),
        run_block(x, block_weights(), lambda n, v: fake_quantized(v, 0.07), fake_quantized_matrix),
    )
    assert OutputJudge(model, {"x": x}).sqnr_db(quantized) == pytest.approx(expected, abs=0.05)


def test_nothing_lost_is_infinite():
    assert OutputJudge(block(), {"x": floats(3, 4, 8)}).sqnr_db(block()) == math.inf


@pytest.mark.parametrize("count", [1, 3, 7, 20])
@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_any_number_of_samples_goes_through_any_batch_size(batch, count):
    x = floats(count, 5)
    found = SampleSession(classifier(batch)).run({"x": x})["logits"]
    np.testing.assert_allclose(found, logits_of(x), rtol=1e-5, atol=1e-6)


def test_an_output_without_an_axis_of_samples_is_taken_of_each_sample():
    model = from_text("g (float[N,3] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }")
    x = floats(9, 3)
    found = SampleSession(model).run({"x": x})["y"]
    np.testing.assert_allclose(found, x.sum(axis=1), rtol=1e-5)


def test_an_output_that_varies_in_shape_is_refused():
    model = from_text("g (float[N,3] x) => (int64[A,B] y) { y = NonZero(x) }")
    x = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)
    with pytest.raises(GraphError, match="the output y has another shape for each sample"):
        SampleSession(model).run({"x": x})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "no array for the input x"),
        ({"x": np.zeros((0, 5), np.float32)}, "numbers of samples"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, message):
    with pytest.raises(DataError, match=message):
        OutputJudge(classifier(), samples)


def test_what_onnxruntime_does_not_run_is_refused_in_one_sentence():
    with pytest.raises(GraphError, match="ONNX Runtime cannot run the graph"):
        OutputJudge(classifier(), {"x": floats(3, 6)})
    unknown = onnx.ModelProto.FromString(classifier().SerializeToString())
    unknown.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match="ONNX Runtime cannot load the graph"):
        OutputJudge(unknown, {"x": floats(3, 5)})


def test_of_several_outputs_the_worst_counts_and_integers_do_not():
    reference = {"a": floats(6, 4), "b": floats(6, 5), "index": np.arange(6)}
    candidate = {
        "a": reference["a"] + 0.1,
        "b": reference["b"] + np.float32(0.01),
        "index": np.zeros(6, int),
    }
    expected = centred_db(*(x["a"].astype(np.float64) for x in (reference, candidate)))
    assert output_sqnr_db(reference, candidate) == pytest.approx(expected)


def test_integers_count_where_there_is_nothing_else():
    assert output_sqnr_db({"y": np.array([1, 2])}, {"y": np.array([1, 2])}) == math.inf
    assert output_sqnr_db({"y": np.array([1, 2])}, {"y": np.array([2, 1])}) < 0


def test_an_output_that_never_changes_is_judged_by_all_of_it():
    reference = np.tile(floats(1, 4), (5, 1))
    noisy = reference * np.float32(1.1)
    assert output_sqnr_db({"y": reference}, {"y": noisy}) == pytest.approx(20, abs=0.01)


def test_the_noise_of_each_sample_is_relative_to_what_varies_in_all_of_them():
    reference = {"a": floats(6, 4), "b": floats(6, 5) + 100}
    candidate = {"a": reference["a"].copy(), "b": reference["b"].copy()}
    candidate["a"][2] += 1
    candidate["b"][2] += 2
    candidate["b"][4] = np.nan
    expected = 0.0
    for name, error in (("a", 4 * 1.0), ("b", 5 * 4.0)):
        values = reference[name].astype(np.float64)
        expected += error / np.mean(np.sum((values - values.mean(axis=0)) ** 2, axis=1))
    found = sample_noise(reference, candidate)
    assert found[2] == pytest.approx(expected)
    assert found[4] == math.inf
    assert not found[[0, 1, 3, 5]].any()


def test_accuracy_is_that_of_the_output_with_classes():
    logits = np.array([[1, 2, 0], [5, 0, 0], [0, 0, 9]])
    outputs = {"features": np.zeros((3, 2, 2)), "logits": logits}
    assert output_top1(outputs, np.array([1, 0, 0])) == pytest.approx(200 / 3)
    with pytest.raises(DataError, match="no output has the shape"):
        output_top1({"features": np.zeros((3, 2, 2))}, np.array([1, 0, 0]))
