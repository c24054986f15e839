"""A machine as the checks see it: its files, its commands, and its Python packages.

Everything goes through here, so that a recorded board can be examined anywhere.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgeattn.engine.host import read_text

_SECONDS = 60.0  # a first `import tensorrt` reads gigabytes of libraries


class Probe(NamedTuple):
    """What a child process said.

    Attributes:
        ok: Whether it ended well.
        text: What it printed; of a failure the last line of its complaint.
    """

    ok: bool
    text: str


@dataclass(frozen=True)
class Machine:
    """This machine; tests derive others.

    Attributes:
        root: Where `/etc`, `/proc`, `/sys` and `/usr` stand.
        environ: Environment variables.
        python: Version of Python, such as `3.10.12`.
        architecture: As `uname -m` says it.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: str = field(default_factory=platform.python_version)
    architecture: str = field(default_factory=platform.machine)

    def path(self, name: str) -> Path:
        """Find a file by its absolute path."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """Read a small file by its absolute path; `None` if it is not there or not readable."""
        return read_text(self.path(name))

    def run(self, *command: str) -> str | None:
        """Run a command; what it printed, or `None` if it is not there or fails."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def probe(self, code: str) -> Probe:
        """Run Python code in a process of its own: a library of another version may crash it."""
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Probe(False, f"no answer within {_SECONDS:.0f} s")
        if done.returncode == 0:
            return Probe(True, done.stdout.strip())
        if done.returncode < 0:
            return Probe(False, f"the process was killed by signal {-done.returncode}")
        lines = done.stderr.strip().splitlines()
        return Probe(False, lines[-1] if lines else f"exit code {done.returncode}")

    def package(self, name: str) -> str | None:
        """Tell the installed version of a Python package."""
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def debian_package(self, name: str) -> str | None:
        """Tell the installed version of a Debian package."""
        found = self.run("dpkg-query", "--show", "--showformat=${Version}", name)
        return found.strip() or None if found else None

    def free_bytes(self, path: Path) -> int:
        """Tell how much of the disk is free where a file would go."""
        while not path.exists() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free
