"""Memory, disk and clocks: what is too little is said with its figures and a remedy."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from edgeattn.deploy.board import Board, GpuClock
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.resources import check_devices, check_disk, check_memory, check_power
from tests.edgeattn.deploy.boards import GIB, Written, meminfo

NANO = Board("NVIDIA Jetson Orin Nano", "36.4.4", power_mode="MAXN_SUPER", power_mode_number=2)
DISK_SWAP = "Filename Type Size Used Priority\n/swapfile file 8388604 0 -2\n"
ZRAM = "Filename Type Size Used Priority\n/dev/zram0 partition 650000 0 5\n"


def machine(root: Path, memory: str = "", swaps: str = "", **processes: str) -> Written:
    files = {"proc/meminfo": memory, "proc/swaps": swaps}
    files |= {f"proc/{number}/comm": name for number, name in enumerate(processes.values(), 100)}
    for name, text in files.items():
        if text:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return Written(root=root)


def levels(findings: list[Finding]) -> dict[str, str]:
    assert all(f.fix for f in findings if f.level in ("warning", "error"))
    return {finding.topic: finding.level for finding in findings}


def test_a_board_with_room_is_fine(tmp_path: Path) -> None:
    found = [*check_memory(machine(tmp_path, meminfo(7.4, 6), DISK_SWAP, sshd="sshd\n"), NANO)]
    assert levels(found) == {"memory": "ok", "swap": "ok", "desktop": "ok"}
    assert found[0].text == "6.0 GiB of 7.4 GiB available"
    assert found[1].text == "8.0 GiB of swap on disk are free"


def test_a_full_small_board_with_a_desktop_gets_three_remedies(tmp_path: Path) -> None:
    here = machine(tmp_path, meminfo(7.4, 1.5), ZRAM, sshd="sshd\n", gui="gnome-shell\n")
    found = [*check_memory(here, NANO)]
    assert levels(found) == {"memory": "warning", "swap": "warning", "desktop": "warning"}
    assert found[1].text.startswith("0.0 GiB of swap on disk")  # compressed memory is memory
    assert "swapon" in found[1].fix
    assert found[2].text.startswith("gnome-shell runs")
    assert "multi-user.target" in found[2].fix


def test_a_large_boards_desktop_and_missing_swap_are_no_matter(tmp_path: Path) -> None:
    here = machine(tmp_path, meminfo(61, 50), ZRAM, gui="Xorg\n")
    assert levels([*check_memory(here, NANO)]) == {"memory": "ok", "swap": "ok", "desktop": "note"}


def test_a_laptops_swap_and_desktop_are_its_own_affair(tmp_path: Path) -> None:
    here = machine(tmp_path, meminfo(15, 9), "", gui="gnome-shell\n")
    assert levels([*check_memory(here, None)]) == {"memory": "ok"}
    assert not [*check_memory(Written(root=tmp_path / "elsewhere"), None)]


@pytest.mark.parametrize(
    ("free", "level"), [(50 * GIB, "ok"), (GIB, "warning"), (GIB // 10, "error")]
)
def test_disks_are_judged_by_what_is_free(free: int, level: str) -> None:
    found = [*check_disk(dataclasses.replace(Written(), free=free))]
    assert {finding.level for finding in found} == {level}
    assert len(found) == 2


def test_power_mode_and_clocks_are_told() -> None:
    locked = dataclasses.replace(NANO, gpu_clock=GpuClock(1_020_000_000, 1_020_000_000, 1))
    found = [*check_power(locked)]
    assert levels(found) == {"power mode": "ok", "GPU clock": "ok"}
    assert found[1].text == "locked at 1020 MHz"
    moving = dataclasses.replace(
        NANO, power_mode="15W", gpu_clock=GpuClock(306_000_000, 624_750_000, 1)
    )
    found = [*check_power(moving)]
    assert levels(found) == {"power mode": "note", "GPU clock": "note"}
    assert "nvpmodel -m" in found[0].fix
    assert "moves between 306 and 625 MHz" in found[1].text
    assert found[1].fix.startswith("sudo jetson_clocks")
    unknown = dataclasses.replace(NANO, power_mode="")
    assert levels([*check_power(unknown)]) == {"power mode": "note", "GPU clock": "note"}


NANO_KIT = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
NX_KIT = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"


@pytest.mark.parametrize(
    ("model", "gib", "mode", "number", "level", "text", "fix"),
    [
        (f"{NANO_KIT} Super", 7.4, "MAXN_SUPER", 2, "ok", "MAXN_SUPER", ""),
        (f"{NANO_KIT} Super", 7.4, "25W", 1, "note", "918 MHz; in MAXN_SUPER", "nvpmodel -m 2"),
        (f"{NANO_KIT} Super", 7.4, "15W", 0, "note", "up to 612 MHz", "nvpmodel -m 2"),
        # The same mode on a board that was flashed otherwise is its fastest.
        (NANO_KIT, 7.4, "15W", 0, "note", "up to 625 MHz; in the Super modes", "flash the Super"),
        (NANO_KIT, 3.4, "7W_AI", 1, "note", "408 MHz; in 10W at up to 625 MHz", "nvpmodel -m 0"),
        (NX_KIT, 15.3, "MODE_15W", 2, "note", "in MAXN at up to 918 MHz", "nvpmodel -m 0"),
        (NX_KIT, 15.3, "40W", 4, "ok", "40W", ""),  # only boards flashed for Super have it
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.3, "MAXN", 0, "ok", "MAXN", ""),
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.3, "MODE_30W", 2, "note", "8 SMs", "-m 0"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 29.9, "MODE_40W", 3, "note", "816 MHz", "-m 0"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.8, "90W", 2, "note", "with 12 SMs", "-m 0"),
        # One that nobody has told of.
        (f"{NANO_KIT} Super", 7.4, "MY_MODE", 9, "note", "can do more", "lists the modes"),
        (f"{NANO_KIT} Super", 7.4, "MAXN", 9, "ok", "MAXN", ""),
    ],
)
def test_a_power_mode_is_held_to_the_fastest_that_the_module_has(
    model: str, gib: float, mode: str, number: int, level: str, text: str, fix: str
) -> None:
    board = Board(
        model, "36.4.4", power_mode=mode, power_mode_number=number, memory_bytes=int(gib * GIB)
    )
    found = next(iter(check_power(board)))
    assert (found.level, found.topic) == (level, "power mode")
    assert text in found.text
    assert fix in found.fix
    assert bool(found.fix) == (level != "ok")


def test_devices_that_may_not_be_opened_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(tmp_path)
    assert not [*check_devices(here)]
    device = tmp_path / "dev/nvmap"
    device.parent.mkdir()
    device.touch()
    assert not [*check_devices(here)]
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    (finding,) = check_devices(here)
    assert finding.level == "error"
    assert "usermod -aG video" in finding.fix
