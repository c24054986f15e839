"""Calibration from file to file: numpy on the full activations is the judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from PIL import Image

from edgeattn.artifacts import Manifest
from edgeattn.calibration.choose import ThresholdChoice
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.observers import METHODS
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, DataError, GraphError, SpecError
from edgeattn.graph.files import graph_sha256, save_graph
from edgeattn.graph.op import OP_DOMAIN, make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import save
from tests.oracle import attention
from tests.quantization import block, floats, with_weights

TENSORS = ("norm", "q", "k", "v", "mixed", "x", "sum", "active")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(block(), tmp_path / "net.onnx")


def activations(x: np.ndarray) -> dict[str, np.ndarray]:
    """Take the block's tensors out of ONNX Runtime, all samples at once."""
    model = block()
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in TENSORS
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(TENSORS, session.run(None, {"x": x}), strict=True))


def amax(path: Path) -> dict[str, float]:
    return {name: entry.amax for name, entry in CalibTable.load(path).tensors.items()}


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_minmax_equals_numpy_on_the_full_activations_exactly(graph, batch_size):
    x = floats(21, 4, 8)
    expected = {name: np.abs(values).max() for name, values in activations(x).items()}
    path = calibrate(graph, x, batch_size=batch_size)
    assert path == graph.parent / "net.calib.json"
    assert amax(path) == expected
    scales = CalibTable.load(path).quant_scales
    assert scales == {n: np.float32(a) / np.float32(127) for n, a in expected.items()}


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9])
def test_percentile_equals_that_of_the_full_activations_to_one_bin(graph, percentile):
    x = floats(21, 4, 8)
    path = calibrate(graph, x, method="percentile", percentile=percentile, batch_size=4)
    for name, found in amax(path).items():
        ordered = np.sort(np.abs(activations(x)[name]).ravel())
        exact = ordered[int(np.ceil(percentile / 100 * ordered.size)) - 1]
        expected = exact if exact > 0 else ordered[-1]
        assert expected <= found <= min(expected * (1 + 2**-10), ordered[-1]), name


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_order_do_not_change_a_bit_of_the_table(graph, method):
    x = floats(21, 4, 8)
    tables = [
        CalibTable.load(calibrate(graph, data, method=method, batch_size=size, seed=seed)).tensors
        for data, size, seed in [(x, 8, 0), (x, 5, 1), (x[::-1].copy(), 21, 2), (list(x), 2, 3)]
    ]
    assert all(table == tables[0] for table in tables)


def test_samples_that_a_graph_would_mix_run_apart(tmp_path):
    # What a sample is less the mean of its batch: nothing, if it is alone.
    text = """g (float[batch,6] x) => (float[batch,4] y) {
        m = ReduceMean<keepdims = 1>(x, first) z = Sub(x, m) y = MatMul(z, w) }"""
    model = with_weights(text, {"w": floats(6, 4), "first": np.array([0])})
    graph = save(model, tmp_path / "net.onnx")
    for batch_size in (1, 3, 8):
        assert amax(calibrate(graph, floats(9, 6), batch_size=batch_size)) == {"z": 0}


def test_a_share_of_a_large_tensor_is_counted_whatever_the_batch(tmp_path):
    text = "g (float[N,300,300] x) => (float[N,300,2] y) { z = Relu(x) y = MatMul(z, w) }"
    graph = save(with_weights(text, {"w": floats(300, 2)}), tmp_path / "net.onnx")
    x = floats(5, 300, 300)
    tables = [
        CalibTable.load(calibrate(graph, x, method="mse", batch_size=size, seed=seed)).tensors
        for size, seed in ((1, 0), (2, 1), (5, 2))
    ]
    assert tables[0] == tables[1] == tables[2]
    observed = tables[0]["z"].observed
    assert observed.amax == x.max()
    assert observed.count == x.size
    assert observed.percentiles["99"] == pytest.approx(
        np.percentile(np.maximum(x, 0), 99), rel=0.01
    )


