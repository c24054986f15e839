"""Libraries for a board, built on another machine, loaded by an emulated processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.plugin.build import PluginBuild, build_plugin
from edgeattn.plugin.check import check_library
from edgeattn.plugin.elf import read_library
from tests.aarch64 import load_on_aarch64
from tests.edgeattn.plugin.tiny_source import tiny_headers, tiny_source

pytestmark = pytest.mark.cross


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
