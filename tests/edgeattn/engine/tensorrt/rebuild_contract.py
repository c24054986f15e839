"""An engine built once more asks of NVIDIA's real bindings what its first build asked.

TensorRT itself is played by `tests.tensorrt_builder_double`, the GPU by the stand-in of pycuda.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeattn.artifacts import (
    Manifest,
    manifest_path,
    read_manifest,
    sha256_of_file,
    write_json,
)
from edgeattn.engine.build import build
from edgeattn.engine.rebuild import rebuild
from edgeattn.engine.sources import find_sources
from edgeattn.engine.tensorrt import destination
from edgeattn.engine.tensorrt.built_from import lower_again
from edgeattn.engine.tensorrt.gpu import identify_gpu
from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.rebuild import request_again
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.errors import ArtifactError, BuildError, EngineError
from edgeattn.graph.files import load_graph
from tests.foreign_attention import windowed
from tests.graphs import classifier
from tests.graphs import save as save_plain
from tests.tensorrt_graphs import EXPORTED_SHAPE, block, save

PROFILES = (
    ShapeProfile(min={"x": (1, 5)}, opt={"x": (4, 5)}, max={"x": (8, 5)}),
    ShapeProfile(opt={"x": (16, 5)}),
)
OPTIONS = TensorRtOptions(
    profiles=PROFILES,
    workspace_mib=64,
    pools={"tactic_dram": 32.0},
    optimization_level=2,
    avg_timing=4,
    tactic_sources=("JIT_CONVOLUTIONS",),
    tf32=False,
    max_aux_streams=1,
    version_compatible=True,
    exclude_lean_runtime=True,
)


@pytest.fixture(autouse=True)
def orin(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board."""
    monkeypatch.setattr(destination, "local_architectures", lambda: (87,))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    graph = save_plain(classifier(), tmp_path / "net.onnx")
    return build(graph, engine="tensorrt", tensorrt=TensorRtRequest(OPTIONS))


def again(engine: Path) -> Manifest:
    output = engine.parent / "again" / engine.name
    output.parent.mkdir()
    return rebuild(engine, find_sources(engine, read_manifest(engine)), output)


def asked_of(config: Any) -> dict[str, Any]:
    """List what a configuration was told, but for what is new in every build."""
    new = {"_cache", "_logger", "_profiles", "progress_monitor"}
    return {name: value for name, value in vars(config).items() if name not in new}


def rewrite(engine: Path, **changes: Any) -> Path:
    """Change what the manifest of an engine says of its build."""
    manifest = read_manifest(engine)
    changed = replace(manifest, report=manifest.report | changes)
    write_json(manifest_path(engine), changed.to_dict())
    return engine


def test_options_are_read_back_from_the_manifest_as_they_were_given(engine):
    first = read_manifest(engine)
    request = request_again(engine, first)
    assert request.options.no_timing_cache
    told = request.options.to_dict()
    asked = first.options["tensorrt"]
    assert {name for name in asked if asked[name] != told[name]} == {"no_timing_cache"}
    assert isinstance(request.options.profiles[0], ShapeProfile)
    assert request.options.profiles[0].max == {"x": (8, 5)}
    assert request.attention == "plugin"


def test_a_second_build_configures_tensorrt_as_the_first_did_and_takes_no_timings(script, engine):
    first = script.config
    manifest = again(engine)
    second = script.config
    assert second is not first
    assert asked_of(second) == asked_of(first)
    assert len(asked_of(first)) > 4
    assert (first._cache is None, second._cache is None) == (False, True)
    assert [profile._ranges for profile in second._profiles] == [
        profile._ranges for profile in first._profiles
    ]
    assert manifest.report["timing_cache"]["state"] == "off"
    assert read_manifest(engine).report["timing_cache"]["state"] == "new"
    assert manifest.parents == read_manifest(engine).parents


def test_shapes_of_the_export_are_taken_from_the_graph_once_more(script, tmp_path):
    graph = save(block(), tmp_path / "block.onnx")
    engine = build(graph, engine="tensorrt", tensorrt=TensorRtRequest(attention="native"))
    manifest = again(engine)
    assert manifest.options["are_shapes_exported"]
    (profile,) = script.config._profiles
    assert profile._ranges == {"x": (EXPORTED_SHAPE,) * 3}
    assert manifest.options["attention"] == "native"


