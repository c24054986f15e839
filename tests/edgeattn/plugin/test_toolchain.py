"""The compilers: where they are looked for, and what is said where they are missing."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import platform
import shutil
from pathlib import Path

import pytest

from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin import toolchain
from edgeattn.plugin.cross import RUNTIME_LIBRARY
from edgeattn.plugin.toolchain import (
    CROSS_COMPILER,
    Nvcc,
    find_cuda_program,
    find_nvcc,
    find_toolchain,
    require_nvcc,
)
from tests.edgeattn.plugin.fakes import fake_nvcc, fake_program

NVCC = Nvcc(Path("nvcc"), (13, 0, 88), Path("/cuda"), "system")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty path and no CUDA anywhere; returns the folder on the path."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(toolchain, "DEFAULT_CUDA", tmp_path / "none")
    monkeypatch.setattr(toolchain, "_wheel_roots", list)
    which = shutil.which

    def on_path(name: str) -> str | None:
        # /bin is for the scripts' own shell; compilers there are not on this machine.
        return which(name) if "/" in name else which(name, path=str(folder))

    monkeypatch.setattr(shutil, "which", on_path)
    return folder


def test_nvcc_is_found_on_the_path_with_its_version_and_folder(bare: Path, tmp_path: Path) -> None:
    root = tmp_path / "toolkit"
    (bare / "nvcc").symlink_to(fake_nvcc(root, "12.6.68"))
    nvcc = find_nvcc()
    assert nvcc is not None
    assert (nvcc.version, nvcc.version_text) == ((12, 6, 68), "12.6.68")
    assert nvcc.root == root
    assert nvcc.origin == "system"


def test_cudacxx_comes_before_the_path_and_the_path_before_cuda_home(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    fake_nvcc(tmp_path / "home", "12.1.0")
    nvcc = find_nvcc()
    assert nvcc is not None
    assert nvcc.version == (12, 1, 0)
    (bare / "nvcc").symlink_to(fake_nvcc(tmp_path / "path_cuda", "12.2.0"))
    assert find_nvcc().version == (12, 2, 0)
    monkeypatch.setenv("CUDACXX", str(fake_nvcc(tmp_path / "named", "12.3.0")))
    assert find_nvcc().version == (12, 3, 0)
    monkeypatch.setenv("CUDACXX", "/no/such/nvcc")
    with pytest.raises(PluginError, match="CUDACXX names /no/such/nvcc, which is no program"):
        find_nvcc()


def test_the_wheels_are_the_last_resort_and_need_their_library_folder_named(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "site/nvidia/cu13"
    fake_nvcc(root)
    (root / "lib").mkdir()
    (root / "lib" / RUNTIME_LIBRARY).touch()
    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(root.parent)]
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{bare}:/bin")
    monkeypatch.setenv("CUDA_HOME", "")
    monkeypatch.setattr(toolchain, "DEFAULT_CUDA", tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    nvcc = find_nvcc()
    assert nvcc is not None
    assert nvcc.origin == "wheels"
    fake_program(bare / "g++", "echo 12.2.0")
    fake_program(bare / "cmake", "")
    assert find_toolchain(nvcc, platform.machine()).flags == (f"-L{root}/lib",)
    fake_program(root / "bin/cuobjdump", "")
    assert find_cuda_program("cuobjdump") == root / "bin/cuobjdump"
    (root / "lib64").symlink_to(root / "lib")
    assert find_toolchain(nvcc, platform.machine()).flags == ()


def test_without_nvcc_the_hint_names_the_package(bare: Path) -> None:
    assert find_nvcc() is None
    with pytest.raises(MissingDependencyError, match="needs nvcc") as error:
        require_nvcc()
    assert 'pip install "edgeattn[cuda]"' in error.value.hint


def test_a_program_that_is_no_nvcc_is_refused(bare: Path) -> None:
    fake_program(bare / "nvcc", "echo hello")
    with pytest.raises(PluginError, match="is no nvcc: it does not tell its version"):
        find_nvcc()


def test_thor_has_another_number_in_cuda_12(tmp_path: Path) -> None:
    old = Nvcc(fake_nvcc(tmp_path, "12.8.9", "87 90 100 101 120"), (12, 8, 9), tmp_path, "system")
    assert old.spell(110) == 101
    assert old.spell(87) == 87
    assert NVCC.spell(110) == 110
    old.check_architectures([87, 110])


def test_an_architecture_that_nvcc_does_not_know_is_refused(tmp_path: Path) -> None:
    old = Nvcc(fake_nvcc(tmp_path, "12.6.68", "80 86 87 89 90"), (12, 6, 68), tmp_path, "system")
    with pytest.raises(PluginError, match=r"nvcc 12.6.68 at .* cannot compile for sm_110, sm_120"):
        old.check_architectures([87, 110, 120])


def test_missing_compilers_are_named_with_the_command_that_installs_them(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain.sys, "executable", str(bare / "python"))
    with pytest.raises(MissingDependencyError, match="needs cmake") as error:
        find_toolchain(NVCC, platform.machine())
    assert "edgeattn[plugin]" in error.value.hint
    fake_program(bare / "cmake", "")
    with pytest.raises(MissingDependencyError, match=r"needs g\+\+"):
        find_toolchain(NVCC, platform.machine())


def test_a_build_for_aarch64_says_what_it_lacks_one_after_the_other(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    fake_program(bare / "cmake", "")
    with pytest.raises(MissingDependencyError, match=f"needs {CROSS_COMPILER.replace('+', '.')}"):
        find_toolchain(NVCC, "aarch64")
    fake_program(bare / CROSS_COMPILER, "echo 12.2.0")
    with pytest.raises(MissingDependencyError, match=r"CUDA 13.0 runtime of aarch64") as error:
        find_toolchain(NVCC, "aarch64")
    assert "--download" in error.value.hint
    assert "pip download" in error.value.hint
    assert "nvidia-cuda-runtime==13.0.*" in error.value.hint
    root = tmp_path / "toolkit"
    library = root / "targets/sbsa-linux/lib" / RUNTIME_LIBRARY
    library.parent.mkdir(parents=True)
    library.touch()
    found = find_toolchain(Nvcc(Path("nvcc"), (13, 0, 88), root, "system"), "aarch64")
    assert found.is_cross
    assert found.compiler == f"{CROSS_COMPILER} 12.2.0"
    assert found.flags == (f"-isystem {root}/include", f"-L{library.parent}")


def test_a_build_for_x86_64_on_another_machine_is_refused(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    fake_program(bare / "cmake", "")
    with pytest.raises(PluginError, match="this aarch64 machine cannot build for x86_64"):
        find_toolchain(NVCC, "x86_64")