def test_a_sample_of_a_fixed_batch_has_its_own_part_of_the_average(tmp_path):
    model = block()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    x = floats(8, 4, 8)
    fixed = amax(calibrate(save(model, tmp_path / "fixed.onnx"), x, method="average"))
    free = amax(calibrate(save(block(), tmp_path / "free.onnx"), x, method="average"))
    assert fixed == pytest.approx(free, rel=1e-6)  # kernels may add in another order
    largest = np.abs(activations(x)["norm"]).reshape(8, -1).max(axis=1)
    assert fixed["norm"] == pytest.approx(largest.astype(np.float64).mean(), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_table_tells_what_was_seen_of_each_tensor(graph, method):
    x = floats(21, 4, 8)
    table = CalibTable.load(calibrate(graph, x, method=method))
    assert list(table.tensors) == list(TENSORS)
    for name, values in activations(x).items():
        magnitudes = np.abs(values)
        entry = table.tensors[name]
        assert entry.observed.amax == magnitudes.max()
        assert entry.observed.count == values.size
        if method in ("minmax", "average"):
            assert entry.observed.percentiles == {}
            continue
        ordered = np.sort(magnitudes.ravel())
        for percent, found in entry.observed.percentiles.items():
            exact = ordered[int(np.ceil(float(percent) / 100 * ordered.size)) - 1]
            assert exact <= found <= max(exact * (1 + 2**-10), ordered[-1] * 2**-22)
        clipped = 100 * np.mean(magnitudes > entry.amax)
        one_bin = 100 * np.mean(np.abs(magnitudes / max(entry.amax, 1e-30) - 1) < 2**-9)
        assert abs(entry.observed.clipped_percent - clipped) <= one_bin


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_channels_that_can_be_balanced_have_their_largest_magnitudes_in_the_table(graph, method):
    x = floats(21, 4, 8)
    found = CalibTable.load(calibrate(graph, x, method=method, batch_size=5)).channel_amax
    assert "norm" in found
    for name, per_channel in found.items():
        values = np.abs(activations(x)[name])
        np.testing.assert_array_equal(per_channel, values.max(axis=tuple(range(values.ndim - 1))))


def test_ranges_of_auto_are_candidates_and_none_is_lost(graph):
    x = floats(40, 4, 8)
    table = CalibTable.load(calibrate(graph, x))
    assert table.method == "auto"
    by_method = {m: amax(calibrate(graph, x, method=m)) for m in ("minmax", "average", "mse")}
    for name, entry in table.tensors.items():
        if entry.method in by_method:
            assert entry.amax == by_method[entry.method][name]
    assert table.manifest.report["methods"]


@pytest.mark.parametrize("planted", ["minmax", "mse"])
def test_the_choice_of_auto_is_what_the_table_says(graph, monkeypatch, planted):
    asked = {}

    def choose(model, candidates, samples, progress=None):
        asked.update(model=model, candidates=candidates, samples=samples)
        methods = {t: planted if planted in c else "minmax" for t, c in candidates.items()}
        return ThresholdChoice(methods, {"reason": "planted"})

    monkeypatch.setattr("edgeattn.calibration.finish.choose_thresholds", choose)
    x = floats(90, 4, 8)
    table = CalibTable.load(calibrate(graph, x))
    assert table.manifest.report["choice"] == {"reason": "planted"}
    for name, entry in table.tensors.items():
        assert entry.amax == asked["candidates"][name][entry.method]
        assert next(iter(asked["candidates"][name])) == "minmax"
    kept = asked["samples"]["x"]
    assert len(kept) == 64
    assert len({sample.tobytes() for sample in kept} & {sample.tobytes() for sample in x}) == 64
    calibrate(graph, x[::-1].copy(), seed=7)
    np.testing.assert_array_equal(asked["samples"]["x"], kept)


def test_the_same_call_writes_the_same_file(graph, tmp_path):
    x = floats(9, 4, 8)
    first = calibrate(graph, x, tmp_path / "a.json").read_bytes()
    assert calibrate(graph, x, tmp_path / "b.json").read_bytes() == first


def test_the_table_says_what_it_was_made_from(graph):
    x = floats(30, 4, 8)
    table = CalibTable.load(
        calibrate(graph, x, method="percentile", samples=20, batch_size=6, seed=5)
    )
    manifest = table.manifest
    assert table.method == "percentile"
    assert manifest.parents["graph"].file == "net.onnx"
    assert manifest.parents["graph"].sha256 == graph_sha256(graph)
    assert manifest.parents["data"].file == "an array"
    assert len(manifest.parents["data"].sha256) == 64
    assert manifest.options == {
        "method": "percentile",
        "percentile": 99.99,
        "samples": 20,
        "batch_size": 6,
        "seed": 5,
        "max_bad": 0,
        "counted_values": 32768,
    }
    assert manifest.report == {
        "samples": 20,
        "left_out": 0,
        "skipped": [],
        "ignored": [],
        "tensors": 8,
        "zero_tensors": [],
    }


def test_the_data_is_known_by_its_content(graph):
    def data_sha256(x):
        return CalibTable.load(calibrate(graph, x)).manifest.parents["data"].sha256

    x = floats(6, 4, 8)
    assert data_sha256(x) == data_sha256(x[::-1])
    assert data_sha256(x) != data_sha256(x[:5])


def test_a_graph_with_attention_nodes_is_observed_around_them(tmp_path):
    spec = AttentionSpec(head_dim=4, qkv_heads=2, head_groups=(HeadGroup(2, (3, 3), (1, 1)),))
    model = with_weights(
        """g (float[batch,5,7,8] x) => (float[batch,5,7,8] y) {
        qkv = MatMul(x, w) out = Relu(qkv) y = MatMul(out, p) }""",
        {"w": floats(8, 24), "p": floats(8, 8)},
    )
    model.graph.node[1].CopyFrom(make_attention_node(spec, ["qkv"], "out", "attention"))
    model.opset_import.append(helper.make_opsetid(OP_DOMAIN, 1))
    x = floats(2, 5, 7, 8)
    found = amax(calibrate(save(model, tmp_path / "net.onnx"), x))
    assert list(found) == ["x", "qkv", "out"]
    assert found["x"] == np.abs(x).max()
    qkv = x.astype(np.float64) @ floats(8, 24)
    assert found["qkv"] == pytest.approx(np.abs(qkv).max(), rel=1e-5)
    assert found["out"] == pytest.approx(np.abs(attention(spec, qkv)).max(), rel=1e-5)


def test_a_graph_input_is_observed_by_either_method(tmp_path):
    model = with_weights(
        "g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": floats(6, 4)}
    )
    graph = save(model, tmp_path / "net.onnx")
    x = floats(30, 6)
    for method in ("minmax", "percentile"):
        assert amax(calibrate(graph, x, method=method, percentile=100.0)) == {"x": np.abs(x).max()}


