"""The choice among thresholds: by the output's error, confirmed where it did not choose."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import data_folder
from edgeattn.calibration.choose import LEAST_SAMPLES, choose_thresholds
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.judge import OutputJudge, SampleSession
from edgeattn.calibration.table import CalibTable
from edgeattn.graph.export import export
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import place_qdq
from edgeattn.models.registry import create_model, get_entry, model_names
from tests.quantization import block, floats, with_weights

WIDTH = 16


def product():
    """`y = x w`: the SQNR of y is that of x, all but the weight's own rounding."""
    weight = np.random.default_rng(3).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return with_weights("g (float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }", {"w": weight})


def normal(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def test_a_range_far_too_wide_is_left_for_a_fitting_one():
    samples = {"x": normal(20)}
    candidates = {"x": {"minmax": 400.0, "mse": 4.0}}
    choice = choose_thresholds(product(), candidates, samples)
    assert choice.methods == {"x": "mse"}
    assert json.loads(json.dumps(choice.report)) == choice.report


def test_what_clips_too_much_is_not_chosen():
    choice = choose_thresholds(product(), {"x": {"minmax": 4.0, "mse": 0.1}}, {"x": normal(20)})
    assert choice.methods == {"x": "minmax"}


def test_a_choice_that_the_other_samples_do_not_confirm_is_refused():
    samples = normal(20)
    samples[0::2] /= 10  # those that choose never reach what the others need
    candidates = {"x": {"minmax": 4.0, "mse": 0.4}}
    assert choose_thresholds(product(), candidates, {"x": samples}).methods == {"x": "minmax"}


@pytest.mark.parametrize("count", [0, 1, LEAST_SAMPLES - 1])
def test_too_few_samples_choose_nothing(count):
    candidates = {"x": {"minmax": 400.0, "mse": 4.0}}
    choice = choose_thresholds(product(), candidates, {"x": normal(count)})
    assert choice.methods == {"x": "minmax"}
    assert "too few" in choice.report["reason"]


def block_candidates(x, **factors):
    """Thresholds of each tensor of the block: its largest magnitude, times a factor by method."""
    model = block()
    tensors = place_qdq(model, "full").activations
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    values = SampleSession(model).run({"x": x})
    return {
        name: {
            method: factor * float(np.abs(values[name]).max())
            for method, factor in ({"minmax": 1.0} | factors).items()
        }
        for name in tensors
    }


def test_each_tensor_gets_what_suits_it():
    x = floats(40, 4, 8)
    candidates = block_candidates(x)
    candidates["mixed"] |= {"minmax": 60.0, "entropy": candidates["mixed"]["minmax"], "mse": 1e-3}
    candidates["active"]["percentile:99.9"] = candidates["active"]["minmax"] / 50
    choice = choose_thresholds(block(), candidates, {"x": x})
    assert choice.methods == dict.fromkeys(candidates, "minmax") | {"mixed": "entropy"}
    found = choice.report["recipes"]["linear"]
    assert found["chosen"] == {"mixed": "entropy"}
    (tried,) = (entry for entry in found["tried"] if entry["tensor"] == "mixed")
    assert tried["noise_percent"] > 80
    assert tried["gain_db"]["entropy"]["total_db"] > 10 > 0 > tried["gain_db"]["mse"]["total_db"]
    confirmation = found["confirmation"]
    assert confirmation["confirmed"]
    assert confirmation["samples"] == 20
    assert confirmation["chosen_db"] > confirmation["minmax_db"] + 3


def test_the_confirmation_is_of_the_whole_quantized_graph_on_every_other_sample():
    x = floats(33, 4, 8)
    candidates = block_candidates(x)
    candidates["norm"] |= {"minmax": 90.0, "mse": candidates["norm"]["minmax"]}
    found = choose_thresholds(block(), candidates, {"x": x}).report["recipes"]["linear"]
    judge = OutputJudge(block(), {"x": x[1::2]})
    for figure, norm in (("minmax_db", 90.0), ("chosen_db", candidates["norm"]["mse"])):
        amax = {n: by["minmax"] for n, by in candidates.items()} | {"norm": norm}
        scales = {name: float(np.float32(value) / np.float32(127)) for name, value in amax.items()}
        expected = judge.sqnr_db(insert_qdq(block(), scales)[0])
        assert found["confirmation"][figure] == pytest.approx(expected, abs=1e-6)


def test_tensors_that_only_the_larger_recipes_need_are_chosen_too():
    x = floats(40, 4, 8)
    candidates = block_candidates(x)
    candidates["v"] |= {"minmax": 200.0, "average": candidates["v"]["minmax"]}
    choice = choose_thresholds(block(), candidates, {"x": x})
    assert choice.methods == dict.fromkeys(candidates, "minmax") | {"v": "average"}
    assert choice.report["recipes"]["full"]["chosen"] == {"v": "average"}


def test_a_gain_of_a_few_samples_is_none():
    # Two huge samples, one to choose and one to confirm, make most of the noise: they alone gain.
    x = normal(40)
    x[:2] *= 30
    candidates = {"x": {"minmax": 4.0, "mse": 120.0}}
    assert choose_thresholds(product(), candidates, {"x": x}).methods == {"x": "minmax"}


def test_what_helps_most_samples_and_ruins_one_is_not_chosen():
    x = normal(40)
    x[0] *= 30
    candidates = {"x": {"minmax": 120.0, "mse": 4.0}}
    assert choose_thresholds(product(), candidates, {"x": x}).methods == {"x": "minmax"}


def test_of_several_that_gain_the_best_is_taken():
    candidates = {"x": {"minmax": 400.0, "average": 40.0, "mse": 4.0, "entropy": 12.0}}
    choice = choose_thresholds(product(), candidates, {"x": normal(40)})
    assert choice.methods == {"x": "mse"}


def test_the_same_samples_give_the_same_choice():
    x = floats(24, 4, 8)
    candidates = block_candidates(x, mse=0.7, entropy=0.5)
    calls = []
    first = choose_thresholds(block(), candidates, {"x": x}, lambda *told: calls.append(told))
    second = choose_thresholds(block(), candidates, {"x": x})
    assert first == second
    assert [done for done, _, _ in calls[:3]] == [1, 2, 3]
    assert json.loads(json.dumps(first.report)) == first.report


def test_an_output_that_cannot_be_judged_leaves_the_largest_magnitude():
    model = with_weights(
        "g (float[N,3] x) => (int64[A,B] y) { h = MatMul(x, w) p = Relu(h) y = NonZero(p) }",
        {"w": np.eye(3, dtype=np.float32)},
    )
    candidates = {"x": {"minmax": 40.0, "mse": 4.0}}
    choice = choose_thresholds(model, candidates, {"x": floats(20, 3)})
    assert choice.methods == {"x": "minmax"}
    assert "another shape for each sample" in choice.report["reason"]


def test_an_output_that_mixes_the_samples_of_a_batch_leaves_the_largest_magnitude():
    model = with_weights(
        "g (float[4,3] x) => (float[1,3] y) { h = MatMul(x, w) y = ReduceMean(h, axis) }",
        {"w": np.eye(3, dtype=np.float32), "axis": np.array([0])},
    )
    candidates = {"x": {"minmax": 40.0, "mse": 4.0}}
    choice = choose_thresholds(model, candidates, {"x": floats(20, 3)})
    assert choice.methods == {"x": "minmax"}
    assert "no row for each sample" in choice.report["reason"]


def test_nothing_to_gain_is_no_error():
    zeros = {"x": np.zeros((20, WIDTH), np.float32)}
    choice = choose_thresholds(product(), {"x": {"minmax": 0.0}}, zeros)
    assert choice.methods == {"x": "minmax"}
    assert not choice.report["recipes"]["linear"]["tried"]


TRAINED = {
    "msseq_nano": "basic_motions/heldout.npz",
    "mswin_nano": "mnist/heldout.npz",
    "pmsa_nano": "mnist/heldout.npz",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "msseq_nano" else [pytest.mark.slow])
        for name in model_names()
    ],
)
def test_the_choice_is_not_below_the_largest_magnitude_on_unseen_data(name, tmp_path):
    graph = export(create_model(name), get_entry(name).input, tmp_path / "net.onnx")
    model = load_graph(graph)
    (spec,) = input_specs(model)
    if name in TRAINED:
        with np.load(data_folder("calib") / "samples" / TRAINED[name]) as held:
            rows = np.random.default_rng(0).permutation(len(held[spec.name]))[:200]
            unseen = held[spec.name][rows]
        data: dict = {"recipe": name}
    else:  # smooth random images, like none that the random weights were made for
        rng = np.random.default_rng(0)
        coarse = rng.standard_normal(
            (56, *spec.shape[1:-2], *(-(-n // 8) for n in spec.shape[-2:]))
        )
        smooth = coarse.repeat(8, axis=-1).repeat(8, axis=-2)[
            ..., : spec.shape[-2], : spec.shape[-1]
        ]
        images = smooth.astype(np.float32)
        unseen, data = images[32:], {"data": images[:32]}
    judge = OutputJudge(model, {spec.name: unseen})
    found = {}
    for method in ("minmax", "auto"):
        table = calibrate(graph, output=tmp_path / f"{method}.calib.json", method=method, **data)
        scales = CalibTable.load(table).quant_scales
        for recipe in ("linear", "full"):
            found[method, recipe] = judge.sqnr_db(insert_qdq(model, scales, recipe)[0])
    for recipe in ("linear", "full"):
        assert math.isfinite(found["auto", recipe])
        assert found["auto", recipe] >= found["minmax", recipe] - 0.5, found
