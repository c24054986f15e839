"""The least time of a query, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.deploy.check.bound import LatencyBound, latency_bound, layers_of, least_ms
from edgeattn.deploy.check.check import check_graph
from edgeattn.deploy.check.subject import make_subject
from edgeattn.engine.tensorrt.destination import plan_for
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.profiling.layers.cost import Cost
from edgeattn.profiling.layers.roofline import Ceiling
from edgeattn.targets import ORIN_NANO_SUPER, TARGETS
from tests.edgeattn.deploy.check.graphs import CHANNELS, free_the_batch, in_fp8, rounded, sound
from tests.graphs import from_text

TOKENS = 64
GB_S = 102.0
FP16_TFLOPS = 16.7
BIAS_BYTES = 4 * (49 + 225)
PAIRS = (TOKENS * 16 + TOKENS * 64) * 16 * 2 * 2  # both head groups, of 16 channels


def bound_of(graph: onnx.ModelProto, folder: Path, **options: object) -> LatencyBound:
    path = folder / "net.onnx"
    onnx.save(graph, path)
    request = TensorRtRequest(
        TensorRtOptions(**options),  # type: ignore[arg-type]
        target="jetson-orin-nano",
        jetpack="6.2",
    )
    bound = check_graph(path, request).bound
    assert bound is not None
    return bound


def test_the_figures_are_those_of_the_board() -> None:
    assert (ORIN_NANO_SUPER.memory_gb_s, ORIN_NANO_SUPER.fp16_tflops) == (GB_S, FP16_TFLOPS)


@pytest.mark.parametrize(("half", "size"), [(False, 4), (True, 2)])
def test_each_layer_moves_its_tensors_once(tmp_path: Path, half: bool, size: int) -> None:
    graph = convert_to_half(sound(), "float16")[0] if half else sound()
    layers = {layer.node: layer for layer in bound_of(graph, tmp_path).layers}
    assert list(layers) == ["qkv/MatMul", "attention", "head/MatMul"]
    qkv = size * (TOKENS * CHANNELS + CHANNELS * 3 * CHANNELS + TOKENS * 3 * CHANNELS)
    mixed = size * (TOKENS * 3 * CHANNELS + TOKENS * CHANNELS) + BIAS_BYTES
    assert layers["qkv/MatMul"].bytes == qkv
    assert layers["attention"].bytes == mixed
    assert layers["attention"].nodes == ("attention", "relu")  # which writes what the head reads
    assert layers["qkv/MatMul"].products == 2 * TOKENS * CHANNELS * 3 * CHANNELS
    assert layers["attention"].products == PAIRS
    assert layers["qkv/MatMul"].precision == ("float16" if half else "float32")
    for layer in layers.values():
        times = {
            "memory": layer.bytes / (GB_S * 1e6),
            "compute": layer.products / (FP16_TFLOPS * 1e9),
        }
        assert layer.least_ms == pytest.approx(max(times.values()))
        assert layer.bound == max(times, key=lambda name: times[name])


def test_the_sums_are_of_all_layers_and_of_what_no_cache_spares(tmp_path: Path) -> None:
    bound = bound_of(sound(), tmp_path)
    assert bound.layers_ms == pytest.approx(sum(layer.least_ms or 0 for layer in bound.layers))
    weights = 4 * (CHANNELS * 3 * CHANNELS + CHANNELS * 5) + BIAS_BYTES
    products = sum(layer.products for layer in bound.layers)
    expected = max(weights / (GB_S * 1e6), products / (FP16_TFLOPS * 1e9))
    assert bound.floor_ms == pytest.approx(expected)
    assert bound.unknown == ()


def test_int8_layers_move_int8_and_have_its_rate(tmp_path: Path) -> None:
    graph = sound()
    rounded(np.int8(0))(graph)
    head = bound_of(graph, tmp_path).layers[-1]
    assert head.precision == "int8"
    assert set(head.nodes) == {"head/MatMul", "dq"}
    step_and_zero = 4 + 1
    assert head.bytes == TOKENS * CHANNELS + CHANNELS * 5 + TOKENS * 5 * 4 + step_and_zero


def test_the_tuned_shape_counts(tmp_path: Path) -> None:
    graph = sound()
    free_the_batch(graph)
    profile = ShapeProfile(opt={"x": (3, 8, 8, 32)}, max={"x": (9, 8, 8, 32)})
    bound = bound_of(graph, tmp_path, profiles=(profile,))
    once = bound_of(sound(), tmp_path)
    assert [a.products for a in bound.layers] == [3 * b.products for b in once.layers]


def test_a_sum_goes_to_one_layer_alone() -> None:
    graph = from_text(
        "g (float[4,8] x, float[8,8] a, float[8,8] b) => (float[4,8] y) "
        "{ p = MatMul(x, a) q = MatMul(x, b) s = Add(p, q) y = Relu(s) }"
    )
    for node in graph.graph.node:
        node.name = node.output[0]
    layers = layers_of(graph, {"p": "float32", "q": "float32"}, {})
    assert layers == {"p": ("p", "s", "y"), "q": ("q",)}


def test_a_tensor_that_is_read_twice_ends_a_layer() -> None:
    graph = from_text(
        "g (float[4,8] x, float[8,8] a) => (float[4,8] y) "
        "{ p = MatMul(x, a) r = Relu(p) t = Tanh(r) y = Add(r, t) }"
    )
    for node in graph.graph.node:
        node.name = node.output[0]
    assert layers_of(graph, {"p": "float32"}, {}) == {"p": ("p", "r")}


COST = Cost(bytes=1_000_000, flops=None, products=2_000_000_000)


def test_a_type_whose_rate_is_not_known_is_bound_by_its_bytes() -> None:
    ceiling = Ceiling("board", 100.0, {"float16": 10_000.0})
    assert least_ms(COST, "float16", ceiling) == (pytest.approx(0.2), "compute")
    assert least_ms(COST, "float32", ceiling) == (pytest.approx(0.2), "compute")
    assert least_ms(COST, "int8", ceiling) == (pytest.approx(0.01), "memory")
    assert least_ms(COST, "int8", Ceiling("board", None)) == (None, "")


def test_written_out_attention_moves_no_logits(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(sound(), path)
    request = TensorRtRequest(target="jetson-orin-nano", jetpack="6.2", attention="native")
    bound = check_graph(path, request).bound
    assert bound is not None
    groups = [layer for layer in bound.layers if layer.node.startswith("attention/")]
    assert [layer.products for layer in groups] == [PAIRS * 16 // 80, PAIRS * 64 // 80]
    for layer, tokens in zip(groups, (16, 64), strict=True):
        # Queries, keys, values and what comes out, of 16 channels; then bias and mask of a window.
        tensors = 4 * TOKENS * 16 * 4
        tables = 4 * tokens * tokens * (1 + TOKENS // tokens)
        assert tensors <= layer.bytes <= tensors + 3 * tables


def test_products_of_fp8_are_bounded_by_its_rate() -> None:
    graph = sound()
    in_fp8(graph)
    request = TensorRtRequest(target="jetson-thor", jetpack="7.0")
    subject = make_subject(graph, request, plan_for("jetson-thor", "7.0"))
    thor = TARGETS["jetson-thor"].gpu
    assert thor is not None
    assert thor.fp8_tflops
    fast = latency_bound(subject, replace(thor, memory_gb_s=1e12))  # so that products decide
    assert fast is not None
    assert fast.unrated == ()
    for layer in fast.layers:
        assert layer.least_ms == pytest.approx(layer.products / (thor.fp8_tflops * 1e9))
    without = latency_bound(subject, replace(thor, fp8_tflops=None))
    assert without is not None
    assert without.unrated == ("float32",)
    assert {layer.bound for layer in without.layers} == {"memory"}


def test_the_module_with_that_memory_counts(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(sound(), path)
    request = TensorRtRequest(target="jetson-orin-nano", jetpack="6.2")
    names = {}
    for gib in (None, 4, 8, 3):
        bound = check_graph(path, request, module_gib=gib).bound
        assert bound is not None
        names[gib] = bound.device.partition(":")[0]
    assert names[None] == names[8] == names[3] == "Jetson Orin Nano Super 8 GB"
    assert names[4] == "Jetson Orin Nano Super 4 GB"


def test_a_rate_that_is_not_known_is_told(tmp_path: Path) -> None:
    graph = sound()
    rounded(np.int8(0))(graph)
    path = tmp_path / "net.onnx"
    onnx.save(graph, path)
    for target, jetpack in (("jetson-thor", "7.0"), ("jetson-agx-orin", "6.2")):
        checked = check_graph(path, TensorRtRequest(target=target, jetpack=jetpack))
        assert checked.bound is not None
        gpu = TARGETS[target].gpu
        assert gpu is not None
        assert checked.bound.unrated == (() if gpu.int8_tops else ("int8",))
        told = [f.reason for f in checked.findings if f.topic == "latency"]
        expected = [f"the rate of int8 on {TARGETS[target].title} is not known"]
        assert [reason.partition(":")[0] for reason in told] == ([] if gpu.int8_tops else expected)


def test_a_board_without_figures_has_no_bound_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(sound(), path)
    checked = check_graph(path, TensorRtRequest(target="jetson-orin-nx", jetpack="6.2"))
    if checked.bound is not None and checked.bound.layers_ms is None:
        (note,) = (f for f in checked.findings if f.topic == "latency")
        assert note.level == "note"
        assert "are not known" in note.reason
