"""The CPU engine of a graph of somebody else: every form of it runs, is checked and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeattn.artifacts import read_manifest
from edgeattn.engine import autotune, cpu_build
from edgeattn.engine import autotune_cpu as engine_autotune_cpu
from edgeattn.engine.autotune import NOTHING_TO_CHOOSE, Autotuned
from edgeattn.engine.autotune_cpu import autotune_cpu
from edgeattn.engine.build import build
from edgeattn.engine.cpu_build import LoweredGraph
from edgeattn.engine.load import load
from edgeattn.engine.race import LOOKS, Race
from edgeattn.engine.rebuild import rebuild, typed_graph
from edgeattn.engine.sources import find_sources
from edgeattn.engine.variants import Variant, make_variants
from edgeattn.errors import BuildError, DataError, GraphError
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes
from tests import foreign_attention
from tests.graphs import classifier, from_text, save

X = np.random.default_rng(4).standard_normal((1, 6, 9, 8)).astype(np.float32)
NAMES = ["fused", "fused, global too", "as written"]
OF_FORM = {"windows": "fused", "everything": "fused, global too", "as written": "as written"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two blocks with windows and one without."""
    path = tmp_path / "mixed.onnx"
    onnx.save(foreign_attention.windowed(blocks=3, last_is_global=True), path)
    return path


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, ...]:
    folder = tmp_path_factory.mktemp("variants")
    graph = folder / "mixed.onnx"
    onnx.save(foreign_attention.windowed(blocks=3, last_is_global=True), graph)
    return make_variants(graph, folder)


def tuned(
    variants: tuple[Variant, ...], folder: Path, time_query: Callable[[Any], float] | None = None
) -> Autotuned[LoweredGraph]:
    return autotune_cpu(variants, {}, weights=folder / "net.data", time_query=time_query)


def changed(
    variants: tuple[Variant, ...], name: str, change: Callable[[onnx.ModelProto], None]
) -> tuple[Variant, ...]:
    """Change the graph of one form alone."""
    made = []
    for variant in variants:
        if variant.name == name:
            model = onnx.ModelProto()
            model.CopyFrom(variant.typed.model)
            change(model)
            variant = replace(variant, typed=replace(variant.typed, model=model))
        made.append(variant)
    return tuple(made)


def slow_down(model: onnx.ModelProto) -> None:
    """Add nothing to `y`, in a long-winded way: products of 400 x 400 numbers, times zero."""
    work = from_text(
        """g (float[1,6,9,8] x) => (float[1,1,1,1] nothing) {
            sizes = Constant<value_ints = [400, 400]>()
            zero = Constant<value_float = 0.0>()
            number = ReduceMax<keepdims = 0>(x)
            all = Expand(number, sizes)
            small = Mul(all, zero)
            a = Softmax(small)
            b = MatMul(a, a)
            c = MatMul(b, a)
            d = MatMul(c, a)
            e = ReduceMax<keepdims = 0>(d)
            f = Mul(e, zero)
            one = Constant<value_ints = [1, 1, 1, 1]>()
            nothing = Reshape(f, one)
        }"""
    ).graph.node
    last = next(node for node in model.graph.node if "y" in node.output)
    last.output[0] = "y_before"
    names = {name for node in work for name in node.output}
    for node in work:
        for ends in (node.input, node.output):
            ends[:] = [f"slow/{name}" if name in names else name for name in ends]
    model.graph.node.extend(work)
    model.graph.node.append(onnx.helper.make_node("Add", ["y_before", "slow/nothing"], ["y"]))


def double_weight(model: onnx.ModelProto) -> None:
    weight = next(w for w in model.graph.initializer if w.name == "out_weight")
    weight.CopyFrom(numpy_helper.from_array(2 * foreign_attention.OUT, "out_weight"))


def steady(query: Any) -> float:
    """Every query takes a millisecond."""
    query()
    return 1.0


def outcomes(result: Autotuned[LoweredGraph]) -> dict[str, str]:
    return {way.name: way.outcome for way in result.ways}


def choose(monkeypatch: pytest.MonkeyPatch, winner: str) -> None:
    """Let one form win, as if it had been measured."""
    monkeypatch.setattr(autotune, "race", lambda timers: Race(winner, NAMES[0], 1.0, ()))


def error_of(engine: Path) -> float:
    """Largest relative error against the graph as somebody else's runtime would compute it."""
    with load(engine.parent / "mixed.onnx") as written, load(engine) as opened:
        wanted, found = written.run({"x": X})["y"], opened.run({"x": X})["y"]
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("slow", ["windows", "as written"])
def test_a_form_that_is_slow_loses_by_the_clock_wherever_it_stands(variants, tmp_path, slow):
    others = tuple(v for v in variants if v.name != "everything")
    result = tuned(changed(others, slow, slow_down), tmp_path)
    assert outcomes(result)[OF_FORM[slow]] == "lost"
    assert result.winner.name != OF_FORM[slow]
    loser = next(way for way in result.ways if way.name == OF_FORM[slow])
    winner = next(way for way in result.ways if way.outcome == "won")
    assert loser.median_ms > 2 * winner.median_ms


