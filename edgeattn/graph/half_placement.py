"""Which nodes of a graph compute in FP16 or BF16, and which stay in float32 and why.

Guarded are the operators whose results leave the range of FP16, or lose digits in either type,
while their inputs are harmless: normalization, softmax, sums over many values, powers,
exponentials, quotients of constants. Around them float32 spreads to what then costs no further
Cast. Everything else is computed in the half type, our attention node natively.

References:
    The list of guarded operators follows PyTorch's `torch.autocast`, "CUDA ops that can autocast
    to float32".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.constants import captured_names, constant_tensors
from edgeattn.graph.half_slots import FOLLOWERS, Slots, is_flexible, slots_of
from edgeattn.graph.half_types import HALF_TYPES, HalfType, constant_misfit, scale_misfit
from edgeattn.graph.nodes import (
    MOVING_OPS,
    check_node_names,
    is_standard,
    is_standard_domain,
    node_label,
    standard_opset,
)
from edgeattn.graph.op import is_attention
from edgeattn.graph.shapes import infer_types

MIN_QDQ_OPSET = 19  # the first whose Q/DQ have scales of FP16 and BF16

_GUARDED = {
    "normalization is computed in float32": (
        "BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization "
        "LpNormalization MeanVarianceNormalization RMSNormalization"
    ),
    "softmax is computed in float32": "LogSoftmax Softmax",
    "sums over many values are taken in float32": (
        "CumSum GlobalAveragePool GlobalLpPool LpPool ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare"
    ),
    "its results span more than the half type's range or digits": (
        "Acos Acosh Asin Atanh Cosh Exp Log Pow Range Reciprocal Sinh Softplus Tan"
    ),
}
_GUARD_REASONS = {op: reason for reason, ops in _GUARDED.items() for op in ops.split()}

_KINDS = {
    # Element by element, so that float32 costs a kernel's registers and no memory.
    "elementwise": (
        "Abs Add And Ceil Celu Clip Cos Div Elu Equal Erf Floor Gelu Greater GreaterOrEqual "
        "HardSigmoid HardSwish LeakyRelu Less LessOrEqual Max Mean Min Mish Mod Mul Neg PRelu Relu "
        "Round Selu Shrink Sigmoid Sign Sin Softsign Sqrt Sub Sum Swish Tanh ThresholdedRelu Where"
    ),
    # They choose, move or repeat values, and compute none.
    "moves": (
        "Concat DepthToSpace Dropout Expand Gather GatherElements GatherND MaxPool Pad ReduceMax "
        "ReduceMin Slice SpaceToDepth Split Tile TopK"
    ),
}
_ELEMENTWISE = frozenset(_KINDS["elementwise"].split())
MOVES = frozenset(_KINDS["moves"].split()) | frozenset(MOVING_OPS)


@dataclass(frozen=True)
class NodeDecision:
    """What a node computes in.

    Attributes:
        node: Its name.
        op_type: Its operator.
        kept: `float16`, `bfloat16` or `float32`.
        reason: One clause.
    """

    node: str
    op_type: str
    kept: str
    reason: str


@dataclass(frozen=True)
class HalfPlacement:
    """The outcome of `place_half`.

    Attributes:
        slots: Of each node, by its index in the graph.
        float_nodes: Why nodes with a choice stay in float32, by index.
        decisions: One for each node that computes in a floating point type.
    """

    slots: Mapping[int, Slots]
    float_nodes: Mapping[int, str]
    decisions: list[NodeDecision]


def place_half(
    model: onnx.ModelProto,
    half: HalfType,
    overflows: Mapping[str, float] | None = None,
    *,
    keep_float: Collection[str] = (),
    keep_io: bool = True,
) -> HalfPlacement:
    """Decide for each node of a float32 graph, Q/DQ included, what it computes in.

    Args:
        model: The graph.
        half: The half type.
        overflows: Tensors that the half type cannot hold, and the largest magnitude of each.
        keep_float: Names of nodes that stay in float32, as `node_label` gives them.
        keep_io: The graph's inputs and outputs stay float32.

    Raises:
        GraphError: If the graph holds tensors of a half type already, or Q/DQ below opset 19.
        SpecError: If there is no node of a name to keep.
    """
    check_float32(model)
    check_node_names(model.graph, keep_float)
    return _Placer(model, half, overflows or {}, keep_float, keep_io).place()


def check_float32(model: onnx.ModelProto) -> None:
    """Refuse a graph that computes in a half type already.

    Raises:
        GraphError: It names a tensor of that type.
    """
    for name, found in infer_types(model).items():
        if found.element in HALF_TYPES.values():
            raise GraphError(
                f"the graph computes in {TensorProto.DataType.Name(found.element).lower()} "
                f"already: the tensor {name} is of that type",
                "start from the float32 graph",
            )


class _Placer:
    def __init__(
        self,
        model: onnx.ModelProto,
        half: HalfType,
        overflows: Mapping[str, float],
        keep_float: Collection[str],
        keep_io: bool,
    ) -> None:
        self._keep_float = frozenset(keep_float)
        self._graph = model.graph
        self._half = half
        self._opset = standard_opset(model)
        self._types = {name: found.element for name, found in infer_types(model).items()}
        self._check_opset()
        self._constants = constant_tensors(model.graph)
        self._dequantized = {
            node.output[0] for node in self._graph.node if is_flexible(node, self._constants)
        }
        self._keep_io = keep_io
        self._inputs = {value.name for value in self._graph.input}
        self._outputs = {value.name for value in self._graph.output}
        self._captured = captured_names(model.graph)
        self._unfit = dict(self._find_unfit(overflows))
        self._slots = {
            i: slots_of(node, half, self._opset, self._types, self._constants)
            for i, node in enumerate(self._graph.node)
        }
        self._float: dict[int, str] = {}
        self._readers: dict[str, list[int]] = defaultdict(list)
        self._producer: dict[str, int] = {}
        for i, node in enumerate(self._graph.node):
            for name in node.input:
                self._readers[name].append(i)
            self._producer.update(dict.fromkeys(node.output, i))

    def _check_opset(self) -> None:
        qdq = ("QuantizeLinear", "DequantizeLinear")
        if self._opset < MIN_QDQ_OPSET and any(is_standard(n, *qdq) for n in self._graph.node):
            raise GraphError(
                f"the graph has opset {self._opset}; Q/DQ between {self._half} tensors need "
                f"{MIN_QDQ_OPSET}",
                "export it with --opset 20",
            )

    # What does not fit into the half type.

    def _find_unfit(self, overflows: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Yield the tensors that have to stay float32, with the reason."""
        for name, magnitude in overflows.items():
            yield name, f"{name} reaches {magnitude:.3g}"
        for name, tensor in self._constants.items():
            if tensor.data_type == TensorProto.FLOAT:
                obstacle = constant_misfit(numpy_helper.to_array(tensor), self._half)
                if obstacle:
                    yield name, f"{name} {obstacle}"
        for node in self._graph.node:
            if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
                scale = self._constants.get(node.input[1])
                obstacle = scale_misfit(numpy_helper.to_array(scale), self._half) if scale else ""
                if obstacle:
                    name = (node.input if node.op_type == "QuantizeLinear" else node.output)[0]
                    yield name, f"the INT8 steps of {name} {obstacle}"

    # Which nodes stay in float32.

    def place(self) -> HalfPlacement:
        for i, node in enumerate(self._graph.node):
            reason = self._own_reason(i, node)
            if reason:
                self._float[i] = reason
            if is_standard(node, *MOVES):  # what moves a tensor that does not fit gives another
                moved = next((self._unfit[n] for n in node.input if n in self._unfit), "")
                self._unfit |= dict.fromkeys(node.output, moved) if moved else {}
        while self._spread():
            pass
        return HalfPlacement(self._slots, self._float, list(self._decisions()))

    def _own_reason(self, i: int, node: onnx.NodeProto) -> str:
        """Why a node stays in float32 whatever its neighbours do; empty if it need not."""
        slots = self._slots[i]
        if slots.obstacle or not (slots.inputs or slots.outputs):
            return slots.obstacle
        if node_label(node) in self._keep_float:
            return "left in float32 as asked"
        touched = [node.input[k] for k in slots.inputs] + [node.output[k] for k in slots.outputs]
        unfit = next((self._unfit[name] for name in touched if name in self._unfit), "")
        if unfit or not is_standard_domain(node.domain):
            return unfit
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return "squares are taken in float32"
        if node.op_type == "Div" and node.input[0] in self._constants:
            return _GUARD_REASONS["Reciprocal"]
        return _GUARD_REASONS.get(node.op_type, "")

    def _spread(self) -> bool:
        """Let float32 go where it saves a Cast or costs none; tell whether it went anywhere."""
        before = len(self._float)
        read_as_float = {
            self._graph.node[i].input[k]
            for i in self._float
            for k in (*self._slots[i].inputs, *self._slots[i].fixed)
        }
        for i, node in enumerate(self._graph.node):
            slots = self._slots[i]
            if i in self._float or not slots.inputs or not is_standard_domain(node.domain):
                continue
            sources = [node.input[k] for k in slots.inputs if not self._is_free(node.input[k])]
            if node.op_type in _ELEMENTWISE:
                made = [self._is_made_float(name) for name in sources]
                if any(made) and all(
                    m or s in read_as_float for m, s in zip(made, sources, strict=True)
                ):
                    self._float[i] = "all that it reads is float32 already"
            elif node.op_type in MOVES and all(map(self._is_made_float, sources)):
                outputs = [node.output[k] for k in slots.outputs]
                if outputs and all(map(self._is_read_as_float, outputs)):
                    self._float[i] = "all that reads it is float32"
        return len(self._float) > before

    def _is_free(self, name: str) -> bool:
        """Tell whether a tensor is to be had in either type without a Cast."""
        return name in self._constants or name in self._dequantized

    def _is_made_float(self, name: str) -> bool:
        if name in self._inputs:
            return self._keep_io
        i = self._producer.get(name)
        if i is None:
            return True
        is_open = name in {self._graph.node[i].output[k] for k in self._slots[i].outputs}
        return i in self._float or not is_open

    def _is_read_as_float(self, name: str) -> bool:
        """Tell whether somebody reads a tensor, and all do so in float32, moved or not."""
        readers = self._readers[name]
        if name in self._captured or (name in self._outputs and not self._keep_io):
            return False
        if not all(i in self._float or self._goes_with_float(i) for i in readers):
            return False
        return bool(readers) or name in self._outputs

    def _goes_with_float(self, i: int) -> bool:
        """Tell whether a node takes float32 as it is, or moves it to those that do."""
        node, slots = self._graph.node[i], self._slots[i]
        if is_standard(node, *FOLLOWERS):
            return True
        if not is_standard(node, *MOVES) or len(slots.inputs) != 1 or not slots.outputs:
            return False
        return all(self._is_read_as_float(node.output[k]) for k in slots.outputs)

    def _decisions(self) -> Iterator[NodeDecision]:
        for i, node in enumerate(self._graph.node):
            slots = self._slots[i]
            if slots.inputs or slots.outputs or slots.obstacle:
                reason = self._float.get(i, "")
                kept = "float32" if reason else self._half
                native = "attention itself computes in it, its softmax in float32"
                yield NodeDecision(
                    node_label(node),
                    node.op_type,
                    kept,
                    reason or (native if is_attention(node) else "nothing speaks against it"),
                )
