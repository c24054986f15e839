"""Precision: types that the board's GPU has no arithmetic for, and what the graph leaves unused."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.operator_support import TYPE_NAMES
from edgeattn.engine.tensorrt.products import product_types
from edgeattn.graph.nodes import node_label
from edgeattn.targets import precisions_of

# Types that not every GPU has arithmetic for.
_SOME_HAVE = ("BF16", "FP8", "FP4")
_NAMED = 3


def check_precision(subject: Subject) -> Iterator[GraphFinding]:
    """Compare the graph's types with what the GPU has.

    References:
        NVIDIA TensorRT-Edge-LLM, "Official Support Matrix": Orin has no FP8 and no FP4.
    """
    makers: dict[str, list[str]] = {}
    for node in subject.lowered.model.graph.node:
        tensors = (*node.input, *node.output)
        types = {TYPE_NAMES.get(_element(subject, name), "") for name in tensors}
        for each in types.intersection(_SOME_HAVE):
            makers.setdefault(each, []).append(node_label(node))
    sms = subject.where.architectures
    for found, labels in makers.items():
        lacking = [number for number in sms if found not in precisions_of(number)]
        if not lacking:
            continue
        named = ", ".join(labels[:_NAMED])
        others = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
        without = ", ".join(f"sm_{number}" for number in lacking)
        yield GraphFinding(
            "error" if len(lacking) == len(sms) else "warning",
            "precision",
            labels[0],
            f"it is in {found}, which {without} has no arithmetic for ({named}{others})",
            "quantize to int8, fp16 or int8+fp16",
        )
    yield from _float_products(subject)


def _float_products(subject: Subject) -> Iterator[GraphFinding]:
    """Say that products are in float32, the slowest type that there is."""
    products = product_types(subject.lowered.model)
    count, total = len(products.get("float32", ())), sum(map(len, products.values()))
    if count and 2 * count > total:
        yield GraphFinding(
            "note",
            "precision",
            "",
            f"{count} of the {total} layers with matrix products are in float32, which moves twice "
            "the bytes of FP16",
            "edgeattn quantize --precision fp16, or int8+fp16 with a table",
        )


def _element(subject: Subject, name: str) -> int:
    known = subject.types.get(name)
    return known.element if known else int(TensorProto.UNDEFINED)
