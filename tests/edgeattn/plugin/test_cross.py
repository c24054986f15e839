"""The CUDA runtime of the other machine: fetched only when asked, taken out of the wheel whole."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin import cross
from edgeattn.plugin.cross import RUNTIME_LIBRARY, find_cross_runtime

WHEEL = "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_aarch64.whl"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "edgeattn/wheels"
    folder.mkdir(parents=True)
    return folder


def write_wheel(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"nvidia/cu13/lib/{name}", name)


def test_a_wheel_in_the_cache_is_unpacked_once(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels / WHEEL, RUNTIME_LIBRARY, "libcudadevrt.a")
    folder = find_cross_runtime(tmp_path, (13, 0))
    assert (folder / RUNTIME_LIBRARY).read_text() == RUNTIME_LIBRARY
    assert (folder / "libcudadevrt.a").exists()
    (wheels / WHEEL).unlink()
    assert find_cross_runtime(tmp_path, (13, 0)) == folder


def test_a_wheel_of_another_cuda_is_not_taken(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels / WHEEL, RUNTIME_LIBRARY, "libcudadevrt.a")
    with pytest.raises(MissingDependencyError, match=r"needs the CUDA 13.2 runtime"):
        find_cross_runtime(tmp_path, (13, 2))


def test_a_wheel_without_the_library_is_refused(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels / WHEEL, "libcudart.so.13")
    with pytest.raises(PluginError, match=rf"{WHEEL} holds no libcudadevrt.a"):
        find_cross_runtime(tmp_path, (13, 0))


def test_cuda_12_has_the_wheel_of_another_name(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError) as error:
        find_cross_runtime(tmp_path, (12, 6))
    assert "nvidia-cuda-runtime-cu12==12.6.*" in error.value.hint


def test_pip_is_called_only_if_asked_and_its_failure_is_told(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if len(calls) == 1:
            return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no network\n")
        write_wheel(wheels / WHEEL, RUNTIME_LIBRARY, "libcudadevrt.a")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(cross.subprocess, "run", run)
    with pytest.raises(MissingDependencyError):
        find_cross_runtime(tmp_path, (13, 0))
    assert not calls
    with pytest.raises(PluginError, match=r"pip could not fetch .*: ERROR: no network"):
        find_cross_runtime(tmp_path, (13, 0), download=True)
    folder = find_cross_runtime(tmp_path, (13, 0), download=True)
    assert (folder / RUNTIME_LIBRARY).exists()
    assert calls[1][1:4] == ["-m", "pip", "download"]
    assert calls[1][-1] == "nvidia-cuda-runtime==13.0.*"
