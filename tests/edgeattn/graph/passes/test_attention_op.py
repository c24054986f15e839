"""Attention nodes as ONNX's Attention: against the oracle, and what becomes of the opset."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgeattn.errors import GraphError
from edgeattn.graph.op import is_attention
from edgeattn.graph.passes.attention_op import write_attention_op
from edgeattn.graph.shapes import infer_types
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case
from tests.edgeattn.graph.passes.test_decompose import attention_model, run
from tests.tolerances import assert_close

SHARED_KEYS = {
    name: case
    for name, case in NAMED_CASES.items()
    if all(group.mode != "neighborhood" for group in case.spec.head_groups)
}


def attention_ops(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Attention"]


def opset_of(model: onnx.ModelProto) -> int:
    (version,) = (entry.version for entry in model.opset_import if entry.domain == "")
    return version


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_onnx_attention_equals_the_oracle(case: Case, dynamic: bool) -> None:
    model, groups = write_attention_op(attention_model(case, dynamic=dynamic))
    assert not any(is_attention(node) for node in model.graph.node)
    onnx.checker.check_model(model, full_check=True)
    tensors = case.tensors("float32")
    expected = oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})
    assert_close(run(model, tensors), expected, "attention", "float32")
    shared = [group for group in groups if group.head_group.mode != "neighborhood"]
    assert [group.core for group in shared] == [(node.name,) for node in attention_ops(model)]
    assert len(groups) == len(case.spec.head_groups)


@pytest.mark.parametrize("name", ["odd_map_mask_pad_then_roll", "cosine", "grid_padded"])
def test_onnxs_own_evaluator_agrees(name: str) -> None:
    case = NAMED_CASES[name]
    model, _ = write_attention_op(attention_model(case, dynamic=False))
    tensors = case.tensors("float32")
    (found,) = ReferenceEvaluator(model).run(None, {"qkv": tensors["qkv"]})
    expected = oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})
    assert_close(found, expected, "attention", "float32")


@pytest.mark.parametrize("case", SHARED_KEYS.values(), ids=SHARED_KEYS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inputs_have_the_four_axes_and_the_one_type_that_tensorrt_takes(
    case: Case, dynamic: bool
) -> None:
    model = attention_model(case, dynamic=dynamic)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    written, _ = write_attention_op(model)
    onnx.checker.check_model(written, full_check=True)
    types = infer_types(written)
    for node in attention_ops(written):
        assert not {"q_num_heads", "softcap", "is_causal"} & {a.name for a in node.attribute}
        for name in (*node.input, *node.output):
            assert types[name].element == TensorProto.FLOAT16
            if types[name].shape is not None:
                assert len(types[name].shape) == 4
    assert types["out"].element == TensorProto.FLOAT16


def test_a_mask_is_one_constant_for_all_batches_of_a_static_map() -> None:
    case = NAMED_CASES["map_a_multiple_of_the_window"]
    written, _ = write_attention_op(attention_model(case, dynamic=False))
    (node,) = attention_ops(written)
    (mask,) = (t for t in written.graph.initializer if t.name == node.input[3])
    windows, heads, tokens = 2 * 3, 2, 4 * 4
    assert list(mask.dims) == [1, windows * heads, tokens, tokens]
    assert "Expand" not in {n.op_type for n in written.graph.node}


def test_a_bias_alone_is_shared_by_all_windows() -> None:
    case = NAMED_CASES["grid"]
    written, _ = write_attention_op(attention_model(case, dynamic=False))
    (node,) = attention_ops(written)
    (bias,) = (t for t in written.graph.initializer if t.name == node.input[3])
    assert list(bias.dims) == [1, 2, 12, 12]


def test_the_opset_is_raised_and_never_lowered() -> None:
    model = attention_model(NAMED_CASES["grid"], dynamic=False)
    written, _ = write_attention_op(model)
    assert (opset_of(model), opset_of(written), written.ir_version) == (20, 23, 11)
    model.opset_import[0].version, model.ir_version = 24, 12
    written, _ = write_attention_op(model)
    assert (opset_of(written), written.ir_version) == (24, 12)


def test_a_graph_that_needs_no_attention_op_keeps_its_opset() -> None:
    written, groups = write_attention_op(
        attention_model(NAMED_CASES["neighborhood"], dynamic=False)
    )
    assert opset_of(written) == 20
    assert [group.head_group.mode for group in groups] == ["neighborhood"]


@pytest.mark.parametrize(
    ("op_type", "opset", "refused"),
    [
        ("GroupNormalization", 20, True),
        ("GroupNormalization", 21, False),
        ("GridSample", 19, True),
        ("GridSample", 20, False),
    ],
)
def test_operators_that_change_their_meaning_refuse_the_opset(
    op_type: str, opset: int, refused: bool
) -> None:
    model = attention_model(NAMED_CASES["whole_map"], dynamic=False)
    model.opset_import[0].version = opset
    model.graph.node.append(helper.make_node(op_type, ["a", "b", "c"], ["d"], name="changed"))
    if not refused:
        assert opset_of(write_attention_op(model)[0]) == 23
        return
    with pytest.raises(GraphError, match=f"node changed is a {op_type} of opset {opset}") as caught:
        write_attention_op(model)
    assert "natively" in caught.value.hint


def test_the_given_graph_is_not_changed() -> None:
    model = attention_model(NAMED_CASES["grid"], dynamic=False)
    before = model.SerializeToString(deterministic=True)
    write_attention_op(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_repeated_group_keeps_its_own_books() -> None:
    group = HeadGroup(1, (2, 2))
    case = Case(AttentionSpec(4, 2, (group, group)), 4, 4)
    _, groups = write_attention_op(attention_model(case, dynamic=False))
    assert [(each.number, each.groups) for each in groups] == [(0, 2), (1, 2)]
    assert not set(groups[0].core) & set(groups[1].core)
