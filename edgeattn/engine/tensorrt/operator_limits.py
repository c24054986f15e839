"""What TensorRT's parser wants of the operators that it takes only in part.

References:
    onnx/onnx-tensorrt, docs/operators.md, column "Restrictions", at the commits that
    `operators.json` names; docs/Changelog.md for what a version dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.constants import Constants
from edgeattn.graph.shapes import TensorType

_MOST_TOP_K = 3840


@dataclass(frozen=True)
class NodeView:
    """A node and what is known of its surroundings.

    Attributes:
        node: The node.
        types: Of the graph's tensors.
        constants: Of the graph.
        used: Tensors that somebody reads.
        version: The TensorRT that shall take it.
    """

    node: onnx.NodeProto
    types: Mapping[str, TensorType]
    constants: Constants
    used: Collection[str]
    version: TensorRtVersion

    def attribute(self, name: str, default: Any) -> Any:
        """Read an attribute; `default` if the node leaves it out."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def input(self, slot: int) -> str:
        """Name an input; empty if the node leaves it out."""
        return self.node.input[slot] if slot < len(self.node.input) else ""

    def uses_output(self, slot: int) -> bool:
        """Tell whether somebody reads an output."""
        return slot < len(self.node.output) and self.node.output[slot] in self.used

    def rank(self, slot: int) -> int | None:
        """Count an input's axes; `None` if that is not known."""
        shape = self._shape(slot)
        return None if shape is None else len(shape)

    def is_free(self, slot: int, axis: int | None = None) -> bool:
        """Tell whether a size of an input, or any, is known only when the graph runs."""
        shape = self._shape(slot)
        if shape is None:
            return True
        sizes = shape if axis is None else shape[axis : axis + 1 or None]
        return any(not isinstance(size, int) for size in sizes)

    def is_computed(self, slot: int) -> bool:
        """Tell whether an input is there, and no constant."""
        return bool(self.input(slot)) and self.input(slot) not in self.constants

    def constant(self, slot: int) -> NDArray[Any] | None:
        """Read an input; `None` if it is left out or computed when the graph runs."""
        return self.constants.get(self.input(slot))

    def _shape(self, slot: int) -> tuple[int | str, ...] | None:
        known = self.types.get(self.input(slot))
        return known.shape if known else None


Rule = Callable[[NodeView], "str | None"]


def limit_faults(view: NodeView) -> Iterator[str]:
    """List what of a node the parser does not take."""
    for rule in _RULES.get(view.node.op_type, ()):
        reason = rule(view)
        if reason:
            yield reason


def _constant(slot: int, name: str, until: TensorRtVersion | None = None) -> Rule:
    """Make a rule: an input is a constant; until a version dropped it, if one did."""

    def rule(view: NodeView) -> str | None:
        if not view.is_computed(slot) or (until and view.version >= until):
            return None
        after = f" before {until}" if until else ""
        return f"its input {name} is computed at run time; TensorRT{after} wants a constant"

    return rule


def _attribute(name: str, default: Any, *allowed: Any) -> Rule:
    """Make a rule: an attribute has one of some values."""

    def rule(view: NodeView) -> str | None:
        value = view.attribute(name, default)
        value = value.decode() if isinstance(value, bytes) else value
        if value in allowed:
            return None
        return f"its {name} is {value}; TensorRT takes {', '.join(map(str, allowed))}"

    return rule


def _absent(*names: str) -> Rule:
    """Make a rule: attributes are left out."""

    def rule(view: NodeView) -> str | None:
        given = [a.name for a in view.node.attribute if a.name in names]
        return f"it has {', '.join(given)}, which TensorRT does not take" if given else None

    return rule


def _ranks(slot: int, *allowed: int) -> Rule:
    """Make a rule: an input has so many axes."""

    def rule(view: NodeView) -> str | None:
        rank = view.rank(slot)
        if rank is None or rank in allowed:
            return None
        expected = " or ".join(map(str, allowed))
        return f"its input {view.input(slot)} has {rank} axes; TensorRT takes {expected}"

    return rule


def _unused(slot: int, name: str) -> Rule:
    """Make a rule: nobody reads an output."""

    def rule(view: NodeView) -> str | None:
        if not view.uses_output(slot):
            return None
        return f"its output {name} is read; TensorRT gives the first alone"

    return rule


def _left_out(slot: int, name: str) -> Rule:
    """Make a rule: an optional input is left out."""

    def rule(view: NodeView) -> str | None:
        return (
            f"it has the input {name}, which TensorRT does not take" if view.input(slot) else None
        )

    return rule


def _undilated(view: NodeView) -> str | None:
    dilations = view.attribute("dilations", [])
    if all(step == 1 for step in dilations):
        return None
    return f"its dilations are {list(dilations)}; TensorRT pools without"


def _few_largest(view: NodeView) -> str | None:
    number = view.constant(1)
    if number is None or number.max() < _MOST_TOP_K:
        return None
    return f"it picks {number.max()}; TensorRT picks fewer than {_MOST_TOP_K}"


