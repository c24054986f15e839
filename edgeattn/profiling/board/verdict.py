"""Whether a latency was measured on a board that kept its clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeattn.profiling.board.sample import BoardSample, BoardTrace

Word = Literal["stable", "throttled", "unknown"]
Device = Literal["gpu", "cpu"]

# A clock that is within this of its highest has not moved; a few samples may lie outside, since a
# clock that is read while it is being set can be anything.
_TOLERANCE = 0.05
_OUTLIERS = 0.05
_MIN_SAMPLES = 3

# Counters are read this much less often than clocks: what they tell comes up to so much later.
_LATE_NS = 100_000_000


@dataclass(frozen=True)
class Verdict:
    """What to think of a measurement.

    Attributes:
        word: `stable`: the clock stayed where it was and nothing held it down. `throttled`:
            something held it down. `unknown`: it moved for another reason, or was not seen.
        reasons: One clause each.
    """

    word: Word
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the verdict into JSON values."""
        return asdict(self) | {"reasons": list(self.reasons)}


def verdict(trace: BoardTrace, start_ns: int, end_ns: int, device: Device = "gpu") -> Verdict:
    """Judge the time of a measurement.

    Args:
        trace: Samples taken meanwhile.
        start_ns: When it began, of `time.perf_counter_ns`.
        end_ns: When it ended.
        device: What did the work: its clock is judged.
    """
    if reasons := tuple(_throttling(trace.window(start_ns, end_ns + _LATE_NS))):
        return Verdict("throttled", reasons)
    samples = trace.window(start_ns, end_ns)
    clocks = [mhz for sample in samples if (mhz := device_clock_mhz(sample, device)) is not None]
    name = device.upper()
    if not clocks:
        return Verdict("unknown", (trace.problem or f"no clock of the {name} could be read",))
    if len(clocks) < _MIN_SAMPLES:
        return Verdict("unknown", (f"the {name}'s clock was read {len(clocks)} times only",))
    low, high = min(clocks), max(clocks)
    below = sum(mhz < high * (1 - _TOLERANCE) for mhz in clocks)
    if below <= _OUTLIERS * len(clocks):
        return Verdict("stable", (f"the {name}'s clock stayed at {high:.0f} MHz",))
    moved = f"the {name}'s clock moved between {low:.0f} and {high:.0f} MHz"
    if device == "gpu" and trace.jetson_clocks:
        return Verdict("throttled", (f"{moved}, although it is locked",))
    return Verdict("unknown", (f"{moved} by itself: it is not locked",))


def device_clock_mhz(sample: BoardSample, device: Device) -> float | None:
    """Give the clock that is judged; of processors that of the fastest, which do the work.

    Args:
        sample: What the sensors said.
        device: What did the work.
    """
    if device == "gpu":
        return sample.clocks_mhz.get("gpu")
    return max((mhz for n, mhz in sample.clocks_mhz.items() if n.startswith("cpu")), default=None)


def _throttling(samples: list[BoardSample]) -> Iterator[str]:
    """Say what held clocks down, and how often."""
    counts = Counter(reason for sample in samples for reason in sample.throttled)
    for reason, count in sorted(counts.items()):
        times = "once" if count == 1 else f"{count} times"
        yield f"{reason}, seen {times} in {len(samples)} samples"
