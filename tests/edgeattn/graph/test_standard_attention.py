"""Attention in the form that TensorRT fuses: what it computes, on which axes, in which type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

from edgeattn.graph import folded_windows
from edgeattn.graph.passes.decompose import decompose_groups
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.standard_attention import AttentionForm, DecomposedGroup, Form
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import framework_attention, oracle
from tests.cases import NAMED_CASES, Case
from tests.edgeattn.graph.passes.test_decompose import attention_model, model_of, run
from tests.int8_oracle import quantized_case
from tests.tolerances import assert_close, assert_close_in_half

FUSED = AttentionForm("fused_mha")
HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
all_cases = pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
both_shapes = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def expected(case: Case, tensors: dict[str, np.ndarray]) -> np.ndarray:
    return oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})


@all_cases
@both_shapes
def test_four_axes_compute_what_the_oracle_does(case: Case, dynamic: bool) -> None:
    model, _ = decompose_groups(attention_model(case, dynamic=dynamic), FUSED)
    onnx.checker.check_model(model, full_check=True)
    tensors = case.tensors("float32")
    assert_close(run(model, tensors), expected(case, tensors), "attention", "float32")


@all_cases
def test_tables_may_be_computed_in_the_graph(case: Case) -> None:
    if len(case.spec.input_names) > 1:
        source = attention_model(case, dynamic=case.height % 2 == 0, constants=False)
        tensors = case.tensors("float32")
        model, _ = decompose_groups(source, FUSED)
        assert_close(run(model, tensors), expected(case, tensors), "attention", "float32")


@all_cases
def test_a_sum_of_bias_and_mask_too_large_to_store_is_added_at_run_time(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded_windows, "MAX_CONSTANT_LOGITS", 0)
    tensors = case.tensors("float32")
    for form in ("portable", "fused_mha", "attention"):
        model, _ = decompose_groups(attention_model(case, dynamic=False), AttentionForm(form))
        model.opset_import[0].version = 23
        assert_close(run(model, tensors), expected(case, tensors), "attention", "float32")


@pytest.mark.parametrize("form", ["fused_mha", "attention"])
@pytest.mark.parametrize("name", ["odd_map_mask_pad_then_roll", "grid", "whole_map"])
def test_a_free_batch_alone_needs_no_arithmetic_of_indices(name: str, form: Form) -> None:
    case = NAMED_CASES[name]
    still, free = (attention_model(case, dynamic=False) for _ in range(2))
    free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    still, free = (decompose_groups(model, AttentionForm(form))[0] for model in (still, free))
    assert [node.op_type for node in free.graph.node] == [node.op_type for node in still.graph.node]
    free.opset_import[0].version = 23
    tensors = case.tensors("float32")
    tensors["qkv"] = np.concatenate([tensors["qkv"], -tensors["qkv"], tensors["qkv"][:1]])
    assert_close(run(free, tensors), expected(case, tensors), "attention", "float32")


# --- half types -----------------------------------------------------------------------------------


def half_model(case: Case, tensors: dict[str, np.ndarray], element: int, dynamic: bool):
    """Put casts around an attention node, so that it works in a half type between float32."""
    model = model_of(case.spec, tensors, dynamic=dynamic)
    node = model.graph.node[0]
    node.input[0], node.output[0] = "qkv_half", "out_half"
    model.graph.node.insert(0, helper.make_node("Cast", ["qkv"], ["qkv_half"], to=element))
    back = helper.make_node("Cast", ["out_half"], ["out"], to=TensorProto.FLOAT)
    model.graph.node.append(back)
    return model


def eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attend step by step, every step rounded to the half type, as eager models do."""
    logits = (query * scale) @ key.transpose(-1, -2) + mask
    return logits.softmax(-1) @ value


