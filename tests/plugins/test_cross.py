"""Libraries for a board, built on another machine, loaded by an emulated processor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edgeattn.plugin.build import PluginBuild, build_plugin
from edgeattn.plugin.check import check_library
from edgeattn.plugin.elf import read_library
from edgeattn.plugin.source import plugin_source
from edgeattn.plugin.toolchain import CROSS_COMPILER
from tests.edgeattn.plugin.tiny_source import tiny_headers, tiny_source

pytestmark = pytest.mark.cross

SYSROOT = "/usr/aarch64-linux-gnu"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> PluginBuild:
    """Cross-build a small kernel with the project's CMake; fetches the CUDA runtime with pip."""
    folder = tmp_path_factory.mktemp("cross")
    return build_plugin(
        target="jetson-thor",
        jetpack="7.2",
        source=tiny_source(folder / "plugins"),
        tensorrt_include=tiny_headers(folder / "headers"),
        download=True,
    )


def load_on_aarch64(library: Path, folder: Path) -> dict[str, object]:
    """Load a library under qemu; returns what it says of itself."""
    program = folder / "load_library"
    source = plugin_source() / "tests/load_library.cpp"
    include = f"-I{plugin_source() / 'include'}"
    command = [CROSS_COMPILER, "-std=c++17", include, str(source), "-o", str(program), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        ["qemu-aarch64", "-L", SYSROOT, str(program), str(library)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, object] = json.loads(done.stdout)
    return values


def test_both_libraries_load_on_aarch64(built: PluginBuild, tmp_path: Path) -> None:
    assert built.machine == "aarch64"
    assert built.plugin is not None
    for library in (built.kernels, built.plugin):
        said = load_on_aarch64(library, tmp_path)
        assert said["architectures"] == [110]
        assert said == read_library(library).build_info


def test_the_check_reads_them_and_loads_nothing(built: PluginBuild) -> None:
    assert built.plugin is not None
    checked = check_library(built.plugin)
    assert checked.machine == "aarch64"
    assert not checked.failures
    assert not checked.loaded


def test_they_run_with_the_c_library_of_the_oldest_board(built: PluginBuild) -> None:
    # JetPack 6 and 7 are Ubuntu 22.04 and 24.04: glibc 2.35 and 2.39.
    assert [int(number) for number in read_library(built.kernels).glibc.split(".")] <= [2, 35]


@pytest.mark.slow
def test_the_kernels_themselves_load_on_aarch64(tmp_path: Path) -> None:
    build = build_plugin([87], target="jetson-agx-orin", jetpack="7.2", download=True)
    assert load_on_aarch64(build.kernels, tmp_path)["architectures"] == [87]
