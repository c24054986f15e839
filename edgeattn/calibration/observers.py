"""Streaming observers of activations: what they keep does not grow with the number of images.

An observer sees one sample's tensor at a time and answers with the magnitude `amax` to quantize at.
The answer depends on the samples alone: any order, and shards observed apart and merged, give the
same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgeattn.calibration import thresholds
from edgeattn.calibration.histogram import Floats, MagnitudeHistogram, NonFiniteError, State
from edgeattn.calibration.table import ValueSummary
from edgeattn.errors import SpecError

Method = Literal["auto", "minmax", "average", "percentile", "entropy", "mse"]
METHODS = get_args(Method)

# Of one sample's tensor a histogram counts at most so many values; the extremes are always exact.
COUNTED_VALUES = 1 << 15

SUMMARY_PERCENTS = ("50", "90", "99", "99.9", "99.99", "99.999")

_CANDIDATE_PERCENTS = ("99.9", "99.99", "99.999")
_ROW_VALUES = 4096
_UNITS_PER_ONE = 2**149  # every float32 is a whole number of 2^-149


class Observer(Protocol):
    """What the collector needs of an observer."""

    def update(self, values: Floats) -> None:
        """Take in one sample's values, of any shape."""
        ...

    def merge(self, other: Any) -> None:
        """Take in all that another observer of the same kind saw."""
        ...

    def amax(self) -> float:
        """Magnitude that becomes the largest integer; 0 if nothing but zeros was seen."""
        ...

    def summary(self, amax: float) -> ValueSummary:
        """Describe what was seen, and how much of it `amax` clips."""
        ...

    def state(self) -> State:
        """Give all that was seen as arrays."""
        ...

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave."""
        ...


def observer_factory(method: str, percentile: float) -> Callable[[], Observer]:
    """Choose how tensors are observed.

    Args:
        method: One of `METHODS`.
        percentile: For the method of that name: percent of magnitudes not clipped.

    Raises:
        SpecError: If the method is unknown or the percentile is out of range.
    """
    if not 0 < percentile <= 100:
        raise SpecError(
            f"the percentile is {percentile}; expected above 0 and at most 100",
            "99.99 clips one magnitude in 10,000",
        )
    factories: dict[str, Callable[[], Observer]] = {
        "auto": CandidateObserver,
        "minmax": MinMaxObserver,
        "average": AverageObserver,
        "percentile": partial(
            HistogramObserver, partial(thresholds.percentile_amax, percentile=percentile)
        ),
        "entropy": partial(HistogramObserver, thresholds.entropy_amax),
        "mse": partial(HistogramObserver, thresholds.mse_amax),
    }
    if method not in factories:
        raise SpecError(f"the method is {method!r}", f"use one of {', '.join(METHODS)}")
    return factories[method]


class MinMaxObserver:
    """The exact largest magnitude."""

    def __init__(self) -> None:
        self._amax = np.float32(0)
        self._count = 0

    def update(self, values: Floats) -> None:
        """Take in values of any shape.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        self._amax = max(self._amax, largest_magnitude(values))
        self._count += values.size

    def merge(self, other: MinMaxObserver) -> None:
        """Take in all that another observer saw."""
        self._amax = max(self._amax, other._amax)
        self._count += other._count

    def amax(self) -> float:
        """Largest magnitude seen."""
        return float(self._amax)

    def summary(self, amax: float) -> ValueSummary:
        """Describe the values; how many are clipped is known only if none is."""
        largest = float(self._amax)
        return ValueSummary(largest, self._count or None, 0.0 if amax >= largest else None)

    def state(self) -> State:
        """Give all that was seen as arrays."""
        return {"amax": np.array(self._amax), "count": np.array(self._count, np.int64)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is not what it gives.
        """
        amax, count = np.float32(state["amax"]), int(state["count"])
        if not (np.isfinite(amax) and amax >= 0 and count >= 0):
            raise ValueError(f"not a magnitude and a count: {amax}, {count}")
        self._amax, self._count = amax, count


class AverageObserver(MinMaxObserver):
    """The mean over samples of each sample's largest magnitude.

    What a moving average aims at, without its dependence on the order: the sum is kept in whole
    units of 2^-149, and only the answer is rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0
        self._samples = 0

    def update(self, values: Floats) -> None:
        """Take in the values of one sample.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        self.add(largest_magnitude(values), values.size)

    def add(self, largest: np.float32, count: int) -> None:
        """Take in the largest magnitude of one sample's values, and their number."""
        if count:
            self._amax = max(self._amax, largest)
            self._count += count
            self._sum += int(Fraction(float(largest)) * _UNITS_PER_ONE)
            self._samples += 1

    def merge(self, other: MinMaxObserver) -> None:
        """Take in all that another observer of averages saw."""
        assert isinstance(other, AverageObserver)
        super().merge(other)
        self._sum += other._sum
        self._samples += other._samples

    def amax(self) -> float:
        """Mean over the samples."""
        mean = Fraction(self._sum, _UNITS_PER_ONE * max(self._samples, 1))
        return float(np.float32(float(mean)))

    def largest(self) -> float:
        """Largest magnitude seen."""
        return super().amax()

    def state(self) -> State:
        """Give all that was seen as arrays."""
        sums = {"sum": np.array(hex(self._sum)), "samples": np.array(self._samples, np.int64)}
        return super().state() | sums

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is not what it gives.
        """
        super().load_state(state)
        self._sum, self._samples = int(str(state["sum"]), 16), int(state["samples"])
        if self._sum < 0 or self._samples < 0:
            raise ValueError("a sum or a count is negative")


class HistogramObserver:
    """A threshold that follows from a `MagnitudeHistogram`.

    Of a sample with more than 32,768 values in the tensor, every n-th is counted, where n is the
    least step that keeps to that number and shares no divisor with the number of values: such a
    step passes through every channel and every place alike. The largest magnitude is of all values.

    Args:
        threshold: Gives the magnitude that becomes the largest integer.
    """

    def __init__(self, threshold: Callable[[MagnitudeHistogram], float]) -> None:
        self._threshold = threshold
        self._average = AverageObserver()
        self.histogram = MagnitudeHistogram()

    def update(self, values: Floats) -> None:
        """Take in the values of one sample.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        largest = largest_magnitude(flat)
        self._average.add(largest, flat.size)
        self.histogram.reach(float(largest))
        self.histogram.update(flat[:: counting_step(flat.size)])

    def merge(self, other: HistogramObserver) -> None:
        """Take in all that another observer of the same method saw."""
        self._average.merge(other._average)
        self.histogram.merge(other.histogram)

    def amax(self) -> float:
        """Threshold for the values seen."""
        return self._threshold(self.histogram)

    def summary(self, amax: float) -> ValueSummary:
        """Describe the values, to one bin of the histogram."""
        known = self._average.summary(amax)
        if not self.histogram.total:
            return known
        return ValueSummary(
            known.amax,
            known.count,
            thresholds.clipped_percent(self.histogram, amax),
            {
                percent: thresholds.magnitude_at(self.histogram, float(percent))
                for percent in SUMMARY_PERCENTS
            },
        )

    def state(self) -> State:
        """Give all that was seen as arrays."""
        average = {f"average_{name}": array for name, array in self._average.state().items()}
        return self.histogram.state() | average

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is not what it gives.
        """
        self.histogram.load_state(state)
        self._average.load_state({name: state[f"average_{name}"] for name in self._average.state()})


class CandidateObserver(HistogramObserver):
    """The thresholds of all methods, for a choice among them; its own is the largest magnitude."""

    def __init__(self) -> None:
        super().__init__(lambda histogram: histogram.amax)

    def candidates(self) -> dict[str, float]:
        """List the thresholds by method: `minmax` first, then those that differ from all before."""
        found = {
            "minmax": self.histogram.amax,
            "average": self._average.amax(),
            **{
                f"percentile:{percent}": thresholds.percentile_amax(self.histogram, float(percent))
                for percent in _CANDIDATE_PERCENTS
            },
            "entropy": thresholds.entropy_amax(self.histogram),
            "mse": thresholds.mse_amax(self.histogram),
        }
        distinct: dict[float, str] = {}
        for method, amax in found.items():
            distinct.setdefault(amax, method)
        return {method: amax for amax, method in distinct.items()}


class ChannelMaxObserver:
    """The exact largest magnitude of each channel.

    Args:
        axis: Axis of the channels, of tensors with all their samples' axes.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._amax: Floats | None = None

    def update(self, values: Floats) -> None:
        """Take in values of any shape with these channels.

        Raises:
            ValueError: If the number of channels changed.
        """
        channels = values.shape[self._axis]
        rows = np.moveaxis(values, self._axis, -1).reshape(-1, channels)
        if not len(rows):
            return
        # Rows of few channels are taken several at once: numpy's loops are over one row.
        together = math.gcd(len(rows), max(1, _ROW_VALUES // channels))
        wide = rows.reshape(-1, together * channels)
        # Without a sign: which zero a maximum takes depends on the order of the two.
        amax = np.abs(np.maximum(wide.max(axis=0), -wide.min(axis=0)))
        self._take(amax.reshape(together, channels).max(axis=0))

    def merge(self, other: ChannelMaxObserver) -> None:
        """Take in all that another observer saw.

        Raises:
            ValueError: If the number of channels differs.
        """
        if other._amax is not None:
            self._take(other._amax)

    def channel_amax(self) -> tuple[float, ...]:
        """Largest magnitude of each channel; empty if nothing was seen."""
        return () if self._amax is None else tuple(map(float, self._amax))

    def state(self) -> State:
        """Give all that was seen as arrays."""
        return {"channel_amax": np.array(self.channel_amax(), np.float32)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If the array is missing.
            ValueError: If it holds no magnitudes.
        """
        amax = state["channel_amax"]
        if (
            amax.dtype != np.float32
            or amax.ndim != 1
            or not (np.isfinite(amax) & (amax >= 0)).all()
        ):
            raise ValueError("not one magnitude per channel")
        self._amax = amax.copy() if amax.size else None

    def _take(self, amax: Floats) -> None:
        if self._amax is None:
            self._amax = np.zeros_like(amax)
        if self._amax.shape != amax.shape:
            raise ValueError(f"the number of channels changed: {self._amax.size}, {amax.size}")
        np.maximum(self._amax, amax, out=self._amax)


def largest_magnitude(values: Floats) -> np.float32:
    """Find the largest magnitude; 0 of no values.

    Raises:
        NonFiniteError: If a value is NaN or infinite.
    """
    if not values.size:
        return np.float32(0)
    largest = np.float32(np.maximum(-values.min(), values.max()))  # numpy's extremes keep NaN
    if not np.isfinite(largest):
        raise NonFiniteError("NaN or infinity")
    return np.abs(largest)  # of zeros alone it may be -0


def counting_step(size: int) -> int:
    """Tell of how many of a sample's values a histogram counts one."""
    step = max(1, -(-size // COUNTED_VALUES))
    while math.gcd(step, size) > 1:
        step += 1
    return step
