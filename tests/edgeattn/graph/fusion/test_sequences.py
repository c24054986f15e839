"""Windows of sequences `[B, L, C]`, and sequences that nobody cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests.foreign_graphs import EXPORTERS, export, feed, randomized

CHANNELS, HEADS = 16, 2


class WindowedSequence(nn.Module):
    """Attention within windows of a sequence, with a bias by relative position."""

    def __init__(self, window: int, *, norms_windows: bool = False) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(CHANNELS) if norms_windows else nn.Identity()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.table = nn.Parameter(torch.zeros(HEADS, 2 * window - 1))
        place = torch.arange(window)
        self.register_buffer("index", place[:, None] - place + window - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, L, C]` to the same; `L` is a multiple of the window."""
        is_whole = x.shape[1] == self.window
        cut = x if is_whole else x.unflatten(1, (-1, self.window)).flatten(0, 1)
        windows = self.norm(cut)
        q, k, v = self.qkv(windows).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) / 8**0.5 + self.table[:, self.index.flatten()].unflatten(
            1, (self.window, self.window)
        )
        y = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + y.reshape(x.shape)


def sequence(length: int) -> Tensor:
    return torch.randn(3, length, CHANNELS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("norms_windows", [False, True])
def test_windows_of_a_sequence_are_fused(exporter, norms_windows):
    x = sequence(20)
    model = randomized(WindowedSequence(5, norms_windows=norms_windows))
    graph = export(model, x, exporter)
    fusion = fuse_window_attention(graph)
    (found,) = fusion.fused
    assert (found.map_size, found.spec.head_groups[0].window_size) == ((1, 20), (1, 5))
    inputs = feed(graph, x)
    assert relative_error(run_graph(graph, inputs), run_graph(fusion.model, inputs)) < 1e-5


def test_a_sequence_that_nobody_cut_is_left_whatever_its_bias():
    graph = export(randomized(WindowedSequence(20)), sequence(20), "script")
    (found,) = fuse_window_attention(graph).attentions
    assert (found.fused, found.reason) == (False, "every token attends to every token")
    (found,) = fuse_window_attention(graph, global_attention=True).fused
    assert found.spec.head_groups[0].window_size == (1, 20)
