"""All that a calibration has seen: what checkpoints hold, shards merge and tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx
from numpy.typing import NDArray

from edgeattn.calibration.kept_samples import MOST_SAMPLES, KeptSamples
from edgeattn.calibration.observers import (
    CandidateObserver,
    ChannelMaxObserver,
    observer_factory,
)
from edgeattn.calibration.table import TensorRange, ValueSummary
from edgeattn.graph.channel_groups import balanceable_channels
from edgeattn.graph.placement import place_qdq

Arrays = dict[str, NDArray[Any]]


class Observations:
    """Observers of every tensor that INT8 needs a scale of, and a few samples.

    Args:
        model: A float graph, attention nodes included; not kept.
        method: How ranges follow from values.
        percentile: For the method of that name.

    Attributes:
        method: As given.
        observers: By tensor name, in the graph's order.
        channel_observers: Of the tensors whose channels can be balanced, by name.
        kept: Samples to choose thresholds by; none unless the method is `auto`.

    Raises:
        GraphError: If the graph has nothing to quantize.
        SpecError: If the method is unknown or the percentile out of range.
    """

    def __init__(self, model: onnx.ModelProto, method: str, percentile: float) -> None:
        new_observer = observer_factory(method, percentile)
        self.method = method
        self.observers = {name: new_observer() for name in place_qdq(model, "full").activations}
        self.channel_observers = {
            name: ChannelMaxObserver(axis) for name, axis in balanceable_channels(model).items()
        }
        self.kept = KeptSamples(MOST_SAMPLES if method == "auto" else 0)

    def merge(self, other: Observations) -> None:
        """Take in what was seen of other samples, of the same graph by the same method."""
        for name, observer in self.observers.items():
            observer.merge(other.observers[name])
        for name, channels in self.channel_observers.items():
            channels.merge(other.channel_observers[name])
        self.kept.merge(other.kept)

    def candidates(self) -> dict[str, dict[str, float]]:
        """List the thresholds to choose among, by tensor and method."""
        return {
            name: observer.candidates()
            for name, observer in self.observers.items()
            if isinstance(observer, CandidateObserver)
        }

    def ranges(self) -> dict[str, TensorRange]:
        """Give each tensor the range of the method, by name."""
        return {
            name: self._range(name, observer.amax(), self.method)
            for name, observer in self.observers.items()
        }

    def chosen_ranges(
        self, candidates: Mapping[str, Mapping[str, float]], methods: Mapping[str, str]
    ) -> dict[str, TensorRange]:
        """Give each tensor the range of the method that was chosen for it, by name."""
        return {
            name: self._range(name, candidates[name][method], method)
            for name, method in methods.items()
        }

    def state(self) -> Arrays:
        """Give all that was seen as arrays."""
        arrays: Arrays = {}
        for number, observer in enumerate(self.observers.values()):
            arrays |= {f"tensor/{number}/{k}": array for k, array in observer.state().items()}
        for number, channels in enumerate(self.channel_observers.values()):
            arrays |= {f"channels/{number}/{k}": array for k, array in channels.state().items()}
        return arrays | {f"sample/{k}": array for k, array in self.kept.state().items()}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is not what it gives.
        """
        for number, observer in enumerate(self.observers.values()):
            observer.load_state(_below(arrays, f"tensor/{number}/"))
        for number, channels in enumerate(self.channel_observers.values()):
            channels.load_state(_below(arrays, f"channels/{number}/"))
        self.kept.load_state(_below(arrays, "sample/"))

    def _range(self, name: str, amax: float, method: str) -> TensorRange:
        summary: ValueSummary = self.observers[name].summary(amax)
        if name in self.channel_observers:
            channel_amax = self.channel_observers[name].channel_amax()
            summary = replace(summary, channel_amax=channel_amax)
        return TensorRange.from_amax(amax, method, summary)


def _below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
