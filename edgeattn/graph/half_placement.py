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
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.constants import subgraphs, used_names
from edgeattn.graph.nodes import (
    MOVING_OPS,
    check_node_names,
    is_standard,
    is_standard_domain,
    node_label,
)
from edgeattn.graph.op import is_attention
from edgeattn.graph.shapes import infer_types

HalfType = Literal["float16", "bfloat16"]

HALF_TYPES: dict[HalfType, int] = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
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
# They read whatever type is there.
FOLLOWERS = ("Cast", "QuantizeLinear", "Shape", "Size")


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
class Slots:
    """The float32 tensors that a node reads and writes, as positions of its inputs and outputs.

    Attributes:
        inputs: Those that may be of the half type as well.
        fixed: Inputs that are float32 whatever the others are.
        outputs: Outputs that have the type of `inputs`.
        obstacle: Why none of them may be of the half type; empty if nothing hinders.
    """

    inputs: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    obstacle: str = ""


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
    check_node_names(model.graph, keep_float)
    return _Placer(model, half, overflows or {}, keep_float, keep_io).place()


def half_tensor(model: onnx.ModelProto) -> str | None:
    """Name a tensor of FP16 or BF16 in a graph; `None` if there is none."""
    types = infer_types(model)
    halves = set(HALF_TYPES.values())
    return next((name for name, found in types.items() if found.element in halves), None)


def constant_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Find initializers that no input overrides and the tensors of Constant nodes, by name."""
    overridable = {value.name for value in graph.input}
    found = {t.name: t for t in graph.initializer if t.name not in overridable}
    for node in graph.node:
        if is_standard(node, "Constant"):
            found |= {
                name: a.t for name in node.output for a in node.attribute if a.name == "value"
            }
    return found


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """Collect the names that bodies of control flow read, the graph's own tensors among them."""
    bodies = (body for node in graph.node for body in subgraphs(node))
    return {name for body in bodies for name in used_names(body)}


