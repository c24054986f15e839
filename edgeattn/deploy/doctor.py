"""Examine a machine: is everything here that engines need, and does it go together?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn.deploy.anonymous import anonymous
from edgeattn.deploy.board import Board, read_board
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.machine import Machine
from edgeattn.deploy.resources import check_devices, check_disk, check_memory, check_power
from edgeattn.deploy.software import check_board_software, check_python, check_tensorrt

Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class Examination:
    """What was found on a machine.

    Attributes:
        board: The Jetson that it is; `None` if it is none.
        findings: Everything that was looked at.
    """

    board: Board | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """What cannot work."""
        return [finding for finding in self.findings if finding.level == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Turn the examination into JSON values."""
        return {
            "board": self.board.to_dict() if self.board else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "passed": not self.errors,
        }


def examine(machine: Machine | None = None, progress: Progress | None = None) -> Examination:
    """Examine a machine. Nothing is changed, and nothing needs to be installed.

    Findings name no user: paths in homes are shortened.

    Args:
        machine: The machine; by default this one.
        progress: Called with steps done, steps in all, and the step at hand.
    """
    machine = machine or Machine()
    board = read_board(machine)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": lambda: check_python(machine, board),
        "TensorRT": lambda: check_tensorrt(machine, board),
        "memory": lambda: check_memory(machine, board),
        "disk": lambda: check_disk(machine),
    }
    if board is not None:
        on_board: dict[str, Callable[[], Iterator[Finding]]] = {
            "JetPack": lambda: check_board_software(machine, board),
            "devices": lambda: check_devices(machine),
            "power": lambda: check_power(board),
        }
        checks = on_board | checks
    findings: list[Finding] = []
    for done, (name, check) in enumerate(checks.items()):
        if progress is not None:
            progress(done, len(checks), name)
        findings += [anonymous(finding, Path.home()) for finding in check()]
    return Examination(board, tuple(findings))
