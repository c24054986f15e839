"""The plugin library against a board: each thing that does not fit is an error."""

from __future__ import annotations

import platform
from pathlib import Path

import onnx
import pytest

from edgeattn.deploy.check.check import check_graph
from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.plugin import check as plugin_check
from tests.edgeattn.deploy.check.graphs import sound
from tests.edgeattn.plugin.fakes import ENTRY_POINTS, PLUGIN_INFO, compile_library, section
from tests.edgeattn.plugin.test_check import loadable

ORIN = {"architectures": [87], "cuda": "12.6.68", "tensorrt": "10.3.0"}


@pytest.fixture(autouse=True)
def no_cuobjdump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_check, "find_cuda_program", lambda name: None)


def of_plugin(
    folder: Path, library: Path | None, target: str = "jetson-orin-nano", **request: str
) -> list[GraphFinding]:
    path = folder / "net.onnx"
    onnx.save(sound(), path)
    options = TensorRtOptions(plugin=library)
    jetpack = {"jetson-orin-nano": "6.2", "jetson-thor": "7.0"}.get(target)
    checked = check_graph(path, TensorRtRequest(options, target=target, jetpack=jetpack, **request))
    return [finding for finding in checked.findings if finding.topic == "plugin"]


def plugin(*, tensorrt: str, **changes: object) -> str:
    """Write a plugin library that serves every node but those in INT8."""
    info = section(".edgeattn.plugin_info", PLUGIN_INFO | {"tensorrt": tensorrt})
    return loadable(**changes) + info + ENTRY_POINTS


def against_orin(folder: Path, **changes: object) -> list[str]:
    library = compile_library(folder / "lib.so", plugin(**(ORIN | changes)))
    found = of_plugin(folder, library)
    assert all(finding.level == "error" for finding in found)
    assert all("edgeattn plugin build --target jetson-orin-nano" in f.fix for f in found)
    return [finding.reason for finding in found]


def test_without_a_library_it_is_told_how_to_make_one(tmp_path: Path) -> None:
    (finding,) = of_plugin(tmp_path, None)
    assert finding.level == "note"
    assert finding.reason.startswith("1 attention nodes need the plugin library")
    assert "edgeattn plugin build --target jetson-orin-nano --jetpack 6.2" in finding.fix


def test_a_graph_without_its_nodes_needs_none(tmp_path: Path) -> None:
    assert of_plugin(tmp_path, None, attention="native") == []


def test_a_library_that_is_missing_or_none_is_an_error(tmp_path: Path) -> None:
    (finding,) = of_plugin(tmp_path, tmp_path / "absent.so")
    assert (finding.level, finding.node) == ("error", str(tmp_path / "absent.so"))
    text = tmp_path / "text.so"
    text.write_text("no library")
    (finding,) = of_plugin(tmp_path, text)
    assert "is no whole shared library" in finding.reason


def test_processor_gpu_cuda_and_tensorrt_have_to_be_the_boards(tmp_path: Path) -> None:
    machine = f"it is for {platform.machine()}, and Jetson Orin Nano is aarch64"
    expected = [] if platform.machine() == "aarch64" else [machine]
    assert against_orin(tmp_path) == expected
    cuda = "it was built with CUDA 13.0.88, and JetPack 6.2 has CUDA 12.6.68"
    assert against_orin(tmp_path, cuda="13.0.88") == [*expected, cuda]
    (reason,) = against_orin(tmp_path, tensorrt="11.0.0")[len(expected) :]
    assert reason.startswith("TensorRT: for TensorRT 11 ")
    (reason,) = against_orin(tmp_path, architectures=[110])[len(expected) :]
    assert reason.endswith("nothing for sm_87")


def test_a_library_of_this_kind_of_machine_passes(tmp_path: Path) -> None:
    code = plugin(architectures=[80], cuda="13.0.88", tensorrt="11.1.0")
    library = compile_library(tmp_path / "lib.so", code)
    found = of_plugin(tmp_path, library, "desktop", tensorrt_version="11.1")
    if platform.machine() == "x86_64":  # PTX of sm_80 runs on all later GPUs
        assert found == []


def test_a_library_that_does_not_serve_a_node_is_an_error(tmp_path: Path) -> None:
    """The fake serves every type but the one it is told to refuse; here float32 is refused."""
    code = plugin(architectures=[80], cuda="13.0.88", tensorrt="11.1.0")
    library = compile_library(tmp_path / "lib.so", code.replace("in_type != 3", "in_type != 0"))
    found = of_plugin(tmp_path, library, "desktop", tensorrt_version="11.1")
    if platform.machine() == "x86_64":
        assert ["kernels for attention" in finding.reason for finding in found] == [True]
