"""Which operators of the ONNX standard a version of TensorRT takes, and in which types.

The table is derived from the parser's own lists by `docs/refresh_operators.py`. Between two lists
the parser's changelog says when an operator came; what it does not date counts from the list on
that first has it.

References:
    onnx/onnx-tensorrt, docs/operators.md and docs/Changelog.md at the commits that the table names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from edgeattn.engine.tensorrt.versions import TensorRtVersion

_TABLE = Path(__file__).with_name("operators.json")

# The lists' names of element types. Float64 is computed in float32.
TYPE_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT4: "INT4",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    23: "FP4",  # TensorProto.FLOAT4E2M1, which onnx has from 1.18 on
}


@dataclass(frozen=True)
class OperatorSupport:
    """What a version makes of an operator.

    Attributes:
        types: Types that it takes, as the lists call them; none if it does not take the operator.
        since: The first version after it that takes the operator; `None` if none is known to.
    """

    types: tuple[str, ...]
    since: TensorRtVersion | None = None


def operator_support(op_type: str, version: TensorRtVersion) -> OperatorSupport | None:
    """Look up an operator.

    Args:
        op_type: Of the ONNX standard.
        version: Of TensorRT.

    Returns:
        What it makes of it; `None` if no list names the operator.
    """
    entry = _entries().get(op_type)
    if entry is None:
        return None
    types: tuple[str, ...] = ()
    for since, names in entry:
        if since <= version:
            types = names
        elif names and not types:
            return OperatorSupport((), since)
    return OperatorSupport(types)


def min_opset(version: TensorRtVersion) -> int:
    """Look up the oldest opset that a version's list is for."""
    return _opsets(version)[0]


def max_opset(version: TensorRtVersion) -> int:
    """Look up the newest opset that a version's list is for.

    The parser does not refuse newer ones as such; operators that are new there it does.
    """
    return _opsets(version)[1]


def table_source(version: TensorRtVersion) -> str:
    """Name the list that counts for a version: the newest that is not newer."""
    release, entry = _list(version)
    return (
        f"onnx-tensorrt, docs/operators.md of TensorRT {release} "
        f"({entry['commit'][:8]}, {entry['date']}), and its changelog"
    )


def _opsets(version: TensorRtVersion) -> tuple[int, int]:
    low, high = _list(version)[1]["opsets"]
    return int(low), int(high)


def _list(version: TensorRtVersion) -> tuple[str, Mapping[str, Any]]:
    lists = _table()["lists"]
    older = [name for name in lists if TensorRtVersion.parse(name) <= version]
    name = older[-1] if older else next(iter(lists))
    return name, lists[name]


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_TABLE.read_text())
    return table


@functools.cache
def _entries() -> dict[str, list[tuple[TensorRtVersion, tuple[str, ...]]]]:
    return {
        name: [(TensorRtVersion.parse(since), tuple(types.split())) for since, types in row.items()]
        for name, row in _table()["operators"].items()
    }
