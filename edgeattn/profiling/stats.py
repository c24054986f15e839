"""Statistics of latencies: percentiles that are times measured, the usual moments, nothing clipped.

Percentiles are nearest-rank. Those of trtexec, which rounds in float32, stand beside them for
whoever compares with that tool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.bootstrap import median_interval

PercentileRule = Literal["nearest-rank", "trtexec"]


@dataclass(frozen=True)
class LatencyStats:
    """Statistics of a set of times, in milliseconds.

    Attributes:
        num_samples: Number of times, at least 1.
        mean_ms: Arithmetic mean.
        std_ms: Population standard deviation.
        cv_percent: Coefficient of variation, `100 std / mean`; 0 if all times are 0.
        min_ms: Smallest.
        max_ms: Largest.
        p50_ms: Percentiles by nearest rank: one of the times, never interpolated. By trtexec's
            rule this one is its median: of an even number, the mean of the two in the middle.
        p90_ms: As above.
        p95_ms: As above.
        p99_ms: As above; `None` below 100 times, of which it would be the maximum. trtexec gives
            that maximum.
        p99_9_ms: As above; `None` below 1000 times.
        p50_interval_ms: Bounds of the median with 95 % confidence; `None` for few times, and in
            reports written before it was computed.
    """

    num_samples: int
    mean_ms: float
    std_ms: float
    cv_percent: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float | None
    p99_9_ms: float | None
    p50_interval_ms: tuple[float, float] | None = None

    @classmethod
    def from_samples(
        cls, samples_ms: Sequence[float], rule: PercentileRule = "nearest-rank"
    ) -> LatencyStats:
        """Compute the statistics.

        Args:
            samples_ms: `[N]` times in milliseconds, in the order in which they were taken: the
                interval of the median allows for neighbours that are alike.
            rule: Whose percentiles.

        Raises:
            DataError: If there is none.
        """
        ordered = sorted(samples_ms)
        count = len(ordered)
        is_trtexec = rule == "trtexec"
        pick = trtexec_percentile_ms if is_trtexec else percentile_ms
        p90, p95, p99 = (pick(ordered, percent) for percent in (90, 95, 99))
        mean = math.fsum(ordered) / count
        std = math.sqrt(math.fsum((sample - mean) ** 2 for sample in ordered) / count)
        return cls(
            num_samples=count,
            mean_ms=mean,
            std_ms=std,
            cv_percent=100.0 * std / mean if mean else 0.0,
            min_ms=ordered[0],
            max_ms=ordered[-1],
            p50_ms=_middle(ordered) if is_trtexec else percentile_ms(ordered, 50),
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99 if is_trtexec or count >= 100 else None,
            p99_9_ms=pick(ordered, 99.9) if count >= 1000 else None,
            p50_interval_ms=median_interval(samples_ms),
        )

    def to_dict(self) -> dict[str, Any]:
        """Turn the statistics into JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> LatencyStats:
        """Read statistics back.

        Raises:
            ArtifactError: If they are not what `to_dict` gives.
        """
        try:
            interval = values.get("p50_interval_ms")
            bounds = None if interval is None else (float(interval[0]), float(interval[1]))
            return cls(**(values | {"p50_interval_ms": bounds}))
        except (TypeError, AttributeError, IndexError, ValueError) as err:
            raise ArtifactError(f"latency statistics are malformed: {err}") from err


def percentile_ms(samples_ms: Sequence[float], percent: float) -> float:
    """Pick the nearest-rank percentile: the smallest sample with `percent` % at or below it.

    Args:
        samples_ms: `[N]` times in milliseconds, any order.
        percent: Above 0, to 100; taken as the decimal number it is written as.

    Returns:
        One of the samples, in milliseconds.

    Raises:
        DataError: If there is no sample or `percent` is out of range.
    """
    _check(samples_ms, percent)
    rank = math.ceil(Fraction(str(percent)) * len(samples_ms) / 100)
    return sorted(samples_ms)[rank - 1]


def trtexec_percentile_ms(samples_ms: Sequence[float], percent: float) -> float:
    """Pick the percentile that trtexec prints: the largest time but for a share cut off above.

    The share is counted in float32 and rounded down, so that the 99 % percentile of 100 times is
    their maximum, and that of 1500 the 15th from above.

    Args:
        samples_ms: `[N]` times in milliseconds, any order.
        percent: Above 0, to 100.

    Returns:
        One of the samples, in milliseconds.

    Raises:
        DataError: If there is no sample or `percent` is out of range.

    References:
        NVIDIA/TensorRT, samples/common/sampleReporting.cpp, `findPercentile`: the same in releases
        8.6 to 11.1.
    """
    _check(samples_ms, percent)
    count = len(samples_ms)
    above = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return sorted(samples_ms)[max(count - 1 - above, 0)]


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _check(samples_ms: Sequence[float], percent: float) -> None:
    if not samples_ms or not 0 < percent <= 100:
        raise DataError(
            f"the {percent} % percentile of {len(samples_ms)} samples does not exist; expected "
            "samples, and a percentage above 0 and up to 100"
        )
