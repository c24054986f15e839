"""Memory: do weights and activations fit the board, when it builds and when it runs?

Nobody knows here what else runs there. What a board of its size has free after it started is taken
from recorded boards; `edgeattn doctor` on the board knows better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.memory import MemoryState, check_memory, usual_build_bytes
from edgeattn.engine.tensorrt.plan import weights_of
from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.shapes import TensorType

_GIB = 1 << 30
# Of its memory a board leaves programs 93 to 96 %, of which 1.0 to 1.4 GiB are taken where nothing
# but the system runs (tegrastats lines of tests/fixtures/boards/tegrastats: 998/15389, 1224/15656,
# 1438/30622, 1282/62795, RAM …/7620 MB).
_USABLE_SHARE = 0.93
_SYSTEM_BYTES = _GIB
# A CUDA context and TensorRT's libraries in a program that runs an engine.
_CONTEXT_BYTES = 512 << 20


@dataclass(frozen=True)
class MemoryEstimate:
    """What a graph takes of memory.

    Attributes:
        weights_bytes: Its weights, as the graph stores them.
        largest_bytes: The largest of them, which is allocated in one piece.
        activations_bytes: Most that is alive at once between inputs and outputs if nothing is
            fused, at the largest shapes; `None` if a size is not known.
        build_bytes: What a build usually takes besides its workspace.
        run_bytes: What a run takes at least: weights and activations, and a CUDA context.
        available_bytes: What such a board has free after it started; `None` if it is none.
        module_gib: The memory of the module that this is for.
    """

    weights_bytes: int
    largest_bytes: int
    activations_bytes: int | None
    build_bytes: int
    run_bytes: int
    available_bytes: int | None
    module_gib: int | None

    def to_dict(self) -> dict[str, Any]:
        """Turn the estimate into JSON values."""
        return asdict(self)


def estimate_memory(subject: Subject, module_gib: int | None = None) -> MemoryEstimate:
    """Estimate what a graph takes of a board's memory.

    Args:
        subject: The graph.
        module_gib: Memory of the module; by default that of the board's largest.
    """
    weights = weights_of(subject.lowered.model)
    types = subject.largest_types
    activations = None if types is None else live_bytes(subject.lowered.model, types)
    total = sum(weights.values())
    target = subject.where.target
    if module_gib is None and target is not None and target.modules:
        module_gib = target.modules[-1].memory_bytes // _GIB
    usable = None if module_gib is None else int(module_gib * _GIB * _USABLE_SHARE)
    return MemoryEstimate(
        total,
        max(weights.values(), default=0),
        activations,
        usual_build_bytes(total),
        total + (activations or 0) + _CONTEXT_BYTES,
        None if usable is None else usable - _SYSTEM_BYTES,
        module_gib,
    )


def check_board_memory(subject: Subject, estimate: MemoryEstimate) -> Iterator[GraphFinding]:
    """Compare a graph with what a board has free.

    Args:
        subject: The graph.
        estimate: What it takes.
    """
    if estimate.available_bytes is None or estimate.module_gib is None:
        return
    board = f"a board with {estimate.module_gib} GiB"
    state = MemoryState(
        total_bytes=estimate.available_bytes + _SYSTEM_BYTES,
        available_bytes=estimate.available_bytes,
        swap_bytes=0,
        is_shared=True,
    )
    workspace = subject.request.options.workspace_mib
    _, found = check_memory(
        estimate.weights_bytes,
        estimate.largest_bytes,
        None if workspace is None else workspace << 20,
        state,
    )
    for finding in found:
        yield GraphFinding(
            finding.level, "memory", "", f"building on {board}: {finding.text}", finding.hint
        )
    if estimate.run_bytes > estimate.available_bytes:
        activations = _mib(estimate.activations_bytes or 0)
        yield GraphFinding(
            "warning",
            "memory",
            "",
            f"running on {board}, of which {_mib(estimate.available_bytes)} are free: weights take "
            f"{_mib(estimate.weights_bytes)} and activations up to {activations}",
            "give smaller --max-shapes, or store weights and activations in FP16 or INT8",
        )


def live_bytes(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> int | None:
    """Add up the tensors that are alive at once, and give the most.

    Tensors live from the node that makes them to the last that reads them, as if no two nodes were
    one kernel; what only gives a tensor another shape makes none. Engines fuse, and so take less,
    but some kernels want memory of their own.

    Args:
        model: The graph.
        types: Of its tensors, at the shapes that count.

    Returns:
        Bytes; `None` if the size of a tensor is not known.
    """
    constants, aliases = Constants(model), dict[str, str]()
    for node in model.graph.node:
        if is_standard(node, "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
    last: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        for name in filter(None, (*node.input, *node.output)):
            last[aliases.get(name, name)] = index
    end = len(model.graph.node)
    last |= {aliases.get(value.name, value.name): end for value in model.graph.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    births = [(name, 0) for name in inputs]
    births += [
        (name, index)
        for index, node in enumerate(model.graph.node)
        for name in filter(None, node.output)
        if name not in aliases and name not in constants
    ]
    change = [0] * (end + 2)
    for name, birth in births:
        size = _bytes(types.get(name))
        if size is None:
            return None
        change[birth] += size
        change[last.get(name, birth) + 1] -= size
    return int(np.cumsum(change).max(initial=0))


def _bytes(known: TensorType | None) -> int | None:
    if known is None or known.shape is None or known.element == TensorProto.UNDEFINED:
        return None
    sizes = [size for size in known.shape if isinstance(size, int)]
    if len(sizes) < len(known.shape):
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(known.element))
    return math.prod(sizes) * dtype.itemsize


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
