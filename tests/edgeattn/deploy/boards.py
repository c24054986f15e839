"""Machines to examine: recorded boards, and made-up ones, with answers that are written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeattn.deploy.machine import Machine, Probe

BOARDS = Path(__file__).parents[2] / "fixtures" / "boards"
BOARD_NAMES = sorted(path.parent.name for path in BOARDS.glob("*/machine.json"))
GIB = 1 << 30
NEEDED = {
    "numpy": "1.26.4", "onnx": "1.21.0", "onnx-ir": "0.1.12", "onnxruntime": "1.23.2",
    "pillow": "11.0.0", "click": "8.1.7", "rich": "13.9.4", "torch": "2.8.0",
    "onnxscript": "0.5.4", "pyelftools": "0.31",
}  # fmt: skip


@dataclass(frozen=True)
class Written(Machine):
    """A machine whose commands, probes and packages answer as written.

    Attributes:
        commands: What commands print, by their words.
        probes: What Python code prints, by a word in it; an exception stands for its complaint.
        packages: Versions of Python packages.
        free: Free bytes of every disk.
    """

    commands: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, str | Exception] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=lambda: NEEDED)
    free: int = 50 * GIB

    def run(self, *command: str) -> str | None:
        return self.commands.get(" ".join(command))

    def probe(self, code: str) -> Probe:
        for word, answer in self.probes.items():
            if word in code:
                if isinstance(answer, Exception):
                    return Probe(False, f"{type(answer).__name__}: {answer}")
                return Probe(True, answer)
        return Probe(False, "ModuleNotFoundError: No module named 'tensorrt'")

    def package(self, name: str) -> str | None:
        return self.packages.get(name)

    def free_bytes(self, path: Path) -> int:
        return self.free


def recorded(name: str, **changes: object) -> Written:
    """Give a board of tests/fixtures/boards."""
    values = json.loads((BOARDS / name / "machine.json").read_text())
    commands = {
        "dpkg-query --show --showformat=${Version} " + package: version
        for package, version in values["debian"].items()
    } | {"nvpmodel -q": values["nvpmodel"]}
    arguments = {
        "root": BOARDS / name,
        "environ": {},
        "python": values["python"],
        "architecture": "aarch64",
        "commands": commands,
        "packages": NEEDED | values["packages"],
    }
    return Written(**(arguments | changes))  # type: ignore[arg-type]


def driver(cuda: int | None = 12060, *architectures: int) -> str:
    """Answer as the driver's probe does."""
    return json.dumps([cuda, list(architectures)])


def meminfo(total_gib: float, available_gib: float) -> str:
    """Write /proc/meminfo's first lines."""
    kib = [int(gib * 1024 * 1024) for gib in (total_gib, available_gib / 2, available_gib)]
    return "MemTotal: {} kB\nMemFree: {} kB\nMemAvailable: {} kB\n".format(*kib)
