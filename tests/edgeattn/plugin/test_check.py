"""The pre-flight of a library: each thing that can be wrong with one is found, by name."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.errors import PluginError
from edgeattn.plugin import check as check_module
from edgeattn.plugin.check import C_INTERFACE, Finding, LibraryCheck, PluginNode, check_library
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.plugin.source import plugin_source as source_folder
from edgeattn.plugin.source import source_sha256
from edgeattn.plugin.trial import Outcome, Trial, run_trial
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.edgeattn.plugin.fakes import (
    BUILD_INFO,
    compile_library,
    fake_program,
    plugin_source,
    section,
)
from tests.edgeattn.plugin.fakes import (
    C_INTERFACE as FAKE_INTERFACE,
)

SPEC = AttentionSpec(32, 3, (HeadGroup(3, (7, 7)),))
NODE = PluginNode("block1", "MultiScaleWindowAttention", "1", "", SPEC, "", "float16", "float16")
LOADABLE = """
#include <cstdint>
#include <cstring>
extern "C" int32_t edgeattn_abi_version() { return 1; }
extern "C" char const* edgeattn_build_info() { return edgeattn_build_info_text; }
extern "C" int32_t edgeattn_check(void const*, int32_t in_type, int32_t, char* text, size_t size) {
  if (in_type != 3) return 0;
  std::strncpy(text, "INT8 is not for this one", size);
  return -1;
}
extern "C" int32_t edgeattn_variants(void const*, void const*, int32_t*, int32_t) { return 0; }
extern "C" int32_t edgeattn_window_attention() { return -1; }
"""


@pytest.fixture(autouse=True)
def no_gpu_and_no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "local_architectures", lambda: ())
    monkeypatch.setattr(check_module, "find_cuda_program", lambda name: None)


def check(tmp_path: Path, code: str, *nodes: PluginNode, **options: Any) -> LibraryCheck:
    return check_library(compile_library(tmp_path / "lib.so", code), nodes, **options)


def finding(checked: LibraryCheck, what: str) -> Finding:
    return next(finding for finding in checked.findings if finding.what == what)


def test_the_c_interface_is_that_of_the_header() -> None:
    header = (source_folder() / "include/edgeattn/edgeattn.h").read_text()
    assert set(C_INTERFACE) == set(re.findall(r"EDGEATTN_API [^;(]*?(edgeattn_\w+)\(", header))
    assert {f"edgeattn_{name}" for name in FAKE_INTERFACE.split()} == set(C_INTERFACE)


def test_a_good_plugin_passes_without_being_loaded(tmp_path: Path) -> None:
    crash = "__attribute__((constructor)) static void crash() { __builtin_trap(); }"
    checked = check(tmp_path, plugin_source(crash))
    assert not checked.failures
    assert not checked.loaded
    assert (checked.kind, checked.machine) == ("plugin", platform.machine())
    assert checked.architectures == (87, 110)
    assert (checked.tensorrt, checked.cuda, checked.abi_version) == ("10.3.0", "13.0.88", 1)
    assert [f.what for f in checked.findings] == [
        *("interface", "dependencies", "source", "GPU code", "TensorRT")
    ]
    assert checked.to_dict()["passed"] is True


def test_a_library_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="is a shared library, but none of edgeattn"):
        check(tmp_path, "int one() { return 1; }")


def test_a_missing_function_and_a_missing_entry_point_fail(tmp_path: Path) -> None:
    without = plugin_source().replace("edgeattn_variants", "edgeattn_other")
    checked = check(tmp_path, without.replace("setLoggerFinder", "setLogger"))
    detail = finding(checked, "interface").detail
    assert detail == "it does not export edgeattn_variants, setLoggerFinder"
    assert checked.failures


def test_another_version_of_the_interface_fails_and_is_not_loaded(tmp_path: Path) -> None:
    checked = check(tmp_path, plugin_source(abi_version=7), NODE)
    assert "version 7; expected 1" in finding(checked, "interface").detail
    assert not checked.loaded
    assert "version 7" in finding(checked, "nodes against the kernels").detail


@pytest.mark.parametrize("library", ["", "lib_of_others"])
def test_a_symbol_of_somebody_else_fails(tmp_path: Path, library: str) -> None:
    declared = 'extern "C" void* getPluginRegistry()'
    options = []
    if library:
        other = tmp_path / "libnvinfer.so.10"
        options = [str(compile_library(other, declared + " { return nullptr; }"))]
    code = plugin_source(declared + "; void* use() { return getPluginRegistry(); }")
    path = compile_library(tmp_path / "lib.so", code, *options)
    found = finding(check_library(path), "dependencies")
    assert found.verdict == "failed"
    assert "getPluginRegistry" in found.detail
    assert ("libnvinfer.so.10" in found.detail) == bool(library)


def test_the_source_is_compared_with_the_present_one(tmp_path: Path) -> None:
    checked = check(tmp_path, plugin_source())
    assert finding(checked, "source").verdict == "note"
    present = source_sha256(source_folder())
    checked = check(tmp_path, plugin_source(source_sha256=present))
    assert finding(checked, "source").verdict == "ok"


def test_code_for_no_gpu_of_this_machine_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "local_architectures", lambda: (86,))
    found = finding(check(tmp_path, plugin_source(architectures=[87])), "GPU code")
    assert found.verdict == "failed"
    assert found.detail.endswith("nothing for sm_86")
    monkeypatch.setattr(check_module, "local_architectures", lambda: (87, 120))
    assert finding(check(tmp_path, plugin_source()), "GPU code").verdict == "ok"


def test_cuobjdump_has_the_last_word_on_the_gpu_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = """if [ $1 = -lelf ]; then echo 'ELF file    1: lib.1.sm_87.cubin'
echo 'ELF file    2: lib.2.sm_110a.cubin'; else echo 'PTX file    1: lib.1.sm_110.ptx'; fi"""
    program = fake_program(tmp_path / "cuobjdump", listing)
    monkeypatch.setattr(check_module, "find_cuda_program", lambda name: program)
    found = finding(check(tmp_path, plugin_source()), "GPU code")
    assert found.verdict == "ok"
    assert found.detail == "machine code of sm_87, sm_110, PTX of sm_110, as cuobjdump finds it"
    found = finding(check(tmp_path, plugin_source(architectures=[87, 90])), "GPU code")
    assert found.verdict == "failed"
    assert found.detail == "it says sm_87, sm_90, and holds machine code of sm_87, sm_110"


@pytest.mark.parametrize(("installed", "verdict"), [("10.13.3.9", "ok"), ("11.1.0", "failed")])
def test_the_installed_tensorrt_must_have_the_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, verdict: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    found = finding(check(tmp_path, plugin_source()), "TensorRT")
    assert found.verdict == verdict
    assert found.detail == (f"for TensorRT 10 (headers of 10.3.0), {installed} is installed here")


def test_a_board_that_is_named_counts_instead_of_this_machine(tmp_path: Path) -> None:
    code = plugin_source(architectures=[87], tensorrt="10.3.0")
    orin = check(tmp_path, code, gpus=(87,), tensorrt="10.3.0.30")
    assert (finding(orin, "GPU code").verdict, finding(orin, "TensorRT").verdict) == ("ok", "ok")
    ampere = check(tmp_path, code, gpus=(86,), tensorrt="11.1")
    assert finding(ampere, "GPU code").detail.endswith("nothing for sm_86")
    assert finding(ampere, "TensorRT").verdict == "failed"
    assert finding(ampere, "TensorRT").detail.endswith("11.1 shall load it")


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, "ok", "TensorRT finds MultiScaleWindowAttention version '1'"),
        ({"version": "2"}, "failed", "it asks for MultiScaleWindowAttention version '2', not"),
        ({"op_type": "Attention"}, "failed", "it asks for Attention version '1', not"),
        ({"namespace": "mine"}, "failed", "in namespace 'mine', not MultiScaleWindowAttention"),
        ({"spec": None, "error": "it has no head_dim"}, "failed", "it has no head_dim"),
    ],
)
def test_a_node_must_be_looked_up_by_what_the_plugin_registers(
    tmp_path: Path, changed: dict[str, Any], verdict: str, said: str
) -> None:
    checked = check(tmp_path, plugin_source(), replace(NODE, **changed), load=False)
    found = finding(checked, "node block1")
    assert (found.verdict, said in found.detail) == (verdict, True)
    assert "--no-load" in finding(checked, "nodes against the kernels").detail


def loadable(**changes: Any) -> str:
    """Write a library that can be asked."""
    info = {**BUILD_INFO, **changes}
    text = section(".edgeattn.build_info", info)
    return text.replace("_edgeattn_build_info[]", "edgeattn_build_info_text[]") + LOADABLE


def test_the_library_itself_is_asked_about_the_nodes(tmp_path: Path) -> None:
    nodes = [
        NODE,
        replace(NODE, name="block2", in_type="int8", out_type="int8"),
        replace(NODE, name="block3", in_type="", out_type=""),
        replace(NODE, name="block4", spec=None, error="malformed"),
    ]
    checked = check(tmp_path, loadable(), *nodes)
    assert checked.loaded
    assert checked.kind == "kernels"
    assert finding(checked, "nodes against the plugin").verdict == "skipped"
    assert not [f for f in checked.findings if f.what == "node block1"]
    assert finding(checked, "node block4") == Finding("node block4", "failed", "malformed")
    assert finding(checked, "kernels for block1").detail == "float16 in, float16 out"
    assert finding(checked, "kernels for block2") == Finding(
        "kernels for block2", "failed", "INT8 is not for this one"
    )
    assert finding(checked, "kernels for block3").verdict == "skipped"
    assert not [f for f in checked.findings if f.what == "kernels for block4"]
    assert checked.to_dict()["passed"] is False


def test_a_library_of_another_machine_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    checked = check(tmp_path, loadable(), NODE)
    assert not checked.loaded
    assert "this machine is riscv64" in finding(checked, "nodes against the kernels").detail


class Computing:
    """A kernel library of two variants, whose results a test chooses."""

    def __init__(self, *results: np.ndarray) -> None:
        self.results = dict(enumerate(results, start=1))

    def variants(self, *arguments: Any) -> list[int]:
        return list(self.results)

    def run(self, spec: AttentionSpec, tensors: Any, out_type: Any, variant: int) -> np.ndarray:
        return self.results[variant]


def trial(out_type: str, expected: float) -> Trial:
    shape = (1, 2, 2, 96)
    qkv = np.zeros((1, 2, 2, 288), np.float32)
    return Trial("t", SPEC, "float32", out_type, {"qkv": qkv}, np.full(shape, expected, np.float32))


@pytest.mark.parametrize(
    ("out_type", "expected", "found", "passed"),
    [
        ("float32", 2.0, 2.00001, True),
        ("float32", 2.0, 2.0001, False),
        ("float16", 2.0, 2.004, True),
        ("float16", 2.0, 2.02, False),
        ("bfloat16", 2.0, 2.05, True),
        ("int8", 100.0, 101.0, True),
        ("int8", 100.0, 102.0, False),
        ("float32", 0.0, 0.0, True),
        ("float32", 2.0, np.nan, False),
    ],
)
def test_results_are_judged_by_the_types_rounding(
    out_type: str, expected: float, found: float, passed: bool
) -> None:
    case = trial(out_type, expected)
    right = case.expected.copy()
    wrong = case.expected.copy()
    wrong[0, 1, 1, 95] = found
    library: Any = Computing(right, wrong)
    outcomes = run_trial(library, case, None)
    assert [outcome.passed for outcome in outcomes] == [True, passed]
    assert [outcome.variant for outcome in outcomes] == [1, 2]


def test_a_captured_graph_with_another_result_fails() -> None:
    assert Outcome(1, 0.0, 1e-3, captured=None).passed
    assert Outcome(1, 0.0, 1e-3, captured=True).passed
    assert not Outcome(1, 0.0, 1e-3, captured=False).passed


@pytest.mark.gpu
@pytest.mark.nvcc
def test_the_built_library_computes_on_the_gpu_what_onnx_runtime_computes() -> None:
    from edgeattn.graph.preflight import check_plugin
    from edgeattn.plugin.build import build_plugin

    checked = check_plugin(build_plugin().kernels)
    results = [f for f in checked.findings if f.what.startswith("results of")]
    assert len(results) > 3
    assert all("the same from a captured graph" in finding.detail for finding in results)
    assert not checked.failures


def test_the_emulator_computes_what_onnx_runtime_computes() -> None:
    from edgeattn.graph.preflight import check_plugin
    from edgeattn.plugin.emulator import build_emulator

    path = build_emulator()
    assert KernelLibrary(path).is_emulator
    checked = check_plugin(path)
    assert not checked.failures
    assert checked.loaded
    assert len([f for f in checked.findings if f.what.startswith("results of")]) > 3
