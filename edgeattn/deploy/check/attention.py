"""Attention: what becomes one kernel, what does not, and why."""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.attention_books import LoweredAttention
from edgeattn.graph.fused_mha import NOT_HALF

_ORIN = 87


def check_attention(subject: Subject) -> Iterator[GraphFinding]:
    """Tell of each attention that TensorRT has to fuse by itself whether it can.

    What our plugin computes is one kernel anyway; where its heads are padded, it is said.
    """
    for attention in subject.lowered.attention:
        if attention.padded:
            yield GraphFinding(
                "note",
                "attention",
                attention.name,
                str(attention.padded),
                "heads of a multiple of 8 channels cost nothing; --attention native pads none",
            )
        if attention.obstacles:
            yield GraphFinding(
                "warning",
                "attention",
                attention.name,
                f"TensorRT will not fuse it: {'; '.join(attention.obstacles)}",
                _fix(attention),
            )
        elif attention.way != "plugin":
            yield GraphFinding(
                "note",
                "attention",
                attention.name,
                "nothing stands against TensorRT fusing it, which it may still decline"
                + _doubt(subject, attention),
                "`edgeattn build` reads back from the engine whether it did",
            )


def _fix(attention: LoweredAttention) -> str:
    if not attention.written:
        return "leave --attention plugin, which computes it in one kernel"
    if all(obstacle == NOT_HALF for obstacle in attention.obstacles):
        return "edgeattn quantize --precision fp16"
    return (
        "where it takes much of the time, change its heads to fit, or write it with edgeattn's "
        "attention, which the plugin computes in one kernel"
    )


def _doubt(subject: Subject, attention: LoweredAttention) -> str:
    """NVIDIA/TensorRT #4167: on Orin attention was fused in FP16 and never reported in INT8."""
    if attention.in_type == "int8" and _ORIN in subject.where.architectures:
        return ", and on Orin nobody is known to have seen it do so in INT8"
    return ""
