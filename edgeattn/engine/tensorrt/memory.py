"""Will a build fit into memory? Asked before it runs, for TensorRT finds out after minutes.

On a Jetson the GPU allocates from the same memory as everything else, and what it holds cannot be
swapped out. TensorRT takes all of it for its workspace by default, the desktop and the page cache
included, skips every algorithm that then does not fit, and may be killed by the kernel meanwhile.
The workspace is therefore limited here to what is free. The estimates are rough on purpose: only
what cannot go well is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeattn.engine.tensorrt.device import is_integrated, primary_context
from edgeattn.errors import EngineError, MissingDependencyError

Level = Literal["error", "warning", "note"]

_MIB = 1 << 20
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")

# What a builder takes besides the model, on the host and the GPU together: its own log says
# 360 to 2,200 MiB for the kernel library ("Init builder kernel library"), most of it mapped from a
# file, and a CUDA context takes some hundred.
_BUILDER_BYTES = 1024 * _MIB
# A build holds the parsed weights and those of the engine in the making at once, and the serialized
# engine at its end.
_LEAST_COPIES = 2
_USUAL_COPIES = 3
# Below this TensorRT has few algorithms to choose from.
_LEAST_WORKSPACE = 64 * _MIB
# Part of a shared memory that stays with the system while a build runs.
_SYSTEM_SHARE = 8

_FREE_IT = (
    "`sudo systemctl isolate multi-user.target` stops the desktop until the next boot, which frees "
    "up to 1 GiB"
)
_SWAP = (
    "`sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile` adds swap on the disk, which lets everything else make room"
)


@dataclass(frozen=True)
class MemoryState:
    """What memory a machine has now.

    Attributes:
        total_bytes: Of the system; what is not reserved for firmware.
        available_bytes: What programs can have without swapping (`MemAvailable`).
        swap_bytes: Free swap on disks. Swap in compressed memory (zram, which a Jetson has by
            default) is memory again and not counted.
        is_shared: Whether the GPU allocates from the system's memory.
        gpu_free_bytes: Free memory of the GPU; `None` if it was not asked. On a shared memory it
            leaves out the page cache, which would make room.
        gpu_total_bytes: All memory of the GPU; `None` likewise.
    """

    total_bytes: int
    available_bytes: int
    swap_bytes: int
    is_shared: bool
    gpu_free_bytes: int | None = None
    gpu_total_bytes: int | None = None

    @property
    def free_bytes(self) -> int | None:
        """What the GPU can have."""
        return self.available_bytes if self.is_shared else self.gpu_free_bytes


@dataclass(frozen=True)
class MemoryFinding:
    """Something about a build that memory speaks against.

    Attributes:
        level: `error`, it cannot go well; `warning`, it may fail or choose slow kernels; `note`.
        text: What was found, with its figures.
        hint: What to do about it.
    """

    level: Level
    text: str
    hint: str = ""


def read_memory(device: int = 0) -> MemoryState:
    """Ask the system, and the GPU if there is one, what memory is free.

    Args:
        device: The GPU.
    """
    gpu_free = gpu_total = None
    try:
        is_shared = is_integrated(device)
        with primary_context(device) as cuda:
            gpu_free, gpu_total = cuda.mem_get_info()
    except (EngineError, MissingDependencyError):  # the build itself says what is wrong with CUDA
        is_shared = _TEGRA_RELEASE.is_file()
    files = (Path("/proc", name) for name in ("meminfo", "swaps"))
    # A kernel without swap has no file of it.
    meminfo, swaps = (file.read_text() if file.is_file() else "" for file in files)
    return memory_state(
        meminfo, swaps, is_shared=is_shared, gpu_free_bytes=gpu_free, gpu_total_bytes=gpu_total
    )


def memory_state(
    meminfo: str,
    swaps: str,
    *,
    is_shared: bool,
    gpu_free_bytes: int | None = None,
    gpu_total_bytes: int | None = None,
) -> MemoryState:
    """Make a state of what the kernel tells.

    Args:
        meminfo: Content of `/proc/meminfo`.
        swaps: Content of `/proc/swaps`.
        is_shared: As `MemoryState` has it.
        gpu_free_bytes: Likewise.
        gpu_total_bytes: Likewise.

    References:
        proc(5). For memory that GPU and CPU share, NVIDIA's driver documentation of
        `cuMemGetInfo` says that swap is left out and sends to the application note for Tegra.
    """
    values = _meminfo_bytes(meminfo)
    # Kernels before 3.14 have no estimate of their own.
    estimate = sum(values.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return MemoryState(
        total_bytes=values.get("MemTotal", 0),
        available_bytes=values.get("MemAvailable", estimate),
        swap_bytes=_disk_swap_bytes(swaps),
        is_shared=is_shared,
        gpu_free_bytes=gpu_free_bytes,
        gpu_total_bytes=gpu_total_bytes,
    )


def check_memory(
    model_bytes: int, largest_constant: int, workspace: int | None, state: MemoryState
) -> tuple[int | None, list[MemoryFinding]]:
    """Estimate whether a build fits, and choose the limit of its workspace.

    Args:
        model_bytes: All weights of the lowered graph.
        largest_constant: Bytes of its largest one, which is allocated in one piece.
        workspace: The limit that was asked for in bytes; `None` for none.
        state: The machine's memory.

    Returns:
        The limit to set in bytes, `None` for TensorRT's own, which is all of the GPU's memory; and
        what was found, worst first.
    """
    free = state.free_bytes
    if free is None:
        text = "how much memory the GPU has free is not known, so the build was not checked"
        return workspace, [MemoryFinding("note", text, "install pycuda to have it checked")]
    reserve = _LEAST_COPIES * model_bytes
    if state.is_shared:
        reserve += state.total_bytes // _SYSTEM_SHARE
    room = free - reserve
    limit = max(room, _LEAST_WORKSPACE)
    findings = [
        *_check_weights(model_bytes, state),
        *_check_largest(largest_constant, free),
        *_check_workspace(workspace, room, limit, free),
    ]
    order: dict[Level, int] = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.level])
    return (limit if workspace is None else min(workspace, limit)), findings


def usual_build_bytes(model_bytes: int) -> int:
    """Estimate what a build takes of the system's memory, besides its workspace.

    Args:
        model_bytes: All weights of the lowered graph.
    """
    return _USUAL_COPIES * model_bytes + _BUILDER_BYTES


def _check_weights(model_bytes: int, state: MemoryState) -> list[MemoryFinding]:
    """Compare what a build holds of a model with what there is for it."""
    if not state.is_shared and (state.gpu_free_bytes or 0) < model_bytes:
        text = (
            f"{_mib(state.gpu_free_bytes or 0)} of the GPU's memory are free; the weights alone "
            f"take {_mib(model_bytes)}"
        )
        return [MemoryFinding("error", text, "nvidia-smi shows what else is on the GPU")]
    has = f"{_mib(state.available_bytes)} of memory are available"
    if state.swap_bytes:
        has += f", with {_mib(state.swap_bytes)} of swap"
    least = _LEAST_COPIES * model_bytes
    usual = usual_build_bytes(model_bytes)
    if state.available_bytes + state.swap_bytes < least:
        text = f"{has}; a build of {_mib(model_bytes)} of weights needs at least {_mib(least)}"
        return [MemoryFinding("error", text, _advice(state))]
    if state.available_bytes < usual:
        text = f"{has}; a build of {_mib(model_bytes)} of weights usually needs {_mib(usual)}"
        return [MemoryFinding("warning", text, _advice(state))]
    return []


def _check_largest(largest_constant: int, free: int) -> list[MemoryFinding]:
    """Compare the largest single allocation that is known with what is free."""
    if 2 * largest_constant <= free:
        return []
    text = f"the largest tensor takes {_mib(largest_constant)} in one piece; {_mib(free)} are free"
    hint = (
        "free memory is often in pieces: restart other programs on the GPU, reboot a board that "
        "has run for long, or store the weights in FP16"
    )
    return [MemoryFinding("error" if largest_constant > free else "warning", text, hint)]


def _check_workspace(
    workspace: int | None, room: int, limit: int, free: int
) -> list[MemoryFinding]:
    """Tell what became of the workspace."""
    findings = []
    if workspace is not None and workspace > limit:
        text = (
            f"a workspace of {_mib(workspace)} was asked for; {_mib(free)} are free, and beside "
            f"the weights {_mib(limit)} are left for it"
        )
        findings.append(MemoryFinding("note", text, f"--workspace {limit // _MIB} says the same"))
    if room < _LEAST_WORKSPACE:
        text = (
            f"{_mib(free)} are free, which leaves {_mib(_LEAST_WORKSPACE)} for the workspace: "
            "TensorRT will have few algorithms to choose from"
        )
        findings.append(MemoryFinding("warning", text, _FREE_IT))
    return findings


def _advice(state: MemoryState) -> str:
    parts = [_FREE_IT] if state.is_shared else ["close other programs"]
    if not state.swap_bytes:
        parts.append(_SWAP)
    parts.append("--optimization-level 2 and a smaller --max-shapes need less")
    return "; ".join(parts)


def _meminfo_bytes(text: str) -> Mapping[str, int]:
    """Read the lines `Name:  123 kB`; lines without the unit are counts."""
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, *unit = rest.split() or [""]
        if number.isdecimal() and unit == ["kB"]:
            values[name.strip()] = int(number) * 1024
    return values


def _disk_swap_bytes(text: str) -> int:
    """Add up what is free of the swap areas that are not in memory themselves."""
    free = 0
    for line in text.splitlines()[1:]:  # the first holds titles
        words = line.split()
        # A file name may hold spaces, written \\040; the last four words are never it.
        if len(words) >= 5 and not words[0].startswith("/dev/zram"):
            size, used = words[-3:-1]
            free += (int(size) - int(used)) * 1024
    return free


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
