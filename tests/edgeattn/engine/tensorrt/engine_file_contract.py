"""`edgeattn build` for TensorRT from the command line to the files, in NVIDIA's real bindings.

TensorRT itself is played by `tests.tensorrt_builder_double`, the GPU by the stand-in of pycuda.
What is shown is what is asked, written, kept and said, and nothing that TensorRT would compute.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import tensorrt as trt

from edgeattn.artifacts import Manifest, manifest_path, read_manifest, sha256_of_bytes
from edgeattn.cli.main import run
from edgeattn.engine.autotune import NOTHING_TO_CHOOSE, Autotuned, Candidate, WayResult
from edgeattn.engine.rebuild import rebuild
from edgeattn.engine.sources import find_sources
from edgeattn.engine.tensorrt import build as build_module
from edgeattn.engine.tensorrt import destination, engine_file, global_attention
from edgeattn.engine.tensorrt.autotune import BuiltWay
from edgeattn.engine.tensorrt.built_from import lower_again
from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError
from edgeattn.graph.fusion.found import GlobalDecision
from tests.foreign_attention import windowed
from tests.graphs import classifier
from tests.graphs import save as save_plain
from tests.tensorrt_builder_double import PLUGIN_NODE, Script
from tests.tensorrt_graphs import EXPORTED_SHAPE, block, save

MEMORY = ("error", "Error Code 1: Cuda Runtime (out of memory)")


@pytest.fixture(autouse=True)
def orin(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A board, at work in the test's own folder."""
    monkeypatch.setattr(destination, "local_architectures", lambda: (87,))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save_plain(classifier(batch=2), tmp_path / "net.onnx")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def build(*arguments: str) -> int:
    return run(["build", "--engine", "tensorrt", *arguments])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_engine_manifest_and_log_are_written_and_say_what_they_are(script, graph, capsys):
    script.says = {"build": [("info", "Local timing cache in use"), ("warning", "a warning")]}
    assert build("net.onnx", "--workspace", "64", "--json") == 0
    engine = graph.with_name("net.engine")
    assert engine.read_bytes() == script.plan
    assert files(graph.parent) == {
        *("net.onnx", "net.onnx.json", "net.engine", "net.engine.json", "net.engine.log")
    }
    assert "Local timing cache in use" in graph.with_name("net.engine.log").read_text()
    manifest = read_manifest(engine)
    assert printed(capsys) == {"file": "net.engine", **manifest.to_dict()}
    assert (manifest.kind, manifest.target) == ("engine", "tensorrt")
    assert manifest.files["net.engine"] == sha256_of_bytes(script.plan)
    assert manifest.parents["graph"].file == "net.onnx"
    version = str(TensorRtVersion.parse(trt.__version__))
    assert manifest.tools["tensorrt"] == version
    assert manifest.options["tensorrt"]["workspace_mib"] == 64
    assert manifest.options["inputs"][0]["name"] == "x"
    assert manifest.report["tensorrt"] == version
    assert manifest.report["gpu"]["architecture"] > 0
    assert manifest.report["plugin"] == []
    assert manifest.report["warnings"] == ["a warning"]


def test_people_read_the_report(script, graph, capsys):
    assert build("net.onnx") == 0
    out = capsys.readouterr().out
    assert out.startswith("wrote net.engine (600 B)\n  TensorRT ")


def test_a_failed_build_leaves_its_log_alone_and_says_where(script, graph, capsys):
    script.plan, script.says = None, {"build": [MEMORY]}
    assert build("net.onnx") == 1
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint.endswith("all that TensorRT said is in net.engine.log")
    assert "out of memory" in graph.with_name("net.engine.log").read_text()
    assert files(graph.parent) == {"net.onnx", "net.onnx.json", "net.engine.log"}


def test_an_engine_that_was_there_survives_a_failed_build(script, graph):
    assert build("net.onnx") == 0
    before = graph.with_name("net.engine").read_bytes()
    script.plan, script.says = None, {"build": [MEMORY]}
    assert build("net.onnx") == 1
    read_manifest(graph.with_name("net.engine"))
    assert graph.with_name("net.engine").read_bytes() == before


def test_a_precision_that_is_not_shown_is_refused_and_no_engine_written(
    script, graph, capsys, caplog
):
    assert build("net.onnx", "--require-precision", "fp32") == 1
    assert "Error: fp32 was required, but" in capsys.readouterr().err
    assert "product is float32 in the graph, not shown" in caplog.text  # what was built
    assert files(graph.parent) == {"net.onnx", "net.onnx.json", "net.engine.log"}


