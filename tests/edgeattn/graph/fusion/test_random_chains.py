"""Attention in random spellings is fused to something equal; what only looks like it is left alone.

The graphs are written node by node (tests/written_attention.py) and run as they are: the judge of
a fusion is ONNX Runtime on the graph given.
"""

import dataclasses
import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests.written_attention import (
    DETOURS,
    FAULTS,
    MISPLACEMENTS,
    UNMASKED,
    Value,
    Writer,
    Writing,
    write,
)

RELATIVE_TOLERANCE = 1e-4
few = settings(max_examples=25, deadline=None)


@st.composite
def writings(draw: st.DrawFn, even: bool = False) -> Writing:
    window = draw(st.tuples(st.integers(1, 3), st.integers(2, 4)))
    # A single window is attention of all to all.
    counts = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)).filter(lambda n: max(n) > 1))
    mode = draw(st.sampled_from(["block", "block", "grid"]))
    missing = [0 if even else draw(st.integers(0, w - 1)) for w in window]
    shift = [
        draw(st.integers(0, w - 1)) if mode == "block" and n > 1 else 0
        for n, w in zip(counts, window, strict=True)
    ]
    map_size = [w * n - m for w, n, m in zip(window, counts, missing, strict=True)]
    return Writing(
        (map_size[0], map_size[1]),
        window,
        (shift[0], shift[1]),
        mode,
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([2, 5])),
        roll_first=draw(st.booleans()),
        roll=draw(st.sampled_from(["slice", "gather", "slices_of_none"])),
        partition=draw(st.sampled_from(["reshape", "gather"] + ["split"] * (mode == "block"))),
        projection=draw(st.sampled_from(["packed", "head_major", "three", "packed_before"])),
        scale=draw(st.sampled_from(["query", "logits", "both"])),
        bias=draw(st.sampled_from(["none", "added", "gathered"])),
        mask=draw(st.sampled_from(["flat", "unfolded", "where"])),
        mask_value=draw(st.sampled_from([-50.0, -100.0, -math.inf])),
        detours=tuple(draw(st.lists(st.sampled_from(DETOURS), max_size=2))),
        seed=draw(st.integers(0, 5)),
    )


