"""What TensorRT's parser and builder refuse, or silently compute otherwise, with what to do.

The rules themselves are `edgeattn.engine.tensorrt.parser_faults`, which every build obeys too.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.deploy.check.findings import GraphFinding, Level
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.operator_support import max_opset
from edgeattn.graph.faults import Fault

_WITHOUT = "write the model without it, or bring a plugin of that name"


def check_rules(subject: Subject) -> Iterator[GraphFinding]:
    """List the faults of the lowered graph."""
    for fault in subject.lowered.faults:
        level: Level = "error" if fault.is_refused else "warning"
        fix = _fix(fault, max_opset(subject.where.version))
        yield GraphFinding(level, fault.topic, fault.node, fault.reason, fix)


def _fix(fault: Fault, opset: int) -> str:
    if fault.topic == "opset":
        return (
            f"export with --opset {opset}, or go on: the parser refuses no opset as such, only "
            "operators that are new in it"
        )
    if fault.topic == "operator":
        return _operator_fix(fault.reason)
    if fault.topic == "type":
        if fault.is_refused:
            return "cast to a type that TensorRT takes there, in the model or in its inputs"
        return "export the model in float32, which is what TensorRT computes in anyway"
    if fault.topic == "quantization":
        return "let `edgeattn quantize` write the Q/DQ: what it writes keeps these rules"
    if fault.is_refused:
        return "export the model again: tables of attention stay in float32"
    return "`edgeattn quantize --recipe attention` puts all of it in INT8, linear none of it"


def _operator_fix(reason: str) -> str:
    if "not in" in reason:
        return "take a JetPack whose TensorRT has it, or write the model without it"
    if reason.startswith(("it has", "it picks", "it reads", "its ")) and "body" not in reason:
        return "write it otherwise in the model: the parser takes the operator, but not so"
    return _WITHOUT
