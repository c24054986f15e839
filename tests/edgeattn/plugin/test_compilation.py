"""Running CMake: what is told while it runs and when it fails, and that nothing outlives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgeattn.errors import PluginError
from edgeattn.plugin.compilation import compile_libraries
from edgeattn.plugin.toolchain import Nvcc, Toolchain
from tests.edgeattn.plugin.fakes import fake_program

NINJA = """echo '[1/3] Building CUDA object CMakeFiles/edgeattn_objects.dir/launch/fp16.cu.o'
echo '[2/3] Building CXX object CMakeFiles/edgeattn_objects.dir/launch/build_info.cpp.o'
echo '[3/3] Linking CUDA shared library libedgeattn_kernels.so'"""
MAKE = "echo '[ 50%] Building CUDA object CMakeFiles/edgeattn_objects.dir/launch/fp16.cu.o'"


def toolchain(tmp_path: Path, on_build: str, machine: str = "x86_64") -> Toolchain:
    cmake = fake_program(
        tmp_path / "cmake",
        f"""if [ "$1" = --build ]; then
{on_build}
else echo "$@"; fi""",
    )
    nvcc = Nvcc(Path("/cuda/bin/nvcc"), (13, 0, 88), Path("/cuda"), "system")
    return Toolchain(nvcc, machine, cmake, "g++ 12", ("-L/lib/of/cuda",))


@pytest.mark.parametrize(
    ("printed", "steps"),
    [
        (NINJA, [(1, 3, "fp16.cu"), (2, 3, "build_info.cpp"), (3, 3, "libedgeattn_kernels.so")]),
        (MAKE, [(50, 100, "fp16.cu")]),
    ],
)
def test_progress_tells_the_steps_of_ninja_and_of_make(
    tmp_path: Path, printed: str, steps: list[tuple[int, int, str]]
) -> None:
    seen: list[tuple[int, int | None, str]] = []
    compile_libraries(
        Path("plugins"),
        tmp_path,
        toolchain(tmp_path, printed),
        {},
        ["edgeattn_kernels"],
        lambda *step: seen.append(step),
    )
    assert [what for _, total, what in seen if total is None] == ["configuring", "compiling"]
    told = [(done, total, what.split()[1]) for done, total, what in seen if total]
    assert told == steps
    assert all(what.split()[0] in ("compiling", "linking") for _, total, what in seen if total)


def test_cmake_is_given_the_toolchain_and_the_settings(tmp_path: Path) -> None:
    tools = toolchain(tmp_path, "echo built", "riscv64")
    log = compile_libraries(
        Path("/src"), tmp_path, tools, {"SETTING": "value"}, ["edgeattn_kernels"]
    )
    text = log.read_text()
    assert "-S /src" in text
    assert "-DSETTING=value" in text
    assert "-DCMAKE_CUDA_COMPILER=/cuda/bin/nvcc" in text
    assert "-DCMAKE_CUDA_FLAGS=-L/lib/of/cuda" in text
    assert "-DCMAKE_TOOLCHAIN_FILE=/src/cmake/riscv64-linux-gnu.cmake" in text
    assert "--target edgeattn_kernels" in text
    assert text.endswith("built\n")


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "echo 'a.cu(3): error: expected a \";\"'; echo 'more'",
            r'a.cu\(3\): error: expected a ";"',
        ),
        ("echo 'nothing to see'", "nothing to see"),
        ("true", "the compiler said nothing"),
    ],
)
def test_a_failure_is_its_first_error_and_where_the_log_is(
    tmp_path: Path, printed: str, told: str
) -> None:
    tools = toolchain(tmp_path, f"{printed}; exit 1")
    with pytest.raises(PluginError, match=f"compiling the kernels failed: {told}$") as error:
        compile_libraries(Path("plugins"), tmp_path, tools, {}, ["edgeattn_kernels"])
    assert str(tmp_path / "build.log") in error.value.hint


def test_an_interruption_ends_the_compilers_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tools = toolchain(tmp_path, f"sleep 60 & echo $! > {pid}; {MAKE}; wait")

    def interrupt(done: int, total: int | None, what: str) -> None:
        if total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_libraries(Path("plugins"), tmp_path, tools, {}, ["edgeattn_kernels"], interrupt)
    child = int(pid.read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the compiler's child outlived the interruption")
