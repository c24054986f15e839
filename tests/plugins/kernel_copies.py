"""Copies of the kernels' source with something changed, built for the emulator."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeattn.plugin.emulator import build_emulator
from edgeattn.plugin.kernels import Emulator
from tests.plugins.kernel_device import EmulatedDevice

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def copy_kernels(folder: Path, fused: str | None = None) -> Path:
    """Copy the emulator's sources.

    Args:
        folder: Where to; returned.
        fused: The one fused kernel to keep, `f16_d32`; the others become NULL. None keeps all.
    """
    for name in ("include", "launch", "emulator"):
        shutil.copytree(PLUGINS / name, folder / name)
    # No other process builds the same source: the library may go as soon as it is loaded.
    (folder / "include" / "copy").write_text(uuid.uuid4().hex)
    if fused is None:
        return folder
    stubs = []
    for unit in sorted((folder / "launch").glob("fused_*.cu")):
        if unit.stem != f"fused_{fused}":
            (function,) = re.findall(r"^template (AttentionKernel .*);$", unit.read_text(), re.M)
            stubs.append(f"template <>\n{function} {{\n  return nullptr;\n}}\n")
            unit.unlink()
    (folder / "launch" / "stubs.cpp").write_text(
        '#include "edgeattn/scalars.h"\n#include "kernels.h"\n\nnamespace edgeattn {\n\n'
        + "\n".join(stubs)
        + "\n}  // namespace edgeattn\n"
    )
    return folder


def replace_once(path: Path, pattern: str, replacement: str) -> None:
    """Replace what a file holds exactly once; fail, and say what to update, if it does not.

    Args:
        path: The file.
        pattern: Regular expression.
        replacement: As `re.sub` takes it.
    """
    text = path.read_text() if path.is_file() else ""
    changed, found = re.subn(pattern, replacement, text)
    if found != 1:
        pytest.fail(
            f"{path.name} holds what is to be replaced {found} times, not once: the source has "
            f"changed, so update the pattern of this test: {pattern}",
            pytrace=False,
        )
    path.write_text(changed)


@contextmanager
def emulated(source: Path) -> Iterator[EmulatedDevice]:
    """Build and load a copy of `copy_kernels`; its library does not stay in the cache."""
    library = build_emulator(sources=source)
    try:
        yield EmulatedDevice(Emulator(library))
    finally:
        shutil.rmtree(library.parent)
