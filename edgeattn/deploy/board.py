"""Which Jetson this is and what runs on it: L4T, JetPack, power mode, clocks.

References:
    tests/fixtures/boards: recorded files and outputs, each with its public source.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from edgeattn.deploy.machine import Machine
from edgeattn.engine.host import parse_l4t, parse_power_mode
from edgeattn.targets import (
    TARGETS,
    JetPack,
    Module,
    PowerMode,
    Target,
    module_of_board,
    target_of_model,
)

_DEVFREQ = "/sys/class/devfreq"
# Orin, of JetPack 5 and of 6 on; Thor.
_GPU_CLOCKS = re.compile(r"(17000000\.(gpu|ga10b)|gpu-gpc-0)$")


@dataclass(frozen=True)
class GpuClock:
    """The range that a GPU's clock may move in, and where it is.

    Attributes:
        min_hz: Lower end; equal to `max_hz` after `jetson_clocks`.
        max_hz: Upper end, which the power mode sets.
        current_hz: Now.
    """

    min_hz: int
    max_hz: int
    current_hz: int

    @property
    def is_locked(self) -> bool:
        """Whether the clock cannot move."""
        return self.min_hz == self.max_hz


@dataclass(frozen=True)
class Board:
    """A Jetson.

    Attributes:
        model: As the device tree calls it; empty if it does not say.
        l4t: Release of Linux for Tegra, such as `36.4.3`; empty if `/etc/nv_tegra_release` is not
            here, as in a container.
        l4t_package: The same as the package `nvidia-l4t-core` says it; empty if it is not here.
        jetpack: Version of the package `nvidia-jetpack`, such as `6.2.1`; empty if it is not
            installed, which is common.
        power_mode: Name of the nvpmodel mode, such as `MAXN_SUPER`; empty if not known.
        power_mode_number: Its number.
        gpu_clock: The GPU's clock; `None` if it cannot be read.
        memory_bytes: Memory of the system, a little less than the module's; `None` if it cannot be
            read.
    """

    model: str
    l4t: str
    l4t_package: str = ""
    jetpack: str = ""
    power_mode: str = ""
    power_mode_number: int | None = None
    gpu_clock: GpuClock | None = None
    memory_bytes: int | None = None

    @property
    def target(self) -> Target | None:
        """What the toolkit knows of the board."""
        return target_of_model(self.model)

    @property
    def module(self) -> Module | None:
        """Its module, by model and memory; `None` if it is none of those known."""
        return module_of_board(self.model, self.memory_bytes)

    @property
    def mode(self) -> PowerMode | None:
        """What is known of its power mode; `None` if nothing is."""
        is_super = "super" in f"{self.model} {self.power_mode}".lower()
        module = self.module
        if module is None:
            return None
        return module.find_mode(self.power_mode, self.power_mode_number, is_super=is_super)

    @property
    def release(self) -> JetPack | None:
        """The JetPack release that the board runs, or the last one before it of the same branch.

        Packages are updated between releases: L4T 36.4.7 is that of JetPack 6.2.1 with fixes.
        """
        here = _numbers(self.l4t)
        known = {j.version: j for target in TARGETS.values() for j in target.jetpacks}
        older = [
            jetpack
            for jetpack in known.values()
            if _numbers(jetpack.l4t)[:2] == here[:2] and _numbers(jetpack.l4t) <= here
        ]
        return max(older, key=lambda jetpack: _numbers(jetpack.l4t), default=None)

    @property
    def major(self) -> int:
        """Major version of L4T; 0 if it is not known."""
        return int(self.l4t.partition(".")[0] or 0)

    def to_dict(self) -> dict[str, Any]:
        """Turn the record into JSON values."""
        release, target, module = self.release, self.target, self.module
        return asdict(self) | {
            "target": target.name if target else None,
            "module": module.name if module else None,
            "jetpack_release": release.version if release else None,
        }


def read_board(machine: Machine) -> Board | None:
    """Describe the board; `None` if the machine is no Jetson."""
    model = machine.read("/proc/device-tree/model") or ""
    l4t = parse_l4t(machine.read("/etc/nv_tegra_release") or "")
    package = machine.debian_package("nvidia-l4t-core") or ""
    if not l4t and "jetson" not in model.lower():
        return None
    name, number = parse_power_mode(machine.run("nvpmodel", "-q") or "")
    return Board(
        model,
        l4t,
        l4t_package=package.partition("-")[0],
        jetpack=(machine.debian_package("nvidia-jetpack") or "").partition("+")[0],
        power_mode=name,
        power_mode_number=number,
        gpu_clock=_gpu_clock(machine),
        memory_bytes=_memory_bytes(machine.read("/proc/meminfo") or ""),
    )


def _memory_bytes(meminfo: str) -> int | None:
    """Read all memory from `/proc/meminfo`, whose numbers are KiB although it says kB."""
    found = re.search(r"^MemTotal: +(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _gpu_clock(machine: Machine) -> GpuClock | None:
    folder = machine.path(_DEVFREQ)
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        if _GPU_CLOCKS.match(path.name):
            texts = [
                machine.read(f"{_DEVFREQ}/{path.name}/{name}_freq")
                for name in ("min", "max", "cur")
            ]
            numbers = [int(text) for text in texts if text and text.isdigit()]
            if len(numbers) == len(texts):
                return GpuClock(*numbers)
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Split a version, with three numbers at least, to compare it."""
    parts = [int(part) for part in re.findall(r"\d+", version)]
    return tuple(parts + [0] * (3 - len(parts)))
