"""The attention layers against torch's own multi-head attention and the float64 oracle."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.attention import MultiHeadSelfAttention, MultiScaleWindowAttention
from edgeattn.models.position_bias import ContinuousPositionBias
from edgeattn.spec import HeadGroup, head_groups_from_windows
from tests import oracle


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomized(module: nn.Module) -> nn.Module:
    """Draw all parameters anew, those that start at zero too, in float64."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


@pytest.mark.parametrize("shape", [(2, 7, 12), (1, 1, 12), (2, 3, 5, 12)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_baseline_is_multi_head_attention(shape, qkv_bias):
    ours = randomized(MultiHeadSelfAttention(12, 3, qkv_bias=qkv_bias))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias if qkv_bias else torch.zeros(36))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    tokens = x.flatten(1, -2)
    expected, _ = theirs(tokens, tokens, tokens)
    torch.testing.assert_close(ours(x), expected.reshape(shape))


def test_the_baseline_exports_to_plain_products():
    layer = MultiHeadSelfAttention(8, 2).eval()
    exported = torch.export.export(layer, (torch.randn(1, 6, 8),))
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"aten.softmax.int", "aten.matmul.default"} <= targets
    assert not any("attention" in target for target in targets)


GROUPS = {
    "three windows": head_groups_from_windows(4, [2, (3, 2), 4]),
    "shifted": head_groups_from_windows(4, [4, 3], shifted=True),
    "grid": head_groups_from_windows(4, [3], mode="grid"),
    "sliding": head_groups_from_windows(4, [3, 5], mode="neighborhood"),
    "every head at two scales": (HeadGroup(4, 2), HeadGroup(4, 4, 2)),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"pad_mode": "mask", "softmax_scale": 0.3, "proj_bias": False},
        {"qkv_layout": "H3D", "mask_value": -2.0},
        {"qk_mode": "cosine", "shift_pad_order": "roll_then_pad"},
        {"qkv_bias": False, "relative_position_bias": False},
    ],
)
def test_the_windowed_layer_is_projection_operator_projection(groups, keywords):
    layer = randomized(MultiScaleWindowAttention(8, groups, **keywords))
    x = torch.randn(2, 5, 7, 8, dtype=torch.float64)
    spec = layer.spec
    pad_kv = logit_scale = None
    if spec.pad_mode == "bias_kv":
        # A padded token is a token of zeros before the projection.
        packed = layer.qkv(torch.zeros(1, 1, 1, 8, dtype=torch.float64))
        _, key, value = oracle.unpack(spec, packed.detach().numpy())
        pad_kv = np.concatenate([key.ravel(), value.ravel()])
    if spec.qk_mode == "cosine":
        logit_scale = np.exp(np.minimum(array(layer.logit_scale), math.log(100.0)))
    attended = oracle.attention(
        spec,
        array(layer.qkv(x)),
        bias_table=array(layer.relative_position_bias_table),
        pad_kv=pad_kv,
        logit_scale=logit_scale,
    )
    expected = F.linear(torch.from_numpy(attended), layer.proj.weight, layer.proj.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("qkv_layout", ["3HD", "H3D"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_padding_with_the_bias_is_attention_over_a_map_of_appended_zeros(qkv_layout, qkv_bias):
    def layer(pad_mode: str) -> MultiScaleWindowAttention:
        torch.manual_seed(1)
        groups = [HeadGroup(2, 4)]
        return randomized(
            MultiScaleWindowAttention(
                8, groups, pad_mode=pad_mode, qkv_layout=qkv_layout, qkv_bias=qkv_bias
            )
        )

    x = torch.randn(1, 5, 6, 8, dtype=torch.float64)
    appended = F.pad(x, (0, 0, 0, 2, 0, 3))
    torch.testing.assert_close(layer("bias_kv")(x), layer("mask")(appended)[:, :5, :6])
    assert not torch.allclose(layer("bias_kv")(x), layer("mask")(x))


def test_a_module_can_give_the_bias_table():
    groups = head_groups_from_windows(2, [3, 2])
    bias = ContinuousPositionBias(groups, hidden_dim=6)
    continuous = MultiScaleWindowAttention(8, groups, relative_position_bias=bias)
    table = MultiScaleWindowAttention(8, groups)
    shared = {n: t for n, t in continuous.state_dict().items() if "position_bias" not in n}
    table.load_state_dict(shared | {"relative_position_bias_table": bias()})
    x = torch.randn(1, 5, 4, 8)
    assert continuous.relative_position_bias_table is None
    torch.testing.assert_close(continuous(x), table(x))


def test_the_cosine_factor_stops_at_one_hundred():
    layer = MultiScaleWindowAttention(8, [HeadGroup(2, 3)], qk_mode="cosine")
    x = torch.randn(1, 4, 4, 8)
    nn.init.constant_(layer.logit_scale, math.log(100.0))
    at_limit = layer(x)
    nn.init.constant_(layer.logit_scale, 20.0)
    torch.testing.assert_close(layer(x), at_limit)


@pytest.mark.parametrize("qk_mode", ["dot", "cosine"])
def test_every_parameter_learns(qk_mode):
    layer = MultiScaleWindowAttention(8, head_groups_from_windows(2, [2, 3]), qk_mode=qk_mode)
    layer(torch.randn(1, 5, 5, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())


def test_the_projection_may_have_more_heads_than_the_groups_use():
    layer = MultiScaleWindowAttention(12, [HeadGroup(1, 2, head_offset=1)], num_heads=3)
    assert layer.spec.qkv_heads == 3
    assert layer.proj.in_features == 4
    assert layer(torch.randn(1, 3, 3, 12)).shape == (1, 3, 3, 12)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MultiHeadSelfAttention(10, 3),
        lambda: MultiHeadSelfAttention(10, 0),
        lambda: MultiScaleWindowAttention(10, [HeadGroup(3, 2)]),
    ],
)
def test_heads_that_do_not_divide_the_channels_are_refused(build):
    with pytest.raises(SpecError, match="do not divide 10 channels"):
        build()


def test_a_layer_without_groups_is_refused():
    with pytest.raises(SpecError, match="head_groups"):
        MultiScaleWindowAttention(8, [])
