"""Real models against the published lists of operators: ours, and one of somebody else."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeattn
from edgeattn.deploy.check.check import GraphCheck, check_graph
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import OP_TYPE
from edgeattn.inputs import InputSpec
from edgeattn.models.registry import create_model, get_entry
from tests.small_swins import HuggingFaceSwin, mswin

# Every operator of these models in onnx-tensorrt's docs/operators.md of TensorRT 10.1: supported,
# with these types. Read off the list by hand; the later lists say the same.
FLOATS = "FP32 FP16 BF16"
NUMBERS = f"{FLOATS} INT32 INT64"
ANY = f"{NUMBERS} BOOL"
PUBLISHED = {
    "Add": NUMBERS, "AveragePool": FLOATS, "BatchNormalization": FLOATS, "Cast": f"{ANY} UINT8",
    "Clip": FLOATS, "Concat": ANY, "ConstantOfShape": ANY, "Conv": FLOATS, "Cos": FLOATS,
    "Div": NUMBERS, "Erf": FLOATS, "Expand": ANY, "Flatten": ANY, "Gather": ANY, "Gelu": NUMBERS,
    "Gemm": FLOATS, "GlobalAveragePool": FLOATS, "Identity": ANY, "LayerNormalization": FLOATS,
    "MatMul": FLOATS, "MaxPool": FLOATS, "Mod": NUMBERS, "Mul": NUMBERS, "Pad": NUMBERS,
    "Range": NUMBERS, "ReduceMax": NUMBERS, "ReduceMean": NUMBERS, "ReduceSum": NUMBERS,
    "Relu": NUMBERS, "Reshape": ANY, "Shape": ANY, "Sigmoid": FLOATS, "Slice": ANY,
    "Softmax": FLOATS, "Split": ANY, "Sqrt": FLOATS, "Squeeze": ANY, "Sub": NUMBERS, "Tanh": FLOATS,
    "Transpose": ANY, "Unsqueeze": ANY, "Where": ANY,
}  # fmt: skip
SMALL = InputSpec((1, 3, 32, 32))
MODELS: dict[str, tuple[Callable[[], nn.Module], InputSpec, set[str]]] = {
    "Hugging Face Swin": (HuggingFaceSwin, SMALL, {"attention"}),
    "mswin": (mswin, SMALL, set()),
}
# DMSANet attends across channels, which no fused attention takes.
LARGE = {"mswin_tiny": set[str](), "dmsanet_50": {"attention"}}
BOARDS = (("jetson-orin-nano", "6.2"), ("jetson-thor", "7.0"), ("jetson-agx-orin", "7.2"))


def exported(build: Callable[[], nn.Module], spec: InputSpec, path: Path) -> Path:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.manual_seed(0)
        return edgeattn.export(build().eval(), spec, path, dynamic=False)


def agrees(path: Path, expected: set[str]) -> None:
    """Hold a check to the published list: what it supports is no fault, on any board."""
    used = {node.op_type for node in load_graph(path).graph.node} - {OP_TYPE}
    assert used <= PUBLISHED.keys()
    for target, jetpack in BOARDS:
        checked = check_graph(path, TensorRtRequest(target=target, jetpack=jetpack))
        topics = {finding.topic for finding in checked.findings if finding.level != "note"}
        assert topics == expected, checked.findings
        assert_bound(checked)


def assert_bound(checked: GraphCheck) -> None:
    assert checked.bound is not None
    assert checked.bound.unknown == ()
    assert checked.bound.layers
    assert checked.memory is not None
    assert checked.memory.activations_bytes
    times = (checked.bound.floor_ms, checked.bound.layers_ms)
    assert None not in times
    assert 0 < (times[0] or 0) <= (times[1] or 0)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_agrees_with_the_published_list(name: str, tmp_path: Path) -> None:
    build, spec, expected = MODELS[name]
    agrees(exported(build, spec, tmp_path / "net.onnx"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_agrees_with_the_published_list(name: str, tmp_path: Path) -> None:
    build = functools.partial(create_model, name)
    agrees(exported(build, get_entry(name).input, tmp_path / "net.onnx"), LARGE[name])


def test_the_list_that_is_used_says_what_was_published() -> None:
    from edgeattn.engine.tensorrt.operator_support import operator_support
    from edgeattn.engine.tensorrt.versions import TensorRtVersion

    # One list gives Gelu INT8 as well, which comes to it through Q/DQ alone.
    for op_type, types in PUBLISHED.items():
        found = operator_support(op_type, TensorRtVersion(10, 3))
        assert found is not None
        assert set(found.types) - {"INT8"} == set(types.split()), op_type
