"""`plugins/CMakeLists.txt` as anybody may use it, without edgeattn's Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeattn import __version__
from edgeattn.plugin.elf import read_library
from edgeattn.plugin.source import plugin_source, source_sha256
from edgeattn.plugin.toolchain import find_toolchain, require_nvcc
from tests.edgeattn.plugin.tiny_source import tiny_headers, tiny_source

pytestmark = pytest.mark.nvcc


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run CMake with the nvcc that is here."""
    import platform

    toolchain = find_toolchain(require_nvcc(), platform.machine())
    command = [str(toolchain.cmake), *map(str, arguments)]
    if "-S" in command:
        flags = " ".join(toolchain.flags)
        command += [f"-DCMAKE_CUDA_COMPILER={toolchain.nvcc.path}", f"-DCMAKE_CUDA_FLAGS={flags}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_plain_cmake_builds_both_libraries_and_its_tests_pass(tmp_path: Path) -> None:
    source, work = tiny_source(tmp_path / "plugins"), tmp_path / "build"
    # The version is read from the package, which stands beside the source as in a checkout.
    package = tmp_path / "edgeattn"
    package.mkdir()
    (package / "__init__.py").write_text('"""A docstring."""\n\n__version__ = "9.8.7"\n')
    headers = tiny_headers(tmp_path / "headers")
    arguments = ("-DCMAKE_CUDA_ARCHITECTURES=87", f"-DTENSORRT_INCLUDE_DIR={headers}")
    done = cmake("-S", source, "-B", work, *arguments)
    assert done.returncode == 0, done.stderr
    done = cmake("--build", work)
    assert done.returncode == 0, done.stdout + done.stderr
    info = read_library(work / "libedgeattn_kernels.so").build_info
    assert info is not None
    assert info["version"] == "9.8.7"
    assert info["architectures"] == [87]
    assert info["source_sha256"] == source_sha256(source)
    assert read_library(work / "libedgeattn_plugin.so").plugin_info is not None
    for name in ("libedgeattn_kernels.so", "libedgeattn_plugin.so"):
        loaded = subprocess.run(
            [work / "load_library", work / name], capture_output=True, text=True, check=False
        )
        assert loaded.returncode == 0, loaded.stderr
        assert '"kind": "cuda"' in loaded.stdout


def test_the_checkouts_version_and_hash_are_the_packages(tmp_path: Path) -> None:
    done = cmake("-S", plugin_source(), "-B", tmp_path, "-DCMAKE_CUDA_ARCHITECTURES=87")
    assert done.returncode == 0, done.stderr
    written = [path.read_text() for path in tmp_path.rglob("*.make")]
    written += [path.read_text() for path in tmp_path.glob("build.ninja")]
    assert any(source_sha256(plugin_source()) in text for text in written)
    assert any(f'EDGEATTN_VERSION=\\"{__version__}\\"' in text for text in written)


def test_the_gpu_must_be_named(tmp_path: Path) -> None:
    done = cmake("-S", tiny_source(tmp_path / "plugins"), "-B", tmp_path / "build")
    assert done.returncode != 0
    assert "Name the GPU" in done.stderr


def test_a_folder_without_headers_is_refused(tmp_path: Path) -> None:
    source = tiny_source(tmp_path / "plugins")
    arguments = ("-DCMAKE_CUDA_ARCHITECTURES=87", f"-DTENSORRT_INCLUDE_DIR={tmp_path}")
    done = cmake("-S", source, "-B", tmp_path / "build", *arguments)
    assert done.returncode != 0
    assert "There is no NvInfer.h" in done.stderr
