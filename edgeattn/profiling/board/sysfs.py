"""Sensors that the kernel shows as files: rails, clocks, temperatures, throttle counters.

Files are opened once and read again from their beginning. One that goes away, or has nothing to say
(the thermal zone of a GPU without power), is left out of that sample and tried again at the next.

References:
    Linux, Documentation/hwmon/ina3221.rst: millivolts, milliamperes; microwatts of `power1_input`.
    NVIDIA Jetson Linux Developer Guide, Platform Power and Performance (R36): `oc*_event_cnt`
    counts under-voltage (1), average (2) and momentary (3) over-current events since boot.
    tests/fixtures/boards/README.md: what boards were seen to have.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeattn.engine.host import read_text
from edgeattn.profiling.board.sample import BoardSample, Source

_READ_BYTES = 4096
# Temperatures, CPU clocks and counters change slowly, and on a Jetson each is a message to another
# processor: they are read less often than watts and the GPU's clock.
_SLOW_PERIOD_NS = 100_000_000

# `17000000.ga10b` on JetPack 5, `17000000.gpu` on 6 and on Orin's 7, `gpu-gpc-0` on Thor.
_GPU_DEVFREQ = re.compile(r"\d+\.(gpu|g[av]\d+b|gp10b)|gpu-gpc-\d+")
_MEMORY_CLOCKS = ("sys/class/devfreq/bwmgr/cur_freq", "sys/kernel/debug/bpmp/debug/clk/emc/rate")
# These cooling devices slow the work down; fans do not.
_THROTTLES = re.compile(r".*-throttle-alert|(cpufreq|devfreq)-.*")
_EVENTS = {"oc1": "under-voltage", "oc2": "over-current", "oc3": "over-current"}


class SensorFile:
    """A small file that is read over and over.

    Args:
        path: Where it is; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def text(self) -> str | None:
        """Read it; `None` if it is not there or cannot be read now."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            return os.pread(self._descriptor, _READ_BYTES, 0).decode(errors="replace").strip()
        except OSError:
            self.close()
            return None

    def number(self) -> int | None:
        """Read it as an integer; `None` also if it holds none."""
        try:
            return int(self.text() or "")
        except ValueError:
            return None

    def close(self) -> None:
        """Close it; another read opens it again."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


class Rail:
    """The power of one rail, from the files of its sensor.

    Args:
        folder: The sensor's folder.
        channel: Number of the channel in it.
    """

    def __init__(self, folder: Path, channel: str) -> None:
        power = folder / f"power{channel}_input"
        self._power = SensorFile(power) if power.exists() else None
        self._voltage = SensorFile(folder / f"in{channel}_input")
        self._current = SensorFile(folder / f"curr{channel}_input")

    def mw(self) -> float | None:
        """Read milliwatts; `None` if the sensor is silent."""
        if self._power is not None:
            microwatts = self._power.number()
            return None if microwatts is None else microwatts / 1e3
        millivolts, milliamperes = self._voltage.number(), self._current.number()
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1e3


class SysfsReader:
    """All sensors of a machine that are files.

    Args:
        root: Where `/sys` and `/proc` stand.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        chips = list(_hwmon_chips(root))
        self._rails = dict(_rails(chips))
        self._gpu_folders = gpu_folders(root)
        self._gpu_clocks = [SensorFile(folder / "cur_freq") for folder in self._gpu_folders]
        self._gpu_load = [SensorFile(folder / "device/load") for folder in self._gpu_folders]
        self._memory_clocks = [SensorFile(root / name) for name in _MEMORY_CLOCKS]
        self._cpu_clocks = dict(_cpu_clocks(root))
        self._zones = dict(_thermal_zones(root))
        self._states = list(_throttle_states(root, chips))
        self._counters = [(reason, SensorFile(path)) for reason, path in _counters(root, chips)]
        self._counts = [counter.number() for _, counter in self._counters]
        self._meminfo = SensorFile(root / "proc/meminfo")
        self._stat = SensorFile(root / "proc/stat")
        self._busy = self._cpu_ticks()
        self._next_slow_ns = 0

    @property
    def has_rails(self) -> bool:
        """Whether there is a power sensor."""
        return bool(self._rails)

    @property
    def source(self) -> Source:
        """What a trace of these sensors is called."""
        if self._rails or self._gpu_folders:
            return "sysfs"
        there = self._cpu_clocks or self._zones or self._meminfo.text() or self._stat.text()
        return "cpu" if there else "none"

    def gpu_is_locked(self) -> bool | None:
        """Tell whether the GPU's clock cannot move; `None` if there is no such clock."""
        ranges = [
            (read_text(folder / "min_freq"), read_text(folder / "max_freq"))
            for folder in self._gpu_folders
        ]
        known = [(low, high) for low, high in ranges if low and high]
        return all(low == high for low, high in known) if known else None

    def sample(self, time_ns: int, *, complete: bool = False) -> BoardSample:
        """Read the sensors.

        Args:
            time_ns: The time now, of `time.perf_counter_ns`.
            complete: Read also those that are not due.
        """
        power = {name: mw for name, rail in self._rails.items() if (mw := rail.mw()) is not None}
        clocks: dict[str, float] = {}
        if gpu := [hz for clock in self._gpu_clocks if (hz := clock.number()) is not None]:
            clocks["gpu"] = max(gpu) / 1e6
        if time_ns < self._next_slow_ns and not complete:
            return BoardSample(time_ns, clocks_mhz=clocks, power_mw=power)
        self._next_slow_ns = time_ns + _SLOW_PERIOD_NS
        for clock in self._memory_clocks:
            if (hz := clock.number()) is not None:
                clocks["emc"] = hz / 1e6
                break
        for name, clock in self._cpu_clocks.items():
            if (khz := clock.number()) is not None:
                clocks[name] = khz / 1e3
        celsius = {name: zone.number() for name, zone in self._zones.items()}
        return BoardSample(
            time_ns=time_ns,
            clocks_mhz=clocks,
            temperatures_c={n: c / 1e3 for n, c in celsius.items() if c is not None},
            power_mw=power,
            utilisation_percent=dict(self._utilisation()),
            memory_used_bytes=self._memory_used_bytes(),
            throttled=tuple(sorted(set(self._reasons()))),
        )

    def _reasons(self) -> Iterator[str]:
        """Say what holds clocks down now, or has since the last look."""
        for reason, state in self._states:
            if state.number():
                yield reason
        for i, (reason, counter) in enumerate(self._counters):
            before, now = self._counts[i], counter.number()
            if now is not None:
                self._counts[i] = now
                if before is not None and now > before:
                    yield reason

    def _utilisation(self) -> Iterator[tuple[str, float]]:
        if loads := [n for load in self._gpu_load if (n := load.number()) is not None]:
            yield "gpu", max(loads) / 10  # per mille
        before, self._busy = self._busy, self._cpu_ticks()
        if before and self._busy and self._busy[1] > before[1]:
            busy, total = (now - then for now, then in zip(self._busy, before, strict=True))
            yield "cpu", 100 * busy / total

    def _cpu_ticks(self) -> tuple[int, int] | None:
        """Count the ticks since boot that all processors worked, and all ticks."""
        found = re.match(r"cpu +([\d ]+)", self._stat.text() or "")
        if not found:
            return None
        ticks = [int(number) for number in found[1].split()][:8]  # guests are in `user` already
        idle = sum(ticks[3:5])
        return sum(ticks) - idle, sum(ticks)

    def _memory_used_bytes(self) -> int | None:
        lines = dict(re.findall(r"^(\w+): +(\d+) kB", self._meminfo.text() or "", re.MULTILINE))
        if not {"MemTotal", "MemAvailable"} <= lines.keys():
            return None
        return (int(lines["MemTotal"]) - int(lines["MemAvailable"])) * 1024


