"""Integers: INT64 that the engine's caller has to know of, or that a plugin cannot be given."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.graph.nodes import is_standard_domain, node_label

_INT32 = range(-(1 << 31), 1 << 31)


def check_integers(subject: Subject) -> Iterator[GraphFinding]:
    """Look at INT64 inputs, outputs and attributes, and at UINT8 inside the network.

    References:
        onnx-tensorrt, docs/Changelog.md: INT64 stays INT64 from 9.0 on, also in what an engine
        takes and gives; docs/operators.md: UINT8 for inputs and outputs only. onnxOpImporters.cpp
        of 10.1: integer attributes of a plugin's node are narrowed to INT32.
    """
    model = subject.lowered.model
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = (*model.graph.input, *model.graph.output)
    for value in ends:
        if value.type.tensor_type.elem_type == TensorProto.INT64 and value.name not in weights:
            yield GraphFinding(
                "note",
                "INT64",
                value.name,
                "it is int64 in the engine too (before TensorRT 9 it was int32)",
                "let the program that runs the engine use 8 bytes for each of its values",
            )
    yield from _inner_bytes(subject, {value.name for value in ends})
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if not is_standard_domain(node.domain) and (node.domain, node.op_type) not in functions:
            yield from _wide_attributes(node)


def _wide_attributes(node: onnx.NodeProto) -> Iterator[GraphFinding]:
    for attribute in node.attribute:
        wide = [value for value in (attribute.i, *attribute.ints) if value not in _INT32]
        if wide:
            yield GraphFinding(
                "error",
                "INT64",
                node_label(node),
                f"its attribute {attribute.name} holds {wide[0]}, and a plugin gets 32 bits of it",
                "keep it within 32 bits, or hand it over as an input",
            )


def _inner_bytes(subject: Subject, ends: set[str]) -> Iterator[GraphFinding]:
    for node in subject.lowered.model.graph.node:
        for name in node.output:
            known = subject.types.get(name)
            if known and known.element == TensorProto.UINT8 and name not in ends:
                if node.op_type == "QuantizeLinear":  # which the rules of quantization speak of
                    continue
                yield GraphFinding(
                    "error",
                    "UINT8",
                    node_label(node),
                    f"{name} is uint8 inside the network; TensorRT has it for inputs and outputs",
                    "cast to int32 or float there",
                )
