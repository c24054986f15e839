"""A library for aarch64, loaded by an emulated processor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from edgeattn.plugin.source import plugin_source
from edgeattn.plugin.toolchain import CROSS_COMPILER

SYSROOT = "/usr/aarch64-linux-gnu"


def load_on_aarch64(library: Path, folder: Path) -> dict[str, Any]:
    """Load a library under qemu, by a program that is compiled in a folder; returns what it says.

    Raises:
        AssertionError: If it cannot be loaded, with what the loader says.
    """
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
    values: dict[str, Any] = json.loads(done.stdout)
    return values
