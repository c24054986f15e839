"""Read lines of `tegrastats`, as the boards from JetPack 5 to 7 print them.

What changes from release to release: the GPU's clock is one number, a list (one for each graphics
cluster) or missing, which it is unless root asks; Thor prints a clock without a load; rails give
now/average, from JetPack 7.2 on now/average/peak; temperatures are in upper case up to JetPack 5
and carry a peak from 7.2 on; a unit without power is -256 C.

References:
    tests/fixtures/boards/tegrastats: recorded lines, each with its board, release and source.
"""

from __future__ import annotations

import re

from edgeattn.profiling.board.sample import BoardSample

_RAM = re.compile(r"\bRAM (\d+)/\d+MB")
_CPU = re.compile(r"\bCPU \[([^]]*)\](?:@(\d+))?")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_EMC = re.compile(r"\bEMC_FREQ (?:(\d+)%)?(?:@(\d+))?")
# One clock, or one for each graphics cluster; with or without the load.
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?")
_TEMPERATURE = re.compile(r"\b(\w+)@(-?[\d.]+)C\b")
# `VDD_IN 4744mW/6179mW`, before JetPack 5 `VDD_IN 4744/6179`; sizes such as `RAM 1/2MB` are not it.
_POWER = re.compile(r"\b([A-Z]\w*) (-?\d+)(?:mW(?:/-?\d+mW)*|/-?\d+)(?=\s|$)")

_NOT_CONNECTED = "NC"
_NO_POWER_C = -256.0
_MIB = 1 << 20


def parse_line(text: str, time_ns: int) -> BoardSample | None:
    """Read one line.

    Args:
        text: What tegrastats printed.
        time_ns: When, of `time.perf_counter_ns`: its own time stamp counts seconds only.

    Returns:
        The values now, not the averages; `None` if it is not a line of tegrastats.
    """
    ram = _RAM.search(text)
    if ram is None:
        return None
    clocks: dict[str, float] = {}
    loads: dict[str, float] = {}
    if (gpu := _GPU.search(text)) and (gpu[1] or gpu[2]):
        if gpu[1]:
            loads["gpu"] = float(gpu[1])
        if gpu[2]:  # a cluster at rest may be off: the fastest one says what the work gets
            clocks["gpu"] = max(float(mhz) for mhz in gpu[2].split(",") if mhz)
    if emc := _EMC.search(text):
        if emc[1]:
            loads["emc"] = float(emc[1])
        if emc[2]:
            clocks["emc"] = float(emc[2])
    if cpus := _CPU.search(text):
        for number, entry in enumerate(cpus[1].split(",")):
            if core := _CORE.fullmatch(entry.strip()):  # else it is off
                loads[f"cpu{number}"] = float(core[1])
                if mhz := core[2] or cpus[2]:
                    clocks[f"cpu{number}"] = float(mhz)
    temperatures = {name.lower(): float(celsius) for name, celsius in _TEMPERATURE.findall(text)}
    return BoardSample(
        time_ns=time_ns,
        clocks_mhz=clocks,
        temperatures_c={n: c for n, c in temperatures.items() if c != _NO_POWER_C},
        power_mw={n: float(mw) for n, mw in _POWER.findall(text) if n != _NOT_CONNECTED},
        utilisation_percent=loads,
        memory_used_bytes=int(ram[1]) * _MIB,
    )