def images(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    (value,) = graph.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return {value.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def assert_equal_or_left_alone(graph: onnx.ModelProto) -> bool:
    onnx.checker.check_model(graph)
    fusion = fuse_window_attention(graph)
    if not fusion.fused:
        assert fusion.model is graph
        assert all(found.reason for found in fusion.attentions)
        return False
    inputs = images(graph)
    error = relative_error(run_graph(graph, inputs), run_graph(fusion.model, inputs))
    assert error < RELATIVE_TOLERANCE
    return True


@few
@given(writings())
def test_every_spelling_is_fused_to_something_equal(writing):
    graph = write(writing)
    assert assert_equal_or_left_alone(graph), fuse_window_attention(graph).attentions[0].reason


@pytest.mark.parametrize("map_size", [(4, 6), (3, 5)])
def test_a_roll_by_nothing_that_is_written_out_is_none(map_size):
    graph = write(Writing(map_size, (2, 3), roll="slices_of_none"))
    assert sum(node.op_type == "Concat" for node in graph.graph.node) >= 2
    assert assert_equal_or_left_alone(graph)


@few
@given(writings(even=True))
def test_the_windows_found_are_those_that_were_written(writing):
    (found,) = fuse_window_attention(write(writing)).fused
    group = found.spec.head_groups[0]
    assert found.map_size == writing.map_size
    for size, window, shift, wanted, wanted_shift in zip(
        writing.map_size, group.window_size, group.shift_size, writing.window, writing.shift,
        strict=True,
    ):  # fmt: skip
        if size > wanted:  # a single window may be said to be the axis
            assert (window, shift) == (wanted, wanted_shift)
    assert (group.num_heads, found.spec.head_dim) == (writing.heads, writing.head_dim)
    if any(writing.shift):
        assert found.spec.mask_value == writing.mask_value


def planted(writing: Writing, fault: str) -> Writing:
    """Plant a fault, and give the writing what the fault needs in order to change anything."""
    rows, cols = writing.window
    changes: dict = {"fault": fault, "heads": max(writing.heads, 2)}
    if "mask" in fault:
        cols = max(cols, 3)
        changes |= {"mode": "block", "shift": (0, 2)}
    if "bias" in fault:
        changes["bias"] = "added"
    return dataclasses.replace(
        writing, window=(rows, cols), map_size=(2 * rows, 2 * cols), **changes
    )


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=5, deadline=None)
@given(writing=writings(even=True))
def test_near_misses_are_left_alone(fault, writing):
    graph = write(planted(writing, fault))
    if assert_equal_or_left_alone(graph):
        # Behind the cut nothing overlaps: equal, but other windows than these.
        assert fault == "overlapping windows"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_changes_the_numbers(fault):
    sound = planted(Writing((4, 6), (2, 3), (1, 2)), fault)
    graph, faulty = write(dataclasses.replace(sound, fault="")), write(sound)
    assert assert_equal_or_left_alone(graph)
    inputs = images(graph)
    error = relative_error(run_graph(graph, inputs), run_graph(faulty, inputs))
    assert error > 10 * RELATIVE_TOLERANCE


@pytest.mark.parametrize("fault", [*MISPLACEMENTS, UNMASKED])
@settings(max_examples=5, deadline=None)
@given(writing=writings())
def test_attention_of_tokens_that_are_moved_outside_stays_equal(fault, writing):
    assert_equal_or_left_alone(write(dataclasses.replace(writing, fault=fault)))


def factorised(draw: st.DrawFn, size: int) -> list[int]:
    """Draw factors of a size, in an order of their own."""
    factors = []
    for _ in range(draw(st.integers(0, 2))):
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        factors.append(draw(st.sampled_from(divisors)))
        size //= factors[-1]
    return [*factors, size]


def moved(draw: st.DrawFn, out: Writer, x: Value, steps: int) -> Value:
    """Move the elements of a tensor about."""
    for _ in range(draw(st.integers(0, steps))):
        kind = draw(st.sampled_from(["reshape", "transpose", "slice", "gather", "concat"]))
        axis = draw(st.integers(0, len(x.shape) - 1))
        size = x.shape[axis]
        if kind == "reshape":
            x = out.reshape(x, *factorised(draw, math.prod(x.shape)))
        elif kind == "transpose":
            x = out.transpose(x, *draw(st.permutations(range(len(x.shape)))))
        elif kind == "slice":
            start = draw(st.integers(0, size - 1))
            x = out.slice(x, axis, start, draw(st.integers(start + 1, size)))
        elif kind == "gather":
            index = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
            x = out.gather(x, axis, np.array(index))
        else:
            x = out.roll(x, axis, draw(st.integers(0, size)), "slice")
    return x


def finished(out: Writer, shape: tuple[int, ...], y: Value) -> onnx.ModelProto:
    """Make a model of what was written, from `x` to `y`."""
    graph = helper.make_graph(
        [*out.nodes, helper.make_node("Identity", [y.name], ["y"], name="last")],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)],
        out.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def divisor(draw: st.DrawFn, size: int) -> int:
    return draw(st.sampled_from([d for d in range(1, 9) if size % d == 0]))


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Write attention between movements that nobody meant to be windows."""
    out = Writer(draw(st.integers(0, 5)))
    shape = draw(st.sampled_from([(2, 4, 6, 4), (1, 8, 8, 4), (2, 12, 8)]))
    x = out.node("LayerNormalization", ["x", out.drawn(shape[-1]).name], shape, axis=-1)
    x = moved(draw, out, x, 3)
    parts = [out.linear(x, x.shape[-1]) for _ in range(3)]
    size = math.prod(x.shape)
    x = out.concat([out.reshape(part, 1, size) for part in parts], 0)
    x = out.reshape(x, 3, *factorised(draw, size))
    # The first axis tells queries, keys and values apart; the others change places.
    x = out.transpose(x, 0, *draw(st.permutations(range(1, len(x.shape)))))
    channels = divisor(draw, size)
    places = divisor(draw, size // channels)
    x = out.reshape(x, 3, size // (channels * places), places, channels)
    q, k, v = (out.gather(x, 0, np.asarray(i)) for i in range(3))
    logits = out.matmul(q, out.transpose(k, 0, 2, 1))
    weights = out.node("Softmax", [logits.name], logits.shape, axis=-1)
    y = moved(draw, out, out.matmul(weights, v), 4)
    return finished(out, shape, y)


@settings(max_examples=40, deadline=None)
@given(chains())
def test_random_movements_around_attention_never_change_the_numbers(graph):
    assert_equal_or_left_alone(graph)


@st.composite
def there_and_back(draw: st.DrawFn) -> onnx.ModelProto:
    """Write attention among tokens that movements put side by side, and the movements back."""
    out = Writer(draw(st.integers(0, 5)))
    size = (2, draw(st.sampled_from([4, 6, 8])), draw(st.sampled_from([4, 6])))
    tokens, c = math.prod(size), 4
    x = out.node("LayerNormalization", ["x", out.drawn(c).name], (*size, c), axis=-1)
    origin = np.arange(tokens).reshape(size)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["cut", "cut", "roll", "gather"]))
        axis = draw(st.integers(1, 2)) if kind != "cut" else 0
        if kind == "cut":  # as windows are, but in any order of the axes
            parts = [factorised(draw, n) for n in origin.shape[1:]]
            shape = [origin.shape[0], *(n for part in parts for n in part)]
            order = [0, *draw(st.permutations(range(1, len(shape))))]
            x = out.transpose(out.reshape(x, *shape, c), *order, len(shape))
            origin = origin.reshape(shape).transpose(order)
            rows = math.prod(origin.shape[1:2])
            x, origin = (
                out.reshape(x, 2, rows, -(-tokens // (2 * rows)), c),
                origin.reshape(2, rows, -1),
            )
        elif kind == "roll":
            x = out.roll(x, axis, 1, "slice")
            origin = np.roll(origin, -1, axis)
        else:
            index = np.array(draw(st.permutations(range(origin.shape[axis]))))
            x, origin = out.gather(x, axis, index), origin.take(index, axis)
    places = draw(st.sampled_from([n for n in (2, 4, 6, 8) if tokens // 2 % n == 0]))
    x = out.reshape(x, tokens // places, places, c)
    q, k, v = (out.linear(x, c) for _ in range(3))
    logits = out.matmul(q, out.transpose(k, 0, 2, 1))
    weights = out.node("Softmax", [logits.name], logits.shape, axis=-1)
    y = out.reshape(out.matmul(weights, v), tokens, c)
    y = out.reshape(out.gather(y, 0, np.argsort(origin.reshape(-1))), *size, c)
    return finished(out, (*size, c), y)


@settings(max_examples=25, deadline=None)
@given(there_and_back())
def test_tokens_moved_there_and_back_keep_the_numbers(graph):
    assert_equal_or_left_alone(graph)