def test_a_tensor_of_zeros_gets_the_scale_one_and_is_listed(tmp_path):
    text = "g (float[N,6] x) => (float[N,4] y) { z = Sub(x, x) y = MatMul(z, w) }"
    graph = save(with_weights(text, {"w": floats(6, 4)}), tmp_path / "net.onnx")
    for method in ("minmax", "percentile"):
        table = CalibTable.load(calibrate(graph, floats(3, 6), method=method))
        assert table.tensors["z"].amax == 0
        assert table.quant_scales == {"z": 1.0}
        assert table.manifest.report["zero_tensors"] == ["z"]


@pytest.mark.parametrize("method", ["minmax", "auto"])
@pytest.mark.parametrize("sample", [0, 17])
@pytest.mark.parametrize("op", ["Log", "Reciprocal"], ids=["NaN", "infinity"])
def test_an_activation_that_is_no_number_is_named(tmp_path, method, sample, op):
    text = """g (float[N,40] x) => (float[N,5] a, float[N,4] y) {
        a = MatMul(x, v) b = %s(x) y = MatMul(b, w) }"""
    weights = {"v": floats(40, 5), "w": floats(40, 4)}
    graph = save(with_weights(text % op, weights), tmp_path / "net.onnx")
    x = np.abs(floats(20, 40)) + 1
    x[sample, 23] = {"Log": -1.0, "Reciprocal": 0.0}[op]
    before = left_behind(tmp_path)
    message = f"the tensor b takes on NaN or infinity on sample {sample} of an array$"
    with pytest.raises(GraphError, match=message):
        calibrate(graph, x, method=method)
    assert left_behind(tmp_path) == before


def test_a_sample_that_does_not_run_is_named(tmp_path):
    text = """g (float[N,L] x) => (float[N,4] y) {
        a = MatMul(x, v) b = Relu(a) y = MatMul(b, w) }"""
    weights = {"v": floats(6, 5), "w": floats(5, 4)}
    graph = save(with_weights(text, weights), tmp_path / "net.onnx")
    samples = [floats(1, 6), floats(1, 7), floats(1, 6)]
    with pytest.raises(GraphError, match="cannot run the graph on sample 0 of item 1 of an iter"):
        calibrate(graph, samples, batch_size=1)


def test_weights_that_are_no_numbers_are_named(tmp_path):
    weight = floats(6, 4)
    weight[2, 2] = np.nan
    model = with_weights("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": weight})
    with pytest.raises(GraphError, match="the weight w of node y holds NaN"):
        calibrate(save(model, tmp_path / "net.onnx"), floats(2, 6))


def test_a_graph_of_fixed_batch_size_uses_it(tmp_path):
    model = block()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    graph = save(model, tmp_path / "net.onnx")
    x = floats(10, 4, 8)
    table = CalibTable.load(calibrate(graph, x, batch_size=7))
    assert table.manifest.options["batch_size"] == 4
    assert (table.manifest.report["samples"], table.manifest.report["left_out"]) == (8, 2)


