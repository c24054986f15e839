"""Runs that are followed through data movement are where ONNX Runtime puts the elements.

The oracle runs the same nodes on numbers from 1, so that zeros are what was padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.fusion import bias as bias_module
from edgeattn.graph.fusion import runs as runs_module
from edgeattn.graph.fusion.bias import split_bias
from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.heads import read_operand
from edgeattn.graph.fusion.logits import Logits, trace_logits
from edgeattn.graph.fusion.moves import Moves, Traced
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.runs import PAD, Runs
from edgeattn.graph.fusion.windows import find_windows

OPSET = 18


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Run a graph as it is: optimizations of ONNX Runtime 1.32 break a Pad of some axes."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers)
    return session.run(None, {"x": x})[0]


@dataclass
class Chain:
    """Nodes one behind the other; name and shape are those of the last tensor."""

    shape: tuple[int, ...]
    name: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, values) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op: str, inputs: list[str], shape, outputs: int = 1, take: int = 0, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        self.name, self.shape = names[take], tuple(shape)
        return self.name

    def model(self, start: tuple[int, ...]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, start)],
            [helper.make_tensor_value_info(self.name, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )


def reshape(chain: Chain, draw) -> None:
    flat = math.prod(chain.shape)
    shape: list[int] = []
    while len(shape) < 4:
        rest = flat // math.prod(shape)
        shape.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
    shape.append(flat // math.prod(shape))
    chain.add("Reshape", [chain.name, chain.constant(np.int64(shape))], shape)


def flatten(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape)))
    shape = (math.prod(chain.shape[:axis]), math.prod(chain.shape[axis:]))
    chain.add("Flatten", [chain.name], shape, axis=axis)


def squeeze(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape)))
    shape = (*chain.shape[:axis], 1, *chain.shape[axis:])
    name = chain.add("Unsqueeze", [chain.name, chain.constant(np.int64([axis]))], shape)
    if draw(st.booleans()):
        ones = [i for i, n in enumerate(shape) if n == 1]
        gone = draw(st.sampled_from(ones))
        left = [n for i, n in enumerate(shape) if i != gone]
        chain.add("Squeeze", [name, chain.constant(np.int64([gone]))], left)


def transpose(chain: Chain, draw) -> None:
    order = draw(st.permutations(range(len(chain.shape))))
    chain.add("Transpose", [chain.name], [chain.shape[i] for i in order], perm=order)


def cut(chain: Chain, name: str, axis: int, begin: int, end: int, step: int = 1) -> str:
    shape = list(chain.shape)
    shape[axis] = len(range(begin, end, step))
    inputs = [np.int64([n]) for n in (begin, end, axis - len(shape), step)]
    return chain.add("Slice", [name, *map(chain.constant, inputs)], shape)


def roll(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    at, name, shape = draw(st.integers(0, chain.shape[axis])), chain.name, chain.shape
    back = cut(chain, name, axis, at, shape[axis])
    chain.shape = shape
    front = cut(chain, name, axis, 0, at)
    chain.add("Concat", [back, front], shape, axis=axis)


def every_other(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    cut(chain, chain.name, axis, 0, chain.shape[axis], 2)


def gather(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    count = chain.shape[axis]
    shape = draw(st.sampled_from([(), (1,), (count,), (2, 2)]))
    drawn = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
    indices = np.resize(np.int64(drawn), shape)
    behind = (*chain.shape[:axis], *shape, *chain.shape[axis + 1 :])
    chain.add("Gather", [chain.name, chain.constant(indices)], behind, axis=axis)


def gather_nd(chain: Chain, draw) -> None:
    depth = draw(st.integers(1, len(chain.shape)))
    rows = draw(
        st.lists(st.tuples(*(st.integers(0, n - 1) for n in chain.shape[:depth])), min_size=1)
    )
    chain.add(
        "GatherND",
        [chain.name, chain.constant(np.int64(rows))],
        (len(rows), *chain.shape[depth:]),
    )


def split(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    first = draw(st.integers(1, chain.shape[axis]))
    sizes = [first, chain.shape[axis] - first]
    take = draw(st.integers(0, int(sizes[1] > 0)))
    shape = list(chain.shape)
    shape[axis] = sizes[take]
    inputs = [chain.name, chain.constant(np.int64(sizes))]
    chain.add("Split", inputs, shape, outputs=2, take=take, axis=axis)


def pad(chain: Chain, draw) -> None:
    rank = len(chain.shape)
    axes = draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1))
    amounts = [draw(st.integers(0, 2)) for _ in range(2 * len(axes))]
    shape = list(chain.shape)
    for i, axis in enumerate(axes):
        shape[axis] += amounts[i] + amounts[i + len(axes)]
    inputs = [chain.name, chain.constant(np.int64(amounts)), ""]
    chain.add("Pad", [*inputs, chain.constant(np.int64(axes))], shape)


def zeros(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    shape = list(chain.shape)
    shape[axis] = 1
    constant = chain.constant(np.zeros(shape, np.float32))
    shape[axis] = chain.shape[axis] + 1
    chain.add("Concat", [chain.name, constant], shape, axis=axis - len(shape))


def tile(chain: Chain, draw) -> None:
    axis = draw(st.integers(0, len(chain.shape) - 1))
    repeats = [1] * len(chain.shape)
    repeats[axis] = 2
    shape = [n * r for n, r in zip(chain.shape, repeats, strict=True)]
    chain.add("Tile", [chain.name, chain.constant(np.int64(repeats))], shape)


STEPS = (
    reshape, flatten, squeeze, transpose, roll, every_other, gather, gather_nd, split, pad, zeros,
    tile,
)  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], Chain]:
    start = (*draw(st.lists(st.integers(1, 4), max_size=3)), draw(st.sampled_from([1, 4, 6, 12])))
    chain = Chain(start)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        if 0 < math.prod(chain.shape) <= 3000 and 0 < len(chain.shape) <= 5:
            step(chain, draw)
    return start, chain


@given(chains())
@settings(max_examples=400)
def test_elements_come_from_where_they_do(drawn):
    start, chain = drawn
    if chain.name == "x":
        return
    model = chain.model(start)
    numbers = np.arange(1, math.prod(start) + 1, dtype=np.float32).reshape(start)
    expected = run(model, numbers)
    moves = Moves(Probe(model, {"x": start}), OPSET)
    traced = moves.trace(chain.name)
    assert traced.source == "x"
    elements = traced.runs.elements()
    assert elements.shape == expected.shape
    np.testing.assert_array_equal(np.where(elements == PAD, 0, elements + 1), expected)
    # As rows, whichever axis the runs are along.
    rows, length = traced.runs.rows()
    fine = np.where(rows[..., None] == PAD, PAD, rows[..., None] * length + np.arange(length))
    np.testing.assert_array_equal(fine.reshape(elements.shape), elements)
    in_order = np.array_equal(elements.reshape(-1), np.arange(elements.size))
    assert traced.runs.are_all_in_order() == in_order
    # By way of any tensor in between, the empty ones too.
    for name in moves.chain(chain.name):
        behind = moves.trace(chain.name, stop=name)
        if behind.source == name:
            before = np.append(moves.trace(name).runs.elements().reshape(-1), PAD)
            np.testing.assert_array_equal(before[behind.runs.elements()], elements)


def windows_of_heads() -> Chain:
    """A map [1, 6, 8, 32] that is padded and rolled and cut into windows of 4x4 and 4 heads."""
    chain = Chain((1, 6, 8, 32))
    chain.add(
        "Pad", [chain.name, chain.constant(np.int64([0, 0, 0, 0, 0, 2, 0, 0]))], (1, 8, 8, 32)
    )
    for axis in (1, 2):
        name = chain.name
        back = cut(chain, name, axis, 2, 8)
        chain.shape = (1, 8, 8, 32)
        chain.add("Concat", [back, cut(chain, name, axis, 0, 2)], (1, 8, 8, 32), axis=axis)
    for shape, order in (
        ([1, 2, 4, 2, 4, 32], [0, 1, 3, 2, 4, 5]),
        ([4, 16, 4, 8], [0, 2, 3, 1]),  # keys: [windows, heads, head_dim, places]
    ):
        chain.add("Reshape", [chain.name, chain.constant(np.int64(shape))], shape)
        chain.add("Transpose", [chain.name], [shape[i] for i in order], perm=order)
    return chain


def test_one_number_stands_for_a_token_of_a_head():
    chain = windows_of_heads()
    model = chain.model((1, 6, 8, 32))
    runs = Moves(Probe(model, {"x": (1, 6, 8, 32)}), OPSET).trace(chain.name).runs
    assert (runs.length, runs.axis) == (8, 2)
    assert runs.numbers.shape == (4, 4, 1, 16)


def test_what_falls_into_too_many_parts_is_not_followed(monkeypatch):
    monkeypatch.setattr(runs_module, "_MOST_NUMBERS", 100)
    runs = Runs.of_source((4, 25, 64))
    assert runs.numbers.shape == (4, 25, 1)
    with pytest.raises(UnrecognisedError, match="falls into 200 parts, too many to follow"):
        runs.split(32)
    with pytest.raises(UnrecognisedError, match="falls into 101 parts"):
        Runs.of_source((101, 2))


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("shape", [(5,), (0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_a_vector_and_what_is_empty_are_no_operands(shape, channels_first):
    model = Chain(shape)
    model.add("Identity", ["x"], shape)
    probe = Probe(model.model(shape), {"x": shape})
    with pytest.raises(UnrecognisedError, match="is a vector, or empty"):
        read_operand(Traced("x", Runs.of_source(shape)), probe, channels_first=channels_first)


# --- what is added to logits ----------------------------------------------------------------


@st.composite
def logits(draw: st.DrawFn) -> tuple[Chain, tuple[int, ...]]:
    """Draw what exporters do to logits [batch * windows, heads, 3, 3]."""
    batch, windows, heads = (draw(st.integers(1, 3)) for _ in range(3))
    start = (batch * windows, heads, 3, 3)
    chain = Chain(start)
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def number(*shape: int) -> str:
        return chain.constant(rng.normal(size=shape).astype(np.float32))

    def bias() -> None:
        chain.add("Add", [number(1, heads, 3, 3), chain.name], chain.shape)

    def less() -> None:
        chain.add("Sub", [chain.name, number(heads, 1, 3)], chain.shape)

    def positive(*shape: int) -> str:
        return chain.constant((0.1 + rng.random(shape)).astype(np.float32))

    def scale() -> None:
        chain.add("Mul", [chain.name, positive(heads, 1, 1)], chain.shape)

    def divide() -> None:
        chain.add("Div", [chain.name, positive()], chain.shape)

    def mask() -> None:
        shape = (batch, windows, heads, 3, 3)
        chain.add("Reshape", [chain.name, chain.constant(np.int64(shape))], shape)
        chain.add("Add", [chain.name, number(1, windows, 1, 3, 3)], shape)
        chain.add("Reshape", [chain.name, chain.constant(np.int64(start))], start)

    def where() -> None:
        kept = chain.constant(rng.random((batch * windows, 1, 3, 3)) < 0.7)
        fill = chain.constant(np.float32(-1e30))
        chain.add("Where", [kept, chain.name, fill], chain.shape)

    for step in draw(st.lists(st.sampled_from([bias, less, scale, divide, mask, where]))):
        step()
    return chain, start


@given(logits())
@settings(max_examples=150)
def test_logits_are_a_factor_of_the_product_and_what_is_added(drawn):
    chain, start = drawn
    chain.add("Neg", [chain.name], start)  # a graph computes something
    model = chain.model(start)
    product = np.random.default_rng(7).normal(size=start).astype(np.float32)
    wanted = -np.float64(run(model, product)).reshape(-1, 3, 3)
    name = model.graph.node[-1].input[0]
    found, read = trace_logits(name, {"x"}, Probe(model, {"x": start}), OPSET)
    assert found == "x"
    rows = np.arange(start[0] * start[1])
    computed = read.row_factors()[:, None, None] * product.reshape(-1, 3, 3) + read.added(rows)
    blocked = wanted < -1e20
    np.testing.assert_array_equal(np.isneginf(computed), blocked)
    np.testing.assert_allclose(computed[~blocked], wanted[~blocked], rtol=2e-5, atol=2e-5)
    assert read.is_anything_added() or not read.added(rows).any()
    some = rows[::-2]
    np.testing.assert_array_equal(read.added(some), read.added(rows)[some])


def test_logits_with_factors_of_their_own_or_in_another_order_are_not_recognised():
    chain = Chain((2, 3, 3))
    chain.add("Mul", ["x", chain.constant(np.float32([1, 2, 3]))], (2, 3, 3))
    model = chain.model((2, 3, 3))
    _, read = trace_logits(chain.name, {"x"}, Probe(model, {"x": (2, 3, 3)}), OPSET)
    with pytest.raises(UnrecognisedError, match="different factors"):
        read.row_factors()
    chain = Chain((2, 3, 3))
    chain.add("Transpose", ["x"], (2, 3, 3), perm=[0, 2, 1])
    model = chain.model((2, 3, 3))
    with pytest.raises(UnrecognisedError, match="put in another order"):
        trace_logits(chain.name, {"x"}, Probe(model, {"x": (2, 3, 3)}), OPSET)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 22])
def test_a_bias_is_held_to_its_table_in_every_window(monkeypatch, at_once):
    monkeypatch.setattr(bias_module, "_AT_ONCE", at_once)
    tokens = np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    placed, head = find_windows(tokens, 1, (4, 4)), np.zeros(4, np.int64)
    factor = np.broadcast_to(np.float64(1), (4, 1, 4, 4))
    for row in (None, 0, 1, 2, 3):
        term = np.zeros((4, 1, 4, 4), np.float32)
        term[:, :, range(4), range(4)] = 0.5  # one position: that of a token to itself
        logits = Logits(term.shape, factor, (term,))
        if row is None:
            found = split_bias(logits, placed, head, 1)
            assert found.table is not None
            assert sorted(found.table[0]) == [0.0] * 8 + [0.5]
            continue
        term[row, 0, 0, 1] = 0.25
        with pytest.raises(UnrecognisedError, match="no table of relative positions"):
            split_bias(logits, placed, head, 1)
