"""Run CMake: the output goes to a log, progress to a callback, a failure becomes one sentence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeattn.errors import PluginError
from edgeattn.plugin.toolchain import Toolchain

Progress = Callable[[int, int | None, str], None]

# Ninja writes `[3/14] Building …`, make `[ 21%] Building …`.
_STEP = re.compile(r"^\[ *(\d+)(?:/(\d+)|%)\] (Building|Linking) .*?([^/ ]+?)(?:\.o)?$")
_DOING = {"Building": "compiling", "Linking": "linking"}
_ERROR = re.compile(r"\b(error|fatal|undefined reference|killed)\b", re.IGNORECASE)
# What one compilation of the kernels may take; a board has few gigabytes.
_JOB_BYTES = 3 << 29


def compile_libraries(
    source: Path,
    work: Path,
    toolchain: Toolchain,
    settings: Mapping[str, str],
    targets: Sequence[str],
    progress: Progress | None = None,
    *,
    lock: int | None = None,
) -> Path:
    """Configure and build targets of `plugins/CMakeLists.txt`.

    Args:
        source: `plugins/`.
        work: Build folder; what is up to date in it is kept.
        toolchain: The compilers.
        settings: CMake variables.
        targets: CMake targets.
        progress: Called with steps done, steps in all, and the step at hand.
        lock: An open file that the compilers inherit: if this process is killed, they hold its
            lock until they have ended.

    Returns:
        The log of what CMake and the compilers said.

    Raises:
        PluginError: If it fails: the first error, and where the log is.
    """
    variables = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_COMPILER": str(toolchain.nvcc.path),
        "CMAKE_CUDA_FLAGS": " ".join(toolchain.flags),
        "CUDA_INCLUDE_DIR": str(toolchain.nvcc.root / "include"),
        **settings,
    }
    if toolchain.is_cross:
        name = f"{toolchain.machine}-linux-gnu.cmake"
        variables["CMAKE_TOOLCHAIN_FILE"] = str(source / "cmake" / name)
    configure = [str(toolchain.cmake), "-S", str(source), "-B", str(work)]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    configure += [f"-D{name}={value}" for name, value in variables.items()]
    build = [str(toolchain.cmake), "--build", str(work), "--parallel", str(_jobs())]
    log = work / "build.log"
    with log.open("w", encoding="utf-8") as stream:
        for what, command in (
            ("configuring", configure),
            ("compiling", [*build, "--target", *targets]),
        ):
            if progress:
                progress(0, None, what)
            stream.write(f"$ {' '.join(command)}\n")
            lines = _run(command, stream.write, progress, lock)
            if lines is not None:
                raise PluginError(
                    f"{what} the kernels failed: {_first_error(lines)}",
                    f"the whole output is in {log}",
                )
    return log


def _run(
    command: Sequence[str],
    write: Callable[[str], int],
    progress: Progress | None,
    lock: int | None,
) -> list[str] | None:
    """Run a command; returns what it printed if it failed. Its children end with it."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    lines = []
    with process:
        try:
            for line in process.stdout or ():
                write(line)
                lines.append(line.rstrip())
                step = _STEP.match(lines[-1])
                if step and progress:
                    done, total, doing, file = step.groups()
                    progress(int(done), int(total or 100), f"{_DOING[doing]} {file}")
        except BaseException:  # Ctrl-C reaches this process alone
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    return lines if process.returncode else None


def _first_error(lines: Sequence[str]) -> str:
    """Find the line that tells what went wrong; the last one if none says so."""
    found = [line.strip() for line in lines if _ERROR.search(line)]
    said = [line.strip() for line in lines if line.strip()]
    return (found or said[-1:] or ["the compiler said nothing"])[0]


def _jobs() -> int:
    """Count the compilers to run at a time: one per core, and enough memory for each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _JOB_BYTES))
