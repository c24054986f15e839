"""Which power rail is the whole: one that feeds all others, or the sum of some that do not overlap.

A figure in watts means nothing without its rail. Orin Nano and Orin NX measure the module's input,
Thor's developer kit the board's. AGX Orin has no such sensor: its three rails add up to the module,
and the 5 V rail among them, which `VIN_SYS_5V0` sounds like the input of, is a part.

References:
    NVIDIA Jetson Linux Developer Guide, Platform Power and Performance, power monitors (R35, R36):
    `VIN_SYS_5V0` contains `VDDQ_VDD2_1V8AO`. rbonghi/jetson_stats#344: it taken for the total.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeattn.profiling.board.sample import BoardSample

# What NVML gives for a graphics card: the card, not the computer.
GPU_BOARD = "GPU_BOARD"

# Each feeds everything that the board can measure. `VIN` is Thor's; `POM_5V_IN` the first Nano's.
_INPUTS = ("VDD_IN", "VIN", "POM_5V_IN", GPU_BOARD)

# Rails of boards without such a one, that add up without overlap: AGX Orin, Thor, AGX Xavier.
_SUMS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


def total_rail(names: Iterable[str]) -> str:
    """Name what the power of the whole is read from.

    Args:
        names: The rails that there are.

    Returns:
        A rail, or several joined by `+`; empty if these rails do not tell the whole.
    """
    there = set(names)
    for name in _INPUTS:
        if name in there:
            return name
    for parts in _SUMS:
        if there.issuperset(parts):
            return "+".join(parts)
    return ""


def total_mw(sample: BoardSample, rail: str) -> float | None:
    """Give the power of the whole; `None` where a rail gave nothing.

    A board that runs draws power: a sum of nothing or less is a sensor that has not measured yet,
    as Thor's `VIN` at first.
    """
    parts = [sample.power_mw.get(name) for name in rail.split("+")]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or sum(known) <= 0:
        return None
    return sum(known)
