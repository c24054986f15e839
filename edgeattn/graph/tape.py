"""Writing ONNX nodes as if they were numpy: a tape that folds what it can.

A `Value` is a tensor of the graph under construction. Arithmetic on values whose content is known
is done at once by numpy; anything else appends a node. One formula thus serves static shapes,
where it becomes a constant, and dynamic ones, where it becomes nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide as ONNX does: integers towards zero."""
    if np.result_type(a, b).kind == "f":
        return np.asarray(a / b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def _reshape(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Reshape as ONNX does: 0 keeps the size at its place."""
    return x.reshape([int(size) or x.shape[axis] for axis, size in enumerate(shape)])


# Numpy's form of the operators that index formulas are made of.
_FOLDS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Mod": np.mod,
    "Min": lambda *xs: functools.reduce(np.minimum, xs),
    "Max": lambda *xs: functools.reduce(np.maximum, xs),
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": np.where,
    "Range": np.arange,
    "Reshape": _reshape,
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "Gather": lambda x, index, axis=0: np.take(x, index, axis=axis),
    "Concat": lambda *xs, axis: np.concatenate(xs, axis=axis),
}


class Value:
    """A tensor: known content, or the name of one that a node makes.

    Args:
        tape: Where operations on it are written.
        content: A numpy array, or a tensor name.
    """

    def __init__(self, tape: Tape, content: np.ndarray | str) -> None:
        self.tape = tape
        self.content = content

    @property
    def known(self) -> np.ndarray | None:
        """The content if it is known."""
        return self.content if isinstance(self.content, np.ndarray) else None

    def __add__(self, other: Any) -> Value:
        return self.tape.op("Add", self, other)

    def __sub__(self, other: Any) -> Value:
        return self.tape.op("Sub", self, other)

    def __mul__(self, other: Any) -> Value:
        return self.tape.op("Mul", self, other)

    def __floordiv__(self, other: Any) -> Value:
        return self.tape.op("Div", self, other)

    def __mod__(self, other: Any) -> Value:
        return self.tape.op("Mod", self, other)

    def __lt__(self, other: Any) -> Value:
        return self.tape.op("Less", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.tape.op("GreaterOrEqual", self, other)

    def __and__(self, other: Any) -> Value:
        return self.tape.op("And", self, other)

    def __or__(self, other: Any) -> Value:
        return self.tape.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.tape.op("Not", self)

    def equals(self, other: Any) -> Value:
        """Compare element by element."""
        return self.tape.op("Equal", self, other)

    def at_least(self, other: Any) -> Value:
        """Maximum, element by element."""
        return self.tape.op("Max", self, other)

    def at_most(self, other: Any) -> Value:
        """Minimum, element by element."""
        return self.tape.op("Min", self, other)

    def reshape(self, *shape: int | Value) -> Value:
        """Reshape; -1 is inferred, 0 keeps the size at its place."""
        return self.tape.op("Reshape", self, self.tape.shape(shape))

    def unsqueeze(self, *axes: int) -> Value:
        """Insert axes of size 1 at these places of the result."""
        return self.tape.op("Unsqueeze", self, np.array(axes))

    def gather(self, index: Any, axis: int) -> Value:
        """Take entries along an axis; the index's shape takes the axis' place."""
        return self.tape.op("Gather", self, index, axis=axis)


class Tape:
    """Collects nodes and constants for one rewrite.

    Args:
        prefix: Begins every name made here; unique in the graph.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def value(self, content: Any) -> Value:
        """Wrap a number or an array; integers become int64, floats float32."""
        if isinstance(content, Value):
            return content
        array = np.asarray(content)
        if array.dtype.kind == "i":
            array = array.astype(np.int64)
        elif array.dtype.kind == "f":
            array = array.astype(np.float32)
        return Value(self, array)

    def tensor(self, name: str) -> Value:
        """Refer to a tensor of the graph by its name."""
        return Value(self, name)

    def op(self, op_type: str, *inputs: Any, domain: str = "", **attributes: Any) -> Value:
        """Apply an operator: at once if every input is known and numpy serves, else as a node."""
        values = [self.value(x) for x in inputs]
        fold = _FOLDS.get(op_type) if not domain else None
        if fold and all(v.known is not None for v in values):
            return Value(self, np.asarray(fold(*(v.content for v in values), **attributes)))
        output = self._fresh(op_type)
        names = [self.name_of(v) for v in values]
        self.nodes.append(
            helper.make_node(op_type, names, [output], name=output, domain=domain, **attributes)
        )
        return Value(self, output)

    def where(self, condition: Any, then: Any, otherwise: Any) -> Value:
        """Choose element by element."""
        return self.op("Where", condition, then, otherwise)

    def arange(self, end: Any) -> Value:
        """Count `0 … end - 1`."""
        return self.op("Range", 0, end, 1)

    def shape(self, dims: Sequence[int | Value]) -> Value:
        """Join sizes, known or not, into a shape."""
        values = [self.value(d) for d in dims]
        if all(v.known is not None for v in values):
            return self.value(np.array([int(v.content) for v in values], dtype=np.int64))
        one = self.value(np.array([1]))
        return self.op("Concat", *(self.op("Reshape", v, one) for v in values), axis=0)

    def name_of(self, value: Value) -> str:
        """Name a value in the graph; a known one becomes a constant, equal ones the same."""
        if isinstance(value.content, str):
            return value.content
        array = np.ascontiguousarray(value.content).reshape(value.content.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            name = self._fresh("constant")
            self._names[key] = name
            self.constants.append(numpy_helper.from_array(array, name))
        return self._names[key]

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{self.prefix}/{what}_{self._count}"