def test_a_graph_that_was_quantized_on_the_way_is_so_again(tmp_path):
    graph = save_plain(classifier(4), tmp_path / "net.onnx")
    engine = build(graph, engine="tensorrt", precision="fp16")
    assert again(engine).options["precision"] == "fp16"
    found = lower_again(engine, read_manifest(engine))
    assert found.precision == "fp16"
    plain = lower_for_tensorrt(load_graph(graph), installed_version())
    assert plain.precision == "fp32"


def test_attention_that_was_fused_on_the_way_is_so_again(tmp_path):
    graph = tmp_path / "swin.onnx"
    onnx.save(windowed(), graph)
    request = TensorRtRequest(attention="native")
    engine = build(graph, engine="tensorrt", precision="fp16", tensorrt=request)
    first = read_manifest(engine)
    assert first.report["fusion"]["fused"] == 2
    manifest = again(engine)
    assert manifest.report["fusion"] == first.report["fusion"]
    assert manifest.options["fuse"] is True
    assert {each.name for each in lower_again(engine, first).attention} == {
        "b0/MultiScaleWindowAttention",
        "b1/MultiScaleWindowAttention",
    }


def test_an_engine_whose_attention_was_autotuned_is_built_the_way_that_won(tmp_path):
    graph = save(block(), tmp_path / "block.onnx")
    engine = build(graph, engine="tensorrt", tensorrt=TensorRtRequest(attention="native"))
    manifest = read_manifest(engine)
    tuned = replace(manifest, options=manifest.options | {"attention": "autotuned"})
    write_json(manifest_path(engine), tuned.to_dict())
    assert request_again(engine, tuned).attention == "native"
    assert again(engine).options["attention"] == "native"


def test_another_tensorrt_or_gpu_than_that_of_the_build_is_refused(engine):
    here = asdict(identify_gpu(0))
    patch = replace(installed_version(), patch=installed_version().patch + 1)
    for changes, said in (
        ({"tensorrt": str(patch)}, f"built with TensorRT {patch}, and {installed_version()} is"),
        ({"tensorrt": "10.2.9"}, f"built with TensorRT 10.2.9, and {installed_version()} is"),
        ({"gpu": here | {"architecture": 110}}, r"was built on Stand-in \(sm_110\), and this GPU"),
        ({"gpu": here | {"name": "Orin"}}, r"was built on Orin \(sm_87\), and this GPU is Stand"),
    ):
        rewrite(engine, **({"gpu": here, "tensorrt": str(installed_version())} | changes))
        with pytest.raises(EngineError, match=said) as error:
            request_again(engine, read_manifest(engine))
        assert "where the engine was built" in error.value.hint


def test_a_plugin_library_is_the_same_or_refused(engine, tmp_path):
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"one")
    kept = [{"file": str(library), "sha256": "another"}]
    with pytest.raises(BuildError, match=r"not the one that .* was built with: their hashes"):
        request_again(engine, read_manifest(rewrite(engine, plugin=kept)))
    kept = [{"file": str(tmp_path / "gone.so"), "sha256": sha256_of_file(library)}]
    manifest = read_manifest(rewrite(engine, plugin=kept))
    with pytest.raises(BuildError, match=r"gone\.so, which is not there"):
        request_again(engine, manifest)
    assert request_again(engine, manifest, plugin=library).options.plugin == library


def test_data_that_scales_were_found_with_has_to_be_there(engine, tmp_path):
    manifest = read_manifest(engine)
    wanted = {"method": "entropy", "samples": 4, "seed": 1, "max_bad": 0, "fp16": True}
    values = wanted | {"data": str(tmp_path / "images"), "cache": None}
    tensorrt = manifest.options["tensorrt"] | {"implicit_int8": values}
    manifest = replace(manifest, options=manifest.options | {"tensorrt": tensorrt})
    with pytest.raises(BuildError, match=r"was calibrated with .*images, which is not there"):
        request_again(engine, manifest)
    (tmp_path / "images").mkdir()
    options = request_again(engine, manifest).options
    assert options.implicit_int8 is not None
    assert options.implicit_int8.data == tmp_path / "images"
    assert options.implicit_int8.samples == 4


@pytest.mark.parametrize("lacking", ["tensorrt", "gpu", "plugin", "attention_way"])
def test_a_manifest_that_does_not_say_how_it_was_built_is_refused(lacking, engine):
    manifest = read_manifest(engine)
    del manifest.report[lacking]
    with pytest.raises(ArtifactError, match="does not say how the engine was built"):
        request_again(engine, manifest)
