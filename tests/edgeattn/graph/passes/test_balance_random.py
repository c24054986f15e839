"""Random chains between a normalization and its layers: balanced or not, the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.channel_groups import balanceable_channels
from edgeattn.graph.passes.balance_channels import balance_channels
from tests.graph_runs import run, tensors_of

Rng = np.random.Generator
# What follows a shape: the inputs beside the first, attributes, and the new shape; None if nothing.
Step = tuple[list[np.ndarray], dict[str, Any], tuple[int, ...]] | None


def transpose(rng: Rng, shape: tuple[int, ...]) -> Step:
    order = rng.permutation(len(shape)).tolist()
    return [], {"perm": order}, tuple(shape[axis] for axis in order)


def reshape(rng: Rng, shape: tuple[int, ...]) -> Step:
    size = int(np.prod(shape))
    last = shape[-1] if rng.random() < 0.7 else int(rng.integers(1, size + 1))
    if size % last:
        return None
    return [np.array([-1, last])], {}, (size // last, last)


def add(rng: Rng, shape: tuple[int, ...]) -> Step:
    dims = [size if rng.random() < 0.5 else 1 for size in shape][int(rng.integers(len(shape))) :]
    return [rng.standard_normal(dims).astype(np.float32)], {}, shape


def pad(rng: Rng, shape: tuple[int, ...]) -> Step:
    widths = (rng.random(2 * len(shape)) < 0.2).astype(np.int64)
    grown = shape + widths[: len(shape)] + widths[len(shape) :]
    return [widths], {}, tuple(map(int, grown))


def cut(rng: Rng, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(len(shape)))
    end = int(rng.integers(1, shape[axis] + 1))
    limits = [np.array([0]), np.array([end]), np.array([axis - len(shape)])]
    return limits, {}, (*shape[:axis], end, *shape[axis + 1 :])


def gather(rng: Rng, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(len(shape)))
    picks = rng.integers(shape[axis], size=(2, 1))
    return [picks], {"axis": axis}, (*shape[:axis], 2, 1, *shape[axis + 1 :])


def unsqueeze(rng: Rng, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(len(shape) + 1))
    return [np.array([axis])], {}, (*shape[:axis], 1, *shape[axis:])


def squeeze(rng: Rng, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(len(shape)))
    if shape[axis] > 1 or len(shape) < 3:
        return None
    return [np.array([axis])], {}, (*shape[:axis], *shape[axis + 1 :])


def mean(rng: Rng, shape: tuple[int, ...]) -> Step:
    axis = int(rng.integers(len(shape)))
    if len(shape) < 3:
        return None
    return [np.array([axis])], {"keepdims": 0}, (*shape[:axis], *shape[axis + 1 :])


STEPS: dict[str, Callable[[Rng, tuple[int, ...]], Step]] = {
    "Transpose": transpose,
    "Reshape": reshape,
    "Add": add,
    "Pad": pad,
    "Slice": cut,
    "Gather": gather,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "ReduceMean": mean,
    "Relu": lambda rng, shape: ([], {}, shape),
}


def random_graph(rng: Rng) -> tuple[onnx.ModelProto, np.ndarray]:
    """Normalize, do up to five random things, and multiply the last axis by a weight."""
    channels = int(rng.integers(1, 7))
    shape = (*map(int, rng.integers(1, 5, size=int(rng.integers(1, 4)))), channels)
    x = rng.standard_normal(shape).astype(np.float32)
    weights = {
        "gain": np.exp(rng.normal(0, 2, channels)).astype(np.float32),
        "shift": rng.standard_normal(channels).astype(np.float32),
    }
    nodes = [helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["t"])]
    tensor = "t"
    for number in range(int(rng.integers(6))):
        op_type = str(rng.choice(list(STEPS)))
        step = STEPS[op_type](rng, shape)
        if step is None or len(step[2]) > 5:
            continue
        constants = {f"c{number}_{i}": array for i, array in enumerate(step[0])}
        weights |= constants
        nodes.append(helper.make_node(op_type, [tensor, *constants], [f"t{number}"], **step[1]))
        tensor, shape = f"t{number}", step[2]
    weights["w"] = rng.standard_normal((shape[-1], 4)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [tensor, "w"], ["product"]))
    nodes.append(helper.make_node("Relu", ["product"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), x


def test_balancing_never_changes_a_bit_of_a_random_graph():
    balanced = 0
    for seed in range(150):
        model, x = random_graph(np.random.default_rng(seed))
        axes = balanceable_channels(model)
        channel_amax = {}
        for tensor, values in tensors_of(model, list(axes), {"x": x}).items():
            rows = np.moveaxis(np.abs(values), axes[tensor], -1)
            channel_amax[tensor] = rows.reshape(-1, rows.shape[-1]).max(axis=0)
        result = balance_channels(model, channel_amax)
        expected, found = (run(graph, {"x": x})[0] for graph in (model, result.model))
        np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}")
        for tensor, values in tensors_of(result.model, list(result.amax), {"x": x}).items():
            assert result.amax[tensor] == np.abs(values).max(), f"seed {seed}"
        balanced += bool(result.amax)
    assert 40 < balanced < 130  # both kinds were met
