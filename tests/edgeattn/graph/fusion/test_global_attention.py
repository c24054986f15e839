"""Attention of all tokens to all: fused where it is asked for, or where a choice takes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeattn.engine.fusing import fuse_for_build
from edgeattn.graph.fuse_report import fuse_report
from edgeattn.graph.fusion.found import Fusion, GlobalDecision
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests import foreign_attention
from tests.foreign_graphs import (
    EXPORTERS,
    Exporter,
    FirstTensor,
    export,
    feed,
    images_of,
    randomized,
)
from tests.quantization import with_weights
from tests.torchvision_ops import declare_torchvision_ops

CHANNELS, HEADS = 24, 3


class Attention(nn.Module):
    """Attention by PyTorch's own function, with a norm before and a projection behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, L, C]` to the same."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv)
        return x + self.out(y.transpose(1, 2).flatten(2))


class ClassTokens(nn.Module):
    """As RF-DETR: windows in the batch, a class token in each; then all windows together."""

    def __init__(self, per_side: int = 2) -> None:
        super().__init__()
        self.per_side = per_side
        self.patches = nn.Conv2d(3, CHANNELS, 8, stride=8)
        self.class_token = nn.Parameter(torch.zeros(1, 1, CHANNELS))
        self.windowed, self.whole = Attention(), Attention()

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to tokens `[B·nW, 1 + n, C]`."""
        x, n = self.patches(images).permute(0, 2, 3, 1), self.per_side
        x = x.unflatten(2, (n, -1)).unflatten(1, (n, -1)).transpose(2, 3).flatten(3, 4)
        x = x.flatten(0, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.windowed(x)
        return self.whole(x.unflatten(0, (-1, n * n)).flatten(1, 2)).unflatten(1, (n * n, -1))


class Encoder(nn.Module):
    """As DETR: a position may be added to queries and keys, and not to values."""

    def __init__(self, *, batch_first: bool, has_position: bool) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=batch_first)
        self.position = nn.Parameter(torch.zeros(1, 1, CHANNELS)) if has_position else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, L, C]`, or `[L, B, C]`, to the same."""
        placed = x if self.position is None else x + self.position
        return self.attend(placed, placed, x, need_weights=False)[0]


def tokens_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def fused(graph: onnx.ModelProto, example: Tensor) -> Fusion:
    """Fuse everything, and hold the result to what the graph computes."""
    fusion = fuse_window_attention(graph, global_attention=True)
    inputs = feed(graph, example)
    error = relative_error(run_graph(graph, inputs), run_graph(fusion.model, inputs))
    assert error < 1e-5
    return fusion


def takes(spec, size, graph_type):
    return GlobalDecision(True, f"{size} in {graph_type}")


def leaves(spec, size, graph_type):
    return GlobalDecision(False, "too few")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_in_the_batch_with_class_tokens_are_whole_axes(exporter, batch):
    model, images = randomized(ClassTokens()), images_of((32, 48), batch)
    fusion = fused(export(model, images, exporter), images)
    in_windows, together = fusion.attentions
    assert (in_windows.map_size, together.map_size) == ((1, 7), (1, 28))
    assert all(found.fused and found.reason == "" for found in fusion.attentions)
    for node in attention_nodes(fusion.model):
        assert spec_of_node(node).head_groups[0].window_size == (0, 0)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_one_token_and_many_are_fused(length):
    x = tokens_of(2, length, CHANNELS)
    fusion = fused(export(randomized(Attention()), x, "script"), x)
    assert [found.map_size for found in fusion.fused] == [(1, length)]


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_vision_transformers_are_fused_altogether(name, attention, exporter: Exporter):
    declare_torchvision_ops()
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=96, num_attention_heads=3, num_hidden_layers=2, image_size=64, patch_size=16
    )
    model_class = getattr(transformers, f"{name}Model")
    model = FirstTensor(randomized(model_class._from_config(config, attn_implementation=attention)))
    images = images_of((64, 64), 1)
    assert len(fused(export(model.eval(), images, exporter), images).fused) == 2


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_comes_from_several_tensors_or_with_the_batch_second_is_left_with_the_reason(exporter):
    x = tokens_of(2, 10, CHANNELS)
    placed = randomized(Encoder(batch_first=True, has_position=True))
    (found,) = fused(export(placed, x, exporter), x).attentions
    assert found.reason == "queries, keys and values are in several tensors"
    turned = randomized(Encoder(batch_first=False, has_position=False))
    (found,) = fused(export(turned, x.transpose(0, 1), exporter), x.transpose(0, 1)).attentions
    assert found.reason == (
        "its tokens stand as [L, B, C], the batch second; an attention node takes [B, L, C]"
    )


GUARDED = """
g (float[2,7,8] x) => (float[2,7,8] y) {
    qkv = MatMul(x, w)
    q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
    t = Transpose<perm = [0, 2, 1]>(k)
    q4 = Unsqueeze(q, one) t4 = Unsqueeze(t, one) v4 = Unsqueeze(v, one)
    l = MatMul(q4, t4) s = Mul(l, c) p = Softmax<axis = -1>(s)
    n = IsNaN(NAN) g = Where(n, WITH, p)
    o = MatMul(g, v4)
    y = Squeeze(o, one)
}
"""