@all_cases
def test_half_types_lose_no_more_than_twice_what_torch_loses_step_by_step(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = "float16" if case.width % 2 else "bfloat16"
    monkeypatch.setattr(F, "scaled_dot_product_attention", eager)
    numpy_half = helper.tensor_dtype_to_np_dtype(HALVES[half])
    tensors = case.tensors("float32")
    tensors["qkv"] = tensors["qkv"].astype(numpy_half).astype(np.float32)
    halves = {name: torch.from_numpy(t).to(getattr(torch, half)) for name, t in tensors.items()}
    framework = framework_attention.attention(case.spec, **halves).float().numpy()
    source = half_model(case, tensors, HALVES[half], dynamic=case.height % 2 == 0)
    model, _ = decompose_groups(source, FUSED)
    found = run(emulate_half(model), tensors)
    assert_close_in_half(found, expected(case, tensors), framework, half)


def products(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type in ("MatMul", "Softmax"))


@all_cases
def test_products_are_in_the_type_of_the_graph_and_have_four_axes(case: Case) -> None:
    half = "bfloat16" if case.width % 2 else "float16"
    tensors = case.tensors("float32")
    model, groups = decompose_groups(half_model(case, tensors, HALVES[half], False), FUSED)
    onnx.checker.check_model(model, full_check=True)
    types = infer_types(model)
    of_neighbors = {n for g in groups if g.head_group.mode == "neighborhood" for n in g.core}
    for node in products(model):
        for name in (*node.input, *node.output):
            assert types[name].element == HALVES[half]
            if node.name not in of_neighbors:
                assert len(types[name].shape or ()) == 4
    assert {group.products_element for group in groups} == {HALVES[half]}


def test_lengths_are_taken_in_float32_whatever_the_type() -> None:
    """A vector of 16 numbers of 300 has a squared length beyond FP16."""
    spec = AttentionSpec(16, 1, (HeadGroup(1, (1, 2)),), qk_mode="cosine")
    case = Case(spec, 1, 2)
    tensors = case.tensors("float32")
    tensors["qkv"] = np.sign(tensors["qkv"]) * np.float32(300)
    model, _ = decompose_groups(half_model(case, tensors, TensorProto.FLOAT16, False), FUSED)
    found = run(emulate_half(model), tensors)
    np.testing.assert_allclose(found, expected(case, tensors), rtol=0.01)


# --- INT8 -----------------------------------------------------------------------------------------


@both_shapes
def test_products_of_int8_attention_are_in_int8_or_in_the_type_asked_for(dynamic: bool) -> None:
    quantized = quantized_case(NAMED_CASES["whole_map"])  # heads of 4: TensorRT fuses none in INT8
    model = model_of(quantized.spec, quantized.tensors, dynamic=dynamic)
    form = AttentionForm("fused_mha", int8_products=True, float_element=TensorProto.FLOAT16)
    lowered, (group,) = decompose_groups(model, form)
    onnx.checker.check_model(lowered, full_check=True)
    types = infer_types(lowered)
    assert not group.in_int8
    assert group.products_element == TensorProto.FLOAT16
    assert {types[node.output[0]].element for node in products(lowered)} == {TensorProto.FLOAT16}
    assert types["out"].element == TensorProto.INT8
    steps = run(emulate_half(lowered), quantized.tensors).astype(int)
    exact = quantized.exact / quantized.spec.out_quant_scale
    assert np.abs(steps - np.clip(np.rint(exact), -128, 127)).max() <= 1


# --- books ----------------------------------------------------------------------------------------


@all_cases
@pytest.mark.parametrize("form", ["portable", "fused_mha", "attention"])
def test_each_group_lists_the_nodes_that_compute_it_and_no_others(case: Case, form: Form) -> None:
    source = attention_model(case, dynamic=case.width % 2 == 0)
    model, groups = decompose_groups(source, AttentionForm(form))
    made_by = {name: node for node in model.graph.node for name in node.output}
    assert {name for group in groups for name in group.nodes} == {n.name for n in made_by.values()}
    for group in groups:
        assert needed_by(group, made_by) <= set(group.nodes)
        assert set(group.core) <= set(group.nodes)
    own = [_own(group, groups) for group in groups]
    assert all(own)
    for group, names in zip(groups, own, strict=True):
        kinds = [made_by_name(model, name).op_type for name in group.core]
        is_one_node = form == "attention" and group.head_group.mode != "neighborhood"
        assert kinds == (["Attention"] if is_one_node else ["MatMul", "Softmax", "MatMul"])
        assert set(group.core) <= names
        # Without this group nothing would read its own nodes: none leads into another group.
        others = set().union(*(each for each in own if each is not names))
        assert not others & needed_by(group, made_by)


def made_by_name(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


def needed_by(group: DecomposedGroup, made_by: dict[str, onnx.NodeProto]) -> set[str]:
    """Walk back from a group's core to the graph's inputs."""
    by_name = {node.name: node for node in made_by.values()}
    found, waiting = set(), list(group.core)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [made_by[t].name for t in by_name[name].input if t in made_by]
    return found


def _own(group: DecomposedGroup, groups: list[DecomposedGroup]) -> set[str]:
    others = [set(each.nodes) for each in groups if each is not group]
    return set(group.nodes) - set.intersection(*others) if others else set(group.nodes)
