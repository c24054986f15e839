"""INT8 kernels are trusted only as far as rounding explains their difference from the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.cpu import input_tensors
from edgeattn.engine.cpu_int8 import (
    FAITHFUL_DB,
    Int8Choice,
    Verdict,
    choose,
    choose_arithmetic,
    is_quantized,
    judge,
    probe_inputs,
    without_rounding,
)
from edgeattn.engine.cpu_session import Int8Arithmetic, open_session, session_options
from edgeattn.errors import EngineError
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graphs import classifier, from_text, int8_chain

MANIFEST = Manifest("engine", target="cpu")


def run(graph: onnx.ModelProto, x: np.ndarray, arithmetic: Int8Arithmetic) -> np.ndarray:
    session = open_session(graph.SerializeToString(), session_options(1, arithmetic))
    return session.run(None, {"x": x})[0]


def saturating_product(u8: np.ndarray, s8: np.ndarray) -> np.ndarray:
    """Multiply as AVX2 without VNNI does (`vpmaddubsw`): sums of two products end at 16 bits."""
    pairs = u8.astype(np.int64)[:, :, None] * s8.astype(np.int64)[None]
    sums = pairs[:, 0::2] + pairs[:, 1::2]
    return np.clip(sums, -(2**15), 2**15 - 1).sum(axis=1)


@pytest.fixture(scope="module")
def layer() -> dict[str, np.ndarray]:
    """One quantized layer `x w` computed exactly, as written, and by saturating kernels."""
    rng = np.random.default_rng(3)
    x, w = rng.uniform(-1, 1, (40, 64)), rng.uniform(-1, 1, (64, 32))
    steps_x, steps_w = 1 / 127, np.abs(w).max(axis=0) / 127
    integers_x, integers_w = np.rint(x / steps_x), np.rint(w / steps_w)
    scale = steps_x * steps_w
    saturated = saturating_product(integers_x + 128, integers_w) - 128 * integers_w.sum(axis=0)
    return {
        "exact": x @ (integers_w * steps_w),
        "written": integers_x @ integers_w * scale,
        "saturated": saturated * scale,
    }


def test_saturating_kernels_are_rejected(layer: dict[str, np.ndarray]) -> None:
    written, saturated, exact = ({"y": layer[k]} for k in ("written", "saturated", "exact"))
    verdict = judge(written, saturated, exact)
    assert verdict.margin_db < -10
    assert verdict.kernels_db < 20 < 40 < verdict.written_db


def test_a_float_rounding_error_is_accepted(layer: dict[str, np.ndarray]) -> None:
    written, exact = {"y": layer["written"]}, {"y": layer["exact"]}
    rounded = {"y": layer["written"].astype(np.float32)}
    assert judge(written, rounded, exact).margin_db > 0
    assert judge(written, written, exact).margin_db > 0


def with_noise(reference: np.ndarray, db: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(reference.shape)
    size = np.linalg.norm(reference) / np.linalg.norm(noise) * 10 ** (-db / 20)
    return reference + size * noise


def judged(written_db: float, kernels_db: float) -> Verdict:
    """Judge kernels whose noise has nothing in common with that of the graph as written."""
    exact = np.random.default_rng(0).standard_normal((50, 50))
    written, fused = with_noise(exact, written_db, 1), with_noise(exact, kernels_db, 2)
    return judge({"y": written}, {"y": fused}, {"y": exact})


@pytest.mark.parametrize(
    ("written_db", "kernels_db", "faithful"),
    [(30, 30, True), (30, 27.1, True), (30, 26.9, False), (5, 5, True), (34, 11.5, False)],
)
def test_kernels_may_be_as_noisy_as_the_graph_and_at_most_3_db_more(
    written_db: float, kernels_db: float, faithful: bool
) -> None:
    found = judged(written_db, kernels_db)
    assert (found.margin_db >= 0) == faithful
    assert (found.written_db, found.kernels_db) == pytest.approx((written_db, kernels_db))


@pytest.mark.parametrize(("kernels_db", "faithful"), [(40.1, True), (39.9, False)])
def test_kernels_within_40_db_are_faithful_however_little_the_graph_rounds(
    kernels_db: float, faithful: bool
) -> None:
    exact = np.random.default_rng(0).standard_normal((50, 50))
    found = judge({"y": exact}, {"y": with_noise(exact, kernels_db, 1)}, {"y": exact})
    assert (found.margin_db >= 0) == faithful
    assert found.difference_db == pytest.approx(kernels_db)


def test_the_worst_output_decides() -> None:
    good = np.random.default_rng(0).standard_normal(500)
    written = {"a": good, "b": good, "c": good}
    fused = {"a": good, "b": with_noise(good, 20, 1), "c": good}
    found = judge(written, fused, written)
    assert found.margin_db < 0
    assert found.difference_db == pytest.approx(20)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_kernels_that_yield_no_number_are_rejected(broken: float) -> None:
    good = np.ones(10)
    assert judge({"y": good}, {"y": np.full(10, broken)}, {"y": good}).margin_db < 0


def verdict(kernels_db: float) -> Verdict:
    return Verdict(difference_db=kernels_db, kernels_db=kernels_db, written_db=50.0)


def test_the_fastest_faithful_kernels_are_taken() -> None:
    found = choose({"fused": verdict(70.0), "fused-precise": verdict(80.0)}.__getitem__)
    assert found.arithmetic == "fused"
    assert found.verdict == verdict(70.0)
    assert found.reason.startswith("fused is 70.0 dB from the graph as written")


def test_precise_kernels_are_taken_where_the_fast_ones_saturate() -> None:
    found = choose({"fused": verdict(11.5), "fused-precise": verdict(80.0)}.__getitem__)
    assert found.arithmetic == "fused-precise"
    assert "fused is unfaithful: 11.5 dB" in found.reason
    assert found.verdict == verdict(80.0)


def test_without_faithful_kernels_the_graph_runs_as_written() -> None:
    found = choose({"fused": verdict(11.5), "fused-precise": verdict(12.5)}.__getitem__)
    assert found.arithmetic == "unfused"
    assert "11.5 dB" in found.reason
    assert "12.5 dB" in found.reason
    assert found.to_report()["int8_probe_sqnr_db"] == 12.5


def test_kernels_that_fail_are_passed_over() -> None:
    found = choose({"fused": "no kernel", "fused-precise": verdict(70.0)}.__getitem__)
    assert found.arithmetic == "fused-precise"
    assert "fused fails: no kernel" in found.reason
    assert choose(lambda _: "no kernel") == Int8Choice(
        "unfused", "fused fails: no kernel; fused-precise fails: no kernel"
    )


def test_a_real_graph_is_fused_only_if_its_outputs_stay() -> None:
    graph = int8_chain(2)
    found = choose_arithmetic(graph.SerializeToString(), MANIFEST, 1)
    assert found.verdict is not None
    x = np.random.default_rng(5).uniform(-3.5, 3.5, (9, 64)).astype(np.float32)
    written, chosen = run(graph, x, "unfused"), run(graph, x, found.arithmetic)
    np.testing.assert_allclose(chosen, written, atol=0.05 * np.abs(written).max())
    report = found.to_report()
    assert report["int8_arithmetic"] in ("fused", "fused-precise", "unfused")
    assert report["int8_written_sqnr_db"] == pytest.approx(found.verdict.written_db, abs=0.01)


def test_a_deep_graph_is_not_mistaken_for_a_saturating_one() -> None:
    """Rounding flips multiply from layer to layer: 50 of them put faithful runs 33 dB apart."""
    found = choose_arithmetic(int8_chain(50, 128, 64).SerializeToString(), MANIFEST, 1)
    assert found.verdict is not None
    assert found.arithmetic.startswith("fused")
    assert found.verdict.difference_db < FAITHFUL_DB


def node_counts(graph: onnx.ModelProto, arithmetic: Int8Arithmetic, folder: Path) -> Counter[str]:
    options = session_options(1, arithmetic)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    open_session(graph.SerializeToString(), options)
    return Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)


def test_unfused_sessions_hold_no_integer_kernel(tmp_path: Path) -> None:
    fused = node_counts(int8_chain(3), "fused", tmp_path)
    unfused = node_counts(int8_chain(3), "unfused", tmp_path)
    assert fused["MatMulIntegerToFloat"] == 3
    assert fused["MatMul"] == 0
    assert (unfused["QuantizeLinear"], unfused["DequantizeLinear"], unfused["MatMul"]) == (3, 3, 3)
    assert not [op for op in unfused if "Integer" in op or op.startswith("QLinear")]


def test_linear_layers_with_a_bias_get_integer_kernels_too(tmp_path: Path) -> None:
    """ONNX Runtime makes a float Gemm of MatMul and Add unless it is kept from it."""
    model = from_text("g (float[2,3,4] x) => (float[2,3,5] y) { p = MatMul(x, w) y = Add(p, b) }")
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype("float32"), name)
        for name, shape in (("w", (4, 5)), ("b", (5,)))
    )
    quantized, _ = insert_qdq(model, {"x": 0.02})
    fused = node_counts(quantized, "fused", tmp_path)
    assert fused["MatMulIntegerToFloat"] == 1
    assert (fused["Gemm"], fused["MatMul"], fused["DequantizeLinear"]) == (0, 0, 0)


def test_unfused_sessions_compute_what_the_graph_says() -> None:
    """Against numpy in float64: one layer, quantized by hand."""
    graph = int8_chain(1)
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    product = next(n for n in graph.graph.node if n.op_type == "MatMul")
    del graph.graph.node[list(graph.graph.node).index(product) + 1 :]
    graph.graph.output[0].name = product.output[0]
    x = np.random.default_rng(1).uniform(-5, 5, (7, 64)).astype(np.float32)
    steps = np.clip(np.rint(x / weights["scale"]), -128, 127) * np.float64(weights["scale"])
    expected = steps @ (weights["weight0"].astype(np.float64) * weights["steps0"])
    np.testing.assert_allclose(run(graph, x, "unfused"), expected, rtol=1e-5, atol=1e-5)


def test_the_graph_without_rounding_clips_like_the_graph() -> None:
    graph = from_text(
        "g (float[n] x) => (float[n] y) <float s = {0.5}, int8 z = {3}> {"
        " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    x = np.array([-1e9, -65.6, -65.4, 0.2, 0.3, 61.9, 62.1, 1e9], np.float32)
    exact = run(without_rounding(graph), x, "unfused")
    np.testing.assert_array_equal(exact, np.clip(x, -65.5, 62.0))
    assert np.abs(exact - run(graph, x, "unfused")).max() <= 0.25


def test_an_unsigned_pair_without_a_zero_point_clips_at_zero() -> None:
    graph = from_text(
        "g (float[n] x) => (float[n] y) <float s = {0.5}> {"
        " q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }"
    )
    x = np.array([-1, 0.3, 200], np.float32)
    np.testing.assert_array_equal(
        run(without_rounding(graph), x, "unfused"), np.float32([0, 0.3, 127.5])
    )


def test_pairs_with_computed_scales_or_integer_readers_keep_their_rounding() -> None:
    computed = from_text(
        "g (float[n] x, float s) => (float[n] y) <int8 z = {0}> {"
        " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    read = from_text(
        "g (float[n] x) => (float[n] y, int8[n] q) <float s = {0.5}, int8 z = {0}> {"
        " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    for graph in (computed, read):
        assert [n.op_type for n in without_rounding(graph).graph.node] == [
            "QuantizeLinear",
            "DequantizeLinear",
        ]


def test_weights_keep_their_quantization() -> None:
    graph = int8_chain(2)
    counts = Counter(n.op_type for n in without_rounding(graph).graph.node)
    assert (counts["Clip"], counts["Identity"], counts["DequantizeLinear"]) == (2, 2, 2)
    assert counts["QuantizeLinear"] == 0


def specs(graph: onnx.ModelProto) -> tuple:
    session = open_session(graph.SerializeToString(), session_options(1))
    return input_tensors(session, MANIFEST)


def test_the_probe_spreads_over_the_quantized_range_and_repeats_itself() -> None:
    graph = int8_chain(1)
    first, again = (list(probe_inputs(graph, specs(graph), 1)) for _ in range(2))
    values = np.concatenate([draw["x"].ravel() for draw in first])
    steps = np.unique(np.clip(np.rint(values / (3.5 / 127)), -128, 127))
    assert steps.min() <= -127
    assert steps.max() == 127
    assert len(steps) > 60
    for draw, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(draw["x"], same["x"])


def test_the_probe_follows_the_input_through_reshapes() -> None:
    graph = from_text(
        "g (float[2,3] x) => (float[6] y) <int64[1] n = {6}, float s = {0.01}, int8 z = {0}> {"
        " r = Reshape(x, n) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }"
    )
    draws = list(probe_inputs(graph, specs(graph), 1))
    assert max(np.abs(draw["x"]).max() for draw in draws) == pytest.approx(1.28)


def test_free_sizes_are_tried_until_the_graph_runs() -> None:
    graph = from_text(
        "g (float[b,c] x) => (float[b,c] y) <float s = {0.01}, int8 z = {0}> {"
        " q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Add(d, w) }"
    )
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(32, np.float32), "w"))
    found = choose_arithmetic(graph.SerializeToString(), MANIFEST, 1)
    assert found.verdict is not None


def test_a_graph_that_no_probe_runs_stays_as_written() -> None:
    graph = from_text(
        "g (float[b,c] x) => (float[b,c] y) <float s = {0.01}, int8 z = {0}> {"
        " q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = Concat<axis=1>(d, d)"
        " y = Add(e, w) }"
    )
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(77, np.float32), "w"))
    found = choose_arithmetic(graph.SerializeToString(), MANIFEST, 1)
    assert (found.arithmetic, found.verdict) == ("unfused", None)
    assert "no probe runs" in found.reason


def test_a_graph_that_is_refused_as_written_is_an_error() -> None:
    graph = helper.make_model(helper.make_graph([helper.make_node("Nope", [], ["y"])], "g", [], []))
    with pytest.raises(EngineError, match="refuses the graph"):
        choose_arithmetic(graph.SerializeToString(), MANIFEST, 1)


def test_quantized_graphs_are_told_from_others() -> None:
    assert is_quantized(int8_chain(1))
    assert not is_quantized(classifier())
