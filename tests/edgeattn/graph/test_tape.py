"""A formula on the tape gives one result, whether its operands are known or inputs of the graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeattn.graph.tape import Tape, Value

Formula = Callable[..., Value]

A = np.array([[7, 0, -3], [12, 5, 1]])
B = np.array([2, 3, 5])
S = np.array(4)
X = np.array([[0.5, -1.5, 3.0]], np.float32)
Y = np.array([[2.0], [-0.25]], np.float32)
M = np.array([[True, False, True], [False, False, True]])


def evaluate(formula: Formula, operands: list[np.ndarray], unknown: tuple[int, ...]) -> np.ndarray:
    """Run a formula, some operands known to the tape and the others inputs of the graph."""
    tape = Tape("t")
    values, inputs, feeds = [], [], {}
    for number, operand in enumerate(operands):
        if number in unknown:
            name = f"in{number}"
            array = np.asarray(tape.value(operand).content)  # the types the tape works in
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, element, [None] * array.ndim))
            feeds[name] = array
            values.append(tape.tensor(name))
        else:
            values.append(tape.value(operand))
    result = formula(tape, *values)
    if result.known is not None:
        assert not tape.nodes
        return result.known
    graph = helper.make_graph(
        tape.nodes, "g", inputs, [onnx.ValueInfoProto(name=tape.name_of(result))], tape.constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


# Each with its operands and what numpy says; `t` is the tape.
FORMULAS: dict[str, tuple[Formula, list[Any], Any]] = {
    "add": (lambda t, a, b: a + b, [A, B], A + B),
    "subtract": (lambda t, a, b: a - b, [A, S], A - S),
    "multiply": (lambda t, x, y: x * y, [X, Y], X * Y),
    "divide integers towards zero": (
        lambda t, a, b: a // b,
        [A, B],
        [[3, 0, 0], [6, 1, 0]],
    ),
    "divide by negative integers": (lambda t, a, b: a // b, [A, -B], [[-3, 0, 0], [-6, -1, 0]]),
    "divide floats": (lambda t, x, y: t.op("Div", x, y), [X, Y], X / Y),
    "remainder has the sign of the divisor": (lambda t, a, b: a % b, [A, B], A % B),
    "less": (lambda t, a, b: a < b, [A, B], A < B),
    "at least as large": (lambda t, a, b: a >= b, [A, B], A >= B),
    "equal": (lambda t, a, b: a.equals(b), [A, B], A == B),
    "not, and, or": (lambda t, m, a, b: ~m & (a < b) | m, [M, A, B], ~M & (A < B) | M),
    "at least": (lambda t, a, b: a.at_least(b), [A, B], np.maximum(A, B)),
    "at most": (lambda t, a, b: a.at_most(b), [A, B], np.minimum(A, B)),
    "maximum of three": (
        lambda t, a, b, s: t.op("Max", a, b, s),
        [A, B, S],
        np.maximum(np.maximum(A, B), S),
    ),
    "choose": (lambda t, m, a, b: t.where(m, a, b), [M, A, B], np.where(M, A, B)),
    "choose a number": (lambda t, m: t.where(m, 1, -1), [M], np.where(M, 1, -1)),
    "choose a float": (
        lambda t, m: t.where(m, np.float32(-np.inf), np.float32(0)),
        [M],
        np.where(M, np.float32(-np.inf), np.float32(0)),
    ),
    "count": (lambda t, s: t.arange(s), [S], np.arange(4)),
    "count to nothing": (lambda t, s: t.arange(s - s), [S], np.arange(0)),
    "reshape": (lambda t, a: a.reshape(3, -1), [A], A.reshape(3, 2)),
    "reshape to a number": (lambda t, a: a.reshape(), [np.array([5])], 5),
    "reshape keeps a size at 0": (lambda t, a: a.reshape(0, 3, 1), [A], A.reshape(2, 3, 1)),
    "reshape by a computed size": (lambda t, a, s: a.reshape(s - 1, -1), [A, S], A.reshape(3, 2)),
    "unsqueeze": (lambda t, a: a.unsqueeze(0, 2), [A], A[None, :, None]),
    "unsqueeze at the end": (lambda t, a: a.unsqueeze(-1), [A], A[..., None]),
    "unsqueeze before the last": (lambda t, a: a.unsqueeze(-2), [A], A[:, None]),
    "gather": (lambda t, a: a.gather(np.array([[2, 0]]), 1), [A], A[:, [[2, 0]]]),
    "gather one": (lambda t, a: a.gather(1, 0), [A], A[1]),
    "gather from the end": (lambda t, a: a.gather(np.array([-1]), 1), [A], A[:, [-1]]),
    "join": (lambda t, a, b: t.op("Concat", a, b, axis=0), [A, A + 1], np.r_[A, A + 1]),
    "shape": (lambda t, s: t.shape([s, 3, s * 2]), [S], [4, 3, 8]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_gives_numpys_result_for_known_and_unknown_operands(name: str) -> None:
    formula, operands, expected = FORMULAS[name]
    indices = range(len(operands))
    for count in range(len(operands) + 1):
        for unknown in itertools.combinations(indices, count):
            result = evaluate(formula, operands, unknown)
            np.testing.assert_array_equal(result, expected)
            assert result.shape == np.shape(expected)
            assert result.dtype in (np.int64, np.float32, np.bool_)


@given(
    length=st.integers(1, 40),
    window=st.integers(1, 9),
    shift=st.integers(0, 8),
    unknown=st.sets(st.integers(0, 2)),
)
def test_an_index_formula_is_the_same_folded_or_run(
    length: int, window: int, shift: int, unknown: set[int]
) -> None:
    def formula(tape: Tape, length: Value, window: Value, shift: Value) -> Value:
        padded = (length + window - 1) // window * window
        place = (tape.arange(padded) + shift) % padded
        return tape.where(place < length, place, -1).reshape(-1, window)

    padded = -(-length // window) * window
    place = (np.arange(padded) + shift) % padded
    expected = np.where(place < length, place, -1).reshape(-1, window)
    operands = [np.array(v) for v in (length, window, shift)]
    np.testing.assert_array_equal(evaluate(formula, operands, tuple(unknown)), expected)


def test_numbers_become_int64_and_float32() -> None:
    tape = Tape("t")
    for content, dtype in ((1, np.int64), (np.int8(1), np.int64), (1.5, np.float32), (M, np.bool_)):
        known = tape.value(content).known
        assert known is not None
        assert known.dtype == dtype
    value = tape.value(3)
    assert tape.value(value) is value


def test_equal_constants_are_stored_once_and_unlike_ones_apart() -> None:
    tape = Tape("t")
    names = [
        tape.name_of(tape.value(content))
        for content in (2, np.array(2), [2], 2.0, 2, np.float32(2), True, 0.0, -0.0)
    ]
    assert names[0] == names[1] == names[4]
    assert names[3] == names[5]
    assert len({*names}) == 6
    stored = [numpy_helper.to_array(tensor) for tensor in tape.constants]
    assert [array.shape for array in stored] == [(), (1,), (), (), (), ()]


def test_names_begin_with_the_prefix_and_are_unique() -> None:
    tape = Tape("layer.3/attention")
    x = tape.tensor("x")
    result = (x + 1) * (x + 1) + 2
    names = [*(node.output[0] for node in tape.nodes), *(t.name for t in tape.constants)]
    assert all(name.startswith("layer.3/attention/") for name in names)
    assert len(names) == len(set(names)) == 6
    assert [node.name for node in tape.nodes] == [node.output[0] for node in tape.nodes]
    assert tape.name_of(result) == tape.nodes[-1].output[0]
    assert tape.name_of(x) == "x"


def test_an_operator_of_another_domain_is_never_folded() -> None:
    tape = Tape("t")
    result = tape.op("Add", 1, 2, domain="com.example")
    assert result.known is None
    assert tape.nodes[0].domain == "com.example"
