"""Random graphs in half types: valid, near float32, no Cast of a Cast, INT8 layers left whole."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.half_types import HALF_TYPES, HalfType
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES, place_qdq
from tests.graph_runs import run
from tests.quantization import floats

WIDTH = 6
OF_ONE = ("Abs", "Erf", "Gelu", "Identity", "Relu", "Sigmoid", "Softmax", "Softplus", "Tanh")
OF_TWO = ("Add", "Max", "Mul", "Sub")
SEEDS = range(150)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH])


def _step(rng: random.Random, a: str, b: str, out: str) -> list[onnx.NodeProto]:
    """Make nodes that turn one or two tensors `[N, 6]` into another."""
    node = helper.make_node
    kind = rng.choices(
        ("matmul", "one", "two", "norm", "centre", "reshape", "split", "if", "where"),
        (30, 22, 20, 5, 5, 6, 4, 4, 4),
    )[0]
    if kind == "matmul":
        return [node("MatMul", [a, "weight"], [out])]
    if kind == "one":
        return [node(rng.choice(OF_ONE), [a], [out])]
    if kind == "two":
        return [node(rng.choice(OF_TWO), [a, b], [out])]
    if kind == "norm":
        return [node("LayerNormalization", [a, "gain"], [out])]
    if kind == "centre":
        return [
            node("ReduceMean", [a, "axes"], [f"{out}_mean"]),
            node("Sub", [a, f"{out}_mean"], [out]),
        ]
    if kind == "reshape":
        return [node("Reshape", [a, "shape"], [out])]
    if kind == "split":
        halves = [f"{out}_left", f"{out}_right"]
        split = node("Split", [a], halves, axis=1, num_outputs=2)
        return [split, node("Concat", halves[::-1], [out], axis=1)]
    if kind == "where":
        return [
            node("Greater", [a, b], [f"{out}_is"]),
            node("Where", [f"{out}_is", a, "gain"], [out]),
        ]
    then = helper.make_graph(
        [node("Add", [a, b], [f"{out}_then"])], "then", [], [_value(f"{out}_then")]
    )
    other = helper.make_graph(
        [node("Identity", [a], [f"{out}_else"])], "else", [], [_value(f"{out}_else")]
    )
    return [node("If", ["condition"], [out], then_branch=then, else_branch=other)]


def random_graph(rng: random.Random) -> onnx.ModelProto:
    names, nodes = ["x"], []
    for i in range(rng.randint(3, 14)):
        nodes += _step(rng, rng.choice(names[-4:]), rng.choice([*names, "bias"]), f"t{i}")
        names.append(f"t{i}")
    outputs = {names[-1], *rng.sample(names[1:], rng.randint(0, 2))}
    constants = {
        "weight": floats(WIDTH, WIDTH) / 3,
        "bias": floats(WIDTH),
        "gain": np.ones(WIDTH, np.float32),
        "axes": np.array([-1]),
        "shape": np.array([0, -1]),
        "condition": np.array(rng.random() < 0.5),
    }
    graph = helper.make_graph(
        nodes,
        "random",
        [_value("x")],
        [_value(name) for name in sorted(outputs)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _with_int8(rng: random.Random, model: onnx.ModelProto) -> onnx.ModelProto:
    if rng.random() < 0.5 or not any(n.op_type == "MatMul" for n in model.graph.node):
        return model
    recipe = rng.choice(RECIPES)
    scales = dict.fromkeys(place_qdq(model, recipe).activations, 0.03)
    return insert_qdq(model, scales, recipe)[0]


@pytest.mark.parametrize("half", HALF_TYPES)
def test_random_graphs_stay_valid_and_near_float32(half: HalfType) -> None:
    lost = []
    for seed in SEEDS:
        rng = random.Random(seed)
        model = random_graph(rng)
        onnx.checker.check_model(model, full_check=True)
        typed = _with_int8(rng, model)
        tensors = [name for node in model.graph.node for name in node.output]
        overflows = dict.fromkeys(rng.sample(tensors, rng.randint(0, 2)), 1e5)
        keep_io = half == "bfloat16" or rng.random() < 0.8  # numpy feeds no BF16
        converted, _ = convert_to_half(typed, half, overflows, keep_io=keep_io)
        onnx.checker.check_model(converted, full_check=True)
        assert set(explicit_int8_faults(converted)) <= set(explicit_int8_faults(typed)), seed
        casts = {n.output[0]: n.input[0] for n in converted.graph.node if n.op_type == "Cast"}
        assert casts.keys().isdisjoint(casts.values()), seed
        x = np.random.default_rng(seed).standard_normal((5, WIDTH)).astype(np.float32)
        x = x if keep_io else x.astype(np.float16)
        expected = run(typed, {"x": x.astype(np.float32)})
        found = run(emulate_half(converted), {"x": x})
        if typed is model:
            lost += [sqnr_db(e, f) for e, f in zip(expected, found, strict=True)]
    # A difference of two near values keeps few digits: some graphs lose more than others.
    floor, median = (15, 60) if half == "float16" else (5, 40)
    assert min(lost) > floor
    assert np.median(lost) > median
