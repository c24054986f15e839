"""The plugin library of a build: found, checked and loaded once.

The registry is played by `tests.tensorrt_builder_double`; the libraries are real ones that hold no
kernels and register nothing by themselves.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import tensorrt as trt
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt import build as build_module
from edgeattn.engine.tensorrt import plugin_library
from edgeattn.engine.tensorrt.build import TensorRtBuild
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.errors import ArtifactError, BuildError, PluginError
from edgeattn.graph.op import OP_DOMAIN, make_attention_node
from edgeattn.plugin.check import LibraryCheck
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.edgeattn.plugin.fakes import (
    BUILD_INFO,
    ENTRY_POINTS,
    PLUGIN_INFO,
    compile_library,
    functions,
    section,
)
from tests.tensorrt_builder_double import PLUGIN_NODE
from tests.tensorrt_builds import PROFILE, build

VERSION = installed_version()
SPEC = AttentionSpec(32, 2, (HeadGroup(2, (7, 7)),))
RANGE = ShapeProfile(opt={"qkv": (1, 14, 14, SPEC.qkv_channels)})
# Takes FP16 alone.
KERNELS = """
#include <cstdint>
#include <cstring>
extern "C" int32_t edgeattn_abi_version() { return 1; }
extern "C" char const* edgeattn_build_info() { return edgeattn_build_info_text; }
extern "C" int32_t edgeattn_check(void const*, int32_t in_type, int32_t, char* text, size_t size) {
  if (in_type == 1) return 0;
  std::strncpy(text, "it takes FP16 alone", size);
  return -1;
}
extern "C" int32_t edgeattn_variants(void const*, void const*, int32_t*, int32_t) { return 0; }
extern "C" int32_t edgeattn_window_attention() { return -1; }
"""


def attention(element: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """One attention node, named `block1`."""
    shape = ("B", 14, 14, SPEC.qkv_channels)
    qkv = helper.make_tensor_value_info("qkv", element, shape)
    out = helper.make_tensor_value_info("out", element, (*shape[:3], SPEC.out_channels))
    node = make_attention_node(SPEC, SPEC.input_names, "out", "block1")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, 1)]
    graph = helper.make_graph([node], "g", [qkv], [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@functools.cache
def compiled(code: str, tensorrt: str) -> bytes:
    info = section(".edgeattn.build_info", BUILD_INFO)
    info = info.replace("_edgeattn_build_info[]", "edgeattn_build_info_text[]")
    info += section(".edgeattn.plugin_info", PLUGIN_INFO | {"tensorrt": tensorrt})
    with tempfile.TemporaryDirectory() as folder:
        text = info + KERNELS + ENTRY_POINTS + code
        return compile_library(Path(folder) / "plugin.so", text).read_bytes()


def plugin_file(folder: Path, code: str = "", tensorrt: str = f"{VERSION.major}.1.0") -> Path:
    path = folder / "plugin.so"
    path.write_bytes(compiled(code, tensorrt))
    return path


def attention_build(folder: Path, plugin: Path | None, **options: Any) -> TensorRtBuild:
    wanted = TensorRtOptions(profiles=(RANGE,), plugin=plugin, **options)
    return build(folder, wanted, attention())


def test_the_plugin_library_is_loaded_before_the_graph_is_parsed(script, tmp_path):
    library = plugin_file(tmp_path)
    built = attention_build(tmp_path, library)
    assert script.calls.index("library plugin.so") < script.calls.index("parse")
    assert built.used_plugin_libraries == (library.resolve(),)


def test_a_second_build_does_not_load_it_again(script, tmp_path):
    library = plugin_file(tmp_path)
    attention_build(tmp_path, library)
    attention_build(tmp_path, library)
    assert script.calls.count("library plugin.so") == 1


def test_another_library_with_the_same_plugin_is_refused(script, tmp_path):
    attention_build(tmp_path, plugin_file(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PluginError, match=r"has loaded the plugin from .*plugin\.so, and") as error:
        attention_build(tmp_path, plugin_file(other, "int another = 1;"))
    assert "start a process for each" in error.value.hint


def test_a_plugin_that_somebody_else_registered_is_used_and_said(script, tmp_path, caplog):
    script.registered = [(PLUGIN_NODE, "1", "")]
    with caplog.at_level(logging.WARNING):
        attention_build(tmp_path, plugin_file(tmp_path))
    assert "the one it had is used" in caplog.text
    assert "library plugin.so" not in script.calls


def test_a_library_that_tensorrt_does_not_load_is_named_with_the_reason(script, tmp_path):
    script.refuses = {"library"}
    library = plugin_file(tmp_path)
    with pytest.raises(PluginError, match=r"did not load .*: one of its plugins is registered"):
        attention_build(tmp_path, library)


def test_a_library_that_cannot_be_linked_is_told_by_the_linker(script, tmp_path, monkeypatch):
    script.refuses = {"library"}
    monkeypatch.setattr(plugin_library, "check_library", passed)
    broken = compile_library(tmp_path / "broken.so", "void f(); void* g = (void*)&f;")
    with pytest.raises(PluginError, match="undefined symbol"):
        attention_build(tmp_path, broken)
    without = compile_library(tmp_path / "without.so", functions())
    with pytest.raises(PluginError, match="it has no function getCreators"):
        attention_build(tmp_path, without)


def passed(path: Path, nodes: Any) -> Any:
    return LibraryCheck(str(path), "plugin", "", (), "", f"{VERSION.major}.0", "", 1, False, ())


def test_a_library_that_registers_another_plugin_is_named(script, tmp_path):
    script.registers = False
    with pytest.raises(PluginError, match=f"it registers no plugin {PLUGIN_NODE}"):
        attention_build(tmp_path, plugin_file(tmp_path))


def test_a_library_for_another_major_version_is_refused_before_it_is_loaded(script, tmp_path):
    other = {10: "11.0.0", 11: "10.3.0"}[VERSION.major]
    library = plugin_file(tmp_path, tensorrt=other)
    with pytest.raises(PluginError, match=f"it is for TensorRT {other}") as error:
        attention_build(tmp_path, library)
    assert "edgeattn plugin build" in error.value.hint
    assert script.calls == []


def test_a_missing_library_is_named_with_the_command_that_makes_it(script, tmp_path):
    with pytest.raises(PluginError, match="1 attention node") as error:
        attention_build(tmp_path, None)
    assert "edgeattn plugin build" in error.value.hint
    with pytest.raises(ArtifactError, match="there is no plugin library"):
        attention_build(tmp_path, tmp_path / "nowhere.so")


def test_a_graph_without_attention_needs_none(script, tmp_path, caplog):
    library = plugin_file(tmp_path)
    with caplog.at_level(logging.WARNING):
        built = build(tmp_path, TensorRtOptions(profiles=(PROFILE,), plugin=library))
    assert built.used_plugin_libraries == ()
    assert "does not need" in caplog.text
    with pytest.raises(BuildError, match="to be embedded, and the graph needs none"):
        build(
            tmp_path,
            TensorRtOptions(profiles=(PROFILE,), embed_plugin=True, version_compatible=True),
        )


def test_a_plugin_is_embedded_in_a_version_compatible_engine_alone(script, tmp_path):
    library = plugin_file(tmp_path)
    attention_build(tmp_path, library, embed_plugin=True, version_compatible=True)
    assert script.config.plugins_to_serialize == [str(library.resolve())]
    with pytest.raises(BuildError, match="only a version-compatible engine carries a plugin"):
        attention_build(tmp_path, library, embed_plugin=True)


def test_a_plugin_lost_between_loading_and_parsing_is_explained(script, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "load_plugin", lambda registry, path: None)
    with pytest.raises(BuildError, match=f"block1 \\({PLUGIN_NODE}\\)") as error:
        attention_build(tmp_path, plugin_file(tmp_path))
    assert "Plugin not found" in error.value.message
    assert error.value.hint


def test_a_registry_with_creators_of_unknown_kinds_is_asked_for_ours(script, tmp_path):
    script.nothing = {"creators"}
    library = plugin_file(tmp_path)
    assert attention_build(tmp_path, library).used_plugin_libraries == (library.resolve(),)
    attention_build(tmp_path, library)
    assert script.calls.count("library plugin.so") == 1


def test_dla_runs_a_plugin_on_the_gpu_or_not_at_all(script, tmp_path):
    if not VERSION.has_dla:
        return
    script.dla_cores = 1
    library = plugin_file(tmp_path)
    with pytest.raises(BuildError, match="DLA runs no plugins") as error:
        attention_build(tmp_path, library, dla_core=0)
    assert "--allow-gpu-fallback" in error.value.hint
    attention_build(tmp_path, library, dla_core=0, allow_gpu_fallback=True)


def test_no_registry_is_an_error(script, tmp_path, monkeypatch):
    monkeypatch.setattr(trt, "get_plugin_registry", lambda: None)
    with pytest.raises(BuildError, match="TensorRT has no plugin registry"):
        attention_build(tmp_path, plugin_file(tmp_path))


def test_a_node_that_the_library_has_no_kernel_for_is_named(script, tmp_path):
    wanted = TensorRtOptions(profiles=(RANGE,), plugin=plugin_file(tmp_path))
    with pytest.raises(PluginError, match="kernels for block1: it takes FP16 alone"):
        build(tmp_path, wanted, attention(TensorProto.FLOAT))
    assert script.calls == []


def test_a_library_of_kernels_is_no_plugin(script, tmp_path):
    info = section(".edgeattn.build_info", BUILD_INFO)
    info = info.replace("_edgeattn_build_info[]", "edgeattn_build_info_text[]")
    library = compile_library(tmp_path / "kernels.so", info + KERNELS)
    with pytest.raises(PluginError, match="it is no TensorRT plugin"):
        attention_build(tmp_path, library)
