"""What all questions look at: the graph, as it is and as TensorRT's parser would get it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import onnx

from edgeattn.engine.tensorrt.destination import Destination
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.options import ShapeProfile
from edgeattn.engine.tensorrt.prepare import with_exported_shapes
from edgeattn.engine.tensorrt.profiles import can_be_shape_tensor, resolve_profiles
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import BuildError
from edgeattn.graph.files import input_specs
from edgeattn.graph.settled_shapes import settle_shapes
from edgeattn.graph.shapes import TensorType, infer_types
from edgeattn.profiling.layers.cost import GraphCosts

Kind = Literal["min", "opt", "max"]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Subject:
    """A graph, what it is for, and how it is to be built.

    Attributes:
        model: The graph.
        lowered: The graph as TensorRT's parser would get it.
        where: The board and its TensorRT.
        request: What is asked of the build.
        profiles: Ranges of shapes, whole; none if they contradict the graph or are missing.
        shapes_error: Why there are none.
        are_shapes_exported: Whether nobody gave them, and they are those of the export.
    """

    model: onnx.ModelProto
    lowered: LoweredForTensorRt
    where: Destination
    request: TensorRtRequest
    profiles: tuple[ShapeProfile, ...]
    shapes_error: BuildError | None
    are_shapes_exported: bool
    _settled: dict[Any, onnx.ModelProto] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """What is known of the lowered graph's tensors."""
        return infer_types(self.lowered.model)

    @cached_property
    def tuned_costs(self) -> GraphCosts | None:
        """What the nodes cost at the shapes that are tuned for; `None` if those are not known."""
        tuned = self.shapes("opt")
        return GraphCosts(self.settled(tuned[0])) if tuned else None

    @cached_property
    def largest_types(self) -> Mapping[str, TensorType] | None:
        """What is known of the tensors at the largest shapes; `None` if those are not known."""
        largest = max(self.shapes("max"), key=_num_elements, default=None)
        return None if largest is None else infer_types(self.settled(largest))

    def settled(self, shapes: Shapes) -> onnx.ModelProto:
        """Give the lowered graph with every shape that follows from those of its inputs."""
        key = tuple(sorted(shapes.items()))
        if key not in self._settled:
            self._settled[key] = settle_shapes(self.lowered.model, shapes)
        return self._settled[key]

    def shapes(self, kind: Kind) -> list[Shapes]:
        """List the smallest, best or largest shapes of each profile; none if none are known."""
        # An input of few integers may be a shape tensor: its entry is then its values.
        values = {spec.name for spec in input_specs(self.model) if can_be_shape_tensor(spec)}
        given = [getattr(profile, kind) for profile in self.profiles]
        return [{n: shape for n, shape in each.items() if n not in values} for each in given]


def make_subject(model: onnx.ModelProto, request: TensorRtRequest, where: Destination) -> Subject:
    """Lower a graph, and settle its shapes as far as they are known.

    Args:
        model: The typed graph.
        request: What is asked of the build.
        where: What it is for.

    Raises:
        BuildError: If this TensorRT does not have what is asked for.
        GraphError: If the graph is malformed.
    """
    request.options.check(where.version)
    options, are_exported = with_exported_shapes(request.options, model)
    error: BuildError | None = None
    profiles: tuple[ShapeProfile, ...] = ()
    try:
        profiles = resolve_profiles(options, input_specs(model))
    except BuildError as err:
        error = err
    lowered = lower_for_tensorrt(model, where.version, way=request.attention)
    request = replace(request, options=options)
    return Subject(model, lowered, where, request, profiles, error, are_exported)


def _num_elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
