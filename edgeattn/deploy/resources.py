"""What builds and measurements need of a machine: memory, disk, and clocks that stand still."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeattn.deploy.board import Board
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.machine import Machine
from edgeattn.engine.tensorrt.memory import memory_state
from edgeattn.plugin.cache import cache_folder
from edgeattn.targets import PowerMode

_GIB = 1 << 30
# TensorRT's builder takes about a GiB beside the model (see engine/tensorrt/memory.py).
_LEAST_AVAILABLE = 2 * _GIB
_SMALL_BOARD = 16 * _GIB
_LEAST_SWAP = 4 * _GIB
_LEAST_DISK, _ENOUGH_DISK = _GIB // 4, 2 * _GIB

_DESKTOPS = {"gnome-shell", "Xorg", "Xwayland", "kwin_wayland", "plasmashell", "xfce4-session"}
# Devices that CUDA opens on a Jetson; users of the group `video` may.
_DEVICES = ("/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")
_FULL_POWER = "MAXN"


def check_memory(machine: Machine, board: Board | None) -> Iterator[Finding]:
    """Look at memory and swap; on a board the GPU takes from the same memory."""
    meminfo = machine.read("/proc/meminfo")
    if meminfo is None:
        return
    state = memory_state(
        meminfo + "\n", (machine.read("/proc/swaps") or "") + "\n", is_shared=board is not None
    )
    text = f"{_gib(state.available_bytes)} of {_gib(state.total_bytes)} available"
    if state.available_bytes < _LEAST_AVAILABLE:
        yield Finding(
            "warning",
            "memory",
            f"{text}: TensorRT's builder alone takes about 1 GiB",
            "stop what else runs; `ps aux --sort -rss | head` shows the largest",
        )
    else:
        yield Finding("ok", "memory", text)
    if board is None:
        return
    swap = f"{_gib(state.swap_bytes)} of swap on disk are free"
    if state.total_bytes <= _SMALL_BOARD and state.swap_bytes < _LEAST_SWAP:
        yield Finding(
            "warning",
            "swap",
            f"{swap}; a build may be killed (swap in compressed memory does not help it)",
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile",
        )
    else:
        yield Finding("ok", "swap", swap)
    desktop = _desktop(machine)
    if desktop and state.total_bytes <= _SMALL_BOARD:
        yield Finding(
            "warning",
            "desktop",
            f"{desktop} runs: a desktop takes up to 1 GiB of the memory that the GPU shares, and "
            "time on the GPU",
            "sudo systemctl isolate multi-user.target stops it until the next boot, "
            "sudo systemctl set-default multi-user.target for good",
        )
    elif desktop:
        yield Finding(
            "note",
            "desktop",
            f"{desktop} runs and takes time on the GPU: figures vary more",
            "sudo systemctl isolate multi-user.target",
        )
    else:
        yield Finding("ok", "desktop", "none runs")


def _desktop(machine: Machine) -> str:
    for path in sorted(machine.path("/proc").glob("[0-9]*/comm")):
        try:
            name = path.read_text().strip()
        except OSError:  # the process ended
            continue
        if name in _DESKTOPS:
            return name
    return ""


def check_disk(machine: Machine) -> Iterator[Finding]:
    """Look at the disks that take engines, plugins and timings."""
    places = {"here": Path.cwd(), "the cache": cache_folder()}
    for name, path in places.items():
        free = machine.free_bytes(path)
        text = f"{_gib(free)} free {'in ' if name != 'here' else ''}{name} ({path})"
        if free < _ENOUGH_DISK:
            yield Finding(
                "error" if free < _LEAST_DISK else "warning",
                "disk",
                f"{text}: engines, logs and their temporary copies may not fit",
                "make room; XDG_CACHE_HOME moves the cache",
            )
        else:
            yield Finding("ok", "disk", text)


def check_power(board: Board) -> Iterator[Finding]:
    """Look at what decides a board's speed: power mode and clocks."""
    yield _power_mode(board)
    clock = board.gpu_clock
    if clock is None:
        yield Finding("note", "GPU clock", "cannot be read: figures will not say what they mean")
    elif clock.is_locked:
        yield Finding("ok", "GPU clock", f"locked at {clock.max_hz / 1e6:.0f} MHz")
    else:
        yield Finding(
            "note",
            "GPU clock",
            f"moves between {clock.min_hz / 1e6:.0f} and {clock.max_hz / 1e6:.0f} MHz: short "
            "measurements differ from run to run",
            "sudo jetson_clocks locks it until the next boot",
        )


def _power_mode(board: Board) -> Finding:
    """Compare the power mode with the fastest one that the board has."""
    name, module, mode = board.power_mode, board.module, board.mode
    if not name:
        return Finding("note", "power mode", "not known: nvpmodel -q does not answer")
    if module is None or mode is None:
        if name.startswith(_FULL_POWER):
            return Finding("ok", "power mode", name)
        return Finding(
            "note",
            "power mode",
            f"{name}: the board can do more than it shows now",
            "sudo nvpmodel -p --verbose lists the modes, sudo nvpmodel -m N sets one",
        )
    fastest = module.fastest_mode(is_super=mode.is_super)
    if _gpu_speed(mode) < _gpu_speed(fastest):
        return Finding(
            "note",
            "power mode",
            f"{name}: the GPU runs {_gpu_of(mode)}; in {fastest.name} {_gpu_of(fastest)}",
            f"sudo nvpmodel -m {fastest.number} sets {fastest.name}, if supply and cooling bear it",
        )
    if module.super_gpu and not mode.is_super:
        faster = module.fastest_mode(is_super=True)
        return Finding(
            "note",
            "power mode",
            f"{name}: the fastest that it was flashed for: the GPU runs {_gpu_of(mode)}; in the "
            f"Super modes of JetPack 6.2 and later {_gpu_of(faster)}",
            "flash the Super configuration, if the carrier can power and cool it",
        )
    return Finding("ok", "power mode", name)


def _gpu_of(mode: PowerMode) -> str:
    parts = f"with {mode.sm_count} SMs " if mode.sm_count else ""
    return f"{parts}at up to {mode.gpu_mhz:.0f} MHz"


def _gpu_speed(mode: PowerMode) -> float:
    return mode.gpu_mhz * (mode.sm_count or 1)


def check_devices(machine: Machine) -> Iterator[Finding]:
    """Look whether this user may open the GPU's devices."""
    paths = [machine.path(name) for name in _DEVICES]
    closed = [path for path in paths if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        yield Finding(
            "error",
            "devices",
            f"{closed[0]} may not be opened by this user: CUDA will find no GPU",
            "sudo usermod -aG video,render $USER, then log in again",
        )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
