"""Scales of other tools become a table: the same scales, or a reason."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import sha256_of_file
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.imported import table_from_qdq, table_from_trt_cache
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.table import CalibTable, TensorRange, ValueSummary
from edgeattn.calibration.trt_cache import TrtCalibCache, trt_cache_from_table
from edgeattn.cli.main import run
from edgeattn.errors import ArtifactError, GraphError, TableError
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.graph.placement import place_qdq
from edgeattn.graph.qdq_scales import activation_scales
from tests.graphs import save
from tests.quantization import block, floats, with_weights

# Every linear layer reads what was moved or padded: x, a and h are what INT8 needs scales of.
CHAIN = """
g (float[N,2,6] x) => (float[M,4] y) {
    x_moved = Transpose<perm = [0, 2, 1]>(x)
    x_back = Transpose<perm = [0, 2, 1]>(x_moved)
    first = MatMul(x_back, w0)
    a = Relu(first)
    flat = Reshape(a, rows)
    h = Gemm(flat, w1)
    padded = Pad(h, pads)
    y = MatMul(padded, w2)
}
"""
SCALES = {"x": 0.03125, "a": 0.0625, "h": 0.125}


def chain() -> onnx.ModelProto:
    weights = {"w0": floats(6, 8), "w1": floats(8, 5), "w2": floats(6, 4)}
    sizes = {"rows": np.array([-1, 8]), "pads": np.array([0, 0, 0, 1])}
    return with_weights(CHAIN, weights | sizes)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(chain(), tmp_path / "net.onnx")


@pytest.fixture
def calibrated(graph: Path) -> Path:
    return calibrate(graph, floats(20, 2, 6), graph.with_name("ours.calib.json"))


def write_cache(graph: Path, scales: dict[str, float]) -> Path:
    cache = TrtCalibCache("100300", "EntropyCalibration2", scales)
    return cache.save(graph.with_name("net.cache"))


def rounded(path: Path, pairs: dict[str, tuple[float, np.ndarray]], **changed: np.ndarray) -> Path:
    """Write the chain with a Q/DQ pair after each of some tensors, as quantizers do."""
    model = chain()
    values = {
        name: value
        for tensor, (scale, zero_point) in pairs.items()
        for name, value in ((f"{tensor}_s", np.float32(scale)), (f"{tensor}_z", zero_point))
    }
    text = CHAIN
    for tensor in pairs:
        reader = {"x": "Transpose<perm = [0, 2, 1]>(x)", "a": "Reshape(a", "h": "Pad(h"}.get(
            tensor, f"({tensor}"
        )
        text = text.replace(reader, reader.replace(f"({tensor}", f"({tensor}_dq"))
    declarations = "\n".join(
        f"{t}_q = QuantizeLinear({t}, {t}_s, {t}_z) {t}_dq = DequantizeLinear({t}_q, {t}_s, {t}_z)"
        for t in pairs
    )
    lines = text.rstrip().removesuffix("}") + declarations + "}"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return save(with_weights(lines, weights | values | changed), path)


def in_int8(scales: dict[str, float]) -> dict[str, tuple[float, np.ndarray]]:
    return {name: (scale, np.int8(0)) for name, scale in scales.items()}


def report(path: Path) -> dict:
    return CalibTable.load(path).manifest.report


# From a calibration cache


def test_a_table_survives_the_way_through_a_cache(graph, calibrated, tmp_path):
    ours = CalibTable.load(calibrated)
    cache = trt_cache_from_table(ours, "10.3").save(tmp_path / "net.cache")
    path = table_from_trt_cache(graph, cache)
    assert path == graph.with_name("net.calib.json")
    found = CalibTable.load(path)
    assert found.quant_scales == ours.quant_scales
    assert list(found.tensors) == list(ours.tensors)
    for name, entry in found.tensors.items():
        assert entry.amax == pytest.approx(ours.tensors[name].amax, rel=2**-22)


def test_the_table_says_that_it_was_imported_and_from_what(graph):
    cache = write_cache(graph, SCALES)
    table = CalibTable.load(table_from_trt_cache(graph, cache))
    assert table.method == "imported"
    assert {entry.method for entry in table.tensors.values()} == {"imported"}
    assert table.manifest.parents.keys() == {"graph", "trt_calib_cache"}
    assert table.manifest.parents["graph"].sha256 == graph_sha256(graph)
    assert table.manifest.parents["trt_calib_cache"].file == "net.cache"
    assert table.manifest.parents["trt_calib_cache"].sha256 == sha256_of_file(cache)
    assert table.manifest.options == {
        "imported_from": "trt_calib_cache",
        "header": "TRT-100300-EntropyCalibration2",
    }
    table.check_parent(graph)


def test_an_imported_table_quantizes_its_graph(graph):
    table = table_from_trt_cache(graph, write_cache(graph, SCALES))
    found = activation_scales(load_graph(quantize(graph, table=table)))
    assert {entry.names[-1]: entry.quant_scale for entry in found} == SCALES


def test_what_does_not_match_is_listed(graph, caplog):
    scales = {"x": 0.5, "other": 0.25, "first": 0.125, "y": 1.0, "(Unnamed Layer* 3)_output": 2.0}
    with caplog.at_level(logging.WARNING):
        path = table_from_trt_cache(graph, write_cache(graph, scales))
    assert CalibTable.load(path).quant_scales == {"x": 0.5}
    assert report(path) == {
        "tensors": 1,
        "recipes": [],
        "missing": ["a", "h"],
        "unknown": ["other", "(Unnamed Layer* 3)_output"],
        "unused": 2,
    }
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].endswith("net.cache does not say of which weights and data it was made")
    assert "has no scale of 2 of the 3 tensors" in messages[1]
    assert messages[1].endswith("recipes that it suffices for: none")


def test_the_recipes_are_named_that_a_table_suffices_for(tmp_path):
    graph = save(block(), tmp_path / "block.onnx")
    linear = place_qdq(block()).activations
    full = place_qdq(block(), "full").activations
    assert set(linear) < set(full)
    for tensors, recipes in [
        (full, ["linear", "attention", "full"]),
        (linear, ["linear"]),
        (linear[1:], []),
    ]:
        path = table_from_trt_cache(graph, write_cache(graph, dict.fromkeys(tensors, 0.5)))
        assert report(path)["recipes"] == recipes
        assert report(path)["missing"] == [name for name in full if name not in tensors]


def test_a_table_that_lacks_a_tensor_does_not_quantize(graph):
    table = table_from_trt_cache(graph, write_cache(graph, {"x": 0.5}))
    with pytest.raises(TableError, match="2 of 3 tensors have no scale, the first is a"):
        quantize(graph, table=table)


@pytest.mark.parametrize(
    ("given", "tensor"), [("x_moved", "x"), ("x_back", "x"), ("flat", "a"), ("padded", "h")]
)
def test_a_scale_of_a_moved_tensor_is_one_of_its_source(graph, given, tensor):
    path = table_from_trt_cache(graph, write_cache(graph, {given: 0.5}))
    assert CalibTable.load(path).quant_scales == {tensor: 0.5}


def test_a_tensors_own_scale_goes_before_that_of_its_copies(graph):
    path = table_from_trt_cache(graph, write_cache(graph, {"x_moved": 0.5, "x": 0.25}))
    assert CalibTable.load(path).quant_scales == {"x": 0.25}


def test_copies_that_agree_stand_in_for_their_source(graph):
    path = table_from_trt_cache(graph, write_cache(graph, {"x_moved": 0.5, "x_back": 0.5}))
    assert CalibTable.load(path).quant_scales == {"x": 0.5}


def test_copies_that_disagree_are_refused(graph):
    cache = write_cache(graph, {"x_moved": 0.5, "x_back": 0.25})
    with pytest.raises(TableError, match="x_moved and x_back hold the same values but have two"):
        table_from_trt_cache(graph, cache)


def test_a_cache_of_another_graph_is_refused(graph):
    with pytest.raises(TableError, match=r"no scale of any of the 3 tensors .* the first is x"):
        table_from_trt_cache(graph, write_cache(graph, {"z": 0.5}))
    assert not graph.with_name("net.calib.json").exists()


# From a quantized graph


def test_a_graph_that_edgeattn_quantized_gives_its_table_back(graph, calibrated):
    quantized = quantize(graph, table=calibrated)
    table = CalibTable.load(table_from_qdq(graph, quantized))
    assert table.quant_scales == CalibTable.load(calibrated).quant_scales
    assert table.method == "imported"
    assert table.manifest.parents["quantized_graph"].file == "net.int8.onnx"
    assert table.manifest.parents["quantized_graph"].sha256 == graph_sha256(quantized)
    assert table.manifest.options == {"imported_from": "quantized_graph"}
    assert table.manifest.report == {
        "tensors": 3,
        "recipes": ["linear", "attention", "full"],
        "missing": [],
        "unknown": [],
        "unused": 0,
        "weights_compared": 3,
    }


def test_what_another_tool_rounds_is_matched_by_name(graph, tmp_path):
    scales = SCALES | {"first": 0.5}
    quantized = rounded(tmp_path / "q.onnx", in_int8(scales))
    path = table_from_qdq(graph, quantized)
    assert CalibTable.load(path).quant_scales == SCALES
    assert report(path)["unused"] == 1


def test_rounding_behind_a_move_is_matched_with_the_source(graph, tmp_path):
    quantized = rounded(tmp_path / "q.onnx", in_int8({"x_moved": 0.5, "flat": 0.25, "padded": 1}))
    found = CalibTable.load(table_from_qdq(graph, quantized)).quant_scales
    assert found == {"x": 0.5, "a": 0.25, "h": 1.0}


@pytest.mark.parametrize(
    ("zero_point", "reason"),
    [
        (np.uint8(128), "it is rounded to uint8, not int8"),
        (np.int8(3), "its zero point is 3, not 0"),
    ],
)
def test_an_asymmetric_or_unsigned_tensor_is_refused_with_the_reason(
    graph, tmp_path, zero_point, reason
):
    quantized = rounded(tmp_path / "q.onnx", in_int8(SCALES) | {"a": (0.5, zero_point)})
    with pytest.raises(TableError, match=f"the tensor a of .*q.onnx is not .*: {reason}") as error:
        table_from_qdq(graph, quantized)
    assert error.value.hint
    assert not graph.with_name("net.calib.json").exists()


def test_how_a_tensor_is_rounded_that_needs_no_scale_does_not_matter(graph, tmp_path):
    expected = CalibTable.load(table_from_qdq(graph, rounded(tmp_path / "p.onnx", in_int8(SCALES))))
    pairs = in_int8(SCALES) | {"first": (0.5, np.uint8(9))}
    table = CalibTable.load(table_from_qdq(graph, rounded(tmp_path / "q.onnx", pairs)))
    assert table.tensors == expected.tensors


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_not_positive_and_finite_is_refused(graph, tmp_path, scale):
    quantized = rounded(tmp_path / "q.onnx", in_int8(SCALES | {"h": scale}))
    with pytest.raises(TableError, match=r"the tensor h .* its scale is "):
        table_from_qdq(graph, quantized)


def test_two_scales_of_one_tensor_are_refused(graph, tmp_path):
    model = load_graph(rounded(tmp_path / "q.onnx", in_int8(SCALES)))
    again = onnx.helper.make_node("QuantizeLinear", ["x", "a_s", "a_z"], ["x_again"])
    model.graph.node.append(again)
    with pytest.raises(TableError, match=r"x has two scales in .*: 0\.03125 and 0\.0625"):
        table_from_qdq(graph, save(model, tmp_path / "two.onnx"))


def test_a_graph_of_other_weights_is_refused(graph, tmp_path):
    other = floats(6, 8) + floats(8, 6).T
    quantized = rounded(tmp_path / "q.onnx", in_int8(SCALES), w0=other)
    with pytest.raises(TableError, match=r"1 of 3 weights of .* are not those of .*, the first is"):
        table_from_qdq(graph, quantized)


def test_a_graph_none_of_whose_layers_is_known_is_said_to_be_unproven(graph, tmp_path, caplog):
    text = """g (float[N,2,6] x) => (float[N,2,8] z) {
    q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o) z = MatMul(d, w) }"""
    weights = {"s": np.float32(0.5), "o": np.int8(0), "w": floats(6, 8)}
    quantized = save(with_weights(text, weights), tmp_path / "other.onnx")
    assert CalibTable.load(table_from_qdq(graph, quantized)).quant_scales == {"x": 0.5}
    assert "no weight was compared" in caplog.text


def test_a_graph_that_rounds_nothing_is_refused(graph, tmp_path):
    with pytest.raises(TableError, match="rounds no activation: it has no QuantizeLinear"):
        table_from_qdq(graph, save(chain(), tmp_path / "float.onnx"))


def test_a_quantized_graph_has_no_table_of_its_own(graph, calibrated):
    quantized = quantize(graph, table=calibrated)
    with pytest.raises(GraphError, match="the graph is quantized already"):
        table_from_qdq(quantized, quantized)


@pytest.mark.parametrize("function", [table_from_trt_cache, table_from_qdq])
def test_a_missing_file_and_a_closed_folder_are_refused(graph, tmp_path, function):
    with pytest.raises(ArtifactError, match=r"there is no file .*absent"):
        function(graph, tmp_path / "absent")
    with pytest.raises(ArtifactError, match="there is no folder"):
        function(graph, tmp_path / "absent", tmp_path / "nowhere" / "net.calib.json")


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtimes_quantizer_gives_the_scales_that_numpy_finds(graph, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    x = floats(20, 2, 6)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"x": x}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    quantized = tmp_path / "ort.onnx"
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    quantize_static(
        graph,
        quantized,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options=symmetric,
    )
    table = CalibTable.load(table_from_qdq(graph, quantized))
    assert table.manifest.report["weights_compared"] == 2  # it renames what the graph puts out
    first = np.maximum(x @ floats(6, 8), 0)
    expected = {"x": np.abs(x).max() / 127, "a": first.max() / 127}
    found = {name: table.quant_scales[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-5)


# On the command line


def test_the_command_line_imports_exports_and_describes(graph, calibrated, tmp_path, capfd):
    cache = tmp_path / "net.cache"
    assert run(["inspect", str(calibrated), "--as", "trt-cache", "--tensorrt", "10.3"]) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("TRT-100300-EntropyCalibration2\nx: ")
    for calibrator in ("minmax", "entropy"):
        options = ["--as", "trt-cache", "--tensorrt", "10.3", "--calibrator", calibrator]
        assert run(["inspect", str(calibrated), *options, "-o", str(cache)]) == 0
    assert cache.read_text() == printed
    assert run(["calibrate", str(graph), "--from-cache", str(cache), "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out[captured.out.index("{") :])["report"]["missing"] == []
    assert run(["inspect", str(cache), "--json"]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["kind"] == "trt_calib_cache"
    assert (described["header"], described["tensors"]) == ("TRT-100300-EntropyCalibration2", 3)
    quantized = quantize(graph, table=calibrated)
    output = tmp_path / "again.calib.json"
    assert run(["calibrate", str(graph), "--from-qdq", str(quantized), "-o", str(output)]) == 0
    assert CalibTable.load(output).quant_scales == CalibTable.load(calibrated).quant_scales


def test_inspect_lists_the_range_of_each_tensor(graph, capfd):
    seen = ValueSummary(4.0, 1000, 0.25)
    table = CalibTable.load(table_from_trt_cache(graph, write_cache(graph, SCALES)))
    ranges = {"x": TensorRange.from_amax(2.5, "percentile", seen), "a": table.tensors["a"]}
    path = replace(table, method="auto", tensors=ranges).save(graph.with_name("two.calib.json"))
    assert run(["inspect", str(path)]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["method", "auto"] in lines
    assert ["x", "percentile", "4", "2.5", "0.25", "0.019685"] in lines
    assert ["a", "imported", "-", "7.9375", "-", "0.0625"] in lines


@pytest.mark.parametrize(
    "arguments",
    [
        "calibrate net.onnx --from-cache net.cache --data x.npz",
        "calibrate net.onnx --from-qdq q.onnx --seed 0",
        "calibrate net.onnx --from-cache net.cache --from-qdq q.onnx",
        "calibrate net.onnx --from-cache net.cache --method minmax",
        "inspect net.calib.json --tensorrt 10.3",
        "inspect net.calib.json -o net.cache",
        "inspect net.calib.json --as trt-cache",
        "inspect net.calib.json --as trt-cache --tensorrt 10.3 --json",
        "inspect net.calib.json --as trtexec --tensorrt 10.3",
    ],
)
def test_options_that_contradict_each_other_are_usage_errors(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments.split()) == 2
    assert not list(tmp_path.iterdir())


def test_what_is_no_table_has_no_cache(graph, capfd):
    assert run(["inspect", str(graph), "--as", "trt-cache", "--tensorrt", "10.3"]) == 1
    assert "Error: " in capfd.readouterr().err