def guarded(text: str, nan: str = "p", other: str = "zero") -> onnx.ModelProto:
    weights = {"w": np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)}
    weights |= {"first": np.array([0]), "one": np.array([1])}
    weights |= {"c": np.float32(8**-0.5), "zero": np.float32(0)}
    return with_weights(text.replace("NAN", nan).replace("WITH", other), weights)


@pytest.mark.parametrize(
    ("nan", "other", "is_fused"), [("p", "zero", True), ("p", "c", False), ("s", "zero", False)]
)
def test_zeros_for_rows_that_are_masked_altogether_change_nothing(nan, other, is_fused):
    (found,) = fused(guarded(GUARDED, nan, other), tokens_of(2, 7, 8)).attentions
    assert found.fused == is_fused
    assert is_fused or "changed before they weigh" in found.reason


def test_a_choice_is_asked_of_attention_of_all_to_all_and_of_nothing_else():
    asked = []

    def choose(spec, size, graph_type):
        asked.append((spec.head_dim, spec.qkv_heads, size, graph_type))
        return GlobalDecision(True, "it pays off")

    model = foreign_attention.windowed(blocks=3, last_is_global=True)
    fusion = fuse_window_attention(model, global_attention=choose)
    map_size = (foreign_attention.ROWS, foreign_attention.COLS)
    assert asked == [(foreign_attention.HEAD_DIM, foreign_attention.HEADS, (1, *map_size), "fp32")]
    assert [(found.fused, found.reason) for found in fusion.attentions] == [
        (True, ""),
        (True, ""),
        (True, "it pays off"),
    ]
    assert fuse_report(fusion)["attentions"][-1]["reason"] == "it pays off"


def test_what_a_choice_leaves_is_listed_with_its_reason_and_what_it_computes():
    model = foreign_attention.windowed(blocks=3, last_is_global=True)
    fusion = fuse_window_attention(model, global_attention=leaves)
    *windows, last = fusion.attentions
    assert all(found.fused for found in windows)
    assert (last.fused, last.reason, last.error) == (False, "too few", None)
    assert last.spec.head_groups[0].window_size == (0, 0)
    assert last.map_size == (foreign_attention.ROWS, foreign_attention.COLS)
    plain = fuse_window_attention(model)
    assert fusion.model.SerializeToString() == plain.model.SerializeToString()
    alone = foreign_attention.windowed(blocks=1, last_is_global=True)
    assert fuse_window_attention(alone, global_attention=leaves).model is alone


def test_a_choice_is_told_the_windows_in_the_batch():
    images = images_of((32, 48), 3)
    graph = export(randomized(ClassTokens()), images, "script")
    reasons = [f.reason for f in fuse_window_attention(graph, global_attention=takes).attentions]
    assert reasons == ["(12, 1, 7) in fp32", "(3, 1, 28) in fp32"]


def test_a_choice_is_told_that_sizes_are_open():
    x = tokens_of(2, 9, CHANNELS)
    graph = export(randomized(Attention()), x, "script", {0: "batch", 1: "length"})
    (found,) = fuse_window_attention(graph, global_attention=takes).attentions
    assert (found.fused, found.reason) == (True, "None in fp32")
    images = images_of((32, 48), 2)
    graph = export(randomized(ClassTokens()), images, "script", {2: "height"})
    assert fuse_window_attention(graph, global_attention=takes).attentions[0].reason[:4] == "None"
    # The first axis is the length.
    by_length = GUARDED.replace("float[2,7,8] x", "float[L,8] row").replace(
        "qkv =", "x = Unsqueeze(row, first) qkv ="
    )
    graph = guarded(by_length.replace("float[2,7,8]", "float[1,L,8]"))
    (found,) = fuse_window_attention(graph, global_attention=takes).attentions
    assert found.reason == "None in fp32"


def test_an_open_batch_counts_as_one_sample():
    graph = export(randomized(Attention()), tokens_of(3, 9, CHANNELS), "script", {0: "batch"})
    (found,) = fuse_window_attention(graph, global_attention=takes).attentions
    assert found.reason == "(1, 1, 9) in fp32"
    images = images_of((32, 48), 3)
    graph = export(randomized(ClassTokens()), images, "dynamo", {0: "batch"})
    reasons = [f.reason for f in fuse_window_attention(graph, global_attention=takes).attentions]
    assert reasons == ["(4, 1, 7) in fp32", "(1, 1, 28) in fp32"]


def test_a_choice_is_told_the_type_that_the_graph_has():
    x = tokens_of(1, 9, CHANNELS).half()
    graph = export(randomized(Attention()).half(), x, "script")
    (found,) = fuse_window_attention(graph, global_attention=takes).attentions
    assert (found.fused, found.reason) == (True, "(1, 1, 9) in fp16")


def test_a_build_hands_the_choice_on():
    model = foreign_attention.windowed(blocks=3, last_is_global=True)
    assert fuse_for_build(model, global_attention=takes)[1]["fused"] == 3
    assert fuse_for_build(model, global_attention=leaves)[1]["fused"] == 2
