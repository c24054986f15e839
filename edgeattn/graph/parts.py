"""Graphs without their weights, most of their bytes: copied so, and written weight by weight."""

from __future__ import annotations

from typing import Any, BinaryIO

import onnx

_LENGTH_DELIMITED = 2  # how protobuf writes messages


def copy_without(model: onnx.ModelProto, *fields: str) -> onnx.ModelProto:
    """Copy a model without some fields of its graph, such as `initializer`."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name not in fields:
            _copy_field(result.graph, field.name, value)
    return result


def write_in_parts(model: onnx.ModelProto, stream: BinaryIO) -> None:
    """Write a model weight by weight; written at once it would take its memory twice more.

    The bytes are the same for the same model. Fields of a message may stand in any order, and here
    the weights come last.

    References:
        Protocol Buffers, Encoding: tags, lengths, order of fields.
    """
    shell = copy_without(model, "initializer")
    graph = shell.graph.SerializeToString(deterministic=True)
    shell.ClearField("graph")
    weights = model.graph.initializer
    sizes = [weight.ByteSize() for weight in weights]
    weight_heads = [_head(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, size) for size in sizes]
    length = len(graph) + sum(map(len, weight_heads)) + sum(sizes)
    stream.write(shell.SerializeToString(deterministic=True))
    stream.write(_head(onnx.ModelProto.GRAPH_FIELD_NUMBER, length))
    stream.write(graph)
    for head, weight in zip(weight_heads, weights, strict=True):
        stream.write(head)
        stream.write(weight.SerializeToString(deterministic=True))


def _head(field: int, length: int) -> bytes:
    """Write what stands before a message: its field, and its length in bytes."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    """Write seven bits a byte, the lowest first; the eighth tells that more follow."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _copy_field(message: Any, name: str, value: Any) -> None:
    """Copy one field of a protobuf message into another of its kind."""
    field = getattr(message, name)
    if hasattr(field, "extend"):
        field.extend(value)
    elif hasattr(field, "CopyFrom"):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)
