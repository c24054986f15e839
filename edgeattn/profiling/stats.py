"""Statistics of latencies: nearest-rank percentiles and the usual moments, nothing clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from edgeattn.errors import ArtifactError, DataError


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
        p50_ms: Percentiles by nearest rank: one of the times, never interpolated.
        p90_ms: As above.
        p95_ms: As above.
        p99_ms: As above; `None` below 100 times, of which it would be the maximum.
        p99_9_ms: As above; `None` below 1000 times.
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

    @classmethod
    def from_samples(cls, samples_ms: Sequence[float]) -> LatencyStats:
        """Compute the statistics.

        Args:
            samples_ms: `[N]` times in milliseconds, any order.

        Raises:
            DataError: If there is none.
        """
        ordered = sorted(samples_ms)
        count = len(ordered)
        p50, p90, p95 = (percentile_ms(ordered, percent) for percent in (50, 90, 95))
        mean = math.fsum(ordered) / count
        std = math.sqrt(math.fsum((sample - mean) ** 2 for sample in ordered) / count)
        return cls(
            num_samples=count,
            mean_ms=mean,
            std_ms=std,
            cv_percent=100.0 * std / mean if mean else 0.0,
            min_ms=ordered[0],
            max_ms=ordered[-1],
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=percentile_ms(ordered, 99) if count >= 100 else None,
            p99_9_ms=percentile_ms(ordered, 99.9) if count >= 1000 else None,
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
            return cls(**values)
        except TypeError as err:
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

    References:
        Exact rank on purpose: trtexec's `findPercentile` (sampleReporting.cpp) rounds in float32
        and gives the maximum as p99 of 100 samples.
    """
    if not samples_ms or not 0 < percent <= 100:
        raise DataError(
            f"the {percent} % percentile of {len(samples_ms)} samples does not exist; expected "
            "samples, and a percentage above 0 and up to 100"
        )
    rank = math.ceil(Fraction(str(percent)) * len(samples_ms) / 100)
    return sorted(samples_ms)[rank - 1]