def test_the_exported_shapes_become_the_profile(script, tmp_path, capsys):
    save(block(), tmp_path / "block.onnx")
    assert build("block.onnx", "--attention", "native", "--json") == 0
    manifest = printed(capsys)
    (profile,) = script.config._profiles
    assert profile._ranges == {"x": (EXPORTED_SHAPE,) * 3}
    assert manifest["options"]["are_shapes_exported"] is True
    assert manifest["report"]["profiles"][0]["opt"] == {"x": list(EXPORTED_SHAPE)}


def test_a_plugin_library_is_kept_by_its_hash(script, tmp_path, monkeypatch, capsys):
    save(block(dynamic=False), tmp_path / "block.onnx")
    library = tmp_path / "plugin.so"
    library.write_bytes(b"a library")
    monkeypatch.setattr(build_module, "find_for_build", lambda *found: library)
    assert build("block.onnx", "--json") == 0
    assert printed(capsys)["report"]["plugin"] == [
        {"file": str(library), "sha256": sha256_of_bytes(b"a library")}
    ]
    assert script.registered == [(PLUGIN_NODE, "1", "")]


def test_the_graph_of_the_parser_is_written_where_asked(script, graph):
    assert build("net.onnx", "--save-lowered", "lowered.onnx") == 0
    assert manifest_path(graph.with_name("lowered.onnx")).is_file()


def test_a_board_that_this_is_not_is_refused_before_anything_is_built(script, graph, capsys):
    assert build("net.onnx", "--target", "jetson-thor") == 1
    assert "this machine is no Jetson Thor" in capsys.readouterr().err
    assert script.calls == []


def test_auto_means_tensorrt_where_it_is(script, graph, monkeypatch):
    from edgeattn.engine import build as engine_build

    monkeypatch.setattr(engine_build, "local_architectures", lambda: (87,))
    assert run(["build", "net.onnx"]) == 0
    assert read_manifest(graph.with_name("net.engine")).target == "tensorrt"


def test_inspect_tells_of_an_engine_what_its_build_told(script, graph, capsys):
    assert build("net.onnx") == 0
    told = capsys.readouterr().out.splitlines()[1].strip()
    assert run(["inspect", "net.engine"]) == 0
    assert told in capsys.readouterr().out


class Opened:
    """Stands where an engine would be opened; notes how, and which plan it was given."""

    def __init__(self, plan: Path, manifest: Manifest, **options: Any) -> None:
        self.plan, self.options = plan.read_bytes(), options

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_verifying_builds_twice_and_compares_what_was_built(script, graph, monkeypatch, capsys):
    seen: list[Any] = []

    def require_verified(engine: Opened, source: Path, **others: Any) -> list[dict[str, Any]]:
        seen.append((engine, source, others))
        return [{"name": "a check", "verdict": "ok", "detail": "as it should be", "worst": None}]

    monkeypatch.setattr(engine_file, "TensorRtEngine", Opened)
    monkeypatch.setattr(engine_file, "require_verified", require_verified)
    assert build("net.onnx", "--verify") == 0
    out = capsys.readouterr().out
    assert "a check" in out
    assert "as it should be" in out
    ((engine, source, others),) = seen
    assert script.calls.count("build") == 2
    assert (source.name, engine.plan) == ("net.onnx", script.plan)
    assert others["second_build"] is not engine
    assert others["without_graph"].options["cuda_graph"] is False
    assert others["shapes"] == ({"x": (2, 5)},)
    assert read_manifest(graph.with_name("net.engine")).report["verify"][0]["name"] == "a check"


def test_an_engine_that_fails_a_check_is_not_written(script, graph, monkeypatch, capsys):
    def require_verified(*engine: Any, **others: Any) -> list[dict[str, Any]]:
        raise BuildError("the engine fails 1 of 9 checks: equal rows: they differ")

    monkeypatch.setattr(engine_file, "TensorRtEngine", Opened)
    monkeypatch.setattr(engine_file, "require_verified", require_verified)
    assert build("net.onnx", "--verify") == 1
    assert "equal rows: they differ" in capsys.readouterr().err
    assert files(graph.parent) == {"net.onnx", "net.onnx.json", "net.engine.log"}