def _hwmon_chips(root: Path) -> Iterator[tuple[str, Path]]:
    """List the sensor chips: name and folder."""
    for folder in numbered(root / "sys/class/hwmon", "hwmon"):
        if name := read_text(folder / "name"):
            yield name, folder


def _rails(chips: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Rail]]:
    """Find the power sensors of TI's INA family: three rails a chip, or one."""
    for chip, folder in chips:
        if not chip.startswith("ina"):
            continue
        labels = {p.name[2:-6]: read_text(p) for p in sorted(folder.glob("in[1-9]_label"))}
        for channel, label in (labels or {"1": read_text(folder / "label")}).items():
            # A seventh label belongs to the sum of shunt voltages, which has no current.
            is_rail = (folder / f"curr{channel}_input").exists()
            if label and label != "NC" and is_rail:
                yield label, Rail(folder, channel)


def gpu_folders(root: Path) -> list[Path]:
    """List where the clocks of a Jetson's GPU are; none on other machines."""
    folder = root / "sys/class/devfreq"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _GPU_DEVFREQ.fullmatch(path.name))


def _cpu_clocks(root: Path) -> Iterator[tuple[str, SensorFile]]:
    """Find the clocks of the processors: one of each group that shares a clock."""
    for policy in numbered(root / "sys/devices/system/cpu/cpufreq", "policy"):
        yield f"cpu{policy.name[6:]}", SensorFile(policy / "scaling_cur_freq")


def _thermal_zones(root: Path) -> Iterator[tuple[str, SensorFile]]:
    for zone in numbered(root / "sys/class/thermal", "thermal_zone"):
        if kind := read_text(zone / "type"):
            name = re.sub(r"[-_]therm(al)?$", "", kind.lower())
            yield name, SensorFile(zone / "temp")


def _throttle_states(
    root: Path, chips: Iterable[tuple[str, Path]]
) -> Iterator[tuple[str, SensorFile]]:
    """Find the files that are not 0 while something holds clocks down."""
    for device in numbered(root / "sys/class/thermal", "cooling_device"):
        if _THROTTLES.fullmatch(read_text(device / "type") or ""):
            yield "thermal", SensorFile(device / "cur_state")
    counted = any(chip == "soctherm_oc" for chip, _ in chips)
    for chip, folder in chips:
        if chip.startswith("ina") and not counted:
            for alarm in sorted(folder.glob("curr[123]_crit_alarm")):
                yield "over-current", SensorFile(alarm)


def _counters(root: Path, chips: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Find the files that count throttling since boot."""
    for chip, folder in chips:
        if chip == "soctherm_oc":
            for name, reason in _EVENTS.items():
                yield reason, folder / f"{name}_event_cnt"
    packages: dict[str, Path] = {}
    for cpu in numbered(root / "sys/devices/system/cpu", "cpu"):
        count = cpu / "thermal_throttle/package_throttle_count"
        if count.exists():
            packages.setdefault(read_text(cpu / "topology/physical_package_id") or "", count)
    for path in packages.values():
        yield "thermal", path


def numbered(folder: Path, prefix: str) -> list[Path]:
    """List the entries `PREFIX0`, `PREFIX1`, … of a folder in order; none if it is missing."""
    found = re.compile(rf"{prefix}\d+")
    try:
        entries = [path for path in folder.iterdir() if found.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(entries, key=lambda path: int(path.name[len(prefix) :]))