def as_half(values: NDArray[Any], half: HalfType) -> NDArray[Any]:
    """Round to a half type, to the nearest and halves to even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(helper.tensor_dtype_to_np_dtype(HALF_TYPES[half]))


def smallest_normal(half: HalfType) -> float:
    """Give the smallest number that a half type holds with all its digits."""
    return 2.0**-14 if half == "float16" else 2.0**-126


def scale_misfit(scale: NDArray[Any], half: HalfType) -> str:
    """Say why an INT8 scale cannot be of a half type; nothing if it can.

    A quarter below the smallest normal number of FP16 a scale is still rounded by less than 2^-9,
    which moves the largest integer by a quarter of a step.
    """
    largest, smallest = float(np.max(scale, initial=0)), float(np.min(scale, initial=np.inf))
    if np.isinf(as_half(np.array(128 * largest, np.float32), half)):
        return f"reach {128 * largest:.3g}"
    if smallest < smallest_normal(half) / 4:
        return f"are as small as {smallest:.3g}"
    return ""


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
        self._opset = max(
            (o.version for o in model.opset_import if is_standard_domain(o.domain)), default=0
        )
        self._types = {name: found.element for name, found in infer_types(model).items()}
        self._check()
        self._constants = constant_tensors(model.graph)
        self._dequantized = {
            node.output[0]: node for node in self._graph.node if self.is_flexible_dq(node)
        }
        self._keep_io = keep_io
        self._inputs = {value.name for value in self._graph.input}
        self._outputs = {value.name for value in self._graph.output}
        self._captured = captured_names(model.graph)
        self._unfit = dict(self._find_unfit(overflows))
        self._slots = {i: self._slots_of(node) for i, node in enumerate(self._graph.node)}
        self._float: dict[int, str] = {}
        self._readers: dict[str, list[int]] = defaultdict(list)
        self._producer: dict[str, int] = {}
        for i, node in enumerate(self._graph.node):
            for name in node.input:
                self._readers[name].append(i)
            self._producer.update(dict.fromkeys(node.output, i))

    def _check(self) -> None:
        for name, element in self._types.items():
            if element in HALF_TYPES.values():
                raise GraphError(
                    f"the graph computes in {TensorProto.DataType.Name(element).lower()} already: "
                    f"the tensor {name} is of that type",
                    "start from the float32 graph",
                )
        qdq = ("QuantizeLinear", "DequantizeLinear")
        if self._opset < MIN_QDQ_OPSET and any(is_standard(n, *qdq) for n in self._graph.node):
            raise GraphError(
                f"the graph has opset {self._opset}; Q/DQ between {self._half} tensors need "
                f"{MIN_QDQ_OPSET}",
                "export it with --opset 20",
            )

    def is_flexible_dq(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is a DequantizeLinear that can give either type."""
        return is_standard(node, "DequantizeLinear") and node.input[1] in self._constants

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == TensorProto.FLOAT

    # What does not fit into the half type.

    def _find_unfit(self, overflows: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Yield the tensors that have to stay float32, with the reason."""
        for name, magnitude in overflows.items():
            yield name, f"{name} reaches {magnitude:.3g}"
        for name, tensor in self._constants.items():
            if tensor.data_type == TensorProto.FLOAT:
                obstacle = self._misfit(numpy_helper.to_array(tensor))
                if obstacle:
                    yield name, f"{name} {obstacle}"
        for node in self._graph.node:
            if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
                scale = self._constants.get(node.input[1])
                obstacle = scale_misfit(numpy_helper.to_array(scale), self._half) if scale else ""
                if obstacle:
                    name = (node.input if node.op_type == "QuantizeLinear" else node.output)[0]
                    yield name, f"the INT8 steps of {name} {obstacle}"

    def _misfit(self, values: NDArray[np.float32]) -> str:
        """Say why a constant cannot be of the half type; nothing if it can."""
        finite = np.abs(values[np.isfinite(values)])
        largest = float(finite.max(initial=0.0))
        if np.isinf(as_half(np.float32(largest).reshape(()), self._half)):
            return f"holds {largest:.3g}, beyond the range of {self._half}"
        if 0 < largest < smallest_normal(self._half):
            return f"holds nothing above {largest:.3g}, too small for {self._half}"
        return ""

    # Which tensors of a node have a choice.

    def _slots_of(self, node: onnx.NodeProto) -> Slots:
        floats = tuple(i for i, name in enumerate(node.input) if self._is_float(name))
        outputs = tuple(i for i, name in enumerate(node.output) if self._is_float(name))
        if is_attention(node):
            if 0 not in floats:  # the INT8 form
                return Slots(fixed=floats)
            return Slots((0,), floats[1:], outputs)
        if is_standard(node, *FOLLOWERS, "Constant") or self.is_flexible_dq(node):
            return Slots()
        if subgraphs(node):
            return Slots((), floats, (), "the bodies of control flow stay in float32")
        schema = self._schema(node)
        if schema is None:
            what = f"nothing is known of the operator {node.domain or 'ai.onnx'}::{node.op_type}"
            return Slots((), floats, (), what)
        return self._typed(node, schema, floats, outputs)

    def _schema(self, node: onnx.NodeProto) -> defs.OpSchema | None:
        if not is_standard_domain(node.domain):
            return None
        try:
            return defs.get_schema(node.op_type, self._opset, "")
        except defs.SchemaError:
            return None

    def _typed(
        self,
        node: onnx.NodeProto,
        schema: defs.OpSchema,
        floats: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> Slots:
        """Find the slots whose type is a variable of the operator's schema."""
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        reads = {i: schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats}
        gives = {i: schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i in outputs}
        open_inputs = tuple(i for i in floats if reads[i] in allowed)
        # The type of an output that no input shares comes from an attribute.
        shared = {reads[i] for i in open_inputs}
        open_outputs = tuple(i for i in outputs if gives[i] in shared)
        unknown = [n for n in (*node.input, *node.output) if n and self._types.get(n, 0) == 0]
        obstacle = f"the type of {unknown[0]} is not known" if unknown and open_inputs else ""
        for variable in sorted(shared):
            if f"tensor({self._half})" not in allowed[variable]:
                obstacle = self._too_old(node)
        fixed = tuple(i for i in floats if i not in open_inputs)
        return Slots(open_inputs, fixed, open_outputs, obstacle)

    def _too_old(self, node: onnx.NodeProto) -> str:
        """Say from which opset on an operator takes the half type."""
        newest = defs.get_schema(node.op_type, domain="")
        takes = any(f"tensor({self._half})" in c.allowed_type_strs for c in newest.type_constraints)
        since = f"takes {self._half} from opset {newest.since_version} on; this is {self._opset}"
        return f"{node.op_type} {since if takes else f'does not take {self._half}'}"

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
        """Tell whether somebody reads a tensor, and all do so in float32."""
        readers = self._readers[name]
        if name in self._captured or (name in self._outputs and not self._keep_io):
            return False
        if any(i not in self._float for i in readers):
            return False
        return bool(readers) or name in self._outputs

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
