"""The TensorRT plugin and its driver, compiled against TensorRT's public headers.

Headers are looked for in `TENSORRT_INCLUDE_DIR` (by default `third_party/tensorrt`): a folder with
`NvInfer.h`, or one with a folder for each version that holds them in `include/`; failing that,
where TensorRT's packages put them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeattn.plugin.cache import cache_folder, locked
from edgeattn.plugin.source import source_sha256
from edgeattn.plugin.tensorrt_headers import find_headers
from edgeattn.plugin.toolchain import find_nvcc
from tests.plugins.plugin_host import Host

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
ADAPTER_SOURCES = sorted((PLUGINS / "trt").glob("*.cpp"))
HOST_SOURCES = [
    PLUGINS / "tests/plugin_host.cpp",
    *sorted((PLUGINS / "tests/plugin_host").glob("*.cpp")),
]
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror")


# --- headers --------------------------------------------------------------------------------------


def find_header_sets() -> dict[str, Path]:
    """List the folders of TensorRT headers by version, oldest first."""
    root = Path(os.environ.get("TENSORRT_INCLUDE_DIR") or ROOT / "third_party/tensorrt")
    folders: list[Path | None] = [root] if (root / "NvInfer.h").is_file() else []
    folders = folders or [*root.glob("*/include")] or [None]  # None: where packages put them
    found = [find_headers(folder, platform.machine()) for folder in folders]
    headers = sorted((one for one in found if one), key=lambda one: one.version)
    return {one.version_text: one.folder for one in headers}


HEADER_SETS = find_header_sets()
NO_HEADERS = "no TensorRT headers: set TENSORRT_INCLUDE_DIR to the folder of NvInfer.h"


def header_flags(headers: Path) -> list[str]:
    """Name the folders of TensorRT's and CUDA's headers, or skip the test where CUDA's are not."""
    nvcc = find_nvcc()
    cuda = nvcc.root / "include" if nvcc else Path("/usr/local/cuda/include")
    if not (cuda / "cuda_runtime_api.h").is_file():
        pytest.skip("no CUDA headers: TensorRT's need cuda_runtime_api.h")
    return ["-isystem", str(headers), "-isystem", str(cuda), f"-I{PLUGINS / 'include'}"]


def newest_headers() -> Path:
    """Give the newest headers, or skip the test where there are none."""
    if not HEADER_SETS:
        pytest.skip(NO_HEADERS)
    return list(HEADER_SETS.values())[-1]


# --- compilation ----------------------------------------------------------------------------------


def compile_sources(compiler: str | Path, *arguments: str | Path) -> None:
    """Run a compiler, and fail with what it says; skip the test where there is none."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    command = [str(compiler), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build_host(headers: Path, kernels: Path) -> Host:
    """Compile the adapter on emulated kernels, and the driver, for this machine's CPU."""
    flags = [*WARNINGS, "-O1", *header_flags(headers)]
    library = _build(
        "libedgeattn_plugin.so",
        "g++",
        *flags,
        *["-fPIC", "-shared", "-fvisibility=hidden", "-Wl,--no-undefined"],
        f"-Wl,--version-script={PLUGINS / 'trt/exports.map'}",
        *ADAPTER_SOURCES,
        kernels,
        f"-Wl,-rpath,{kernels.parent}",
    )
    program = _build("plugin_host", "g++", *flags, "-DEDGEATTN_EMULATOR", *HOST_SOURCES, "-ldl")
    return Host(program, library)


def build_cuda_host(headers: Path, library: Path) -> Host:
    """Compile the driver for a plugin library that runs on this machine's GPU."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc: the driver needs CUDA's runtime")
    flags = ["-std=c++17", "-O1", "-isystem", headers, *HOST_SOURCES, "-ldl"]
    return Host(_build("plugin_host", nvcc.path, *flags), library, is_cuda=True)


def _build(name: str, compiler: str | Path, *arguments: str | Path) -> Path:
    """Compile once for the sources and arguments as they are, also under several processes."""
    words = [str(word) for word in (compiler, *arguments)]
    sources = source_sha256(PLUGINS, ("include", "trt", "tests"))
    key = hashlib.sha256("\n".join([sources, *words]).encode()).hexdigest()[:16]
    target = cache_folder() / "plugin-tests" / key / name
    with locked(target.parent.parent / f"{key}.lock"):
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_suffix(".unfinished")
            compile_sources(compiler, *arguments, "-o", unfinished)
            unfinished.replace(target)
    return target
