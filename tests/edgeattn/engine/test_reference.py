"""The reference: what a typed graph computes, with and without the rounding of its types."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgeattn
from edgeattn.artifacts import Manifest
from edgeattn.calibration.random_samples import RandomSamples, random_array
from edgeattn.engine import reference as reference_module
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.cpu_lowering import lower_for_cpu
from edgeattn.engine.reference import FLOORS, NOISE_FACTOR, Distance, Reference, distance
from edgeattn.errors import DataError
from edgeattn.graph.files import load_graph
from edgeattn.graph.verify import run_graph
from edgeattn.models.registry import create_model, get_entry
from tests.graphs import classifier, from_text, logits_of

HALF = """
g (float[N,6] x) => (float[N,6] y) {
    narrow = Cast<to = 10>(x)
    square = Mul(narrow, narrow)
    root = Sqrt(square)
    y = Cast<to = 1>(root)
}
"""
INT8 = """
g (float[N,6] x) => (float[N,6] y) {
    scale = Constant<value = float {0.05}>()
    zero = Constant<value = int8 {0}>()
    q = QuantizeLinear(x, scale, zero)
    y = DequantizeLinear(q, scale, zero)
}
"""
X = np.random.default_rng(0).uniform(0.5, 4, (3, 6)).astype(np.float32)


def test_a_float32_graph_has_no_noise() -> None:
    x = X[:, :5]
    with Reference(classifier()) as reference:
        assert reference.precisions == ("fp32",)
        expected = reference.run({"x": x})
        np.testing.assert_allclose(expected.exact["logits"], logits_of(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(expected.exact["logits"], expected.written["logits"])
        assert expected.tolerance("logits", ["fp32"]) == FLOORS["fp32"].bound
        with pytest.raises(DataError, match="the input x is missing"):
            reference.run({})


def test_half_results_are_rounded_as_written_and_not_rounded_in_the_exact_ones() -> None:
    with Reference(from_text(HALF)) as reference:
        assert reference.precisions == ("fp16",)
        expected = reference.run({"x": X})
    np.testing.assert_allclose(expected.exact["y"], X, rtol=1e-6)
    half = X.astype(np.float16)
    np.testing.assert_array_equal(expected.written["y"], np.sqrt(half * half).astype(np.float32))


def test_int8_results_are_steps_as_written_and_whole_in_the_exact_ones() -> None:
    with Reference(from_text(INT8)) as reference:
        assert reference.precisions == ("int8",)
        expected = reference.run({"x": 2 * X})  # 127 steps of 0.05 are 6.35
    np.testing.assert_allclose(expected.exact["y"], np.minimum(2 * X, np.float32(6.35)), rtol=1e-6)
    steps = np.clip(np.rint(2 * X / np.float32(0.05)), -128, 127)
    np.testing.assert_allclose(expected.written["y"], steps * np.float32(0.05), rtol=1e-6)


def test_the_tolerance_is_the_noise_of_the_inputs_at_hand_but_no_less_than_the_floor() -> None:
    coarse = INT8.replace("0.05", "2.0")
    with Reference(from_text(coarse)) as reference:
        expected = reference.run({"x": X})
    noise = distance(X, 2 * np.rint(X / 2))
    bound = expected.tolerance("y", ["int8"])
    assert bound.rms == pytest.approx(NOISE_FACTOR * noise.rms, rel=1e-5)
    assert bound.peak == pytest.approx(NOISE_FACTOR * noise.peak, rel=1e-5)
    fine = INT8.replace("0.05", "0.0001")
    with Reference(from_text(fine)) as reference:
        expected = reference.run({"x": X / 1000})
    assert expected.tolerance("y", ["int8"]).rms > FLOORS["int8"].bound.rms  # of so small an input
    with Reference(from_text(INT8)) as reference:
        exact = reference.run({"x": np.zeros((1, 6), np.float32)})
    assert exact.tolerance("y", ["int8", "bf16"]) == FLOORS["bf16"].bound


def test_bfloat16_inputs_and_outputs_go_through_float32() -> None:
    text = """
    g (bfloat16[N,6] x, float[N,6] z) => (bfloat16[N,6] y, float[N,6] w) {
        y = Mul(x, x)
        again = Mul(y, x)
        wide = Cast<to = 1>(again)
        w = Add(wide, z)
    }
    """
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    x = X.astype(bfloat16)
    with Reference(from_text(text)) as reference:
        assert [(spec.name, spec.dtype) for spec in (*reference.inputs, *reference.outputs)] == [
            *(("x", "bfloat16"), ("z", "float32"), ("y", "bfloat16"), ("w", "float32")),
        ]
        expected = reference.run({"x": x, "z": np.zeros_like(X)})
        with pytest.raises(DataError, match="the input x is float32; expected bfloat16"):
            reference.run({"x": X, "z": X})
    np.testing.assert_array_equal(expected.written["y"], (x * x).astype(np.float32))
    np.testing.assert_array_equal(expected.written["w"], (x * x * x).astype(np.float32))
    wide = x.astype(np.float32)
    np.testing.assert_allclose(expected.exact["w"], wide * wide * wide, rtol=1e-6)
    assert distance(expected.written["y"], (x * x)) == Distance(0, 0)


def test_weights_beyond_the_limit_of_a_file_go_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((5, 3)).astype(np.float32)
    large = classifier(weight=weight)
    with Reference(large) as reference:
        plain = reference.run({"x": X[:, :5]})
    monkeypatch.setattr(reference_module, "MAX_INLINE_BYTES", 16)
    with Reference(large) as reference:
        np.testing.assert_array_equal(
            reference.run({"x": X[:, :5]}).exact["logits"], plain.exact["logits"]
        )


def test_distance_is_relative_and_worst_of_the_samples() -> None:
    a = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    b = a + np.array([[0.0, 0.0], [0.5, 0.0]], np.float32)
    size = math.sqrt(25 / 4)
    found = distance(a, b)
    assert found.rms == pytest.approx(math.sqrt(0.25 / 2) / size)
    assert found.peak == pytest.approx(0.5 / size)
    assert distance(a, a) == Distance(0, 0)
    assert str(Distance(0.012, 0.34)) == "1.2 % (one element 34 %)"


@pytest.mark.parametrize(
    "other",
    [np.zeros((2, 3)), np.array([[np.nan, 4.0], [0, 0]]), np.array([[np.inf, 4.0], [0, 0]])],
)
def test_other_shapes_and_values_that_are_not_finite_are_infinitely_far(other: np.ndarray) -> None:
    a = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert distance(a, other) == Distance(math.inf, math.inf)


def test_values_that_are_not_finite_on_both_sides_do_not_count() -> None:
    a = np.array([1.0, -np.inf, np.nan])
    assert distance(a, a.copy()) == Distance(0, 0)
    assert distance(a, np.array([1.1, -np.inf, np.nan])).peak == pytest.approx(0.1)
    assert distance(np.zeros(3), np.array([0, 0, 1e-9])).peak == math.inf
    assert distance(np.float32(2), np.float32(2.2)).rms == pytest.approx(0.1, rel=1e-5)


def test_a_distance_fits_only_if_both_of_its_parts_do() -> None:
    bound = Distance(0.1, 1.0)
    assert Distance(0.1, 1.0).fits(bound)
    assert not Distance(0.2, 0.5).fits(bound)
    assert not Distance(0.05, 1.5).fits(bound)
    assert not Distance(math.inf, math.inf).fits(bound)


def test_each_floor_says_why_and_is_at_least_what_its_type_rounds() -> None:
    steps = {"fp32": 2**-24, "tf32": 2**-11, "fp16": 2**-11, "bf16": 2**-8, "int8": 1 / 254}
    assert FLOORS.keys() == steps.keys()
    for name, step in steps.items():
        assert step < FLOORS[name].bound.rms < FLOORS[name].bound.peak < 0.2
        assert len(FLOORS[name].reason) > 20


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("name", ["mswin_nano", "msseq_nano", "pmsa_nano"])
def test_faithful_implementations_stay_within_the_factor(
    name: str,
    precision: str,
    tmp_path: Path,
    record_property: Callable[[str, float], None],
) -> None:
    """What `NOISE_FACTOR` is taken from: ONNX Runtime's integer kernels and its own FP16."""
    graph = edgeattn.export(create_model(name), get_entry(name).input, tmp_path / "g.onnx")
    table = None
    if "int8" in precision:
        samples = RandomSamples(16)
        table = edgeattn.calibrate(graph, samples, tmp_path / "t.calib.json", method="minmax")
    typed = edgeattn.quantize(graph, tmp_path / "q.onnx", table=table, precision=precision)
    model = load_graph(typed)
    fused = Manifest("engine", target="cpu", report={"int8_arithmetic": "fused"})
    with (
        Reference(model) as reference,
        CpuEngine(lower_for_cpu(model).SerializeToString(), fused) as engine,
    ):
        (output,) = (spec.name for spec in reference.outputs)
        for seed in range(6):
            rng = np.random.default_rng(seed)
            queries = [
                {spec.name: random_array(spec, spec.shape, rng) for spec in reference.inputs}
                for _ in range(8)
            ]
            expected = [reference.run(query) for query in queries]
            exact, written = (
                np.concatenate([getattr(each, kind)[output] for each in expected])
                for kind in ("exact", "written")
            )
            noise = distance(exact, written)
            ways = {"plain ONNX Runtime": [run_graph(model, query)[0] for query in queries]}
            if "int8" in precision:
                ways["integer kernels"] = [engine.run(query)[output] for query in queries]
            for way, results in ways.items():
                found = distance(exact, np.concatenate(results))
                ratio = max(found.rms / noise.rms, found.peak / noise.peak)
                record_property(f"largest ratio to the noise of {precision}, {way}", ratio)
                assert ratio <= NOISE_FACTOR