def play_race(monkeypatch: pytest.MonkeyPatch, won: str) -> None:
    """Let standard operators win in one form of a graph, without a race."""

    def autotune(variants: Any, options: Any, folder: Path, *, version: Any, **more: Any) -> Any:
        variant = next(variant for variant in variants if variant.name == won)
        lowered = lower_for_tensorrt(variant.typed.model, version, way="native")
        built = build_module.build_plan(lowered, options, folder / "native.plan", log=more["log"])
        ways = (
            WayResult("plugin", "windows", "plugin", "failed", "no plugin library"),
            WayResult("native", won, "native", "won", "the only one", 1.5),
        )
        winner = Candidate("native", variant, "native")
        return Autotuned(winner, BuiltWay(lowered, built), (), ways, {})

    monkeypatch.setattr(engine_file, "autotune_attention", autotune)


@pytest.mark.parametrize(
    ("won", "fused", "nodes"), [("as written", None, 0), ("windows", 2, 2), ("everything", 3, 3)]
)
def test_the_engine_is_that_of_the_form_that_won_and_built_again_as_such(
    script, tmp_path, monkeypatch, won, fused, nodes
):
    play_race(monkeypatch, won)
    onnx.save(windowed(blocks=3, last_is_global=True), "mixed.onnx")
    assert build("mixed.onnx", "--autotune-attention") == 0
    engine = tmp_path / "mixed.engine"
    first = read_manifest(engine)
    assert first.report.get("fusion", {}).get("fused") == fused
    assert first.options["attention"] == "autotuned"
    assert first.report["autotune"]["winner"] == "native"
    assert len(lower_again(engine, first).attention) == 3
    monkeypatch.setattr(engine_file, "autotune_attention", None)  # no race once more
    (tmp_path / "again").mkdir()
    output = tmp_path / "again" / "mixed.engine"
    again = rebuild(engine, find_sources(engine, first), output)
    assert again.options["attention"] == again.report["attention_way"] == "native"
    assert again.report.get("fusion") == first.report.get("fusion")
    assert "autotune" not in again.report
    named = [each["name"] for each in again.report["attention"]]
    assert sum("MultiScaleWindowAttention" in name for name in named) == nodes


def test_a_build_that_may_choose_nothing_says_so(script, graph, capsys):
    assert build("net.onnx", "--autotune-attention") == 0
    assert f"attention native: won, {NOTHING_TO_CHOOSE}" in capsys.readouterr().out


def test_what_is_predicted_for_the_board_is_built_and_repeated_anywhere(
    script, tmp_path, monkeypatch
):
    def predict(gpu: Any, version: Any, precision: str | None) -> Any:
        return lambda spec, size, graph_type: GlobalDecision(True, f"for {graph_type} of {size}")

    monkeypatch.setattr(global_attention, "global_choice", predict)
    onnx.save(windowed(blocks=3, last_is_global=True), "mixed.onnx")
    assert build("mixed.onnx", "--attention", "native") == 0
    engine = tmp_path / "mixed.engine"
    first = read_manifest(engine)
    assert first.report["fusion"]["fused"] == 3
    assert list(first.options["global_attention"].values()) == [True]
    (tmp_path / "again").mkdir()
    sources = find_sources(engine, first)
    again = rebuild(engine, sources, tmp_path / "again" / "mixed.engine")
    assert again.options["global_attention"] == first.options["global_attention"]

    monkeypatch.setattr(global_attention, "global_choice", None)  # another machine
    nodes = [each.name for each in lower_again(engine, first).attention]
    assert sum("MultiScaleWindowAttention" in name for name in nodes) == 3
    assert build("mixed.onnx", "--attention", "native", "--no-global-attention") == 0
    assert read_manifest(engine).report["fusion"]["fused"] == 2


def test_the_fastest_way_is_kept_and_all_are_told(script, tmp_path, monkeypatch, capsys):
    save(block(dynamic=False), tmp_path / "block.onnx")
    play_race(monkeypatch, "windows")
    assert build("block.onnx", "--autotune-attention") == 0
    out = capsys.readouterr().out
    assert "attention plugin: failed, no plugin library" in out
    assert "attention native: won, the only one" in out
    manifest = read_manifest(tmp_path / "block.engine")
    assert manifest.report["autotune"]["winner"] == "native"
    assert manifest.report["attention_way"] == "native"
    assert manifest.options["attention"] == "autotuned"
    assert (tmp_path / "block.engine").read_bytes() == script.plan


def test_faults_of_the_graph_are_warned_of(script, tmp_path, caplog):
    save(block(dynamic=False, faulty=True), tmp_path / "block.onnx")
    assert build("block.onnx", "--attention", "native") == 0
    assert "head/MatMul" in caplog.text