@pytest.mark.parametrize("wrong", ["windows", "everything"])
def test_a_form_that_computes_something_else_is_out_and_named(variants, tmp_path, wrong):
    result = tuned(changed(variants, wrong, double_weight), tmp_path, steady)
    failed = [way for way in result.ways if way.outcome == "failed"]
    assert [way.name for way in failed] == [OF_FORM[wrong]]
    assert "its output y is" in failed[0].reason
    assert "from what the graph computes; allowed are" in failed[0].reason
    assert result.winner.name == ("fused, global too" if wrong == "windows" else "fused")


def test_of_equally_fast_ones_the_first_is_kept(variants, tmp_path):
    result = tuned(variants, tmp_path, steady)
    assert outcomes(result) == dict(zip(NAMES, ["won", "lost", "lost"], strict=True))
    assert result.ways[0].reason == "1 ms, no other is surely faster"
    assert result.ways[1].contest.rounds == LOOKS[0]
    assert result.shapes == {"x": [1, 6, 9, 8]}
    backwards = tuned(variants[::-1], tmp_path, steady)
    assert backwards.winner.name == "as written"


def test_a_form_alone_is_built_and_not_timed(graph, tmp_path):
    def never(query: Any) -> float:
        raise AssertionError

    result = tuned(make_variants(graph, tmp_path, fuse=False), tmp_path, never)
    (way,) = result.ways
    assert (way.outcome, way.reason, way.median_ms) == ("won", NOTHING_TO_CHOOSE, None)


def test_a_form_that_cannot_be_lowered_leaves_the_race_to_the_others(variants, tmp_path):
    def spoil(model: onnx.ModelProto) -> None:
        weight = next(w for w in model.graph.initializer if w.name == "out_weight")
        weight.CopyFrom(numpy_helper.from_array(np.nan * foreign_attention.OUT, "out_weight"))

    result = tuned(changed(variants, "windows", spoil), tmp_path, steady)
    assert outcomes(result)["fused"] == "failed"
    assert "out_weight" in result.ways[0].reason
    assert result.winner.name == "fused, global too"


def test_progress_names_what_is_at_hand(variants, tmp_path):
    said = []
    autotune_cpu(
        variants,
        {},
        weights=tmp_path / "net.data",
        time_query=steady,
        progress=lambda *step: said.append(step[2]),
    )
    assert said == [*(f"attention {name}: lower" for name in NAMES), "time the engines in turns"]


@pytest.mark.parametrize("winner", NAMES)
def test_what_won_is_written_and_built_again_without_a_race(graph, monkeypatch, winner):
    choose(monkeypatch, winner)
    engine = build(graph, engine="cpu", autotune_attention=True, verify=True)
    first = read_manifest(engine)
    assert first.report["autotune"]["winner"] == winner
    assert first.options["attention"] == "autotuned"
    fused = {"as written": None, "fused": 2}.get(winner, 3)
    assert first.report.get("fusion", {}).get("fused") == fused
    assert first.report["attention_nodes_lowered"] == (fused or 0)
    assert {check["verdict"] for check in first.report["verify"]} == {"ok", "skipped"}
    assert error_of(engine) < 1e-5
    monkeypatch.setattr(autotune, "race", None)
    output = graph.parent / "again" / engine.name
    output.parent.mkdir()
    again = rebuild(engine, find_sources(engine, first), output)
    assert again.files == first.files
    assert again.report.get("fusion") == first.report.get("fusion")


def test_a_half_type_is_written_into_every_form(graph, monkeypatch, tmp_path):
    choose(monkeypatch, "fused, global too")
    engine = build(graph, engine="cpu", precision="fp16", autotune_attention=True, verify=True)
    manifest = read_manifest(engine)
    assert (manifest.options["precision"], manifest.report["fusion"]["fused"]) == ("fp16", 3)
    assert [way["outcome"] for way in manifest.report["autotune"]["ways"]] == [
        "lost",
        "won",
        "lost",
    ]
    assert 0 < error_of(engine) < 1e-2
    folder = tmp_path / "typed"
    folder.mkdir()
    typed = typed_graph(engine, find_sources(engine, manifest), folder)
    assert len(attention_nodes(load_graph(typed))) == 3


def test_large_weights_of_the_form_that_won_go_beside_the_engine(graph, monkeypatch):
    choose(monkeypatch, "as written")
    monkeypatch.setattr(cpu_build, "MAX_INLINE_BYTES", 100)
    engine = build(graph, engine="cpu", autotune_attention=True)
    assert {path.name for path in graph.parent.iterdir()} == {
        "mixed.onnx", "mixed.engine", "mixed.engine.data", "mixed.engine.json"
    }  # fmt: skip
    assert error_of(engine) < 1e-5


