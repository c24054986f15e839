"""The INT8 step with its options: what they change, and what the report says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeattn.artifacts import Manifest, Parent, read_manifest
from edgeattn.calibration.int8 import apply_int8
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.table import CalibTable, TensorRange, ValueSummary
from edgeattn.errors import SpecError, TableError
from edgeattn.graph.channel_groups import balanceable_channels
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.graph.passes.balance_channels import balance_channels
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.placement import place_qdq
from tests.graph_runs import run, tensors_of
from tests.graphs import save
from tests.quantization import BLOCK as TEXT
from tests.quantization import block, block_weights, floats, with_weights

SAMPLES = floats(40, 4, 8)


def outlier_block() -> onnx.ModelProto:
    """A block whose normalization writes two channels far larger than the others."""
    weights = block_weights()
    weights["gain"][[2, 5]] *= np.float32(40)
    for name in ("wq", "wk", "wv"):
        weights[name] /= np.sqrt(weights["gain"])[:, None]
    return with_weights(TEXT, weights)


def table_of(
    model: onnx.ModelProto, sha256: str = "", channels: bool = True, clip: float = 1.0
) -> CalibTable:
    """What calibration finds; each range clips to a share of the largest magnitude."""
    axes = balanceable_channels(model)
    names = place_qdq(model, "full").activations
    tensors = {}
    for name, values in tensors_of(model, names, {"x": SAMPLES}).items():
        amax = float(np.abs(values).max())
        by_channel: tuple[float, ...] = ()
        if channels and name in axes:
            rows = np.moveaxis(np.abs(values), axes[name], -1)
            by_channel = tuple(map(float, rows.reshape(-1, rows.shape[-1]).max(axis=0)))
        seen = ValueSummary(amax, channel_amax=by_channel)
        tensors[name] = TensorRange.from_amax(float(np.float32(clip * amax)), "percentile", seen)
    manifest = Manifest("table", {"graph": Parent("net.onnx", sha256)})
    return CalibTable("percentile", tensors, manifest)


def scales_in(model: onnx.ModelProto) -> dict[str, float]:
    constants = {t.name: t for t in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_balanced_tensors_get_the_range_that_a_calibration_of_the_balanced_graph_finds():
    model = outlier_block()
    table = table_of(model, clip=0.5)
    found = scales_in(apply_int8(model, table, balance=0.5)[0])
    balanced = balance_channels(model, table.channel_amax, 0.5).model
    exact = table_of(balanced).quant_scales
    assert found["norm"] == exact["norm"]
    assert found["active"] == exact["active"]
    # The others keep the thresholds that calibration chose for them.
    assert {name: found[name] for name in ("sum", "mixed")} == {
        name: table.quant_scales[name] for name in ("sum", "mixed")
    }


def test_balancing_and_bias_correction_raise_the_output_of_a_graph_with_outliers():
    model, table = outlier_block(), table_of(outlier_block())
    x = {"x": floats(30, 4, 8)}
    reference = run(model, x)[0]

    def decibels(**options: object) -> float:
        return sqnr_db(reference, run(apply_int8(model, table, **options)[0], x)[0])

    plain = decibels()
    assert decibels(balance=0.5) > plain + 3
    assert decibels(balance=0.5, correction=[{"x": SAMPLES}]) > plain + 3


def test_biases_are_corrected_against_the_balanced_graph():
    model, table = outlier_block(), table_of(outlier_block())
    quantized, _ = apply_int8(model, table, balance=0.5, correction=[{"x": SAMPLES}])
    names = ["q", "biased", "out"]  # none of them is scaled
    expected, found = (tensors_of(graph, names, {"x": SAMPLES}) for graph in (model, quantized))
    for name in names:
        means = [t[name].reshape(-1, 8).mean(axis=0) for t in (expected, found)]
        np.testing.assert_allclose(means[1], means[0], atol=2e-4)


def test_the_report_tells_what_was_balanced_and_corrected():
    model, table = block(), table_of(block())
    _, report = apply_int8(model, table, balance=0.5, correction=[{"x": SAMPLES}])
    reasons = [(d["node"], d["reason"]) for d in report["decisions"]]
    assert any(node == "norm" and "balanced with q, k, v" in reason for node, reason in reasons)
    corrected = {node for node, reason in reasons if reason.startswith("bias: takes away")}
    assert corrected == {"q", "k", "v", "projected", "hidden", "out"}
    plain = apply_int8(model, table)[1]
    for count in ("quantized_nodes", "quantized_tensors", "float_nodes"):
        assert report[count] == plain[count]


@pytest.mark.parametrize(("size", "used"), [(1, 32), (8, 32), (24, 24), (40, 40)])
def test_so_many_samples_correct_biases_in_whole_batches(size, used):
    batches = [{"x": SAMPLES[i : i + size]} for i in range(0, len(SAMPLES), size)]
    _, report = apply_int8(block(), table_of(block()), correction=batches)
    assert report["correction_samples"] == used


def test_without_options_nothing_is_moved():
    model, table = block(), table_of(block())
    _, report = apply_int8(model, table)
    assert not any("balanced" in d["reason"] or "bias:" in d["reason"] for d in report["decisions"])
    assert "correction_samples" not in report


def test_a_table_without_channels_cannot_balance():
    with pytest.raises(TableError, match="largest magnitudes of 0 channels of norm are known"):
        apply_int8(block(), table_of(block(), channels=False), balance=0.5)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(outlier_block(), tmp_path / "net.onnx")


@pytest.fixture
def table(graph: Path, tmp_path: Path) -> Path:
    return table_of(load_graph(graph), graph_sha256(graph)).save(tmp_path / "net.calib.json")


def test_the_manifest_names_the_options_and_the_data(graph, table):
    path = quantize(graph, table=table, balance=0.5, correct_bias=True, data=SAMPLES)
    manifest = read_manifest(path)
    assert manifest.options["balance"] == 0.5
    assert manifest.options["correct_bias"] is True
    assert len(manifest.parents["data"].sha256) == 64
    assert not manifest.report["tensorrt_faults"]
    again = quantize(graph, path.parent / "b.onnx", table=table)
    assert read_manifest(again).options["balance"] is None
    assert read_manifest(again).options["correct_bias"] is False
    assert "data" not in read_manifest(again).parents


def test_progress_tells_that_biases_are_corrected(graph, table):
    seen: list[tuple[object, ...]] = []
    quantize(
        graph, table=table, correct_bias=True, data=SAMPLES, progress=lambda *at: seen.append(at)
    )
    assert [at for at in seen if at[2] == "correcting biases"][-1] == (12, 12, "correcting biases")
    assert seen[-1] == (3, 3, "writing")


def test_balanced_and_corrected_graphs_can_be_half_as_wide_too(graph, table):
    options = {"table": table, "balance": 0.5, "correct_bias": True, "data": SAMPLES}
    wide = quantize(graph, graph.parent / "a.onnx", **options)
    half = quantize(graph, graph.parent / "b.onnx", precision="int8+bf16", **options)
    x = {"x": floats(5, 4, 8)}
    rounded = emulate_half(load_graph(half))
    assert sqnr_db(run(load_graph(wide), x)[0], run(rounded, x)[0]) > 20


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"correct_bias": True}, "biases are corrected by running data, and there is none"),
        ({"data": SAMPLES}, "there is data, and nothing that would run it"),
        ({"balance": 1.5}, "the balance is 1.5; expected 0 to 1"),
        ({"precision": "fp16", "balance": 0.5}, "balance is an option of INT8"),
        ({"precision": "bf16", "correct_bias": True}, "correct_bias is an option of INT8"),
    ],
)
def test_options_that_do_not_go_together_are_refused(graph, table, options, reason):
    with pytest.raises(SpecError, match=reason) as error:
        quantize(graph, graph.parent / "q.onnx", table=table, **options)
    assert error.value.hint
    assert not (graph.parent / "q.onnx").exists()
