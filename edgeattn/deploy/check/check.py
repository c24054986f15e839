"""Check a graph for a board, on any machine: everything that can be known before it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeattn.deploy.check.attention import check_attention
from edgeattn.deploy.check.bound import LatencyBound, check_bound, latency_bound
from edgeattn.deploy.check.findings import LEVELS, GraphFinding
from edgeattn.deploy.check.graph_rules import check_rules
from edgeattn.deploy.check.integers import check_integers
from edgeattn.deploy.check.memory import MemoryEstimate, check_board_memory, estimate_memory
from edgeattn.deploy.check.normalization import check_normalization
from edgeattn.deploy.check.plugin import check_plugin
from edgeattn.deploy.check.precision import check_precision
from edgeattn.deploy.check.shapes import check_shapes
from edgeattn.deploy.check.subject import Subject, make_subject
from edgeattn.engine.tensorrt.destination import Destination, plan_for
from edgeattn.engine.tensorrt.operator_support import table_source
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import GraphError
from edgeattn.graph.files import load_graph
from edgeattn.graph.finite import check_finite
from edgeattn.graph.preflight import plugin_nodes
from edgeattn.targets import Gpu

_GIB = 1 << 30
Progress = Callable[[int, "int | None", str], None]

_QUESTIONS: dict[str, Callable[[Subject], Iterator[GraphFinding]]] = {
    "operators and types": check_rules,
    "integers": check_integers,
    "shapes": check_shapes,
    "precision": check_precision,
    "plugin": check_plugin,
    "attention": check_attention,
    "normalization": check_normalization,
}


@dataclass(frozen=True)
class GraphCheck:
    """What a check found.

    Attributes:
        graph: The file.
        where: The board and its TensorRT.
        findings: What speaks against it, worst first.
        memory: What the graph takes of memory; `None` if it could not be lowered.
        bound: The least time of a query; `None` if shapes or board are not known.
    """

    graph: str
    where: Destination
    findings: tuple[GraphFinding, ...]
    memory: MemoryEstimate | None = None
    bound: LatencyBound | None = None

    @property
    def errors(self) -> list[GraphFinding]:
        """Findings with which no engine comes of the graph, or none that runs."""
        return [finding for finding in self.findings if finding.level == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Turn the check into JSON values."""
        where = self.where
        return {
            "graph": self.graph,
            "target": where.target.name if where.target else None,
            "jetpack": where.jetpack.version if where.jetpack else None,
            "tensorrt": str(where.version),
            "tensorrt_reason": where.version_reason,
            "architectures": list(where.architectures),
            "operators": table_source(where.version),
            "findings": [finding.to_dict() for finding in self.findings],
            "memory": self.memory.to_dict() if self.memory else None,
            "bound": self.bound.to_dict() if self.bound else None,
            "passed": not self.errors,
        }


def check_graph(
    graph: Path | str,
    request: TensorRtRequest | None = None,
    *,
    module_gib: int | None = None,
    progress: Progress | None = None,
) -> GraphCheck:
    """Check what would become of a graph on a board. Neither TensorRT nor a GPU is needed.

    Args:
        graph: The ONNX file, in the precision that the engine shall have.
        request: The board, and what is asked of the build there; by default what is installed here.
        module_gib: Memory of the board's module, whose figures then count; by default the largest.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The findings. What makes the rest of the questions pointless is the only one.

    Raises:
        ArtifactError: If the file is missing.
        BuildError: If no TensorRT follows from the request, or it does not have what is asked for.
        GraphError: If the file is no whole ONNX graph.
        MissingDependencyError: If pyelftools is not installed, and a plugin library was named.
        SpecError: If the version is none.
        TargetError: If the target or its JetPack is unknown.
    """
    graph, request = Path(graph), request or TensorRtRequest()
    where = plan_for(request.target, request.jetpack, request.tensorrt_version)
    step = _steps(progress, len(_QUESTIONS) + 3)
    step("read the graph")
    model = load_graph(graph)
    broken = list(_broken_parts(model))
    if broken:
        return GraphCheck(graph.name, where, tuple(broken))
    try:
        subject = make_subject(model, request, where)
    except GraphError as err:
        finding = GraphFinding("error", "graph", "", err.message, err.hint)
        return GraphCheck(graph.name, where, (finding,))
    findings: list[GraphFinding] = []
    for name, question in _QUESTIONS.items():
        step(name)
        findings += question(subject)
    step("memory")
    memory = estimate_memory(subject, module_gib)
    findings += check_board_memory(subject, memory)
    step("least time")
    bound = latency_bound(subject, _gpu(where, module_gib))
    findings += check_bound(bound, subject)
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return GraphCheck(graph.name, where, tuple(findings), memory, bound)


def _gpu(where: Destination, module_gib: int | None) -> Gpu | None:
    """Choose the GPU of the module with that memory, else the figures that no module exceeds."""
    if where.target is None:
        return None
    for module in where.target.modules:
        if module_gib is not None and module.memory_bytes == module_gib * _GIB:
            return module.fastest
    return where.target.gpu


def _broken_parts(model: onnx.ModelProto) -> Iterator[GraphFinding]:
    """List what no further question can be asked over: attention that is none, weights of NaN."""
    for node in plugin_nodes(model):
        if node.error:
            reason = node.error.removeprefix(f"attention node {node.name}: ")
            yield GraphFinding("error", "attention", node.name, reason, "export the model again")
    try:
        check_finite(model)
    except GraphError as err:
        yield GraphFinding("error", "weights", "", err.message, err.hint)


def _steps(progress: Progress | None, total: int) -> Callable[[str], None]:
    """Count steps for a progress callback."""
    done = 0

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    return step
