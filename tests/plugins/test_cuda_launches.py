"""What a launch asks of the CUDA runtime, with no GPU to ask."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeattn.plugin.toolchain import require_nvcc

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.mark.nvcc
def test_launches_of_several_threads_and_captures_get_their_shared_memory(tmp_path: Path) -> None:
    program = tmp_path / "cuda_launches"
    source = PLUGINS / "tests/cuda_launches.cpp"
    folders = [f"-I{PLUGINS / 'include'}", f"-isystem{require_nvcc().root / 'include'}"]
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", program]
    subprocess.run(["g++", *options, *folders, source], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
