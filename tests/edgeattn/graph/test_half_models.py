"""The registry's smallest models in FP16 and BF16, alone and with INT8: how much they lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES
from edgeattn.graph.shapes import infer_types
from edgeattn.models.registry import create_model, get_entry
from tests.graph_runs import run
from tests.quantization import unit_scales

# The least SQNR of the outputs in dB: FP16 has 11 bits of significand, BF16 has 8.
FLOORS = {"float16": 52.0, "bfloat16": 33.0}
MODELS = [
    "mswin_nano",
    "msseq_nano",
    "pmsa_nano",
    pytest.param("dmsanet_26", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    path = tmp_path_factory.mktemp(name) / "net.onnx"
    weights = "shipped" if get_entry(name).weights else None
    return edgeattn.export(create_model(name, weights=weights), get_entry(name).input, path)


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in input_specs(model)
    }


@pytest.mark.parametrize("half", FLOORS)
def test_outputs_stay_near_float32(graph: Path, half: str) -> None:
    model = load_graph(graph)
    converted, decisions = convert_to_half(model, half)
    onnx.checker.check_model(decompose(converted), full_check=True)
    inputs = inputs_of(model)
    (expected,) = run(model, inputs)
    (found,) = run(emulate_half(decompose(converted)), inputs)
    assert sqnr_db(expected, found) > FLOORS[half]
    kept = {(d.op_type, d.kept) for d in decisions}
    assert not any(half in pair for pair in kept if pair[0].endswith("Normalization"))
    assert ("MatMul", "float32") not in kept
    assert ("Gemm", "float32") not in kept
    types = infer_types(converted)
    made = {node.input[0]: types[node.input[0]].element for node in attention_nodes(converted)}
    assert set(made.values()) <= {
        {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[half]
    }


@pytest.mark.parametrize("half", FLOORS)
def test_casts_are_few_and_never_in_chains(graph: Path, half: str) -> None:
    converted, decisions = convert_to_half(load_graph(graph), half)
    nodes = converted.graph.node
    casts = {node.output[0]: node for node in nodes if node.op_type == "Cast"}
    assert not any(node.input[0] in casts for node in casts.values())
    assert len({(n.input[0], n.attribute[0].i) for n in casts.values()}) == len(casts)
    in_float32 = sum(decision.kept == "float32" for decision in decisions)
    assert len(casts) <= 2 * in_float32 + 2


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("half", FLOORS)
def test_int8_beside_it_keeps_tensorrts_rules(graph: Path, half: str, recipe: str) -> None:
    model = load_graph(graph)
    quantized, _ = insert_qdq(model, unit_scales(model, recipe=recipe), recipe)
    before = explicit_int8_faults(quantized)
    converted, _ = convert_to_half(quantized, half)
    assert explicit_int8_faults(converted) == before
    onnx.checker.check_model(decompose(converted), full_check=True)
