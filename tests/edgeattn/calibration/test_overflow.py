"""The overflow check: what passes FP16's range is found, named and kept in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.artifacts import Manifest, Parent, read_manifest
from edgeattn.calibration.overflow import Overflow, check_overflow
from edgeattn.calibration.table import CalibTable, TensorRange, ValueSummary
from edgeattn.errors import DataError, GraphError, SpecError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graph_runs import run, tensors_of
from tests.graphs import save
from tests.quantization import block, floats, unit_scales, with_weights

# Nothing in it is guarded: only running it shows that h is too large.
LARGE = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) s = Mul(h, c) y = MatMul(s, v) }"


def large(size: float = 1e5) -> onnx.ModelProto:
    weights = {"w": np.eye(6, dtype=np.float32) * 100, "v": floats(6, 6)}
    return with_weights(LARGE, {**weights, "c": np.float32(100 / size)})


def large_inputs(size: float = 1e5) -> np.ndarray:
    x = floats(20, 6)
    return x / np.abs(x).max() * np.float32(size / 100)


def test_every_tensor_is_observed_with_its_largest_magnitude() -> None:
    model = block()
    names = ["x", "norm", "logits", "probabilities", "sum", "hidden", "out"]
    x = floats(9, 4, 8) * 20
    check = check_overflow(model, [{"x": x[:4]}, {"x": x[4:]}])
    assert (check.source, check.samples, check.unchecked) == ("data", 9, 0)
    assert check.checked == 1 + len(model.graph.node)
    found = tensors_of(model, names, {"x": x})
    limit = max(float(np.abs(array).max()) for array in found.values())
    assert limit < 32752
    assert check.values == {}
    scaled = check_overflow(model, [{"x": x * 1e4}])
    assert scaled.values["x"] == np.abs(x * np.float32(1e4)).max()


@pytest.mark.parametrize(("amax", "overflows"), [(32752.0, False), (32760.0, True)])
def test_half_of_fp16s_range_is_kept_as_a_margin(amax: float, overflows: bool) -> None:
    model = with_weights("g (float[N] x) => (float[N] y) { y = Neg(x) }", {})
    x = np.array([1, -amax, 2], np.float32)
    assert check_overflow(model, [{"x": x}]).values == ({"x": amax, "y": amax} if overflows else {})


def test_squares_inside_a_norm_are_listed_as_such() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { y = LayerNormalization(x, v) }"
    model = with_weights(text, {"v": np.ones(6, np.float32)})
    x = np.full((1, 6), 300, np.float32)
    x[0, 0] = 0
    assert check_overflow(model, [{"x": x}]).overflows == [Overflow("x", 300.0, "square")]
    assert check_overflow(model, [{"x": x / 3}]).overflows == []


def test_infinities_that_mask_are_no_overflow() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) { m = Add(x, v) y = Softmax(m) }"
    model = with_weights(text, {"v": np.array([0, -np.inf], np.float32)})
    assert check_overflow(model, [{"x": floats(3, 2)}]).values == {}


def test_nan_is_refused_by_name() -> None:
    model = with_weights("g (float[N] x) => (float[N] y) { r = Sqrt(x) y = Neg(r) }", {})
    with pytest.raises(GraphError, match="the tensor r takes on NaN"):
        check_overflow(model, [{"x": np.array([1, -1], np.float32)}])


def test_empty_tensors_have_the_magnitude_zero() -> None:
    model = with_weights("g (float[N] x) => (float[N] y) { y = Neg(x) }", {})
    assert check_overflow(model, [{"x": np.zeros(0, np.float32)}]).values == {}


def test_a_graph_that_does_not_run_is_refused() -> None:
    with pytest.raises(GraphError, match="ONNX Runtime cannot run the graph"):
        check_overflow(block(), [{"x": floats(2, 3, 3)}])


def test_a_table_tells_of_the_tensors_that_it_holds() -> None:
    model = block()
    tensors = {
        "sum": TensorRange.from_amax(4e4, "minmax"),
        "norm": TensorRange.from_amax(3.0, "percentile", ValueSummary(5e4)),
        "other": TensorRange.from_amax(1e9, "minmax"),
    }
    table = CalibTable("minmax", tensors, Manifest("table"))
    check = check_overflow(model, None, table)
    assert check.values == {"sum": np.float32(4e4), "norm": 5e4}
    assert (check.source, check.checked) == ("table", 2)
    assert check.checked + check.unchecked == 1 + len(model.graph.node)
    assert "in part" in check.to_report()["overflow_check"]


def test_without_data_or_table_the_report_says_that_nothing_was_checked() -> None:
    report = check_overflow(block()).to_report()
    assert report["overflow_check"].startswith("not done")
    assert report["overflows"] == []


def test_dequantized_tensors_need_no_check() -> None:
    model = block()
    quantized, _ = insert_qdq(model, unit_scales(model))
    check = check_overflow(quantized, [{"x": floats(2, 4, 8)}])
    assert check.checked == 1 + len(model.graph.node)


# From file to file.


def outputs_of(path: Path, x: np.ndarray) -> np.ndarray:
    with edgeattn.load(edgeattn.build(path, threads=1)) as engine:
        return engine.run({"x": x})["y"]


def test_a_planted_overflow_is_saved_by_data_and_seen_without(tmp_path: Path) -> None:
    graph, x = save(large(), tmp_path / "net.onnx"), large_inputs()
    (expected,) = run(load_graph(graph), {"x": x})
    blind = edgeattn.quantize(graph, tmp_path / "blind.onnx", precision="fp16")
    assert read_manifest(blind).report["overflow_check"].startswith("not done")
    assert not np.isfinite(outputs_of(blind, x)).all()
    path = edgeattn.quantize(graph, precision="fp16", data=x)
    assert path == tmp_path / "net.fp16.onnx"
    manifest = read_manifest(path)
    report = manifest.report
    assert set(manifest.parents) == {"graph", "data"}
    assert [entry["tensor"] for entry in report["overflows"]] == ["h"]
    assert report["overflows"][0]["magnitude"] == pytest.approx(1e5, rel=1e-3)
    assert report["overflow_check"] == "done: 4 tensors on 20 samples; 1 beyond 32752"
    types = {node["node"]: node for node in report["node_types"]}
    assert types["h"]["kept"] == types["s"]["kept"] == "float32"
    assert types["h"]["reason"] == "h reaches 1e+05"
    assert types["y"]["kept"] == "float16"
    assert sqnr_db(expected, outputs_of(path, x)) > 55


@pytest.mark.parametrize("precision", ["int8+fp16", "fp16"])
def test_a_table_saves_the_overflows_that_it_knows(tmp_path: Path, precision: str) -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { h = Mul(x, c) y = MatMul(h, v) }"
    model = with_weights(text, {"c": np.float32(1e4), "v": floats(6, 6) * np.float32(1e-4)})
    graph, x = save(model, tmp_path / "net.onnx"), floats(20, 6) * 10
    table = edgeattn.calibrate(graph, x, method="minmax")
    path = edgeattn.quantize(graph, table=table, precision=precision)
    report = read_manifest(path).report
    assert [entry["tensor"] for entry in report["overflows"]] == ["h"]
    (expected,) = run(model, {"x": x})
    assert sqnr_db(expected, outputs_of(path, x)) > 30


def test_bf16_needs_no_check_and_no_data(tmp_path: Path) -> None:
    graph, x = save(large(), tmp_path / "net.onnx"), large_inputs()
    path = edgeattn.quantize(graph, precision="bf16")
    report = read_manifest(path).report
    assert report["overflow_check"] == "not needed: bfloat16 has the range of float32"
    (expected,) = run(load_graph(graph), {"x": x})
    assert sqnr_db(expected, outputs_of(path, x)) > 38


def test_data_that_can_be_read_once_serves_every_step(tmp_path: Path) -> None:
    graph, x = save(block(), tmp_path / "net.onnx"), floats(24, 4, 8)
    table = edgeattn.calibrate(graph, x, method="minmax")
    path = edgeattn.quantize(
        graph,
        table=table,
        precision="int8+fp16",
        data=({"x": x[i : i + 8]} for i in (0, 8, 16)),
        correct_bias=True,
    )
    assert "on 24 samples" in read_manifest(path).report["overflow_check"]


def test_data_that_does_not_fit_the_graph_is_refused(tmp_path: Path) -> None:
    graph = save(large(), tmp_path / "net.onnx")
    with pytest.raises(DataError):
        edgeattn.quantize(graph, precision="fp16", data=floats(3, 7))
    assert [path.name for path in tmp_path.iterdir() if "fp16" in path.name] == []


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8+fp16", "int8+bf16"])
def test_the_manifest_says_what_was_written(tmp_path: Path, precision: str) -> None:
    graph = save(block(), tmp_path / "net.onnx")
    table = edgeattn.calibrate(graph, floats(40, 4, 8)) if "int8" in precision else None
    path = edgeattn.quantize(graph, table=table, precision=precision, data=floats(9, 4, 8))
    manifest = read_manifest(path)
    assert manifest.options["precision"] == precision
    parents = {"table"} if "int8" in precision else set()
    parents |= {"data"} if "fp16" in precision else set()  # BF16 has no use for it
    assert set(manifest.parents) == {"graph"} | parents
    report = manifest.report
    assert report["half_type"] == ("bfloat16" if "bf16" in precision else "float16")
    assert report["half_nodes"] + report["float32_nodes"] == len(report["node_types"])
    assert report.get("tensorrt_faults", []) == []
    assert ("decisions" in report) == ("int8" in precision)
    engine = edgeattn.build(path, threads=1)
    described = read_manifest(engine)
    assert described.options["precision"] == precision
    assert report["half_type"] in described.report["half_arithmetic"]


def test_a_build_writes_fp16_on_the_way(tmp_path: Path) -> None:
    graph = save(block(), tmp_path / "net.onnx")
    manifest = read_manifest(edgeattn.build(graph, precision="fp16", threads=1))
    assert manifest.options["precision"] == "fp16"
    assert manifest.report["half_arithmetic"] == "float32, each result rounded to float16"


def test_half_ends_reach_the_engine(tmp_path: Path) -> None:
    graph = save(block(), tmp_path / "net.onnx")
    plan = edgeattn.build(edgeattn.quantize(graph, precision="fp16", half_io=True), threads=1)
    with edgeattn.load(plan) as engine:
        assert engine.settings["half_arithmetic"] == "float32, each result rounded to float16"
        assert [spec.dtype for spec in (*engine.inputs, *engine.outputs)] == ["float16"] * 2
        assert engine.run({"x": floats(2, 4, 8).astype(np.float16)})["y"].dtype == np.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "the precision int8 needs a calibration table"),
        ({"precision": "int8+fp16"}, r"the precision int8\+fp16 needs a calibration table"),
        ({"precision": "fp16", "balance": 0.5}, "balance is an option of INT8"),
        ({"precision": "int8", "table": "t", "half_io": True}, "half_io is an option of FP16"),
        ({"precision": "fp16", "keep_float": ["no"]}, "there is no node named 'no'"),
    ],
)
def test_options_that_do_not_go_with_the_precision_are_refused(
    tmp_path: Path, options: dict, message: str
) -> None:
    graph = save(block(), tmp_path / "net.onnx")
    with pytest.raises(SpecError, match=message):
        edgeattn.quantize(graph, **options)


def test_a_graph_of_a_half_type_is_not_quantized_again(tmp_path: Path) -> None:
    half = edgeattn.quantize(save(block(), tmp_path / "net.onnx"), precision="fp16")
    for precision in ("fp16", "bf16"):
        with pytest.raises(GraphError, match="the graph computes in float16 already"):
            edgeattn.quantize(half, precision=precision)
    tensors = {"norm": TensorRange.from_amax(3.0, "minmax")}
    parent = Parent(half.name, graph_sha256(half))
    table = CalibTable("minmax", tensors, Manifest("table", parents={"graph": parent}))
    with pytest.raises(GraphError, match="the graph computes in float16 already"):
        edgeattn.quantize(half, table=table.save(tmp_path / "t.calib.json"), precision="int8")