def _inference_only(view: NodeView) -> str | None:
    trains = view.constant(2)
    if not view.input(2) or (trains is not None and not trains.any()):
        return None
    return "its input training_mode is not a constant false"


def _fixed_size(view: NodeView) -> str | None:
    return "its input has free sizes; TensorRT wants fixed ones" if view.is_free(0) else None


def _fixed_axis(view: NodeView) -> str | None:
    axis = int(view.attribute("axis", -1))
    if not view.is_free(0, axis):
        return None
    return f"the size of its axis {axis} is free; TensorRT wants it fixed"


def _equal_pads(view: NodeView) -> str | None:
    pads = list(view.attribute("pads", []))
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return None
    return f"its pads are {pads}; TensorRT wants the same at both ends of an axis"


def _int64_positions(view: NodeView) -> str | None:
    known = view.types.get(view.input(3))
    if known is None or known.element in (TensorProto.INT64, TensorProto.UNDEFINED):
        return None
    return "its position_ids are not int64"


def _same_activations(view: NodeView) -> str | None:
    names = view.attribute("activations", [])
    half = len(names) // 2
    if view.attribute("direction", b"forward") != b"bidirectional" or names[:half] == names[half:]:
        return None
    return "its two directions have different activations; TensorRT wants the same"


def _real_valued(view: NodeView) -> str | None:
    known = view.types.get(view.input(0))
    if known is None or known.shape is None or known.shape[-1:] != (2,):
        return None
    return "its signal is complex; TensorRT takes real ones"


def _axes_in_order(view: NodeView) -> str | None:
    """Scales that are computed go with all axes in their order."""
    axes, rank = view.attribute("axes", None), view.rank(0)
    if axes is None or rank is None or not view.is_computed(2):
        return None
    if [axis % rank for axis in axes] == list(range(rank)):
        return None
    return f"its scales are computed at run time and its axes are {list(axes)}, not all in order"


# "2D or 3D" in the lists; the parser widens one-dimensional pools itself (importerUtils.cpp, 10.1).
_POOLS = (_ranks(0, 3, 4, 5), _undilated)
_REDUCES = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
_RULES: Mapping[str, tuple[Rule, ...]] = {
    "Attention": (
        *(_ranks(slot, 4) for slot in range(4)),
        _left_out(4, "past_key"),
        _left_out(5, "past_value"),
        _left_out(6, "nonpad_kv_seqlen"),
        _unused(1, "present_key"),
        _unused(2, "present_value"),
        _unused(3, "qk_matmul_output"),
        _absent("qk_matmul_output_mode"),
        _attribute("softcap", 0.0, 0.0),
    ),
    "AveragePool": _POOLS,
    "Constant": (_absent("sparse_value", "value_string", "value_strings"),),
    "CumSum": (_constant(1, "axis", TensorRtVersion(10, 8)),),
    "DeformConv": (_ranks(0, 3, 4), _equal_pads),
    "Dropout": (_inference_only,),
    "EyeLike": (_fixed_size,),
    "GridSample": (_ranks(0, 4),),
    "GRU": (_same_activations,),
    "Hardmax": (_fixed_axis,),
    "LSTM": (_same_activations, _attribute("input_forget", 0, 0), _attribute("layout", 0, 0)),
    "LayerNormalization": (_unused(1, "Mean"), _unused(2, "InvStdDev")),
    "LpPool": (_undilated,),
    "MaxPool": (*_POOLS, _unused(1, "Indices")),
    "OneHot": (_constant(1, "depth"),),
    "Pad": (_constant(3, "axes", TensorRtVersion(10, 4)),),
    "RNN": (_same_activations,),
    "Resize": (
        _attribute(
            "coordinate_transformation_mode",
            "half_pixel",
            *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric"),
            "align_corners",
        ),
        _attribute("mode", "nearest", "nearest", "linear"),
        _attribute(
            "nearest_mode",
            "round_prefer_floor",
            *("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        ),
        _attribute("keep_aspect_ratio_policy", "stretch", "stretch"),
        _attribute("antialias", 0, 0),
        _axes_in_order,
    ),
    "RotaryEmbedding": (_int64_positions,),
    "STFT": (_constant(1, "frame_step"), _constant(2, "window"), _real_valued),
    "ScatterND": (_attribute("reduction", "none", "none"),),
    # Computed axes came with 10.7 by the changelog; the lists after it still want constants.
    "Squeeze": (_constant(1, "axes", TensorRtVersion(10, 7)),),
    "TensorScatter": (_ranks(0, 4), _ranks(1, 4), _attribute("axis", -2, -2)),
    "TopK": (_attribute("sorted", 1, 1), _few_largest),
    "Unsqueeze": (_constant(1, "axes", TensorRtVersion(10, 7)),),
    **dict.fromkeys(_REDUCES, (_constant(1, "axes"),)),
}
