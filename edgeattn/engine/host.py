"""The processor this process runs on: its name, its vector features, the cores it may use.

Linux tells through `/proc` and `/sys`; elsewhere the answers are empty or count all cores.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

# Features that choose between kernels of other speed or other arithmetic, x86 then Arm.
# Without a VNNI the INT8 kernels of x86 add pairs of products in 16 bits, which saturates.
KERNEL_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)

_L4T_RELEASE = re.compile(
    r"^# R(?P<major>\d+) \(release\), REVISION: (?P<rest>[\d.]+)", re.MULTILINE
)
# `nvpmodel -q --verbose` puts words before it.
_POWER_MODE = re.compile(
    r"^(?:NVPM VERB: Current mode: )?NV Power Mode: *(?P<name>\S+)(?:\s+(?P<number>\d+)\b)?",
    re.MULTILINE,
)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor, such as `AMD EPYC 7763 64-Core Processor`; Arm tells the core only."""
    fields = _first_processor(cpuinfo)
    part = fields.get("CPU part")
    return (
        fields.get("model name")
        or (f"Arm implementer {fields.get('CPU implementer')} part {part}" if part else "")
        or platform.processor()
        or platform.machine()
    )


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """List the features of `KERNEL_FEATURES` that the processor has, in that order."""
    fields = _first_processor(cpuinfo)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(feature for feature in KERNEL_FEATURES if feature in flags)


def l4t_release(root: Path = Path("/")) -> str:
    """Tell the release of Linux for Tegra, such as `36.4.3`; empty where there is none.

    Args:
        root: Where `/etc` stands. In a container the file is often missing.
    """
    return parse_l4t(read_text(root / "etc/nv_tegra_release") or "")


def parse_l4t(text: str) -> str:
    """Read the release from `/etc/nv_tegra_release`: `36.4.3`; empty if it is not there."""
    found = _L4T_RELEASE.search(text)
    return f"{found['major']}.{found['rest']}" if found else ""


def parse_power_mode(text: str) -> tuple[str, int | None]:
    """Read name and number from what `nvpmodel -q` prints; empty and `None` if not there."""
    found = _POWER_MODE.search(text)
    if not found:
        return "", None
    return found["name"], int(found["number"]) if found["number"] else None


def affinity() -> tuple[int, ...]:
    """List the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores(cpus: Iterable[int] | None = None, root: Path = Path("/")) -> int:
    """Count the physical cores that this process may keep busy.

    Two threads of one core share its arithmetic units, so a thread per logical processor is
    slower than a thread per core. A container may have a quota of processor time below the
    processors it sees; threads beyond it only wait for each other.

    Args:
        cpus: Logical processors; `None` for those of this process.
        root: Where `/sys` stands.

    Returns:
        At least 1.
    """
    cores = {_siblings(cpu, root) for cpu in (affinity() if cpus is None else cpus)}
    return max(1, math.ceil(min(len(cores), _quota(root))))


def _siblings(cpu: int, root: Path) -> str:
    """Name a core by the logical processors on it: `0-1`."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return read_text(topology) or str(cpu)


def _quota(root: Path) -> float:
    """Processor time per time that the control group grants; infinite if it sets no limit."""
    group = root / "sys/fs/cgroup"
    quota, _, period = (read_text(group / "cpu.max") or "max").partition(" ")
    if quota == "max":  # version 1 of control groups, or no limit
        quota = read_text(group / "cpu/cpu.cfs_quota_us") or "-1"
        period = read_text(group / "cpu/cpu.cfs_period_us") or "100000"
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if int(quota) > 0:
            return int(quota) / int(period)
    return math.inf


def read_text(path: Path) -> str | None:
    """Read a small file of the kernel; `None` if it is not there or not readable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return None


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    block = (read_text(cpuinfo) or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