def test_where_a_batch_is_free_the_report_says_what_was_timed(tmp_path, monkeypatch):
    model = foreign_attention.windowed(last_is_global=True)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for weight in model.graph.initializer:
        if weight.name == "in_one":
            weight.CopyFrom(numpy_helper.from_array(np.array([-1, 54, 8]), "in_one"))
        if weight.name in ("cut", "map", "uncut"):
            shape = numpy_helper.to_array(weight).copy()
            shape[0] = -1
            weight.CopyFrom(numpy_helper.from_array(shape, weight.name))
        if weight.name == "in_windows":
            weight.CopyFrom(numpy_helper.from_array(np.array([-1, 9, 8]), weight.name))
    graph = tmp_path / "free.onnx"
    onnx.save(model, graph)
    monkeypatch.setattr(autotune, "query_ms", steady)
    manifest = read_manifest(build(graph, engine="cpu", autotune_attention=True))
    assert manifest.report["autotune"]["shapes"] == {"x": [4, 6, 9, 8]}


def test_a_graph_whose_sizes_nobody_knows_is_not_timed_and_not_built(graph, monkeypatch):
    def find_none(specs: object, reference: object) -> None:
        raise DataError("the graph runs with none of the sizes tried", "give the shapes")

    monkeypatch.setattr(engine_autotune_cpu, "default_shapes", find_none)
    with pytest.raises(BuildError, match="nothing can be timed: the graph runs with none") as err:
        build(graph, engine="cpu", autotune_attention=True)
    assert "without --autotune-attention" in err.value.hint
    assert [path.name for path in graph.parent.iterdir()] == ["mixed.onnx"]


def test_a_dry_run_says_what_would_be_tried_and_times_nothing(graph, monkeypatch):
    monkeypatch.setattr(autotune, "race", None)
    manifest = build(graph, engine="cpu", autotune_attention=True, dry_run=True)
    told = manifest.report["autotune"]
    assert told["winner"] is None
    assert [(way["name"], way["outcome"]) for way in told["ways"]] == [
        (name, "not tried") for name in NAMES
    ]
    assert [path.name for path in graph.parent.iterdir()] == ["mixed.onnx"]


def test_where_nothing_works_there_is_no_file(graph, monkeypatch):
    before = graph.read_bytes()
    monkeypatch.setattr(autotune, "_check_outputs", refuse)
    with pytest.raises(BuildError, match=r"in no way: fused: it is wrong; fused, global too: it"):
        build(graph, engine="cpu", autotune_attention=True)
    model = onnx.load(graph)
    weight = next(w for w in model.graph.initializer if w.name == "out_weight")
    weight.CopyFrom(numpy_helper.from_array(np.nan * foreign_attention.OUT, "out_weight"))
    spoilt = graph.with_name("spoilt.onnx")
    onnx.save(model, spoilt)
    with pytest.raises(GraphError, match="out_weight"):
        build(spoilt, engine="cpu", autotune_attention=True)
    assert {path.name for path in graph.parent.iterdir()} == {"mixed.onnx", "spoilt.onnx"}
    assert graph.read_bytes() == before


def refuse(outputs: object, question: object) -> None:
    raise BuildError("it is wrong")


def test_an_engine_that_was_there_survives_an_interrupted_race(graph, monkeypatch):
    engine = build(graph, engine="cpu")
    before = {path.name: path.read_bytes() for path in graph.parent.iterdir()}

    def interrupt(timers: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(autotune, "race", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(graph, engine="cpu", autotune_attention=True)
    assert {path.name: path.read_bytes() for path in graph.parent.iterdir()} == before
    assert read_manifest(engine).report["fusion"]["fused"] == 2


def test_what_is_to_be_fused_everywhere_and_nowhere_is_refused(graph):
    with pytest.raises(BuildError, match="attention of all tokens to all was to be fused") as err:
        build(graph, engine="cpu", fuse=False, global_attention=True)
    assert "--no-fuse" in err.value.hint


@pytest.mark.parametrize(("asked", "fused"), [(None, 2), (False, 2), (True, 3)])
def test_without_a_race_the_cpu_engine_has_what_is_asked_for(graph, asked, fused):
    engine = build(graph, engine="cpu", global_attention=asked)
    manifest = read_manifest(engine)
    assert manifest.report["fusion"]["fused"] == fused
    assert manifest.options["global_attention"] is bool(asked)
    assert error_of(engine) < 1e-5


def test_a_graph_without_attention_is_built_as_ever(tmp_path):
    graph = save(classifier(), tmp_path / "net.onnx")
    engine = build(graph, engine="cpu", autotune_attention=True)
    plain = build(graph, tmp_path / "plain.engine", engine="cpu")
    assert engine.read_bytes() == plain.read_bytes()
    (way,) = read_manifest(engine).report["autotune"]["ways"]
    assert way["reason"] == NOTHING_TO_CHOOSE
