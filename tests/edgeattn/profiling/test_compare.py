"""Comparing two engines: accuracy against numpy, latency in turns, conditions to fail on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.errors import DataError, EngineError, SpecError
from edgeattn.graph.compare import compare_arrays
from edgeattn.profiling import compare as compare_module
from edgeattn.profiling.compare import FIGURES, compare
from edgeattn.profiling.comparison import timed
from edgeattn.profiling.measurement import Measurement
from tests.graphs import WEIGHT, classifier, from_text, int8_chain, logits_of, save

QUICK = {"iterations": 3, "duration_s": 0, "warm_up_ms": 0, "board": False}
X = np.random.default_rng(0).standard_normal((21, 5)).astype(np.float32)
COARSE = np.round(WEIGHT)


def graphs(tmp_path: Path, batch_a: int | str = "b", batch_b: int | str = "b") -> tuple[Path, Path]:
    return (
        save(classifier(batch_a), tmp_path / "a.onnx"),
        save(classifier(batch_b, COARSE), tmp_path / "b.onnx"),
    )


def logits_of_b(x: np.ndarray) -> np.ndarray:
    return logits_of(x) + x.astype(np.float64) @ (COARSE - WEIGHT).astype(np.float64)


def test_outputs_are_compared_over_all_samples(tmp_path: Path) -> None:
    comparison = compare(*graphs(tmp_path), {"x": X}, latency=False)
    expected = compare_arrays(logits_of(X), logits_of_b(X))
    assert comparison.num_samples == 21
    found = comparison.outputs["logits"]
    for name in ("max_abs_error", "max_rel_error", "sqnr_db", "centred_sqnr_db", "cosine"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4)
    assert found.top1_agreement == expected.top1_agreement
    assert comparison.latency_a is comparison.latency_ratio is None


@pytest.mark.parametrize(("batch_a", "batch_b"), [(1, 1), (4, 4), (4, "b"), ("b", 4), ("b", "b")])
def test_fixed_and_free_batches_give_the_same_comparison(
    tmp_path: Path, batch_a: int | str, batch_b: int | str
) -> None:
    comparison = compare(*graphs(tmp_path, batch_a, batch_b), {"x": X}, batch_size=6, **QUICK)
    expected = compare_arrays(logits_of(X), logits_of_b(X))
    assert comparison.outputs["logits"].sqnr_db == pytest.approx(expected.sqnr_db, rel=1e-4)
    fixed = {size for size in (batch_a, batch_b) if isinstance(size, int)}
    assert comparison.inputs == {"x": (*(fixed or {6}), 5)}
    assert comparison.latency_a is not None
    assert comparison.latency_b is not None
    ratio = comparison.latency_b.p50_ms / comparison.latency_a.p50_ms
    assert comparison.latency_ratio == ratio


def test_latencies_of_other_batches_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="batches of 2 and of 3"):
        compare(*graphs(tmp_path, 2, 3), {"x": X}, **QUICK)
    assert compare(*graphs(tmp_path, 2, 3), {"x": X}, latency=False).num_samples == 21


def test_top1_of_both_is_counted_with_labels(tmp_path: Path) -> None:
    labels = np.argmax(logits_of(X), axis=1)
    comparison = compare(*graphs(tmp_path), {"x": X}, labels, latency=False)
    agreement = 100 * np.mean(np.argmax(logits_of_b(X), axis=1) == labels)
    assert agreement < 100
    assert (comparison.top1_a, comparison.top1_b) == (100, agreement)
    assert comparison.top1_drop == 100 - agreement


def test_labels_may_come_with_the_inputs(tmp_path: Path) -> None:
    labels = np.zeros(21, np.int64)
    named = compare(*graphs(tmp_path), {"x": X, "label": labels}, latency=False)
    given = compare(*graphs(tmp_path), {"x": X}, labels, latency=False)
    assert named.top1_a == given.top1_a is not None


def test_an_input_called_label_is_an_input(tmp_path: Path) -> None:
    text = "g (float[n,2] label) => (float[n,2] y) { y = Neg(label) }"
    graph = save(from_text(text), tmp_path / "g.onnx")
    comparison = compare(graph, graph, {"label": np.ones((3, 2), np.float32)}, latency=False)
    assert comparison.top1_a is None


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels of shape \(20,\)"):
        compare(*graphs(tmp_path), {"x": X}, np.zeros(20, np.int64), latency=False)
    vector = save(from_text("g (float[n] x) => (float[n] y) { y = Neg(x) }"), tmp_path / "v.onnx")
    with pytest.raises(DataError, match="no output has the shape"):
        compare(vector, vector, {"x": np.ones(2, np.float32)}, np.zeros(2, int), latency=False)


def test_without_inputs_random_ones_fit_both(tmp_path: Path) -> None:
    comparison = compare(*graphs(tmp_path, "b", 4), **QUICK)
    assert comparison.num_samples == 4
    assert comparison.manifest.options["random_inputs_seed"] == 0
    with pytest.raises(DataError, match="no size for the dimension b"):
        compare(*graphs(tmp_path), **QUICK)
    assert compare(*graphs(tmp_path), shapes={"x": (2, 5)}, **QUICK).num_samples == 2


def test_an_engine_equals_itself(tmp_path: Path) -> None:
    graph, _ = graphs(tmp_path)
    comparison = compare(graph, graph, {"x": X}, fail_if=["sqnr_db < 100"], latency=False)
    assert comparison.figures()["sqnr_db"] == np.inf
    assert comparison.violations == ()
    values = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert values["figures"]["sqnr_db"] is None
    assert values["figures"]["max_abs_error"] == 0
    assert set(values["figures"]) == set(FIGURES)


def test_single_tensors_may_have_other_names(tmp_path: Path) -> None:
    a, _ = graphs(tmp_path)
    renamed = onnx.load(a)
    renamed.graph.node[0].input[0] = renamed.graph.input[0].name = "pixels"
    renamed.graph.node[1].output[0] = renamed.graph.output[0].name = "scores"
    b = save(renamed, tmp_path / "renamed.onnx")
    comparison = compare(a, b, {"x": X}, **QUICK)
    assert comparison.outputs["logits"].max_abs_error == 0
    assert compare(b, a, {"pixels": X}, latency=False).outputs["scores"].max_abs_error == 0


def test_engines_of_other_models_are_refused(tmp_path: Path) -> None:
    two = from_text("g (float[n,5] x) => (float[n,5] y, float[n,5] z) { y = Neg(x) z = Abs(x) }")
    with pytest.raises(EngineError, match="different outputs: logits against y, z"):
        compare(graphs(tmp_path)[0], save(two, tmp_path / "two.onnx"), {"x": X})
    other = from_text("g (float[n,5] x, float[n,5] w) => (float[n,5] y) { y = Mul(x, w) }")
    with pytest.raises(EngineError, match="different inputs: x against x, w"):
        compare(graphs(tmp_path)[0], save(other, tmp_path / "other.onnx"), {"x": X})


def test_the_worst_output_stands_for_all(tmp_path: Path) -> None:
    text = "g (float[n,2] x) => (float[n,2] y, float[n,2] z) {{ y = Neg(x) z = {}(x) }}"
    a = save(from_text(text.format("Abs")), tmp_path / "a.onnx")
    b = save(from_text(text.format("Sqrt")), tmp_path / "b.onnx")
    x = np.random.default_rng(0).uniform(1, 9, (4, 2)).astype(np.float32)
    comparison = compare(a, b, {"x": x}, latency=False)
    figures = comparison.figures()
    assert figures["sqnr_db"] == comparison.outputs["z"].sqnr_db
    assert figures["max_abs_error"] == comparison.outputs["z"].max_abs_error > 0


def test_conditions_that_hold_are_violations(tmp_path: Path) -> None:
    labels = np.argmax(logits_of(X), axis=1)
    conditions = ["sqnr_db < 90", "sqnr_db < 1", "top1_drop > 0.3", "p50_ms > 60000"]
    comparison = compare(*graphs(tmp_path), {"x": X}, labels, fail_if=conditions, **QUICK)
    first, second = comparison.violations
    assert first.startswith("sqnr_db < 90: it is ")
    assert second.startswith("top1_drop > 0.3: it is ")


def test_malformed_conditions_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "SharedInputs", lambda *a: pytest.fail("ran"))
    with pytest.raises(SpecError, match="there is no snqr_db") as caught:
        compare(*graphs(tmp_path), {"x": X}, fail_if=["snqr_db < 30"])
    assert "sqnr_db" in caught.value.hint


@pytest.mark.parametrize("condition", ["top1_drop > 0.3", "p99_ms > 5", "p99_9_ms > 5"])
def test_conditions_that_cannot_be_judged_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    few = Measurement((QueryTimes(0, 9, 0, 0, 0, 9, 9, 9),) * 99, 1000)
    monkeypatch.setattr(timed, "measure_interleaved", lambda q, **_: dict.fromkeys(q, few))
    with pytest.raises(SpecError, match="cannot be judged"):
        compare(*graphs(tmp_path), {"x": X}, fail_if=[condition])


def test_both_engines_are_named_by_their_hashes(tmp_path: Path) -> None:
    a, b = graphs(tmp_path)
    parents = compare(build(a), b, {"x": X}, latency=False, threads=1).manifest.parents
    assert (parents["a_engine"].file, parents["b_graph"].file) == ("a.engine", "b.onnx")


def test_loaded_engines_stay_open(tmp_path: Path) -> None:
    a, b = graphs(tmp_path)
    with load(a) as engine_a, load(b) as engine_b:
        compare(engine_a, engine_b, {"x": X}, **QUICK)
        engine_a.run({"x": X})
        engine_b.run({"x": X})


def test_an_int8_engine_is_compared_with_its_float_form(tmp_path: Path) -> None:
    from edgeattn.engine.cpu_int8 import without_rounding

    quantized = int8_chain(3)
    a = save(without_rounding(quantized), tmp_path / "a.onnx")
    b = save(quantized, tmp_path / "b.onnx")
    x = np.random.default_rng(1).uniform(-3, 3, (30, 64)).astype(np.float32)
    figures = compare(a, b, {"x": x}, latency=False, threads=1).figures()
    assert figures["sqnr_db"] is not None
    assert 30 < figures["sqnr_db"] < 60
