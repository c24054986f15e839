"""Processor facts read from recorded `/proc` and `/sys` files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeattn.engine.host import affinity, cpu_features, cpu_model, l4t_release, usable_cores

# An AMD EPYC with VNNI, flags shortened; then one core of a Jetson AGX Orin.
X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
cpu MHz\t\t: 2596.122
flags\t\t: fpu sse2 fma avx f16c avx2 avx512f avx512bw avx512vl avx_vnni avx512_vnni

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ORIN = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd42
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_features_of_an_x86_processor_are_those_of_kernels(tmp_path: Path) -> None:
    cpuinfo = write(tmp_path / "cpuinfo", X86)
    assert cpu_model(cpuinfo) == "AMD EPYC"
    assert cpu_features(cpuinfo) == (
        "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"
    )  # fmt: skip


def test_features_of_an_arm_processor_are_those_of_kernels(tmp_path: Path) -> None:
    cpuinfo = write(tmp_path / "cpuinfo", ORIN)
    assert cpu_model(cpuinfo) == "Arm implementer 0x41 part 0xd42"
    assert cpu_features(cpuinfo) == ("asimd", "asimdhp", "asimddp")


def test_without_proc_nothing_is_guessed(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "none") == ()
    assert cpu_model(tmp_path / "none")


def siblings(root: Path, *groups: str) -> None:
    for cpu, group in enumerate(groups):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        write(topology / "thread_siblings_list", group + "\n")


def test_the_release_of_a_jetson_is_read(tmp_path: Path) -> None:
    assert l4t_release(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    (tmp_path / "etc/nv_tegra_release").write_text(release)
    assert l4t_release(tmp_path) == "36.4.3"


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    siblings(tmp_path, "0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7")
    assert usable_cores(range(8), tmp_path) == 4
    assert usable_cores([0, 4], tmp_path) == 1
    assert usable_cores([0, 1, 5], tmp_path) == 2


def test_without_a_topology_every_processor_counts(tmp_path: Path) -> None:
    assert usable_cores(range(3), tmp_path) == 3


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("junk", 4)]
)
def test_a_quota_of_the_control_group_bounds_the_cores(
    tmp_path: Path, limit: str, cores: int
) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", limit + "\n")
    assert usable_cores(range(4), tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("300000", 3)])
def test_a_quota_of_an_old_control_group_bounds_the_cores(
    tmp_path: Path, quota: str, cores: int
) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota + "\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(range(4), tmp_path) == cores


def test_this_process_has_at_least_one_core() -> None:
    assert 1 <= usable_cores() <= len(affinity()) <= (os.cpu_count() or 1)
