"""Graphs with one thing changed in them: whatever comes out computes the same, and nothing crashes.

Most of them do not run at all, some compute something else; a few leave everything as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests.foreign_attention import windowed
from tests.foreign_graphs import export, images_of
from tests.foreign_models import SMALL_MODELS
from tests.written_attention import Writing, write

Damage = Callable[[onnx.ModelProto, random.Random], None]
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def constants_of(model: onnx.ModelProto, element: int) -> list[onnx.TensorProto]:
    """List weights and the values of Constant nodes of one type, in place."""
    written = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    return [t for t in (*model.graph.initializer, *written) if t.data_type == element and t.dims]


def change_integer(model, rng):
    tensor = rng.choice(constants_of(model, INT64))
    values = numpy_helper.to_array(tensor).copy()
    if values.size:
        place = rng.randrange(values.size)
        old = values.flat[place]
        values.flat[place] = rng.choice([old + 1, old - 1, 2 * old, -old, 0, -1, 2**62])
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def shuffle_integers(model, rng):
    tensor = rng.choice(constants_of(model, INT64))
    values = numpy_helper.to_array(tensor).reshape(-1).tolist()
    rng.shuffle(values)
    changed = np.array(values, np.int64).reshape(tensor.dims)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def change_weight(model, rng):
    tensor = rng.choice(constants_of(model, FLOAT))
    values = numpy_helper.to_array(tensor).copy()
    place = rng.randrange(values.size)
    values.flat[place] = rng.choice([values.flat[place] + 0.5, np.nan, np.inf, -np.inf, 1e30])
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def turn_weight(model, rng):
    tensor = rng.choice(constants_of(model, FLOAT))
    values = numpy_helper.to_array(tensor)
    changed = [np.flip(values), values[..., :1], values[None], values.reshape(-1), 0 * values]
    tensor.CopyFrom(numpy_helper.from_array(rng.choice(changed).copy(), tensor.name))


def change_attribute(model, rng):
    nodes = [n for n in model.graph.node if n.attribute and n.op_type != "Constant"]
    changed = rng.choice(rng.choice(nodes).attribute)
    if changed.type == onnx.AttributeProto.INT:
        changed.i = rng.choice([changed.i + 1, changed.i - 1, 0, -1])
    elif changed.type == onnx.AttributeProto.INTS:
        values = list(changed.ints)
        rng.shuffle(values)
        changed.ints[:] = values


def swap_inputs(model, rng):
    node = rng.choice([n for n in model.graph.node if len(n.input) > 1])
    node.input[:] = [*node.input[1:], node.input[0]]


def read_another(model, rng):
    place = rng.randrange(1, len(model.graph.node))
    node = model.graph.node[place]
    if node.input:
        before = [name for n in model.graph.node[:place][-30:] for name in n.output]
        node.input[rng.randrange(len(node.input))] = rng.choice(before)


def leave_out(model, rng):
    node = rng.choice([n for n in model.graph.node if n.input])
    replace_readers(model, node.output[0], node.input[0])


def put_between(model, rng):
    place = rng.randrange(len(model.graph.node))
    name = model.graph.node[place].output[0]
    op_type = rng.choice(["Identity", "Neg", "Relu", "Transpose", "Softmax", "Sqrt", "Flatten"])
    replace_readers(model, name, "between")
    model.graph.node.insert(place + 1, helper.make_node(op_type, [name], ["between"]))


def show(model, rng):
    name = rng.choice(model.graph.node).output[0]
    if name != model.graph.output[0].name:
        model.graph.output.append(onnx.ValueInfoProto(name=name))


def change_operator(model, rng):
    others = {"Add": "Sub", "Mul": "Div", "MatMul": "Mul", "Softmax": "LogSoftmax", "Slice": "Pad"}
    node = rng.choice([n for n in model.graph.node if n.op_type in others])
    node.op_type = others[node.op_type]


def open_sizes(model, rng):
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if rng.random() < 0.7:
            dim.dim_param = f"open{rng.randrange(100)}"
    del model.graph.output[0].type.tensor_type.shape.dim[:]


DAMAGES: tuple[Damage, ...] = (
    change_integer,
    shuffle_integers,
    change_weight,
    turn_weight,
    change_attribute,
    swap_inputs,
    read_another,
    leave_out,
    put_between,
    show,
    change_operator,
    open_sizes,
)


def replace_readers(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new


def assert_sound(graph: onnx.ModelProto, damage: Damage, seed: int) -> bool:
    """Damage a graph and fuse it; tell whether it still ran and something was fused."""
    model, rng = onnx.ModelProto(), random.Random(seed)
    model.CopyFrom(graph)
    del model.graph.value_info[:]
    damage(model, rng)
    shape = [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    inputs = {model.graph.input[0].name: x}
    try:
        expected = run_graph(model, inputs)
    except Exception:  # ONNX Runtime's share no class
        expected = None
    fusion = fuse_window_attention(model)
    if expected is None or not fusion.fused:
        return False
    assert relative_error(*finite(expected, run_graph(fusion.model, inputs))) < 1e-4
    return True


def finite(expected: list[np.ndarray], found: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Count as zero what is NaN or infinite in both."""
    odd = [~np.isfinite(a) & ~np.isfinite(b) for a, b in zip(expected, found, strict=True)]
    return [
        [np.where(o, 0, array) for o, array in zip(odd, arrays, strict=True)]
        for arrays in (expected, found)
    ]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_fused_in_a_damaged_graph_computes_the_same(damage):
    graphs = [windowed(), write(Writing((8, 9), (4, 3), shift=(2, 1)))]
    sound = [assert_sound(graphs[seed % 2], damage, seed) for seed in range(16)]
    assert any(sound)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_what_is_fused_in_a_damaged_model_computes_the_same(name, exporter):
    model = SMALL_MODELS[name]
    size = model.odd or model.even
    graph = export(model.build(size), images_of(size), exporter)
    sound = [assert_sound(graph, damage, seed) for damage in DAMAGES for seed in range(5)]
    assert any(sound)
