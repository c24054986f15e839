"""What a latency was measured on: processor, clocks, load, memory, system and versions.

A figure without these cannot be compared with another one. What the system does not tell is
`None`, never guessed.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeattn.artifacts import tool_versions
from edgeattn.engine.host import affinity, cpu_features, cpu_model, read_text, usable_cores
from edgeattn.errors import ArtifactError


@dataclass(frozen=True)
class Environment:
    """The machine at one moment.

    Attributes:
        machine: Board or product name, if the system knows it.
        cpu_model: Name of the processor.
        cpu_features: Its features that choose between kernels.
        cpu_architecture: Such as `x86_64` or `aarch64`.
        logical_cores: Logical processors this process may run on.
        usable_cores: Physical cores this process may keep busy, control-group quota included.
        governor: Frequency governors of those processors, such as `performance`.
        clock_mhz: Their present clocks, lowest and highest.
        max_clock_mhz: The highest clock that the governor allows.
        load_average: Runnable processes, mean of the last minute. Other work makes other numbers.
        memory_total_bytes: Main memory.
        memory_available_bytes: What of it is free for new use.
        operating_system: Its name and version.
        kernel: Release of the kernel.
        tools: Versions of Python and the packages that matter.
    """

    machine: str | None
    cpu_model: str
    cpu_features: tuple[str, ...]
    cpu_architecture: str
    logical_cores: int
    usable_cores: int
    governor: str | None
    clock_mhz: tuple[float, float] | None
    max_clock_mhz: float | None
    load_average: float | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    operating_system: str
    kernel: str
    tools: dict[str, str] = field(default_factory=tool_versions)

    def to_dict(self) -> dict[str, Any]:
        """Turn the record into JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Environment:
        """Read a record back.

        Raises:
            ArtifactError: If it is not what `to_dict` gives.
        """
        try:
            clocks = values["clock_mhz"]
            tuples = {
                "cpu_features": tuple(values["cpu_features"]),
                "clock_mhz": None if clocks is None else (clocks[0], clocks[1]),
            }
            return cls(**(values | tuples))
        except (TypeError, KeyError, IndexError) as err:
            raise ArtifactError(f"the environment record is malformed: {err!r}") from err


def collect_environment(root: Path = Path("/")) -> Environment:
    """Describe this machine now.

    Args:
        root: Where `/proc`, `/sys` and `/etc` stand.
    """
    cpus = affinity()
    cpuinfo = root / "proc/cpuinfo"
    memory = _memory_bytes(root / "proc/meminfo")
    frequency = [root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq" for cpu in cpus]
    governors = {text for path in frequency if (text := read_text(path / "scaling_governor"))}
    limits = _numbers(read_text(path / "scaling_max_freq") for path in frequency)
    return Environment(
        machine=read_text(root / "proc/device-tree/model")
        or read_text(root / "sys/class/dmi/id/product_name"),
        cpu_model=cpu_model(cpuinfo),
        cpu_features=cpu_features(cpuinfo),
        cpu_architecture=platform.machine(),
        logical_cores=len(cpus),
        usable_cores=usable_cores(cpus, root),
        governor="+".join(sorted(governors)) or None,
        clock_mhz=_clock_mhz(frequency, cpuinfo, cpus),
        max_clock_mhz=max(limits) / 1e3 if limits else None,
        load_average=_load_average(),
        memory_total_bytes=memory.get("MemTotal"),
        memory_available_bytes=memory.get("MemAvailable"),
        operating_system=_operating_system(root),
        kernel=platform.release(),
    )


def _memory_bytes(meminfo: Path) -> dict[str, int]:
    """Read `/proc/meminfo`, whose numbers are KiB although it says kB."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", read_text(meminfo) or "", re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in lines}


def _clock_mhz(
    frequency: Iterable[Path], cpuinfo: Path, cpus: tuple[int, ...]
) -> tuple[float, float] | None:
    """Find the lowest and highest present clock of the processors: cpufreq's, else cpuinfo's."""
    clocks = [khz / 1e3 for khz in _numbers(read_text(f / "scaling_cur_freq") for f in frequency)]
    if not clocks:
        listed = re.findall(
            r"^processor\s*: (\d+)$.*?^cpu MHz\s*: ([\d.]+)$",
            read_text(cpuinfo) or "",
            re.MULTILINE | re.DOTALL,
        )
        clocks = [float(mhz) for cpu, mhz in listed if int(cpu) in cpus]
    return (min(clocks), max(clocks)) if clocks else None


def _numbers(texts: Iterable[str | None]) -> list[float]:
    return [float(text) for text in texts if text and text.isdigit()]


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _operating_system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release") or "", re.M)
    return found[1] if found else platform.system()