def test_images_pass_through_the_preprocessing_of_the_graph(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for value in (10, 200):
        Image.fromarray(np.full((6, 6), value, np.uint8)).save(folder / f"{value}.png")
    (folder / "notes.png").write_text("a text file")
    model = with_weights(
        "g (float[batch,1,6,6] x) => (float[A,B,C,D] y) { y = Conv(x, w) }",
        {"w": floats(2, 1, 3, 3)},
    )
    preprocess = {"mean": [0.5], "std": [0.1], "resize": 0}
    inputs = [{"name": "x", "shape": ["batch", 1, 6, 6], "preprocess": preprocess}]
    graph = save_graph(model, tmp_path / "net.onnx", Manifest("graph", options={"inputs": inputs}))
    table = CalibTable.load(calibrate(graph, folder, max_bad=1))
    assert table.tensors["x"].amax == pytest.approx((0.5 - 10 / 255) / 0.1, rel=1e-6)
    assert table.manifest.parents["data"].file == "images"
    (skipped,) = table.manifest.report["skipped"]
    assert "notes.png is not a readable image" in skipped


def test_progress_counts_samples(graph):
    calls = []
    calibrate(graph, floats(11, 4, 8), batch_size=4, progress=lambda *call: calls.append(call))
    assert calls == [(4, 11, "calibrating"), (8, 11, "calibrating"), (11, 11, "calibrating")]


@pytest.mark.parametrize("where", ["progress", "data"])
def test_ctrl_c_leaves_no_file(graph, where):
    def interrupted():
        yield floats(8, 4, 8)
        raise KeyboardInterrupt

    def stop(done, total, what):
        raise KeyboardInterrupt

    before = left_behind(graph.parent)
    data, progress = (interrupted(), None) if where == "data" else (floats(8, 4, 8), stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, data, progress=progress)
    assert left_behind(graph.parent) == before


def test_a_failure_keeps_the_table_of_before(graph):
    path = calibrate(graph, floats(8, 4, 8))
    content = path.read_bytes()
    with pytest.raises(DataError):
        calibrate(graph, [floats(2, 4, 8), floats(2, 4, 9)], batch_size=2)
    assert path.read_bytes() == content


def test_bad_choices_are_refused_before_anything_runs(graph, tmp_path):
    x = floats(2, 4, 8)
    with pytest.raises(SpecError, match="the method is 'guess'"):
        calibrate(graph, x, method="guess")
    with pytest.raises(SpecError, match="the percentile is 101"):
        calibrate(graph, x, method="percentile", percentile=101)
    with pytest.raises(DataError, match="there is no data to calibrate with"):
        calibrate(graph)
    with pytest.raises(ArtifactError, match="there is no file"):
        calibrate(tmp_path / "absent.onnx", x)
    with pytest.raises(ArtifactError, match="there is no folder"):
        calibrate(graph, x, tmp_path / "nowhere" / "t.json")
    assert left_behind(tmp_path) == ["net.onnx", "net.onnx.json"]


def test_a_graph_that_does_not_run_is_refused_in_one_sentence(tmp_path):
    weights = {"w": floats(6, 4), "s": np.array([5, 5])}
    text = """g (float[N,6] x) => (float[N,4] y, float[M,4] u) {
        y = MatMul(x, w) r = Reshape(x, s) z = Relu(r) u = MatMul(z, w) }"""
    graph = save(with_weights(text, weights), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="ONNX Runtime cannot") as error:
        calibrate(graph, floats(2, 6))
    assert "\n" not in error.value.message
    assert error.value.hint


def test_an_operator_that_onnx_runtime_does_not_know_is_refused(tmp_path):
    text = "g (float[N,6] x) => (float[N,4] y) { z = com.example.Mystery(x) y = MatMul(z, w) }"
    model = with_weights(text, {"w": floats(6, 4)})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(GraphError, match=r"knows no operator com.example::Mystery"):
        calibrate(save(model, tmp_path / "net.onnx"), floats(2, 6))


def test_a_graph_too_large_for_one_message_is_calibrated_through_a_file(graph, monkeypatch):
    expected = amax(calibrate(graph, floats(8, 4, 8)))
    monkeypatch.setattr("edgeattn.graph.files.MAX_INLINE_BYTES", 100)
    monkeypatch.setattr("edgeattn.calibration.session.MAX_INLINE_BYTES", 100)
    assert amax(calibrate(graph, floats(8, 4, 8))) == expected


RSS = """
import resource, sys
import numpy as np
from edgeattn.calibration.collect import calibrate
rng = np.random.default_rng(0)
data = (rng.standard_normal((4, 64, 64), dtype=np.float32) for _ in range(int(sys.argv[2])))
calibrate(sys.argv[1], data, method=sys.argv[3], batch_size=4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "entropy", "auto"])
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path, method):
    weights = {f"w{i}": floats(64, 64) / 8 for i in range(20)}
    nodes = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(20))
    text = f"g (float[batch,64,64] h0) => (float[batch,64,64] h20) {{ {nodes} }}"
    graph = save(with_weights(text, weights), tmp_path / "net.onnx")

    def peak_kib(batches: int) -> int:
        command = [sys.executable, "-c", RSS, str(graph), str(batches), method]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # 400 batches of activations would be 130 MB.
    # With 20 batches `auto` has kept all the samples that it will.
    assert peak_kib(410) < peak_kib(20) * 1.05
