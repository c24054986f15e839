"""The continuous position bias, offset by offset."""

import math

import pytest
import torch

from edgeattn.errors import SpecError
from edgeattn.models.position_bias import ContinuousPositionBias
from edgeattn.spec import HeadGroup


def log_spaced(offset: int, farthest: int) -> float:
    scaled = 8 * offset / farthest
    return math.copysign(math.log2(abs(scaled) + 1) / 3, scaled)


@pytest.mark.parametrize("pretrained", [None, (5, 0)])
def test_each_entry_is_the_network_at_its_offset(pretrained):
    torch.manual_seed(0)
    groups = (HeadGroup(2, (3, 4)), HeadGroup(1, 2, head_offset=2))
    bias = ContinuousPositionBias(groups, hidden_dim=8, pretrained_windows=pretrained)
    expected = []
    for g, group in enumerate(groups):
        rows, cols = group.window_size
        trained = pretrained[g] if pretrained and pretrained[g] else None
        for head in range(group.num_heads):
            for dy in range(1 - rows, rows):
                for dx in range(1 - cols, cols):
                    point = torch.tensor(
                        [
                            log_spaced(dy, (trained or rows) - 1),
                            log_spaced(dx, (trained or cols) - 1),
                        ]
                    )
                    expected.append(16 * torch.sigmoid(bias.mlps[g](point)[head]))
    torch.testing.assert_close(bias(), torch.stack(expected))
    assert len(expected) == sum(group.bias_entries for group in groups)


def test_a_window_of_one_token_has_one_finite_bias():
    table = ContinuousPositionBias([HeadGroup(3, 1)])()
    assert table.shape == (3,)
    assert bool(table.isfinite().all())


def test_offsets_follow_from_the_windows_and_are_not_saved():
    names = ContinuousPositionBias([HeadGroup(1, 2)]).state_dict().keys()
    assert names == {"mlps.0.0.weight", "mlps.0.0.bias", "mlps.0.2.weight"}


def test_the_table_depends_on_no_input():
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = ContinuousPositionBias([HeadGroup(1, 2)], hidden_dim=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.bias()

    exported = torch.export.export(Constant(), (torch.randn(9),))
    users = [n for n in exported.graph.nodes if any(i.name == "x" for i in n.all_input_nodes)]
    assert [str(node.target) for node in users] == ["aten.add.Tensor"]


def test_a_window_over_the_whole_axis_is_refused():
    with pytest.raises(SpecError, match="fixed window"):
        ContinuousPositionBias([HeadGroup(1, (0, 3))])


def test_pretrained_windows_are_one_per_group():
    with pytest.raises(SpecError, match="2 pretrained windows for 1 head groups"):
        ContinuousPositionBias([HeadGroup(1, 3)], pretrained_windows=[3, 3])
