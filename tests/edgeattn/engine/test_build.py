"""Building: graph in, engine and manifest out, together, the same bytes every time, or an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import Manifest, read_manifest
from edgeattn.engine import build as build_module
from edgeattn.engine import cpu_build, cpu_file
from edgeattn.engine.build import build
from edgeattn.engine.host import cpu_features
from edgeattn.engine.load import load
from edgeattn.errors import (
    ArtifactError,
    BuildError,
    EngineError,
    GraphError,
    MissingDependencyError,
    SpecError,
)
from edgeattn.graph.files import graph_sha256
from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import WEIGHT, classifier, from_text, int8_chain, logits_of, model, save
from tests.oracle import attention

X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(classifier(), tmp_path / "net.onnx")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_engine_and_its_manifest_are_written(graph: Path) -> None:
    engine = build(graph, graph.with_name("out.engine"), threads=1)
    assert engine == graph.with_name("out.engine")
    assert files(graph.parent) == {"net.onnx", "net.onnx.json", "out.engine", "out.engine.json"}
    manifest = read_manifest(engine)
    assert (manifest.kind, manifest.target) == ("engine", "cpu")
    assert manifest.parents["graph"].sha256 == graph_sha256(graph)
    assert manifest.options["threads"] == 1
    assert manifest.report["nodes"] == {"Add": 1, "MatMul": 1}
    assert manifest.report["cpu_features"] == list(cpu_features())
    with load(engine) as loaded:
        np.testing.assert_allclose(loaded.run({"x": X})["logits"], logits_of(X), rtol=1e-5)


def test_the_engine_is_named_after_the_graph(graph: Path) -> None:
    assert build(graph) == graph.with_name("net.engine")


def test_the_same_graph_gives_the_same_bytes(graph: Path) -> None:
    first, second = (build(graph, graph.with_name(f"{n}.engine")) for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_threads_are_left_to_the_machine_unless_given(graph: Path) -> None:
    assert "threads" not in read_manifest(build(graph)).options


def test_a_dry_run_describes_the_engine_and_writes_nothing(graph: Path) -> None:
    before = files(graph.parent)
    planned = build(graph, threads=1, dry_run=True)
    assert files(graph.parent) == before
    assert isinstance(planned, Manifest)
    built = read_manifest(build(graph, threads=1))
    assert planned.report == built.report
    assert planned.options | {"inputs": None} == built.options | {"inputs": None}


def test_a_graph_that_is_one_attention_node_is_built(tmp_path: Path) -> None:
    groups = (HeadGroup(1, (2, 2), (1, 1)), HeadGroup(1, (3, 3), head_offset=1))
    spec = AttentionSpec(head_dim=4, qkv_heads=2, head_groups=groups)
    shape, out = (1, 5, 4, 24), (1, 5, 4, 8)
    value = onnx.helper.make_tensor_value_info
    graph = model(
        [make_attention_node(spec, ["qkv"], "y", "attention")],
        [value("qkv", 1, shape)],
        [value("y", 1, out)],
        {},
    )
    engine = build(save(graph, tmp_path / "attention.onnx"), threads=1)
    assert read_manifest(engine).report["attention_nodes_lowered"] == 1
    qkv = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with load(engine) as loaded:
        found = loaded.run({"qkv": qkv})["y"]
    np.testing.assert_allclose(found, attention(spec, qkv=qkv.astype("float64")), atol=1e-5)


def test_the_int8_choice_stands_in_the_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(build(save(int8_chain(2), tmp_path / "net.onnx"), threads=1))
    assert manifest.report["int8_arithmetic"] in ("fused", "fused-precise", "unfused")
    assert manifest.report["int8_written_sqnr_db"] > 30
    assert "dB" in manifest.report["int8_reason"]


def test_float_graphs_have_no_int8_choice(graph: Path) -> None:
    assert "int8_arithmetic" not in read_manifest(build(graph)).report


def test_the_precision_of_a_quantized_graph_is_kept(tmp_path: Path) -> None:
    from edgeattn.graph.files import save_graph

    manifest = Manifest("graph", options={"precision": "int8"})
    graph = save_graph(int8_chain(1), tmp_path / "net.int8.onnx", manifest)
    assert read_manifest(build(graph, threads=1)).options["precision"] == "int8"


def test_tensorrt_is_refused_where_it_is_not_installed(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="TensorRT is not installed") as caught:
        build(graph, engine="tensorrt")
    assert "engine cpu" in caught.value.hint
    assert not graph.with_name("net.engine").exists()


def test_an_unknown_engine_is_answered_with_near_misses(graph: Path) -> None:
    with pytest.raises(BuildError, match="there is no engine tensort") as caught:
        build(graph, engine="tensort")
    assert caught.value.hint == "did you mean tensorrt?"


def test_a_table_goes_with_a_precision(graph: Path) -> None:
    with pytest.raises(BuildError, match="a table was given but no precision"):
        build(graph, table="t.calib.json")


def test_int8_goes_with_a_table(graph: Path) -> None:
    with pytest.raises(SpecError, match="the precision int8 needs a calibration table"):
        build(graph, precision="int8")


def refuse(graph: Path, error: type[Exception], said: str, **options: object) -> None:
    before = files(graph.parent)
    with pytest.raises(error, match=said):
        build(graph, **options)
    assert files(graph.parent) == before


def test_a_missing_graph_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none.onnx", ArtifactError, "there is no file")


def test_a_truncated_graph_is_refused_and_leaves_no_file(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:-40])
    refuse(graph, GraphError, "is not a whole ONNX file")


def test_nan_weights_are_refused_by_name_and_leave_no_file(tmp_path: Path) -> None:
    broken = WEIGHT.copy()
    broken[0, 0] = np.nan
    graph = save(classifier(weight=broken), tmp_path / "net.onnx")
    refuse(graph, GraphError, "the weight weight holds 1 NaN of 15 values")


def test_a_graph_that_no_kernel_runs_leaves_no_file(tmp_path: Path) -> None:
    graph = save(
        from_text("g (float[n] x) => (float[n] y) { y = NoSuchOp(x) }"), tmp_path / "g.onnx"
    )
    refuse(graph, EngineError, "ONNX Runtime refuses the graph")


def test_no_threads_are_refused(graph: Path) -> None:
    refuse(graph, EngineError, "threads is 0; expected at least 1", threads=0)


def test_the_graph_is_never_overwritten(graph: Path) -> None:
    refuse(graph, ArtifactError, "is the graph to build", output=graph)


def test_a_missing_output_folder_is_refused_before_any_work(graph: Path) -> None:
    refuse(graph, ArtifactError, "there is no folder", output=graph.parent / "none" / "x.engine")


def test_a_failure_while_writing_leaves_what_was_there(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(graph)
    before = {path.name: path.read_bytes() for path in graph.parent.iterdir()}

    def fail(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(ArtifactError, match="No space left on device"):
        build(graph, engine)
    assert {path.name: path.read_bytes() for path in graph.parent.iterdir()} == before


def test_ctrl_c_leaves_no_file(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    before = files(graph.parent)
    monkeypatch.setattr(cpu_file, "lower", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(graph)
    assert files(graph.parent) == before


def test_weights_beyond_the_limit_of_protobuf_go_beside_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = classifier(weight=np.tile(WEIGHT, (1, 100)))
    big.graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros(300, np.float32), "bias")
    )
    del big.graph.output[0].type.tensor_type.shape.dim[1:]
    big.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 300
    graph = save(big, tmp_path / "net.onnx")
    monkeypatch.setattr(cpu_build, "MAX_INLINE_BYTES", 1000)
    engine = build(graph, threads=1)
    assert files(tmp_path) == {
        "net.onnx", "net.onnx.json", "net.engine", "net.engine.data", "net.engine.json"
    }  # fmt: skip
    with load(engine) as loaded, load(graph) as in_memory:
        expected = X @ np.tile(WEIGHT, (1, 100))
        np.testing.assert_allclose(loaded.run({"x": X})["logits"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            in_memory.run({"x": X})["logits"], expected, rtol=1e-4, atol=1e-5
        )
    data = tmp_path / "net.engine.data"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(
        ArtifactError, match=r"net.engine.data is not the file that net.engine.json"
    ):
        load(engine)


def test_int8_weights_beyond_the_limit_are_tried_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_build, "MAX_INLINE_BYTES", 1000)
    engine = build(save(int8_chain(2), tmp_path / "net.onnx"), threads=1)
    assert read_manifest(engine).report["int8_written_sqnr_db"] > 30
    assert engine.with_name("net.engine.data").is_file()


def test_progress_is_told_to_its_end(graph: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    build(graph, progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == [0, 1, 2, 3]
    assert {total for _, total, _ in told} == {3}
