"""What TensorRT's parser and builder refuse, or silently compute otherwise, with what to do.

The rules themselves are `edgeattn.engine.tensorrt.parser_faults`, which every build obeys too.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.deploy.check.findings import GraphFinding, Level
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.operator_support import max_opset
from edgeattn.graph.faults import Fault, Topic

_FIXES: dict[Topic, str] = {
    "opset": "export with --opset {opset}, or go on: the parser refuses no opset as such, only "
    "operators that are new in it",
    "operator": "write the model without it, or bring a plugin of that name",
    "type": "cast to a type that TensorRT has, in the model or where its data are made",
    "quantization": "let `edgeattn quantize` write the Q/DQ: what it writes keeps these rules",
    "attention": "`edgeattn quantize --recipe attention` puts all of it in INT8, linear none of it",
}


def check_rules(subject: Subject) -> Iterator[GraphFinding]:
    """List the faults of the lowered graph."""
    for fault in subject.lowered.faults:
        fix = _FIXES[fault.topic].format(opset=max_opset(subject.where.version))
        level: Level = "error" if fault.is_refused else "warning"
        yield GraphFinding(level, fault.topic, fault.node, fault.reason, _fix_of(fault) or fix)


def _fix_of(fault: Fault) -> str:
    """Say what helps in the cases that a general word does not."""
    if "needs a plugin of that name" in fault.reason:
        return (
            "simplify the graph, or name the plugin library to TensorRT (trtexec --staticPlugins)"
        )
    if fault.topic == "type" and not fault.is_refused:
        return "export the model in float32, which is what TensorRT computes in anyway"
    return ""
